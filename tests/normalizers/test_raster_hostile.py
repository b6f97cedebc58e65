"""What rasters may not do: hang, take memory, reach out, or look complete when they are not."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.connectors.contract import BytesBlob, Item, PathBlob
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.raster import RasterConfig, RasterNormalizer
from headrace.ingest.normalizers.raster_environment import KEPT_DRIVERS, gdal_environment
from headrace.schemas.errors import RecordError
from headrace.schemas.record import payload_views

rasterio = pytest.importorskip("rasterio")
SOURCE = Path(__file__).resolve().parents[2] / "src"

#: Reads files named on stdin in one process with 1 GiB over its base, and prints what became of each.
CHILD = """
import json, logging, os, resource, sys, time
logging.disable(logging.WARNING)
import numpy, pyarrow, rasterio
from headrace.connectors.contract import Item, PathBlob
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.raster import RasterConfig, RasterNormalizer
from headrace.schemas.errors import RecordError
with open("/proc/self/statm") as f:
    base = int(f.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (base + (1 << 30),) * 2)
normalizer = RasterNormalizer(RasterConfig())
for line in sys.stdin:
    path, _, part = line.rstrip().partition("|")
    print(json.dumps({"began": path}), flush=True)
    begin, records, bad, reason = time.monotonic(), 0, [], None
    try:
        headers = {"part": part} if part else {}
        for found in normalizer.open(Item(PathBlob(os.path.basename(path), path), 0, headers=headers)):
            if isinstance(found, Bad):
                bad.append(found.reason)
            else:
                records += found.num_rows
    except RecordError as exc:
        reason = exc.reason
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"path": path, "records": records, "bad": bad, "reason": reason,
                      "seconds": time.monotonic() - begin, "peak_kib": peak}), flush=True)
