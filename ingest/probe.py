"""Tries one suspect item alone: decode all of it, encode its records one at a time, keep nothing.

If it kills this process, the slot names the output that did; if it does not, it was innocent.
"""

from __future__ import annotations

import json
from typing import Any

from headrace.connectors.contract import Split
from headrace.ingest.complete import Completer
from headrace.ingest.lane_output import open_outputs
from headrace.ingest.place import Place, PlanRow
from headrace.ingest.resolve import ResolvedStream, Runtime
from headrace.ingest.task import Task
from headrace.ingest.walk import Batch, InFlight, Nothing, Walk
from headrace.shards.store import Store

_MOST_IDLE = 20  # idle ticks of about half a second


def probe(task: Task, stream: ResolvedStream, runtime: Runtime, store: Store, slot: InFlight) -> dict[str, Any]:
    """Go through the suspects of `task`; ordinary errors are not this module's business."""
    connector = stream.make_connector()
    outputs = open_outputs(task.tokenizers, stream, store) if task.tokenizers else {}
    completer = Completer(stream, runtime.pipeline.folds, connector.describe(), runtime.pipeline.grid)
    for suspect in task.suspects:
        row = PlanRow(0, 0, Split(suspect["split"], suspect["pin"]))
        place = Place(0, 0, json.loads(suspect["after"]), 0)
        walk = Walk(connector, stream.make_normalizer(), [row], place, task.convictions, slot, first_item_only=True)
        nothing = 0
        for event in walk:
            if isinstance(event, Nothing):
                nothing += 1
                if nothing > _MOST_IDLE:
                    break  # the source has it no more: there is nobody to convict
                continue
            out = outputs.get(event.modality) if isinstance(event, Batch) else None
            if not isinstance(event, Batch) or out is None or out.tokenizer is None:
                continue
            records = completer.complete([(event.draft, event.origin.item, row.split)], event.modality)
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
