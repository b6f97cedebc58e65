"""docs/training.md: every snippet runs on a small dataset, and does what the page says.

Libraries that are not installed are stood in for by the few names that the page uses; torchrun is real.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headrace import ShardDataset

torch = pytest.importorskip("torch")
pytest.importorskip("torchdata")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"
SNIPPET = re.compile(r"^(## [^\n]+)$|(<!-- run: torchrun -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets() -> list[tuple[str, int, bool, str]]:
    """(heading, line, whether torchrun starts it, code) of every block of Python."""
    text, heading, found = PAGE.read_text(encoding="utf-8"), "", []
    for match in SNIPPET.finditer(text):
        if match[1]:
            heading = match[1].removeprefix("## ")
        else:
            found.append((heading, text[: match.start(3)].count("\n"), bool(match[2]), match[3]))
    return found


def module(name: str, **names: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(names)
    return made


def stand_ins() -> dict[str, ModuleType]:
    """Of the libraries that are not here."""
    mpu = SimpleNamespace(get_data_parallel_rank=lambda: 1, get_data_parallel_world_size=lambda: 2)
    arguments = SimpleNamespace(seq_length=64, micro_batch_size=3)
    plain = {"Mesh": lambda devices, names: names, "NamedSharding": lambda mesh, spec: spec}
    sharding = module("jax.sharding", PartitionSpec=lambda *names: names, **plain)
    ours = {
        "megatron": [
            module("megatron"),
            module("megatron.core", mpu=mpu),
            module("megatron.training", get_args=lambda: arguments),
        ],
        "lightning": [module("lightning", LightningDataModule=object)],
        "jax": [
            module(
                "jax",
                process_index=lambda: 0,
                process_count=lambda: 1,
                devices=lambda: [0],
                make_array_from_process_local_data=lambda sharding, array: array.copy(),
            ),
            sharding,
        ],
    }
    missing = [name for name in ours if not _installed(name)]
    return {made.__name__: made for name in missing for made in ours[name]}


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the snippets run: `corpus` lies in it."""
    made = tmp_path_factory.mktemp("page")
    shutil.copytree(tiny, made / "corpus")
    return made


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str | None]:
    """The endpoint of an S3 server with the dataset in a bucket; None without moto."""
    try:
        from botocore.session import Session
        from moto.server import ThreadedMotoServer
    except ImportError:
        yield None
        return
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = Session().create_client("s3", endpoint_url=endpoint, **keys)
    client.create_bucket(Bucket="bucket")
    for path in sorted((folder / "corpus").rglob("*")):
        if path.is_file():
            client.put_object(Bucket="bucket", Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())
    yield endpoint
    server.stop()


