"""Tries suspect items alone: decode all of one, encode its records one at a time, keep nothing.

If one kills this process, the slot names the output that did; if none does, they were innocent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from headrace.connectors.contract import Split
from headrace.ingest.complete import Completer
from headrace.ingest.events import Batch, Event, ItemDone, Nothing
from headrace.ingest.lane_output import open_outputs
from headrace.ingest.messages import Straight
from headrace.ingest.place import Place, PlanRow
from headrace.ingest.resolve import ResolvedStream, Runtime
from headrace.ingest.task import Task
from headrace.ingest.walk import InFlight, Walk
from headrace.shards.store import Store

_MOST_IDLE = 20  # idle ticks of about half a second


def probe(task: Task, stream: ResolvedStream, runtime: Runtime, store: Store, slot: InFlight) -> dict[str, Any]:
    """Go through the suspects of `task`; ordinary errors are not this module's business."""
    connector = stream.make_connector()
    source = Straight(connector) if stream.live else connector
    outputs = open_outputs(task.tokenizers, stream, store, task.retired) if task.tokenizers else {}
    completer = Completer(stream, runtime.pipeline.folds, connector.describe(), runtime.pipeline.grid)
    walk: Walk | None = None
    events: Iterator[Event] = iter(())
    at: Split | None = None  #: what `walk` reads
    silent: set[Split] = set()  #: they have the suspects no more: there is nobody to convict
    for suspect in task.suspects:
        split = Split(suspect["split"], suspect["pin"])
        if split in silent:
            continue
        place = Place(0, 0, json.loads(suspect["after"]), 0)
        if walk is None or at != split or walk.place != place:  # most suspects follow each other
            walk = Walk(source, stream.make_normalizer(), [PlanRow(0, 0, split)], place, task.convictions, slot)
            events, at = iter(walk), split
        nothing = 0
        for event in events:
            if isinstance(event, ItemDone):
                break
            if isinstance(event, Nothing):
                nothing += 1
                if nothing > _MOST_IDLE:
                    silent.add(split)
                    break
                continue
            out = outputs.get(event.modality) if isinstance(event, Batch) else None
            if not isinstance(event, Batch) or out is None or out.tokenizer is None:
                continue
            records = completer.complete(event.draft, event.origins, event.modality)
            for i in range(records.num_rows):
                slot.enter("encode", [event.origin.suspect(event.origin.k + i)])
                try:
                    out.tokenizer.encode(records.slice(i, 1))
                except MemoryError:
                    slot.out_of_memory()
                except Exception:  # an ordinary error is no death: the lane itself will quarantine the record
                    slot.leave()
                    continue
                slot.leave()
    connector.close()
    return {}
