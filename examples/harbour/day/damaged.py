"""A handful of broken files, as a disk, a cable or a person leaves them; each must cost no more than itself."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

from day.noise import rng

VRT = """<VRTDataset rasterXSize="64" rasterYSize="64">
  <VRTRasterBand dataType="Byte" band="1">
    <SimpleSource>
      <SourceFilename relativeToVRT="0">/etc/hostname</SourceFilename><SourceBand>1</SourceBand>
    </SimpleSource>
  </VRTRasterBand>
</VRTDataset>
"""


def write_all(folder: Path, made: Path, seed: int) -> None:
    """Break copies of what was made in `made`."""
    folder.mkdir(parents=True, exist_ok=True)
    jpeg = sorted((made / "photos").glob("*.jpg"))[0].read_bytes()
    (folder / "cut_in_transfer.jpg").write_bytes(jpeg[: len(jpeg) * 2 // 5])

    png = bytearray(sorted((made / "photos").glob("*.png"))[0].read_bytes())
    middle = png.index(b"IDAT") + 2000
    for k in rng(seed, "flips").integers(0, 4000, 9):
        png[middle + int(k)] ^= 0x10
    (folder / "bits_flipped.png").write_bytes(bytes(png))

    good = [
        json.dumps({"id": f"broken-{i}", "issued": "2025-06-14T08:00:00Z", "lang": "en", "body": f"Line {i} is whole."})
        for i in range(6)
    ]
    lines = [
        good[0],
        good[1][:-9],
        good[2],
        '{"id": "nan", "issued": NaN}',
        good[3],
        "}{",
        good[4],
        '["not", "an object"]',
        good[5],
    ]
    (folder / "some_lines_broken.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "latin1_says_utf8.jsonl").write_bytes(
        '{"id": "l1", "issued": "2025-06-14T08:00:00Z", "body": "Hamnen är öppen."}\n'.encode("latin-1")
    )

    packed = gzip.compress("\n".join(good * 400).encode(), 6, mtime=0)
    (folder / "cut.jsonl.gz").write_bytes(packed[: len(packed) * 3 // 5])
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "points_elsewhere.vrt").write_text(VRT, encoding="utf-8")

    wav = next(iter(sorted((made / "sounds").glob("*.wav")))).read_bytes()
    (folder / "cut_short.wav").write_bytes(wav[: len(wav) // 3 | 1])
    film = sorted((made / "cameras").glob("*.mp4"))[0].read_bytes()
    (folder / "power_cut.mp4").write_bytes(film[: len(film) // 2])
    tiff = bytearray((made / "littoral" / "harbour_0603.tif").read_bytes()[:60_000])
    (folder / "half_a_scene.tif").write_bytes(bytes(tiff))
    # A grey PNG of 60,000 by 60,000 pixels in a few hundred bytes.
    (folder / "bomb.png").write_bytes(_bomb(60_000))
    hour = "2025-06-14T01"
    rows = ["t,level_m", f"{hour}:00:00Z,0.41", "14.6.2025 klo 4,0.43", f"{hour}:02:00Z,high", f"{hour}:03:00Z"]
    (folder / "times_of_all_kinds.csv").write_text("\n".join([*rows, f"{hour}:04:00Z,0.44,7,7", ""]), encoding="utf-8")


def _bomb(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20), 9))
        + chunk(b"IEND", b"")
    )
