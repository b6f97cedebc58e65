"""Quarantine replay: after a fix samples come once, as they would have come, whatever is killed and whoever races."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.ingest.build import build
from headrace.ingest.replay_rows import Selection
from headrace.ingest.replay_run import ReplayResult, replay
from headrace.schemas.errors import ConfigError, Fenced, SettingsDiffer
from headrace.shards.compact import compact
from headrace.shards.compact_plan import everything
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Delete, Entry, Span
from headrace.shards.forget import Selection as Forget
from headrace.shards.forget import forget
from headrace.shards.log import CommitLog
from headrace.shards.store import open_store

from ..servers.redis import RedisServer
from .conftest import reasons, write_lines
from .replay_world import CURABLE, ILLS, ORDERS, cure, pipeline_of, raw_of, records, run
from .serving import Serving
from .test_cli import headrace


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset `out` whose lines were ill, and `well`, the same built with all of them cured."""
    folder = tmp_path_factory.mktemp("built")
    write_lines(folder / "in", files=3, lines=12, orders=ORDERS)
    pipeline = pipeline_of(folder)
    build(pipeline, str(folder / "out"), base=folder, workers=1, engine="inline")
    cure(folder, *ILLS)
    build(pipeline, str(folder / "well"), base=folder, workers=1, engine="inline")
    return folder


