"""Of messages that are taken together, the one that kills its process costs only itself."""

from __future__ import annotations

import shutil
from pathlib import Path

from headrace.connectors.contract import Split
from headrace.ingest.origin import Suspects
from headrace.ingest.slot import SIZE, Slot, SlotReader

from .conftest import reasons
from .serving import Serving

ORDERS = {20: "SEGFAULT", 21: "RAISE", 120: "LOOP", 400: "ENCODE-CRASH", 599: "SEGFAULT"}
COUNT = 600
PIPELINE = """
streams:
  m:
    source: {{type: "./live_plugins.py:Messages", path: {path}}}
    record: {{type: "./live_plugins.py:Obedient"}}
    tokenizer: {{type: "./live_plugins.py:Frail"}}
    limits: {{time_s: 3}}
    live: {{commit_every_s: 0.5, discover_every_s: 0.5}}
"""


def test_a_message_that_kills_its_process_amid_others_costs_only_itself(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent / "live_plugins.py", tmp_path)
    messages = tmp_path / "messages"
    messages.write_text("".join(f"message {i} {ORDERS.get(i, '')}\n" for i in range(COUNT)))
    with Serving(PIPELINE.format(path=messages), tmp_path) as service:
        service.start()
        service.wait(lambda: service.samples("m") == COUNT - len(ORDERS), 240, "all other messages")
        assert service.drain() == 0
        dataset, report = service.checked()
    assert report.samples == COUNT - len(ORDERS)
    assert reasons(dataset) == {"crash:SIGSEGV": 2, "hang": 1, "crash:SIGBUS": 1, "internal": 1}
    lost = {after + 1 for after in (c.after if c.after is not None else -1 for c in dataset.state.convictions)}
    assert lost == set(ORDERS) - {21}, "somebody else was convicted"
    assert dataset.state.sources["m"].read == COUNT


def test_the_slot_names_all_of_a_step_or_the_one_it_has_come_to(tmp_path: Path) -> None:
    reader = SlotReader(tmp_path / "slot")
    slot = Slot(tmp_path / "slot")
    a, b = Split("a", "pin"), Split("b")
    slot.enter("normalize", [Suspects(a, [("1", 0), ("2", 3)]), Suspects(b, [("7", 0)])], "tide")
    told = reader.in_flight()
    assert told is not None and told["stage"] == "normalize"
    assert [(s["split"], s["pin"], s["after"], s["k"]) for s in told["suspects"]] == [
        ("a", "pin", "1", 0), ("a", "pin", "2", 3), ("b", None, "7", 0)
    ]  # fmt: skip
    assert {s["stream"] for s in told["suspects"]} == {"tide"}
    slot.at(1)
    told = reader.in_flight()
    assert told is not None and [(s["split"], s["after"], s["k"]) for s in told["suspects"]] == [("a", "2", 3)]
    slot.at(None)
    told = reader.in_flight()
    assert told is not None and len(told["suspects"]) == 3
    slot.leave()
    assert reader.in_flight() is None and reader.times() is None


def test_a_slot_with_more_names_than_it_can_hold_names_the_first(tmp_path: Path) -> None:
    reader = SlotReader(tmp_path / "slot")
    slot = Slot(tmp_path / "slot")
    slot.enter("encode", [Suspects(Split("a"), [(str(i) * 100, 0) for i in range(SIZE // 50)])])
    told = reader.in_flight()
    assert told is not None and [s["after"] for s in told["suspects"]] == ["0" * 100]
