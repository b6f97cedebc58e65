"""Several files, one item: the rules group what belongs together and never reach outside the root."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.contract import Item
from headrace.connectors.file_groups import group_files, stac_assets
from headrace.connectors.file_store import Entry
from headrace.connectors.files import Files
from headrace.schemas.errors import SourceChanged


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def items(root: Path, rule: str, **settings: Any) -> dict[str, Any]:
    """split id → ids of its blobs, or the id of its single blob."""
    connector = Files(Files.Config(root=str(root), group=rule, **settings))
    out: dict[str, Any] = {}
    for split in connector.splits():
        (read,) = connector.read(split, None)
        assert isinstance(read, Item) and read.position == "end"
        out[split.id] = [blob.id for blob in read.data] if isinstance(read.data, list) else read.data.id
    return out


def test_stem_groups_a_clip_with_its_captions_and_leaves_the_rest(tmp_path: Path) -> None:
    names = [
        "a/clip.mp4",
        "a/clip.srt",
        "a/clip.en.vtt",
        "a/other.jpg",
        "b/clip.txt",
        "2024.01.01.jpg",
        "2024.01.02.jpg",
        ".x",
    ]
    write(tmp_path, dict.fromkeys(names, b"data"))
    assert items(tmp_path, "stem") == {
        ".x": ".x", "2024.01.01.jpg": "2024.01.01.jpg", "2024.01.02.jpg": "2024.01.02.jpg",
        "a/clip.*": ["a/clip.en.vtt", "a/clip.mp4", "a/clip.srt"], "a/other.jpg": "a/other.jpg",
        "b/clip.txt": "b/clip.txt",
    }  # fmt: skip


def test_safe_groups_everything_below_its_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "p/S2A.SAFE/MTD.xml": b"<?xml version='1.0'?><a/>",
            "p/S2A.SAFE/IMG/B02.jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
            "p/x.txt": b"x",
        },
    )
    assert items(tmp_path, "safe") == {
        "p/S2A.SAFE": ["p/S2A.SAFE/IMG/B02.jp2", "p/S2A.SAFE/MTD.xml"], "p/x.txt": "p/x.txt",
    }  # fmt: skip


def stac(*hrefs: str) -> bytes:
    assets = {f"asset{n}": {"href": href} for n, href in enumerate(hrefs)}
    return json.dumps({"type": "Feature", "stac_version": "1.0.0", "assets": assets}).encode()


def test_stac_groups_an_item_with_its_local_assets_only(tmp_path: Path) -> None:
    outside = [
        "../../secret.tif",
        "/etc/passwd",
        "https://host/x.tif",
        "s3://b/x.tif",
        "file:///etc/passwd",
        "c:/x.tif",
    ]
    write(
        tmp_path,
        {
            "root/d/item.json": stac("./b2.tif", "b1.tif", "../shared.tif", "absent.tif", "item.json", *outside),
            "root/d/b1.tif": b"II*\0", "root/d/b2.tif": b"II*\0", "root/shared.tif": b"II*\0",
            "root/lone.tif": b"II*\0",
            "root/not.json": b'{"type": "Feature"}', "root/bad.json": b"{", "secret.tif": b"secret",
        },
    )  # fmt: skip
    assert items(tmp_path / "root", "stac") == {
        "bad.json": "bad.json", "d/item.json": ["d/item.json", "d/b2.tif", "d/b1.tif", "shared.tif"],
        "lone.tif": "lone.tif", "not.json": "not.json",
    }  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=8) | st.integers(),
        lambda s: st.lists(s) | st.dictionaries(st.text(max_size=8), s),
    )
)
def test_no_document_makes_the_stac_rule_fail_or_leave_the_root(value: Any) -> None:
    document = {"type": "Feature", "stac_version": "1", "assets": {"a": {"href": value}, "b": value}}
    for path in stac_assets("d/item.json", json.dumps(document).encode()):
        assert not path.startswith(("/", "../"))


def test_asset_paths_are_resolved_inside_the_root_or_dropped() -> None:
    hrefs = {"a/b/item.json": ["../x.tif", "../../y.tif", "../../../z.tif", "./../../../a/w.tif", "..", ".", ""]}
    for item, names in hrefs.items():
        assert stac_assets(item, stac(*names)) == ["a/x.tif", "y.tif", "a", "a/b"]


def test_the_headers_of_a_group_name_its_formats(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": b"\x89PNG\r\n\x1a\n", "a.txt": b"caption"})
    connector = Files(Files.Config(root=str(tmp_path), group="stem"))
    (split,) = connector.splits()
    (item,) = connector.read(split, None)
    assert isinstance(item, Item)
    assert item.headers == {"format": "png", "group": "stem", "formats": '["png","text"]', "object": "a.*"}
    assert item.key == "a.*"
    assert [s.id for s in Files(Files.Config(root=str(tmp_path), group="stem", select="image")).splits()] == ["a.*"]


def test_a_group_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": b"1", "a.txt": b"caption"})
    settings = Files.Config(root=str(tmp_path), group="stem")
    (split,) = Files(settings).splits()
    (tmp_path / "a.srt").write_text("new")
    with pytest.raises(SourceChanged):
        list(Files(settings).read(split, None))


@given(st.sets(st.text("ab./", min_size=1, max_size=8).filter(lambda t: all(t.split("/"))), max_size=12))
def test_every_file_is_in_one_group_or_alone(names: set[str]) -> None:
    entries = [Entry(name, 1, "pin") for name in sorted(names)]
    for rule in ("stem", "safe", "none"):
        groups, alone = group_files(rule, entries, lambda e: b"")
        taken = [e.id for g in groups for e in g.entries] + [e.id for e in alone]
        assert sorted(taken) == sorted(names)