@pytest.fixture
def world(built: Path, tmp_path: Path) -> Path:
    """A copy of `built`, in which nothing is cured yet."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    pipeline_of(tmp_path)
    cure(tmp_path)
    return tmp_path


def test_what_a_fix_cures_comes_once_and_just_as_it_would_have(world: Path, checked) -> None:
    assert sum(reasons(Dataset.open(str(world / "out"))).values()) == 10
    before = records(world / "out")
    cure(world, *ILLS)
    done = run(world)
    assert (done.tried, done.replayed, done.stays, done.refused) == (10, 10, [], 0)
    assert records(world / "out") == records(world / "well")
    assert sum(done.samples.values()) == len(records(world / "out")) - len(before) == 12
    dataset, report = checked(world / "out")
    assert dataset.state.replayed_rows() == 10 and report.catalogue == report.samples
    assert not dataset.state.maybe_live
    again = run(world)
    assert (again.tried, again.before, again.samples) == (0, 10, {})
    assert dataset.newer() is None, "a replay with nothing to do wrote something"


def test_nothing_is_added_while_nothing_is_fixed(world: Path, checked) -> None:
    before = records(world / "out")
    done = run(world)
    assert done.replayed == 0 and len(done.stays) == 10 and records(world / "out") == before
    was = {(row["was"], row["reason"]) for row in done.stays}
    assert all(a == b for a, b in was) and ("crash:SIGSEGV", "crash:SIGSEGV") in was and ("crash:SIGBUS",) * 2 in was
    checked(world / "out")


def test_cures_that_come_one_by_one_end_where_one_cure_does(world: Path, checked) -> None:
    total = 0
    for n in (2, 4, len(ILLS)):
        cure(world, *ILLS[:n])
        total += run(world).replayed
        checked(world / "out")
    assert total >= 10 and records(world / "out") == records(world / "well")


def test_a_half_cured_item_leaves_a_new_row_for_what_is_still_bad(world: Path, checked) -> None:
    cure(world, "HALF")
    done = run(world, Selection(reason="truncated"))
    assert (done.replayed, done.samples, done.refused) == (1, {"lines": 2}, 1)
    dataset, _ = checked(world / "out")
    assert dataset.state.streams["lines"].quarantined == 8 + 1  # two of ten were whole items
    cure(world, *ILLS)
    run(world)
    assert records(world / "out") == records(world / "well")


def test_without_the_source_whole_items_come_from_kept_bytes_and_the_rest_says_why_not(world: Path, checked) -> None:
    cure(world, *ILLS)
    shutil.rmtree(world / "in")
    (world / "in").mkdir()
    done = run(world)
    assert done.replayed == 2  # REFUSE and SEGFAULT
    assert len(done.stays) == 8 and all("not kept" in row["message"] for row in done.stays)
    assert set(records(world / "out")) < set(records(world / "well"))
    checked(world / "out")


def test_a_source_with_other_bytes_is_not_taken_for_the_one_that_was_refused(world: Path) -> None:
    cure(world, *ILLS)
    path = world / "in" / "f00.txt"
    path.write_bytes(path.read_bytes().replace(b"REFUSE", b"CHANGE"))
    done = run(world, Selection(reason="corrupt"))
    assert done.replayed == 1 and set(records(world / "out")) < set(records(world / "well"))


@pytest.mark.parametrize("there", [True, False])
def test_files_archives_and_lines_are_replayed_as_the_files_connector_gives_them(
    tmp_path: Path, checked, there: bool
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("REFUSE plain")
    (folder / "page.html").write_text("<!doctype html><html><body><p>REFUSE this page</p></body></html>")
    (folder / "b.csv.gz").write_bytes(gzip.compress(b"text,n\nREFUSE one,1\nfine,2\n"))
    with tarfile.open(folder / "c.tar", "w") as tar:
        for name, text in (("x/one.txt", "fine"), ("x/two.json", '{"text": "REFUSE in a tar"}'), ("y.txt", "good")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    lines = [json.dumps({"text": f"line {n}{' BAD' if n == 3 else ''}", "id": n}) for n in range(8)]
    (folder / "d.jsonl").write_text("\n".join(lines))
    pipeline = pipeline_of(
        tmp_path, source={"type": "files", "root": str(folder)}, record={"type": "./curable.py:CurableText"}
    )
    build(pipeline, str(tmp_path / "out"), base=tmp_path, workers=1, engine="inline")
    assert reasons(Dataset.open(str(tmp_path / "out"))) == {"corrupt": 4, "invalid_row": 1}
    cure(tmp_path, "REFUSE", "BAD")
    build(pipeline, str(tmp_path / "well"), base=tmp_path, workers=1, engine="inline")
    if not there:
        shutil.rmtree(folder)
        folder.mkdir()
    done = run(tmp_path)
    checked(tmp_path / "out")
    missing = set(records(tmp_path / "well")) - set(records(tmp_path / "out"))
    assert set(records(tmp_path / "out")) <= set(records(tmp_path / "well"))
    if there:
        assert not missing and done.replayed == 5
    else:  # of a line among others only its text was kept, and not the item
        assert len(missing) == len(done.stays) == 1 and done.stays[0]["was"] == "invalid_row"


def test_only_the_chosen_rows_are_tried(world: Path, checked) -> None:
    cure(world, *ILLS)
    data = Dataset.open(str(world / "out"))
    path = next(iter(data.state.quarantine))
    rows = [row for _, batch in data.quarantine() for row in batch.to_pylist()]
    number = next(n for n, row in enumerate(rows) if row["reason"] == "invalid_row")
    done = run(world, Selection(rows=((path, number),)))
    assert (done.tried, done.replayed, done.samples) == (1, 1, {"lines": 1})
    dataset, _ = checked(world / "out")
    assert dataset.state.replayed_rows() == 1
    with pytest.raises(ConfigError, match="no such row"):
        run(world, Selection(rows=((path, 99),)))
    run(world)
    assert records(world / "out") == records(world / "well")


def test_a_dry_run_says_the_same_and_changes_nothing(world: Path) -> None:
    cure(world, "REFUSE", "ENCODE-NO", "BAD")
    version = Dataset.open(str(world / "out")).version
    files = sorted(p for p in (world / "out").rglob("*") if p.is_file())
    dry = run(world, dry=True)
    assert Dataset.open(str(world / "out")).version == version
    assert sorted(p for p in (world / "out").rglob("*") if p.is_file()) == files
    wet = run(world)
    assert (dry.replayed, dry.samples, dry.tokens, dry.refused) == (wet.replayed, wet.samples, wet.tokens, wet.refused)
    assert [row["reason"] for row in dry.stays] == [row["reason"] for row in wet.stays]


def test_a_forgotten_record_is_marked_and_not_added(world: Path, checked) -> None:
    well = Dataset.open(str(world / "well"))
    refused = next(
        row for b in well.batches("lines") for row in b.to_pylist() if bytes(row["tokens"]).endswith(b"REFUSE")
    )
    tokens = len(Dataset.open(str(world / "out")).sample("lines", 0, 0).column("tokens")[0])
    log = CommitLog(open_store(str(world / "out")))
    log.claim({}, {})
    gone = Delete("lines", 0, [Span(0, 1)], [refused["record_id"].hex()], tokens)
    log.append(Entry(kind="forget", delete=[gone]))
    log.end()
    cure(world, *ILLS)
    done = run(world, Selection(reason="corrupt"))
    assert (done.replayed, done.samples) == (1, {})
    checked(world / "out")


def test_other_settings_are_refused_before_anything_is_written(world: Path) -> None:
    version = Dataset.open(str(world / "out")).version
    pipeline = pipeline_of(world, license="MIT")
    with pytest.raises(SettingsDiffer, match="license"):
        replay(pipeline, str(world / "out"), Selection(), base=world)
    assert Dataset.open(str(world / "out")).version == version


def test_a_higher_limit_lets_a_large_record_in(tmp_path: Path, checked) -> None:
    write_lines(tmp_path / "in", files=1, lines=4, orders={(0, 2): "BIG"})
    build(pipeline_of(tmp_path), str(tmp_path / "out"), base=tmp_path, workers=1, engine="inline")
    assert reasons(Dataset.open(str(tmp_path / "out"))) == {"oom": 1}
    assert run(tmp_path).replayed == 0
    pipeline_of(tmp_path, limits={"time_s": 5, "memory_mib": 1024})
    assert run(tmp_path).samples == {"lines": 1}
    _, report = checked(tmp_path / "out")
    assert report.samples == 4


def test_two_replays_at_once_add_everything_once(world: Path, checked) -> None:
    cure(world, *ILLS)
    ends: list[Any] = []

    def one() -> None:
        try:
            ends.append(run(world))
        except Fenced as exc:
            ends.append(exc)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == 2 and any(isinstance(end, ReplayResult) for end in ends), ends
    run(world)
    assert records(world / "out") == records(world / "well")
    checked(world / "out")


def test_a_replay_killed_at_any_moment_goes_on_and_doubles_nothing(tmp_path: Path, checked) -> None:
    orders = {(f, n): "REFUSE" for f in range(4) for n in range(60)} | {(2, 70): "SEGFAULT"}
    write_lines(tmp_path / "in", files=4, lines=80, orders=orders)
    pipeline = pipeline_of(tmp_path, shards={"payload_mib": 0.003})
    build(pipeline, str(tmp_path / "out"), base=tmp_path, workers=1, engine="inline")
    cure(tmp_path, *ILLS)
    build(pipeline, str(tmp_path / "well"), base=tmp_path, workers=1, engine="inline")
    command = [
        sys.executable, "-m", "headrace", "quarantine", "replay", str(tmp_path / "out"),
        "--pipeline", str(tmp_path / "p.yaml"), "--take-over",
    ]  # fmt: skip
    rng, seen = random.Random(5), set()
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        start, begun = Dataset.open(str(tmp_path / "out")).version, time.monotonic()
        wanted = start + rng.randint(1, 4)  # entries after which it is killed
        while process.poll() is None and time.monotonic() - begun < 60:
            if (tmp_path / "out" / "log" / f"{wanted:020d}.json").exists():
                time.sleep(rng.uniform(0, 0.05))
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        process.wait()
        seen.add(Dataset.open(str(tmp_path / "out")).state.replayed_rows())
        assert len(set(records(tmp_path / "out"))) == len(records(tmp_path / "out"))
    assert len(seen) > 2, "every kill came at the same moment"
    headrace(*command[3:])
    assert records(tmp_path / "out") == records(tmp_path / "well")
    dataset, _ = checked(tmp_path / "out")
    assert dataset.state.replayed_rows() == 241


def test_replayed_samples_are_compacted_forgotten_and_explained_as_others_are(world: Path, checked) -> None:
    cure(world, *ILLS)
    run(world)
    log = CommitLog(open_store(str(world / "out")))
    log.claim({}, {})
    compact(log, everything(1 << 28))
    before = records(world / "out")
    assert before == records(world / "well")
    refused = next(json.loads(row) for row in before if "REFUSE" in repr(bytes(json.loads(row)["tokens"])))
    id_ = eval(refused["record_id"]).hex()
    assert raw_of(world, b"REFUSE")
    forget(log, Forget(ids=(id_,)), erase=True)
    log.end()
    assert not raw_of(world, b"REFUSE"), "the erased sample's bytes are still in quarantine"
    dataset, _ = checked(world / "out")
    assert dataset.state.replayed_rows() == 10
    assert run(world).tried == 0 and len(records(world / "out")) == len(before) - 1


def test_the_command_shows_what_it_did_and_what_stays(world: Path) -> None:
    cure(world, "REFUSE")
    arguments = ("quarantine", "replay", str(world / "out"), "--pipeline", str(world / "p.yaml"))
    told = headrace(*arguments, "--dry-run")
    assert "1 of 10 rows would be replayed, 1 samples of lines would be added; 9 stay" in told
    found = json.loads(headrace(*arguments, "--json"))
    assert (found["replayed"], found["samples"], len(found["stays"])) == (1, {"lines": 1}, 9)
    listed = headrace("quarantine", "ls", str(world / "out"))
    assert listed.count("replayed: ") == 1
    row = next(json.loads(x) for x in headrace("quarantine", "ls", str(world / "out"), "--json").splitlines())
    assert {"file", "row", "replayed"} <= row.keys()
    assert "1 of the quarantined were replayed" in headrace("inspect", str(world / "out"))
    log = CommitLog(open_store(str(world / "out")))
    log.claim({}, {})
    assert "another writer may be live" in headrace(*arguments, code=2)
    headrace(*arguments, "--take-over")


@pytest.mark.server
def test_messages_of_a_live_stream_are_replayed_from_their_kept_bytes(tmp_path: Path) -> None:
    (tmp_path / "curable.py").write_text(CURABLE)
    with RedisServer() as server:
        text = f"""streams:
  m:
    source: {{type: redis, url: "{server.url}", streams: [m]}}
    record: {{type: "./curable.py:Curable"}}
    tokenizer: {{type: bytes}}
    live: {{commit_every_s: 0.3, discover_every_s: 0.3}}
