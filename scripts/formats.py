"""Writes docs/formats.md from the tests: what is supported, accepted, or quarantined by name.

    python scripts/formats.py --write

A format is *supported* when a test compares what headrace makes of a real file with another implementation; the map
below names that test. It is *unsupported* when files of it are quarantined under that name. Everything else that the
sniffer knows is *accepted*: it opens, and no oracle vouches for it. A test keeps the page and the map true.
"""

from __future__ import annotations

import sys
from pathlib import Path

from headrace.connectors.sniff import FORMATS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "formats.md"

_NORMALIZERS = "tests/normalizers/"
_PIXELS = (
    _NORMALIZERS + "test_image_corpus.py::test_every_good_picture_arrives_with_the_pixels_that_pillow_decodes",
    "Pillow's full decode",
)
_FRAMES = (_NORMALIZERS + "test_video_corpus.py::test_native_frames_and_pts_equal_ffmpegs", "ffmpeg: frames and pts")
_SOUND = (_NORMALIZERS + "test_audio.py::test_native_samples_equal_ffmpegs", "ffmpeg: samples")
_TILES = (
    _NORMALIZERS + "test_raster_tiles.py::test_every_good_raster_arrives_tile_by_tile_as_rasterio_reads_it",
    "rasterio's own reading",
)

#: format → (the test that is its oracle on real files, the other implementation)
ORACLES: dict[str, tuple[str, str]] = {
    **dict.fromkeys("jpeg png webp tiff gif avif bmp jp2 j2k ico psd ppm".split(), _PIXELS),
    **dict.fromkeys("mp4 matroska mpegts avi flv".split(), _FRAMES),
    **dict.fromkeys("wav flac mp3 ogg aac eac3 amr".split(), _SOUND),
    **dict.fromkeys("geotiff jp2-geo".split(), _TILES),
    "netcdf3": (_NORMALIZERS + "test_raster_tiles.py::test_real_netcdf_fields_equal_what_netcdf4_reads", "netCDF4"),
    "hdf5": (_NORMALIZERS + "test_raster_tiles.py::test_real_netcdf_fields_equal_what_netcdf4_reads", "netCDF4"),
    "grib": (_NORMALIZERS + "test_raster_tiles.py::test_real_grib_fields_equal_a_decoder_written_here", "a decoder in the test"),
    "csv": (_NORMALIZERS + "test_sensor_csv.py::test_every_value_of_ett_agrees_with_the_csv_module", "Python's csv"),
    "parquet": (_NORMALIZERS + "test_sensor_parquet.py::test_every_good_file_of_the_corpus_arrives_as_pyarrow_reads_it", "pyarrow"),
    "gpx": (_NORMALIZERS + "test_sensor_gpx.py::test_every_point_of_the_corpus_arrives", "Python's xml.etree"),
    "ulog": (_NORMALIZERS + "test_sensor_ulog.py::test_every_field_agrees_with_pyulog", "pyulog"),
    "mcap": (_NORMALIZERS + "test_logs_mcap.py::test_every_recording_of_the_corpus_arrives_as_the_package_reads_it", "mcap"),
    "text": (_NORMALIZERS + "test_text_documents.py::test_every_plain_file_of_the_corpus_comes_back_as_it_was", "the file's own bytes"),
    "markdown": (_NORMALIZERS + "test_text_documents.py::test_every_plain_file_of_the_corpus_comes_back_as_it_was", "the file's own bytes"),
    "json": (_NORMALIZERS + "test_text_json.py::test_the_json_of_the_corpus_is_read_as_the_standard_parser_reads_it", "Python's json"),
    "xml": (
        _NORMALIZERS + "test_text_tables_and_markup.py::test_the_bibles_of_the_corpus_give_the_verses_that_another_parser_finds",
        "Python's xml.etree",
    ),
    "warc": ("tests/connectors/test_web_archives.py::test_payloads_are_those_that_warcio_reads", "warcio"),
    "arc": ("tests/connectors/test_web_archives.py::test_payloads_are_those_that_warcio_reads", "warcio"),
}  # fmt: skip

#: format → why its files are quarantined, as `unsupported:<format>` unless said otherwise
UNSUPPORTED: dict[str, str] = {
    "vrt": "holds no pixels of its own; it names other files, which data may not do",
    "wcs-xml": "describes a service on another host (`external_reference`)",
    "heif": "needs a licensed decoder",
    "jxl": "no decoder in the image libraries",
    "eps": "a program in PostScript, not a picture",
    "lfs_pointer": "a Git LFS pointer: the file itself was never fetched (`external_reference`)",
}

_HEAD = """# Formats

Written by `scripts/formats.py` from the tests; do not edit.

**supported**: a test compares what headrace makes of real files with another implementation. **accepted**: it opens, and
nothing vouches for it yet. **unsupported**: quarantined under this name. A file is told by its first bytes, not by its
extension. zip, tar, gzip, zstd, xz and bzip2 are opened, one level deep.

| modality | format | state | by what |
|---|---|---|---|
"""


def page() -> str:
    """The text of docs/formats.md."""
    rows = []
    for name, found in FORMATS.items():
        if found.container or name == "unknown":
            continue
        if name in ORACLES:
            test, other = ORACLES[name]
            state, why = "supported", f"{other} (`{test.rpartition('::')[2]}`)"
        elif name in UNSUPPORTED:
            state, why = "unsupported", UNSUPPORTED[name]
        else:
            state, why = "accepted", ""
        rows.append(f"| {found.modality or ''} | {name} | {state} | {why} |")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    PAGE.write_text(page(), encoding="utf-8")
