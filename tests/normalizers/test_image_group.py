"""Pictures with captions and labels beside them, as WebDataset archives group them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image

from headrace.connectors.contract import Blob, BytesBlob, Item
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.image import ImageConfig, ImageNormalizer
from headrace.ingest.normalizers.text import TextConfig, TextNormalizer
from headrace.schemas.errors import RecordError
from headrace.schemas.record import modality_of


def picture(red: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 4), (red, 0, 0)).save(out, "PNG")
    return out.getvalue()


def group(members: dict[str, tuple[bytes, str]], **headers: str) -> Item:
    blobs: list[Blob] = [BytesBlob(f"shard.tar/{name}", data) for name, (data, _) in members.items()]
    formats = json.dumps([format_name for _, format_name in members.values()])
    known = {"format": "png", "group": "webdataset", "formats": formats, "object": "shard.tar/0001", **headers}
    return Item(blobs, 1, key="0001", headers=known)


def read(item: Item, normalizer: Any) -> tuple[list[tuple[str, dict[str, Any]]], list[Bad]]:
    rows: list[tuple[str, dict[str, Any]]] = []
    bad: list[Bad] = []
    for got in normalizer.open(item):
        if isinstance(got, Bad):
            bad.append(got)
        else:
            got.validate(full=True)
            rows += [(modality_of(got), row) for row in got.to_pylist()]
    return rows, bad


MEMBERS = {
    "0001.txt": ("A quay at noon, Straße".encode(), "text"),
    "0001.png": (picture(9), "png"),
    "0001.cls": (b"7", "text"),
    "0001.json": (b'{"width": 8.0, "url": "https://example.org/1"}', "json"),
}


def test_a_picture_its_caption_and_its_labels_stay_together() -> None:
    rows, bad = read(group(MEMBERS), ImageNormalizer(ImageConfig()))
    assert bad == []
    (kind, image), (other, caption) = rows
    assert (kind, other) == ("image", "text")
    assert image["locator"] == '{"frame":0,"member":"0001.png"}' and caption["locator"] == '{"member":"0001.txt"}'
    assert image["group_id"] is None and caption["group_id"] is None  # the engine gives both that of the item
    assert caption["text"] == "A quay at noon, Straße"
    assert image["extra"] == '{"beside":{"cls":"7","json":{"width":8.0,"url":"https://example.org/1"}}}'


def test_a_member_that_is_bad_costs_itself() -> None:
    members = {
        **MEMBERS,
        "0001.txt": (b"\xff\xfea", "text"),
        "0001.right.png": (picture(3)[:30], "png"),
        "0001.wav": (b"RIFF", "wav"),
        "0001.json": (b'{"a": 1, "a": 2}', "json"),
    }
    rows, bad = read(group(members, truncated="1"), ImageNormalizer(ImageConfig()))
    assert [(kind, row["locator"]) for kind, row in rows] == [("image", '{"frame":0,"member":"0001.png"}')]
    assert rows[0][1]["flags"] is None and rows[0][1]["extra"] == '{"beside":{"cls":"7"}}'
    assert {(b.reason, json.loads(b.locator)["member"]) for b in bad} == {
        ("truncated", "0001.txt"),
        ("truncated", "0001.right.png"),
        ("unsupported:wav", "0001.wav"),
        ("invalid_json", "0001.json"),
    }


def test_a_text_stream_takes_the_texts_of_a_group() -> None:
    rows, bad = read(group(MEMBERS), TextNormalizer(TextConfig(language="en")))
    assert bad == []
    assert [(row["locator"], row["text"]) for _, row in rows] == [
        ('{"member":"0001.txt"}', "A quay at noon, Straße"),
        ('{"member":"0001.cls"}', "7"),
        ('{"member":"0001.json"}', MEMBERS["0001.json"][0].decode()),
    ]


def test_a_group_without_the_kind_that_is_wanted_is_refused() -> None:
    for normalizer, members in (
        (ImageNormalizer(ImageConfig()), {"1.txt": (b"a", "text")}),
        (TextNormalizer(TextConfig()), {"1.png": (picture(1), "png")}),
    ):
        with pytest.raises(RecordError) as refusal:
            read(group(members), normalizer)
        assert refusal.value.reason == "inconsistent"


def test_a_file_that_could_only_be_unpacked_in_part_is_flagged() -> None:
    whole = picture(5)
    item = Item(BytesBlob("a.png.gz/a.png", whole), 1, headers={"format": "png", "truncated": "1"})
    rows, _ = read(item, ImageNormalizer(ImageConfig()))
    assert rows[0][1]["flags"] == ["truncated"]
    text = Item(BytesBlob("a.txt.gz/a.txt", b"half a sent"), 1, headers={"format": "text", "truncated": "1"})
    rows, _ = read(text, TextNormalizer(TextConfig()))
    assert rows[0][1]["flags"] == ["truncated"]