"""
        client = server.client()
        for n in range(6):
            client.xadd("m", {"data": f"message {n}{' REFUSE' if n % 3 == 0 else ''}"}, id=f"{n + 1}-1")
        with Serving(text, tmp_path) as service:
            service.start()
            service.wait(lambda: service.samples("m") == 4)
            refusal = service.ask("quarantine", "replay", str(service.out), "--pipeline", str(service.pipeline))
            assert refusal.returncode == 2 and "a service runs on this dataset at http://" in refusal.stderr
            assert service.drain() == 0
            client.xtrim("m", maxlen=0)
            cure(tmp_path, "REFUSE")
            rows = [r for _, b in Dataset.open(str(service.out)).quarantine() for r in b.to_pylist()]
            done = service.ask("quarantine", "replay", str(service.out), "-p", str(service.pipeline), "--json")
            assert json.loads(done.stdout)["samples"] == {"m": 2}, done.stdout + done.stderr
            added = {
                (s["uri"], s["split"], s["position"])
                for b in Dataset.open(str(service.out)).batches("m")
                for s in b.to_pylist()
                if b"REFUSE" in bytes(s["tokens"])
            }
            assert added == {(r["uri"], r["split"], r["position"]) for r in rows}
            client.xadd("m", {"data": "the next"}, id="100-1")
            service.start()
            service.wait(lambda: service.samples("m") == 7)
            assert service.drain() == 0
            service.checked()


def test_gc_takes_old_bytes_out_of_quarantine_and_says_what_waits(world: Path, checked) -> None:
    out = str(world / "out")
    assert raw_of(world, b"REFUSE")
    long_ago = time.time() - 40 * 86_400
    for entry in (world / "out" / "log").iterdir():
        os.utime(entry, (long_ago, long_ago))
    assert "1 quarantine files are older than 30d" in headrace("gc", out, "--quarantine-keep", "30d")
    assert raw_of(world, b"REFUSE"), "a look changed something"
    headrace("gc", out, "--delete")
    assert raw_of(world, b"REFUSE"), "nobody said how long bytes are kept"
    told = headrace("gc", out, "--delete", "--quarantine-keep", "30d")
    assert "10 quarantined rows in 1 files have lost their raw bytes" in told
    assert not raw_of(world, b"REFUSE")
    checked(world / "out")
    cure(world, *ILLS)
    assert run(world).replayed == 10 and records(world / "out") == records(world / "well")  # by its source
    log = CommitLog(open_store(out))
    log.claim({}, {})
    compact(log, everything(1 << 28))
    log.end()
    told = headrace("gc", out)
    assert "waiting  data/lines/L0000/" in told and "replaced less than 7d ago" in told
    assert "waiting" not in headrace("gc", out, "--reader-grace", "0s")
    log.claim({}, {})
    assert "another writer may be live" in headrace("gc", out, "--delete", "--quarantine-keep", "0d", code=2)
    assert "--reader-grace: should be" in headrace("gc", out, "--reader-grace", "soon", code=2)