@pytest.fixture(scope="module")
def ran(folder: Path, bucket: str | None) -> dict[str, dict[str, Any]]:
    """Runs the page from top to bottom in one namespace; what the names were worth at the end of each section."""
    seen: list[Any] = []
    names: dict[str, Any] = {"step": seen.append, "ENDPOINT": bucket}
    after: dict[str, dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for made in stand_ins().values():
            patch.setitem(sys.modules, made.__name__, made)
        for heading, line, torchrun, code in snippets():
            if torchrun or (bucket is None and "ENDPOINT" in code):
                continue
            exec(compile("\n" * line + code, str(PAGE), "exec"), names)
            after[heading] = {**names, "seen": list(seen)}
    return after


def test_every_snippet_runs(ran: dict[str, dict[str, Any]], bucket: str | None) -> None:
    headings = {heading for heading, _, torchrun, code in snippets() if not torchrun}
    assert set(ran) == headings - (set() if bucket else {"Object stores and the node cache"})
    assert len(snippets()) >= 18


def test_a_batch_holds_what_the_table_says(folder: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {name: (dtype.strip(), shape.strip()) for name, dtype, shape in rows[:9]}
    data = ShardDataset(str(folder / "corpus"), ids="unified", length=128, batch_size=4)
    for batch in data:
        assert set(batch) == set(told)
        segments = len(batch["samples"])
        for name, (dtype, shape) in told.items():
            value = batch[name]
            if not shape:
                assert type(value).__name__ == dtype, name
                continue
            assert value.shape == {"[B, L]": (4, 128), "[S+1]": (segments + 1,), "[S]": (segments,)}[shape], name
            assert dtype == "structured" or value.dtype == dtype.rpartition(" ")[2], name
        assert np.array_equal(batch["loss_mask"], batch["targets"] != -100)
        assert {*range(0, 4 * 128, 128)} <= {*batch["cu_seqlens"].tolist()}, "segments never cross a row"


def test_every_guarantee_names_tests_that_exist() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## What is guaranteed")[2]
    named = re.findall(r"`(test_\w+)`", table)
    tests = "\n".join(path.read_text(encoding="utf-8") for path in PAGE.parents[1].glob("tests/*/test_*.py"))
    assert len(named) > 20 and [name for name in named if f"def {name}(" not in tests] == []


def test_torchrun_trains_with_two_processes(folder: Path, tmp_path: Path) -> None:
    ((_, _, _, code),) = [snippet for snippet in snippets() if snippet[2]]
    script = tmp_path / "train.py"
    script.write_text(code + "\nimport json\nprint(json.dumps([data.rank, batch['g'], loss.item()]))\n")
    (tmp_path / "corpus").symlink_to(folder / "corpus")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = sorted(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert [(rank, g) for rank, g, _ in told] == [(0, 8), (1, 10)], "two ranks of two sequences, third step"
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    alone = ShardDataset(str(folder / "corpus"), ids="unified", length=128, batch_size=5, seed=1)
    alone.load_state_dict(saved["loader"])
    assert next(iter(alone))["g"] == 12


def test_the_pytorch_snippet_resumes_where_it_says(ran: dict[str, dict[str, Any]], folder: Path) -> None:
    names = ran["PyTorch"]
    whole = [batch for batch in names["seen"] if isinstance(batch["tokens"], np.ndarray)]
    assert sum(len(batch["tokens"]) for batch in whole) >= 8
    first = ShardDataset(str(folder / "corpus"), ids="unified", length=2048, batch_size=8, seed=1)
    assert np.array_equal(next(iter(first))["tokens"], whole[0]["tokens"])


def test_the_megatron_iterator_gives_what_megatron_broadcasts(
    ran: dict[str, dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if _installed("megatron"):
        pytest.skip("megatron is installed, and needs its process groups to answer")
    monkeypatch.chdir(folder)
    iterator, _, _ = ran["Megatron"]["train_valid_test_datasets_provider"]([1, 0, 0])
    batch = next(iterator)
    dtypes = {"tokens": torch.int64, "labels": torch.int64, "loss_mask": torch.float32, "position_ids": torch.int64}
    assert {name: value.dtype for name, value in batch.items()} == dtypes
    assert {tuple(value.shape) for value in batch.values()} == {(3, 64)}
    assert int(batch["labels"].min()) >= 0 and not float(batch["loss_mask"][batch["labels"] == 0].sum())


def test_the_lightning_module_resumes_after_the_batch_that_was_trained(
    ran: dict[str, dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    module = ran["Lightning"]["Corpus"]()
    module.setup("fit")
    batches = iter(module.train_dataloader())
    module.on_after_batch_transfer(next(batches), 0)
    saved = json.loads(json.dumps(module.state_dict()))
    expected = next(batches, None)
    again = ran["Lightning"]["Corpus"]()
    again.setup("fit")
    again.load_state_dict({"at": None})
    again.load_state_dict(saved)
    found = next(iter(again.train_dataloader()), None)
    assert (found is None) == (expected is None)
    assert found is None or torch.equal(found["tokens"], expected["tokens"])


def test_another_layout_gets_the_sequences_that_the_page_names(ran: dict[str, dict[str, Any]]) -> None:
    wider = ran["Resuming on another layout"]["wider"]
    assert wider.state_dict()["g"] == 8 and (wider.rank, wider.world_size, wider.batch_size) == (1, 4, 3)


def test_pictures_come_as_arrow(ran: dict[str, dict[str, Any]]) -> None:
    batch = ran["Media as it is, for encoders on the GPU"]["batch"]
    assert batch["records"].schema.names == ["pixels", "shape", "mode", "uri"] and batch["records"].num_rows == 4
    assert batch["samples"]["seq"].tolist() == [0, 1, 2, 3] or len(batch["samples"]) == 4


def test_the_cache_holds_blocks_of_the_bucket(ran: dict[str, dict[str, Any]], folder: Path, bucket: str | None) -> None:
    if bucket is None:
        pytest.skip("needs moto")
    assert sum(path.is_file() for path in (folder / "node-cache").rglob("*")) > 0


def test_why_tells_source_and_license(ran: dict[str, dict[str, Any]]) -> None:
    found = ran["Where did this come from?"]["found"]
    assert found["license"] == "CC-BY-4.0" and found["uri"].endswith((".txt", ".wav")) and found["commit"] > 0


def test_the_vocabulary_is_the_one_in_the_dataset(ran: dict[str, dict[str, Any]], folder: Path) -> None:
    import headrace

    names = ran["Ids and what stands around documents"]
    assert names["unified"].vocabulary == headrace.open(folder / "corpus").dataset.vocabulary()
    assert names["unified"].vocabulary.owner(1030).kind == "bytes"
