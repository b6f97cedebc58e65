from contextlib import contextmanager
@contextmanager
def open_product(blobs, config, limits):
    yield None
