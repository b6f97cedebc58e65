"""What the log says of a pipeline's streams, and the entries that lay out work: plans, settings, convictions.

Shared by the coordinator of a build and by a service. Not safe for several threads: its owner holds a lock.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.connectors.contract import Split
from headrace.ingest.artefacts import read_artefact, write_artefact
from headrace.ingest.complete import output_settings
from headrace.ingest.guards import source_to_tell
from headrace.ingest.place import Place, position_key
from headrace.ingest.plan import SourcePlan, new_segment, read_plan
from headrace.ingest.resolve import ResolvedStream
from headrace.ingest.task import Conviction, Task
from headrace.schemas.errors import SourceChanged
from headrace.shards import entry as log
from headrace.shards.log import CommitLog

ObjectOf = Callable[[Split], str]


class Ledger:
    """The log of a dataset, as far as laying out work needs it. `log` is claimed by its owner."""

    def __init__(self, log_: CommitLog, streams: dict[str, ResolvedStream]) -> None:
        self.log = log_
        self.streams = streams
        self.plans: dict[str, SourcePlan] = {}  #: of bounded sources

    def plan(
        self,
        listings: dict[str, list[Split]],
        changed_after: list[str] | None = None,
        objects: dict[str, ObjectOf] | None = None,
    ) -> None:
        """Add what is new in the listings of bounded sources to their plans.

        `objects` tells the object of a split, where a listing may divide one otherwise than it was planned. A split
        that changed after something of it was committed raises SourceChanged, or is told in `changed_after`.
        """
        state, store = self.log.state, self.log.store
        segments, repinned = [], []
        later: dict[str, SourcePlan] = {}
        first = not self.plans
        for name, listing in listings.items():
            known, logged = self.plans.get(name), state.plan.get(name, [])
            if known is None or known.segments != len(logged):  # new, or an append failed and stands after all
                known, first = read_plan(store, logged), True
            plan = known
            if objects is not None:
                listing = self._as_planned(name, plan, listing, objects[name])
            stream = self.streams[name]
            segment, changed = new_segment(
                store, name, plan, listing, stream.spec.shards, self.log.epoch or 0, source_to_tell(stream)
            )
            if segment is not None:
                segments.append(segment)
                later[name] = read_plan(store, [segment])
            if changed:
                repinned += self._repin(name, plan, changed, changed_after)
            self.plans[name] = plan
        if segments or repinned:
            self.log.append(log.Entry(kind="commit", plan=segments, splits=repinned))
        for name, more in later.items():  # not before the log has them: the append may have failed
            self.plans[name].extend(more)
        for pinned in self.log.state.splits.values() if first else repinned:
            if pinned.source in self.plans and not self.streams[pinned.source].live:
                self.plans[pinned.source].repin(pinned.split, pinned.pin)

    def _as_planned(self, name: str, plan: SourcePlan, listing: list[Split], object_of: ObjectOf) -> list[Split]:
        """The listing with objects in the division in which they were planned, so that nothing is read twice.

        Raises: SourceChanged for one that changed and is divided otherwise now.
        """
        planned = {split.id: split for _, split, _ in plan.rows}
        if not planned or all(split.id in planned for split in listing):
            return listing
        divisions: dict[str, list[Split]] = {}
        for split in planned.values():
            divisions.setdefault(object_of(split), []).append(split)
        out, stands = [], {}
        for split in listing:
            object_ = object_of(split)
            if split.id in planned or object_ not in divisions:
                out.append(split)
                continue
            for old in divisions[object_]:
                pinned = self.log.state.splits.get((name, log.split_digest(old.id)))
                pin = pinned.pin if pinned is not None else old.pin
                if pin != split.pin:
                    raise SourceChanged(
                        f"{name}: {object_} changed after it was planned (was {pin}, now {split.pin}); restore it, or"
                        " build it as another stream"
                    )
                stands[old.id] = Split(old.id, pin, old.weight)
        return sorted([*out, *(s for s in stands.values() if s not in out)], key=lambda split: split.id)

    def _repin(
        self, name: str, plan: SourcePlan, changed: list[tuple[Split, Split]], changed_after: list[str] | None
    ) -> list[log.SplitPin]:
        """Splits that changed before anything of them was committed get their new pin; later changes are an error."""
        out = []
        now = {new.id: new for _, new in changed}
        for lane in plan.lanes():
            place = self.place(name, lane)
            for row in plan.of_lane(lane):
                new = now.get(row.split.id)
                if new is None:
                    continue
                digest = log.split_digest(row.split.id)
                pinned = self.log.state.splits.get((name, digest))
                if pinned is not None and pinned.pin == new.pin:
                    continue
                untouched = (row.segment, row.row) > (place.segment, place.row) or (
                    (row.segment, row.row) == (place.segment, place.row) and place.position is None and place.k == 0
                )
                if not untouched:
                    message = (
                        f"{name}: {row.split.id} changed after it was committed (was {row.split.pin}, now {new.pin});"
                        " a committed sample never changes: restore the file, or build it as another stream"
                    )
                    if changed_after is None:
                        raise SourceChanged(message)
                    changed_after.append(message)
                    continue
                out.append(log.SplitPin(name, digest, lane, new.pin))
        return out

    def place(self, source: str, lane: int) -> Place:
        """How far a lane of a bounded source got."""
        at = self.log.state.place(source, lane)
        return Place() if at is None else Place(at.segment or 0, at.row or 0, at.position, at.k)

    def claim_settings(self, stream: ResolvedStream, fitted: dict[str, str | None]) -> dict[str, str]:
        """Put the settings of a stream's outputs into the log; gives back modality → fingerprint.

        `fitted` holds the fingerprint of every fit group; None where there was nothing to fit on.
        """
        tokenizers: dict[str, str] = {}
        settings: dict[str, log.StreamSettings] = {}
        for modality, output in stream.outputs.items():
            fingerprint = fitted.get(output.fit_group) if output.fit_group else None
            if output.fit_group and fingerprint is None:
                continue  # nothing to fit it on: its records would be quarantined as not_fitted
            artefact = read_artefact(self.log.store, fingerprint) if fingerprint else None
            tokenizer = output.make_tokenizer(artefact)
            if tokenizer is not None:
                tokenizers[modality] = tokenizer.fingerprint
                if tokenizer.fingerprint not in self.log.state.tokenizers:
                    self.log.append(
                        log.Entry(kind="commit", tokenizers=[write_artefact(self.log.store, tokenizer.artefact)])
                    )
            settings[output.name] = output_settings(output, stream, tokenizers.get(modality), tokenizer)
        new = {name: s for name, s in settings.items() if name not in self.log.state.settings}
        if new:
            self.log.append(log.Entry(kind="commit", settings=new))
        return tokenizers

    def lane_task(self, source: str, lane: int, tokenizers: dict[str, str]) -> Task:
        """What is left of a lane of a bounded source."""
        plan, place = self.plans[source], self.place(source, lane)
        return Task(
            "encode",
            f"{source}/L{lane:04d}",
            source,
            lane,
            self.log.epoch or 0,
            plan.left(lane, place),
            place=place,
            end=plan.end(lane),
            tokenizers=tokenizers,
            convictions=self.convictions(source),
            retired=self.log.state.engines.pairs(),
        )

    def convictions(self, source: str) -> list[Conviction]:
        """The records of a source that killed their process."""
        return [
            Conviction(c.split, position_key(c.after), c.k, c.stage, c.reason)
            for c in self.log.state.convictions
            if c.source == source
        ]

    def all_done(self, source: str) -> bool:
        """Whether every lane of a bounded source has reached the end of its plan."""
        plan = self.plans[source]
        return all(self.place(source, lane) == plan.end(lane) for lane in plan.lanes())
