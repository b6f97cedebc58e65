"""Lines: each once, whole, with its place, however the file is divided and wherever one reads on."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors import lines as lines_module
from headrace.connectors.byte_source import ByteSource
from headrace.connectors.contract import Broken, Item, Split
from headrace.connectors.files import Files
from headrace.connectors.lines import Lines, LongLine, Torn, read_lines, skip_to_line
from headrace.schemas.errors import RecordError


def by_hand(data: bytes) -> list[tuple[bytes, int]]:
    """The oracle: (line, offset) of every line, by splitting at newlines."""
    out, at = [], 0
    pieces = data.split(b"\n")
    for number, piece in enumerate(pieces):
        last = number + 1 == len(pieces)
        if not last or piece:
            begin, line = at, piece if last else piece.removesuffix(b"\r")
            if at == 0 and line.startswith(b"\xef\xbb\xbf"):
                begin, line = 3, line[3:]
            out.append((line, begin))
        at += len(piece) + 1
    return out


def rows(batch: pa.RecordBatch) -> list[tuple[bytes, int]]:
    return list(zip(batch.column("line").to_pylist(), batch.column("byte").to_pylist()))


def chunked(data: bytes, size: int) -> ByteSource:
    return ByteSource(iter([data[i : i + size] for i in range(0, len(data), size)]))


LINE = st.one_of(st.binary(max_size=30), st.sampled_from([b"", b"\r", b"a\r", b"\xef\xbb\xbf{}", b"x" * 200]))
FILE = st.tuples(st.lists(LINE, max_size=40), st.sampled_from([b"\n", b"\r\n"]), st.booleans()).map(
    lambda t: t[1].join(t[0]) + (t[1] if t[2] else b"")
)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 64 bytes, so that small files have many borders."""
    monkeypatch.setattr(lines_module, "BATCH_BYTES", 64)


@settings(max_examples=120, deadline=None)
@given(FILE, st.integers(1, 100))
def test_every_line_comes_once_with_its_offset(data: bytes, chunk: int) -> None:
    got = list(read_lines(chunked(data, chunk), None, 1 << 20))
    assert [row for g in got if isinstance(g, Lines) for row in rows(g.batch)] == by_hand(data)


@settings(max_examples=120, deadline=None)
@given(FILE, st.integers(1, 200))
def test_ranges_together_give_each_line_once(data: bytes, step: int) -> None:
    out = []
    for begin in range(0, max(len(data), 1), step):
        source = chunked(data, 7)
        if begin:
            source.skip(begin - 1)
            skip_to_line(source)
        stop = min(begin + step, len(data))
        part = [row for g in read_lines(source, stop, 1 << 20) if isinstance(g, Lines) for row in rows(g.batch)]
        assert all(begin <= byte < stop or (begin == 0 and byte == 3) for _, byte in part)
        out += part
    assert out == by_hand(data)


@settings(max_examples=100, deadline=None)
@given(FILE)
def test_reading_on_after_any_batch_gives_the_same_batches(data: bytes) -> None:
    got = [g for g in read_lines(chunked(data, 11), None, 1 << 20) if isinstance(g, Lines)]
    for k, lines in enumerate(got):
        source = chunked(data, 13)
        source.skip(lines.end)
        rest = [g for g in read_lines(source, None, 1 << 20) if isinstance(g, Lines)]
        assert [(rows(g.batch), g.end) for g in rest] == [(rows(g.batch), g.end) for g in got[k + 1 :]]


@settings(max_examples=100, deadline=None)
@given(FILE, st.integers(0, 400))
def test_damage_never_makes_half_a_line_a_line(data: bytes, cut: int) -> None:
    def chunks():
        yield data[:cut]
        raise RecordError("truncated", "cut")

    source = ByteSource(chunks())
    got = list(read_lines(source, None, 1 << 20))
    assert source.at_end() and source.damage is not None
    whole = [row for g in got if isinstance(g, Lines) for row in rows(g.batch)]
    torn = b"".join(g.data for g in got if isinstance(g, Torn))
    complete = data[:cut][: data[:cut].rfind(b"\n") + 1]
    assert whole == by_hand(complete)
    assert torn == data[:cut][len(complete) :]


def test_a_line_over_the_limit_is_passed_over_and_told() -> None:
    data = b"a\n" + b"x" * 1000 + b"\nb\n" + b"y" * 999
    got = list(read_lines(chunked(data, 50), None, 500))
    kinds = [(type(g).__name__, g.end if isinstance(g, Lines) else (g.begin, g.end)) for g in got]
    assert kinds == [("Lines", 2), ("LongLine", (2, 1003)), ("Lines", 1005), ("LongLine", (1005, 2004))]
    assert isinstance(got[1], LongLine) and got[1].head.startswith(b"xxx")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), step=st.integers(1024, 4000), crlf=st.booleans(), final=st.booleans())
def test_a_divided_file_gives_what_the_whole_gives(
    tmp_path_factory: pytest.TempPathFactory, seed: int, step: int, crlf: bool, final: bool
) -> None:
    source = random.Random(seed)
    end = "\r\n" if crlf else "\n"
    texts = [f'{{"n":{n},"s":"{"z" * source.randrange(0, 900)}"}}' for n in range(40)]
    root = tmp_path_factory.mktemp("divided")
    (root / "a.jsonl").write_bytes((end.join(texts) + (end if final else "")).encode())
    connector = Files(Files.Config(root=str(root), divide_bytes=step))
    splits = list(connector.splits())
    assert len(splits) > 1
    got = [line for s in splits for r in connector.read(s, None) for line in r.data.column("line").to_pylist()]
    assert got == [text.encode() for text in texts]


def test_a_torn_gzip_of_lines_gives_a_true_prefix_then_the_damage(tmp_path: Path) -> None:
    import gzip

    texts = [f'{{"n":{n}}}'.encode() for n in range(3000)]
    packed = gzip.compress(b"\n".join(texts) + b"\n", mtime=0)
    for cut in (15, 500, len(packed) // 2, len(packed) - 1):
        (tmp_path / "a.jsonl.gz").write_bytes(packed[:cut])
        connector = Files(Files.Config(root=str(tmp_path)))
        reads = list(connector.read(next(iter(connector.splits())), None))
        got = [line for r in reads if isinstance(r, Item) for line in r.data.column("line").to_pylist()]
        assert got == texts[: len(got)]
        assert isinstance(reads[-1], Broken) and reads[-1].reason == "truncated"
        assert len(got) > 0 or cut == 15
        begin = sum(len(text) + 1 for text in got)
        assert cut == 15 or reads[-1].locator == f'{{"bytes":[{begin},null]}}', "the range that is missing"
        assert b"\n".join(texts[len(got) :]).startswith(reads[-1].data or b"")


def test_lines_of_a_range_keep_the_offsets_of_the_whole_file(tmp_path: Path) -> None:
    data = b"".join(b'{"n":%d}\n' % n for n in range(1000))
    (tmp_path / "a.jsonl").write_bytes(data)
    connector = Files(Files.Config(root=str(tmp_path)))
    pin = next(iter(connector.splits())).pin
    for item in connector.read(Split("a.jsonl#bytes=3000-6000", pin), None):
        for line, byte in rows(item.data):
            assert data[byte:].startswith(line + b"\n")
        assert item.headers["object"] == "a.jsonl"