"""


def in_child(lines: list[str], timeout_s: float, scratch: Path, wrap: list[str] | None = None) -> list[dict[str, Any]]:
    """What the child says of each file; fails naming the file it died at."""
    ours = {"PYTHONPATH": str(SOURCE), "MALLOC_ARENA_MAX": "2", "TMPDIR": str(scratch)}
    environment = {**os.environ, **gdal_environment(), **ours}
    try:
        done = subprocess.run(
            [*(wrap or []), sys.executable, "-c", CHILD],
            input="\n".join(lines) + "\n", text=True, capture_output=True, timeout=timeout_s, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        pytest.fail(f"hangs at {(exc.stdout or b'').decode().splitlines()[-1:]}")
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, (said[-1:], done.stderr[-2000:])
    return [line for line in said if "path" in line]


def raster_files(corpus: Path, manifest: list[dict[str, str]], classes: set[str]) -> list[Path]:
    found = [corpus / line["path"] for line in manifest if line["modality"] == "raster" and line["class"] in classes]
    return [path for path in found if path.suffix not in (".gz", ".zip")]


@pytest.mark.data
def test_every_bad_raster_ends_in_time_and_within_its_memory(
    corpus: Path, manifest: list[dict[str, str]], tmp_path: Path
) -> None:
    files = raster_files(corpus, manifest, {"bad", "unsupported"})
    assert len(files) > 100
    for said in in_child([str(path) for path in files], 120, tmp_path):
        assert said["records"] or said["bad"] or said["reason"], said
        assert "internal" not in {said["reason"], *said["bad"]}, said
        assert said["seconds"] < 30, said


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gdal/excessive-memory-TIFFFillStrip2.tif", "too_large"),  # 65,535 bands: GDAL takes minutes to open it
        ("gdal/jpeg2000/single_block_32769_16385.jp2", "too_large"),  # half a gigapixel in ten kilobytes
        ("gdal/tiff_dos_strip_chop.tif", "bomb"),  # 2 TiB
        ("gdal/huge-number-strips.tif", "bomb"),
        ("gdal/huge4GB.tif", "truncated"),
        ("gdal/many_blocks_truncated.tif", "truncated"),
        ("gdal/idontexist.vrt", "unsupported:vrt"),
        ("vrt_dangling/rasterio/white-gemini-iv.vrt", "unsupported:vrt"),
        ("gdal_ssrf/geoserver.wcs", "external_reference"),
        ("gdal_ssrf/wms/demo_mapserver_org.xml", "external_reference"),  # 512 PiB
        ("gdal_ssrf/stacit/test.json", "external_reference"),
        ("gdal_ssrf/stacta/test.json", "external_reference"),
        ("gdal/hfa_completedefn_recursion.img", "unknown_format"),
    ],
)
def test_known_traps_are_refused_from_their_header(corpus: Path, name: str, reason: str) -> None:
    path = corpus / "raster" / "bad" / name
    with pytest.raises(RecordError) as caught:
        list(RasterNormalizer(RasterConfig()).open(Item(PathBlob(name, path), 0)))
    assert caught.value.reason == reason


@pytest.mark.data
@pytest.mark.parametrize("name", ["byte_JXL.tif", "rgbsmall_JXL_tiled_separate.tif"])
def test_a_codec_that_is_not_built_in_is_named(corpus: Path, name: str) -> None:
    path = corpus / "raster" / "unsupported" / "gdal_gtiff" / "gtiff" / name
    with pytest.raises(RecordError, match="unsupported:jxl"):
        list(RasterNormalizer(RasterConfig()).open(Item(PathBlob(name, path), 0)))


@pytest.mark.data
def test_nothing_connects_and_nothing_else_is_opened(
    corpus: Path, manifest: list[dict[str, str]], tmp_path: Path
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    files = raster_files(corpus, manifest, {"bad", "unsupported"})
    files += [path for path in raster_files(corpus, manifest, {"good"}) if path.suffix != ".json"][::8]
    log, scratch = tmp_path / "calls", tmp_path / "scratch"
    scratch.mkdir()
    watched = "trace=open,openat,connect,sendto,execve"
    in_child([str(p) for p in files], 300, scratch, [strace, "-f", "-qq", "-s", "4096", "-o", str(log), "-e", watched])
    calls = log.read_text(errors="replace").splitlines()
    assert not [call for call in calls if re.search(r" (connect|sendto)\(", call)]
    assert len([call for call in calls if " execve(" in call and "= 0" in call]) == 1, "only python itself"
    paths = [re.search(r'open(?:at)?\([^"]*"(/[^"]+)"', call) for call in calls if "ENOENT" not in call]
    opened = {match[1] for match in paths if match}
    ours = {str(path) for path in files}
    assert ours <= opened
    assert not [path for path in opened - ours if path.startswith(str(corpus))], "a file beside the file was read"
    system = ("/usr/", "/lib", "/etc/ld.so", "/etc/localtime", "/etc/ssl", "/proc/", "/sys/", "/dev/")
    allowed = (*system, sys.prefix, sys.base_prefix, str(SOURCE.parent), str(scratch), str(Path.home() / ".aws"))
    assert not [path for path in opened - ours if not path.startswith(allowed)]
    assert not list(scratch.iterdir()), "private folders are removed"


def test_the_process_environment_leaves_only_harmless_drivers() -> None:
    code = "import rasterio, json\nwith rasterio.Env() as e: print(json.dumps(sorted(e.drivers())))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **gdal_environment()},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(json.loads(done.stdout)) <= KEPT_DRIVERS
    assert {"GTiff", "netCDF", "GRIB", "JP2OpenJPEG"} <= set(json.loads(done.stdout))


VRT = (
    '<VRTDataset rasterXSize="8" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
    '<SourceFilename relativetoVRT="0">{path}</SourceFilename><PixelOffset>1</PixelOffset><LineOffset>8</LineOffset>'
    "</VRTRasterBand></VRTDataset>"
)


@pytest.mark.parametrize("name", ["a.vrt", "a.tif", "a.nc", "a"])
def test_a_vrt_is_refused_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"CANARY!!")
    for text in (VRT.format(path=secret), "\n <!-- x -->" + VRT.format(path=secret)):
        with pytest.raises(RecordError, match="unsupported:vrt"):
            list(RasterNormalizer(RasterConfig()).open(Item(BytesBlob(name, text.encode()), 0)))


@pytest.mark.parametrize("way", ["external storage", "virtual", "link", "link in a large group", "old link target"])
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_hdf5_values_from_another_file_are_refused(tmp_path: Path, way: str, version: str) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "raw").write_bytes(np.arange(400, dtype="<f4").tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.full((20, 20), 7, dtype="<f4")
    path = tmp_path / "a.nc"
    with h5py.File(path, "w", libver=version) as out:
        group = out.create_group("deep/er", track_order="large" in way)
        if way == "external storage":
            group.create_dataset("v", (20, 20), dtype="<f4", external=[(str(tmp_path / "raw"), 0, 1600)])
        elif way == "virtual":
            layout = h5py.VirtualLayout(shape=(20, 20), dtype="<f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", shape=(20, 20))
            group.create_virtual_dataset("v", layout)
        else:
            for k in range(60 if "large" in way else 1):
                group[f"good{k}"] = np.ones((3, 3), dtype="<f4")
            group["v"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")
    normalizer = RasterNormalizer(RasterConfig())
    with pytest.raises(RecordError) as caught:
        list(normalizer.open(Item(PathBlob("a.nc", path), 0)))
    assert caught.value.reason == "external_reference"


def test_hdf5_without_references_is_read_with_soft_links_and_many_groups(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for version in ("earliest", "latest"):
        path = tmp_path / f"{version}.nc"
        with h5py.File(path, "w", libver=version, userblock_size=512) as out:
            for k in range(40):
                out[f"g{k}/v"] = np.full((3, 3), k, dtype="<f4")
            out["soft"] = h5py.SoftLink("/g0/v")
        found = list(RasterNormalizer(RasterConfig()).open(Item(PathBlob("a.nc", path), 0)))
        assert sum(batch.num_rows for batch in found if not isinstance(batch, Bad)) >= 40


def test_damaged_hdf5_never_takes_long(tmp_path: Path) -> None:
    from headrace.ingest.normalizers.raster_hdf5 import refuse_references

    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out["v"] = np.zeros((4, 4))
    good = (tmp_path / "a.h5").read_bytes()
    for junk in (b"OHDR\2\0\xff", b"SNOD\1\0\xff\xff", b"FHDB\0\1\0\1A", b"FRHP\0\1", b"OHDR\2\3" + b"\xff" * 8):
        data = good + junk * 200_000
        try:
            refuse_references(lambda at, size, data=data: data[at : at + size], len(data))
        except RecordError as exc:
            assert exc.reason in ("corrupt", "unsupported:hdf5-filtered-heap")


def tiff(entries: list[tuple[int, int, int, int]], after: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF with one directory of (tag, type, count, value or offset)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", following) + after


def reason_of(data: bytes, name: str = "a.tif", **limits: int) -> str | None:
    try:
        found = list(RasterNormalizer(RasterConfig(), Limits(**limits)).open(Item(BytesBlob(name, data), 0)))
    except RecordError as exc:
        return exc.reason
    return next((item.reason for item in found if isinstance(item, Bad)), None)


BASIC = [(256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (277, 3, 1, 1), (278, 4, 1, 4)]
BASIC.append((279, 4, 1, 16))


def test_hostile_directories_are_told_apart() -> None:
    pixels = bytes(range(16))
    whole = tiff(sorted([*BASIC, (273, 4, 1, 8 + 2 + 8 * 12 + 4)]), pixels)
    assert reason_of(whole) is None
    assert reason_of(whole[:-1]) == "truncated"
    assert reason_of(whole[:20]) == "truncated"
    assert reason_of(b"II*\0\xff\xff\xff\x7f") == "truncated"
    assert reason_of(b"II*\0\0\0\0\0") == "empty"
    assert reason_of(b"") == "empty"
    loop = tiff(sorted([*BASIC, (273, 4, 1, 8 + 2 + 8 * 12 + 4)]), pixels, following=8)
    assert reason_of(loop) == "corrupt"
    many = tiff(sorted([*BASIC[:4], (277, 3, 1, 65535), *BASIC[5:], (273, 4, 1, 110)]), pixels)
    assert reason_of(many) == "too_large"
    wide = tiff(sorted([(256, 4, 1, 1 << 31), (257, 4, 1, 1 << 31), *BASIC[2:], (273, 4, 1, 110)]), pixels)
    assert reason_of(wide) == "bomb"
    nothing = tiff(sorted([(256, 4, 1, 0), *BASIC[1:], (273, 4, 1, 110)]), pixels)
    assert reason_of(nothing) == "corrupt"


SPARSE = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": "TRUE"}


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_sparse_bomb_is_refused_and_a_sparse_raster_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = {**SPARSE, "BIGTIFF": "YES"}
    with rasterio.open(path, "w", width=100_000, height=100_000, count=3, dtype="uint16", **profile):
        pass
    assert path.stat().st_size < 4 << 20
    assert reason_of(path.read_bytes()) == "bomb"  # 60 GB
    with rasterio.open(path, "w", width=3_000, height=3_000, count=1, dtype="uint8", **profile):
        pass
    assert reason_of(path.read_bytes()) is None


def test_a_cut_grib_keeps_its_whole_messages_and_tells_the_rest(corpus: Path) -> None:
    data = (corpus / "raster" / "gdal_grib" / "Sample_QuikSCAT.grb").read_bytes()
    found = list(RasterNormalizer(RasterConfig()).open(Item(BytesBlob("a.grb", data[:-3000]), 0)))
    assert isinstance(found[-1], Bad)
    assert found[-1].reason == "truncated"
    batches = [batch for batch in found if not isinstance(batch, Bad)]
    assert {flag for batch in batches for flags in batch.column("flags").to_pylist() for flag in flags} == {"truncated"}


def test_a_cut_jpeg2000_never_looks_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.jp2"
    array = np.random.default_rng(2).integers(0, 255, (1, 512, 512), dtype=np.uint8)
    tiles = {"BLOCKXSIZE": 128, "BLOCKYSIZE": 128, "QUALITY": 100, "REVERSIBLE": "YES"}
    profile = {"driver": "JP2OpenJPEG", "width": 512, "height": 512, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", transform=rasterio.Affine(10, 0, 4e5, 0, -10, 5e6), **profile, **tiles) as out:
        out.write(array)
    data = path.read_bytes()
    config = RasterConfig(tile=128)
    assert reason_of(data, "a.jp2") is None
    found = list(RasterNormalizer(config).open(Item(BytesBlob("a.jp2", data[: len(data) * 6 // 10]), 0)))
    bad = [item for item in found if isinstance(item, Bad)]
    assert bad
    assert {item.reason for item in bad} == {"truncated"}
    for batch in found:
        if isinstance(batch, Bad):
            continue
        for locator, pixels, flags in zip(
            batch.column("locator").to_pylist(), payload_views(batch), batch.column("flags").to_pylist()
        ):
            column, row, width, height = json.loads(locator)["window"]
            np.testing.assert_array_equal(pixels, array[:, row : row + height, column : column + width])
            assert flags == ["truncated"]


@pytest.mark.data
def test_random_damage_never_escapes_as_another_error(corpus: Path) -> None:
    rng = np.random.default_rng(11)
    names = [
        "gdal_gtiff/gtiff/byte_DEFLATE_tiled.tif", "gdal_netcdf/trmm-2x2.nc", "gdal_netcdf/uint.nc",
        "gdal_grib/two_bands_with_bitmap.grib2", "gdal_jp2/byte_tlm_plt.jp2", "gdal_netcdf/byte_nc3_golden.nc",
    ]  # fmt: skip
    import logging

    logging.disable(logging.WARNING)
    try:
        for name in names:
            data = np.frombuffer((corpus / "raster" / name).read_bytes(), dtype=np.uint8)
            for _ in range(15):
                broken = data.copy()
                broken[rng.integers(0, len(broken), 6)] = rng.integers(0, 256, 6)
                if rng.random() < 0.3:
                    broken = broken[: rng.integers(1, len(broken))]
                reason_of(broken.tobytes(), name)
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_large_sparse_cog_stays_flat_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = {**SPARSE, "compress": "deflate", "dtype": "uint8", "count": 1}
    with rasterio.open(path, "w", width=40_000, height=40_000, **profile) as out:
        noise = np.random.default_rng(0).integers(0, 255, (1, 512, 40_000), dtype=np.uint8)
        out.write(noise, window=rasterio.windows.Window(0, 20_480, 40_000, 512))
    # 157 rows of 157 tiles; the noise lies in the 81st and 82nd.
    one, several = in_child([f"{path}|81/157", f"{path}|14/26"], 60, tmp_path)
    assert one["records"] == 157
    assert several["records"] == 6 * 157
    assert several["peak_kib"] - one["peak_kib"] < 64 << 10
    assert sniff_stream(path.open("rb"), "a.tif").name in ("tiff", "geotiff")


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_python_itself_opens_no_socket_and_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8") as out:
        out.write(np.ones((1, 4, 4), dtype=np.uint8))
    for suffix in (".ovr", ".msk", ".aux.xml"):
        (tmp_path / f"a.tif{suffix}").write_bytes(b"not to be read")
    (tmp_path / "a.tfw").write_text("1\n0\n0\n1\n0\n0\n")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    (batch,) = RasterNormalizer(RasterConfig()).open(Item(PathBlob("a.tif", path), 0))
    assert not isinstance(batch, Bad)
    assert batch.column("transform").to_pylist() == [None], "the world file beside it was not read"


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_mask_that_lies_beside_a_file_is_not_its_mask(tmp_path: Path) -> None:
    netCDF4 = pytest.importorskip("netCDF4")
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as out:
        out.createDimension("y", 4)
        out.createDimension("x", 5)
        out.createVariable("v", "i4", ("y", "x"))[:] = 1
    with rasterio.open(tmp_path / "a.nc.msk", "w", driver="GTiff", width=5, height=4, count=1, dtype="uint8") as out:
        out.write(np.zeros((1, 4, 5), dtype=np.uint8))
        out.update_tags(INTERNAL_MASK_FLAGS_1="2")
    (batch,) = RasterNormalizer(RasterConfig()).open(Item(PathBlob("a.nc", tmp_path / "a.nc"), 0))
    assert not isinstance(batch, Bad)
    assert batch.column("valid_fraction").to_pylist() == [1.0]
