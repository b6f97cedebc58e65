"""Object stores, plain reads and mappings give the same batches; files, mappings and requests stay few."""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.schemas.errors import ShardError
from headrace.shards.loader import blocks
from headrace.shards.loader.dataset import ShardDataset
from headrace.shards.loader.sources import Source
from headrace.shards.log import CommitLog
from headrace.shards.store import Store, open_store

from .worlds import World, compacted, rows_of, stream_settings, through_json, whole, world

ORDER: dict[str, Any] = {"length": 64, "batch_size": 2, "seed": 3, "window_bytes": 9_000}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server."""
    pytest.importorskip("moto", reason="moto is not installed")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}"
    made.stop()


@pytest.fixture(scope="module")
def uploaded(server: str, library: dict[str, World]) -> Source:
    """The dataset `merged` in a bucket."""
    urllib.request.urlopen(urllib.request.Request(f"{server}/loader", method="PUT")).close()
    options = {"endpoint_url": server, "key": "test", "secret": "test", "region": "us-east-1"}
    remote, local = open_store("s3://loader/merged", options), library["merged"].log.store
    for name in local.list():
        remote.put_new(name, local.get(name))
    return Source("s3://loader/merged", options=options)


class Counting:
    """A store that counts its ranged reads."""

    def __init__(self, store: Store) -> None:
        self._store, self.ranges = store, 0

    def __getattr__(self, name: str) -> Any:
        if name == "get_range":
            self.ranges += 1
        return getattr(self._store, name)


@pytest.mark.server
def test_an_object_store_reads_as_a_folder_does_with_and_without_a_cache(
    uploaded: Source, library: dict[str, World], tmp_path: Path
) -> None:
    reference = whole(ShardDataset(library["merged"].path, **ORDER))
    assert whole(ShardDataset(uploaded, **ORDER)) == reference
    requests = []
    for _ in range(2):
        data = ShardDataset(uploaded, cache=str(tmp_path), **ORDER)
        counted = Counting(data.pinned[0].store)
        data.pinned[0]._store = counted  # type: ignore[assignment]
        assert whole(data) == reference
        requests.append(counted.ranges)
    heads = len({s.path for s in library["merged"].log.state.live_shards()})
    assert requests[0] > requests[1] == heads, "only heads are read again"
    kept = next(Path(tmp_path).rglob("*.block"))
    kept.write_bytes(b"damaged" + kept.read_bytes()[7:])
    assert whole(ShardDataset(uploaded, cache=str(tmp_path), **ORDER)) == reference
    assert not os.path.exists("/dev/shm/headrace") and not [n for n in os.listdir("/dev/shm") if "headrace" in n]


@pytest.mark.server
def test_worker_processes_read_an_object_store_too(uploaded: Source, library: dict[str, World], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    reference = whole(ShardDataset(library["merged"].path, **ORDER))
    data = ShardDataset(uploaded, cache=str(tmp_path), **ORDER)
    rows = [
        row
        for batch in torch.utils.data.DataLoader(
            data.torch(), batch_size=None, num_workers=2, multiprocessing_context="fork"
        )
        for row in rows_of(batch)
    ]
    assert rows[: len(reference)] == reference


@pytest.mark.server
def test_damage_in_an_object_store_is_named(uploaded: Source) -> None:
    store = open_store(uploaded.dataset, uploaded.options)
    data = ShardDataset(uploaded, **ORDER)
    shard = CommitLog(store).replay(data.pinned[0].version).live_shards("tide")[0]
    good = store.get(shard.path)
    at = shard.blocks[1].offset + 77
    store.delete(shard.path)
    store.put_new(shard.path, good[:at] + bytes([good[at] ^ 8]) + good[at + 1 :])
    try:
        with pytest.raises(ShardError, match=rf"{shard.path}: the block of rows .* was altered"):
            whole(ShardDataset(uploaded, **ORDER))
    finally:
        store.delete(shard.path)
        store.put_new(shard.path, good)


def test_reading_without_mappings_gives_the_same(library: dict[str, World]) -> None:
    for name in ("merged", "thinned", "long"):
        for packing in ("cut", "ragged"):
            one = list(ShardDataset(library[name].path, packing=packing, **ORDER))  # type: ignore[arg-type]
            two = list(ShardDataset(library[name].path, packing=packing, mapped=False, **ORDER))  # type: ignore[arg-type]
            assert len(one) == len(two)
            assert all((a["tokens"] == b["tokens"]).all() and a["state"] == b["state"] for a, b in zip(one, two))


def mapped_shards() -> int:
    with open("/proc/self/maps") as f:
        return len({line.split()[-1] for line in f if ".arrow" in line})


def open_shards() -> int:
    out = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            out += os.readlink(f"/proc/self/fd/{name}").endswith(".arrow")
        except OSError:
            continue
    return out


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="there is no /proc here")
def test_files_and_mappings_stay_few_over_many_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MOST_OPEN", 5)
    made = world(tmp_path / "a", [("tide", n, f"s{n}") for n in range(30)], length=5)
    made.grow(*[2] * 30)
    most = {True: (0, 0), False: (0, 0)}
    before = mapped_shards(), open_shards()
    for mapped in (True, False):
        for _ in ShardDataset(made.path, length=16, window_bytes=1, mapped=mapped):
            most[mapped] = max(most[mapped], (mapped_shards() - before[0], open_shards() - before[1]))
    assert most[False] == (0, 0)
    assert 0 < most[True][0] <= 5 + 3 + 2, "open ones, those of the window and of the next"
    del _
    assert (mapped_shards(), open_shards()) == before


def test_raw_streams_give_their_columns_in_an_order_of_their_own(tmp_path: Path) -> None:
    settings = {"letters": stream_settings("letters", None)}
    made = world(tmp_path / "a", [("letters", 0, "a"), ("letters", 2, "b")], settings)
    for _ in range(3):
        made.grow(5, 4)
    compacted(made)

    def read(batch_size: int, state: Any = None, **more: Any) -> tuple[list[Any], list[Any]]:
        data = ShardDataset(
            Source(made.path, "letters"), packing="ragged", columns=["uri", "text", "locator"], seed=1,
            window_bytes=9_000, batch_size=batch_size, **more,
        )  # fmt: skip
        if state is not None:
            data.load_state_dict(through_json(state))
        rows, states = [], []
        for batch in data:
            got = batch["records"].to_pylist()
            addresses = batch["samples"].tolist()
            rows += [(*a[:4], r["uri"], r["text"], r["locator"]) for a, r in zip(addresses, got)]
            states.append((len(rows), batch["state"]))
        return [r for r in rows if r[3] >= 0], states

    rows, states = read(1)
    expected = {}
    from headrace.shards.dataset import Dataset

    for found in Dataset.open(made.path).located("letters"):
        for seq, row in zip(found.seqs.tolist(), found.batch.select(["uri", "text", "locator"]).to_pylist()):
            expected[found.shard.lane, seq] = (row["uri"], row["text"], row["locator"])
    assert {(r[2], r[3]): r[4:] for r in rows} == expected and len(rows) == len(expected) == 27
    assert rows != sorted(rows)
    assert read(4)[0] == rows
    for done, state in states[::5]:
        assert read(3, state)[0] == rows[done:]
    with pytest.raises(Exception, match="packing='ragged' only"):
        ShardDataset(Source(made.path, "letters"))


def test_columns_come_beside_tokens_row_by_row(library: dict[str, World]) -> None:
    data = ShardDataset(library["second"].path, packing="ragged", columns=["uri", "tokens"], batch_size=3)
    for batch in data:
        bodies = batch["records"].column("tokens").to_pylist()
        assert [t for body in bodies for t in body] == batch["tokens"].tolist()[: sum(map(len, bodies))]
        assert np.diff(batch["cu_seqlens"]).tolist()[: len(bodies)] == [len(b) for b in bodies if b]
