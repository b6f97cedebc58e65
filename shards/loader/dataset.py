"""`ShardDataset`: datasets as training batches, in one order for all layouts.

    data = ShardDataset("out", length=2048, batch_size=8, seed=1)
    for batch in data:
        batch["tokens"]                     # int32 [8, 2048], and targets, loss_mask, position_ids, cu_seqlens, …
    state = data.state_dict()               # < 1 kB; load_state_dict() resumes with any ranks, workers and batch size

Sequences of the whole job are numbered g = 0, 1, …; which sample stands where in which sequence is a function of the
pinned versions and of the settings below, never of ranks, workers, batch size or of what was read before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from headrace.schemas.errors import ConfigError
from headrace.schemas.vocabulary import Vocabulary
from headrace.shards.loader.agreement import Agreement
from headrace.shards.loader.assemble import OUTPUTS, Assembler
from headrace.shards.loader.blocks import Blocks
from headrace.shards.loader.cache import NodeCache
from headrace.shards.loader.component import Component, Plan, Spot
from headrace.shards.loader.layout import Share, rank_and_world, watch, worker_of
from headrace.shards.loader.order import Order
from headrace.shards.loader.packing import Packing
from headrace.shards.loader.pinned import Era, PinnedSource
from headrace.shards.loader.reading import Reading
from headrace.shards.loader.sources import Source, as_sources
from headrace.shards.loader.state import FORMAT, check_places, check_state, ids_setting, order_settings
from headrace.shards.loader.vocabularies import check_same_tokenizer, unified

_log = logging.getLogger(__name__)

Batch = dict[str, Any]


class ShardDataset:
    """An iterable of batches, dictionaries of numpy arrays; `torch()` gives the same as a torch IterableDataset.

    | key | dtype, shape | what |
    |---|---|---|
    | tokens | `dtype` [B, L] | ids, padded with `pad_id` |
    | targets | `dtype` [B, L] | the next token of the same document; -100 where there is none |
    | loss_mask | bool [B, L] | where `targets` is a token |
    | position_ids | int32 [B, L] | place in the segment |
    | cu_seqlens | int32 [S+1] | where segments begin in the flattened batch, and its end, for attention |
    | max_seqlen | int | the longest segment |
    | samples | structured [S] | source, stream, lane, seq, offset of every segment; seq -1 is padding |
    | g | int | sequence number of the first row |
    | state | dict | what `load_state_dict` needs to go on after this batch, on any layout |

    With packing "ragged" B documents are laid end to end: arrays are flat, and `cu_seqlens` says where each begins.
    """

    def __init__(
        self,
        sources: str | Source | Sequence[str | Source],
        *,
        length: int = 2048,
        batch_size: int = 1,
        packing: Packing = "cut",
        multiple: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        window_bytes: int | None = 256 << 20,
        epochs: int | None = 1,
        follow: bool = False,
        run: str | None = None,
        run_options: Mapping[str, Any] | None = None,
        ids: Literal["own", "unified"] = "own",
        vocabulary: Vocabulary | None = None,
        bos: int | None = None,
        eod: int | None = None,
        pad_id: int = 0,
        dtype: npt.DTypeLike = np.int32,
        outputs: Sequence[str] = OUTPUTS,
        columns: Sequence[str] = (),
        rank: int | None = None,
        world_size: int | None = None,
        on_bad: Literal["stop", "skip"] = "stop",
        mapped: bool = True,
        cache: str | None = None,
        cache_bytes: int = 64 << 30,
    ) -> None:
        """Pins the versions; no shard is opened yet.

        length: tokens of a sequence. multiple: documents are padded to it (2 x context-parallel size). window_bytes:
        how much is shuffled together (None: everything). epochs: passes over every source, None without end. follow:
        read what is committed later, era after era, until the writer ends; needs `run` in jobs of several processes.
        run: a folder in which the processes of this training run agree. ids: "own" are the tokenizer's, with `bos` and
        `eod` around documents if given; "unified" those of the vocabulary, with control ids around them. columns: of
        the samples, as Arrow, with packing "ragged": raw streams have nothing else. on_bad: what a block with wrong
        bytes does. mapped: False reads local files instead of mapping them. cache: folder for blocks of object stores.

        Raises: ConfigError naming the setting; StorageError, BrokenLog, FormatTooNew.
        """
        _check(length=length, batch_size=batch_size, multiple=multiple, window_bytes=window_bytes, epochs=epochs)
        unknown = sorted(set(outputs) - set(OUTPUTS))
        if unknown:
            raise ConfigError(f"there is no {unknown[0]!r}; there are {', '.join(OUTPUTS)}", field="outputs")
        _check_one_of(packing=(packing, ("cut", "whole", "pad", "ragged")), ids=(ids, ("own", "unified")))
        _check_one_of(on_bad=(on_bad, ("stop", "skip")), dtype=(str(np.dtype(dtype)), ("int32", "int64")))
        for name, token in (("pad_id", pad_id), ("bos", bos), ("eod", eod)):
            if token is not None and not 0 <= token < 1 << 31:
                raise ConfigError("a token id of 0 or more, below 2^31", field=name, value=token)
        if on_bad == "skip" and packing == "ragged":
            raise ConfigError("`skip` needs a packing that reads whole windows: not `ragged`", field="on_bad")
        if length % multiple:
            raise ConfigError(f"length {length} is no multiple of {multiple}", field="multiple", value=multiple)
        if follow and epochs != 1:
            raise ConfigError("with `follow` every era is read once", field="epochs", value=epochs)
        self.rank, self.world_size = rank_and_world(rank, world_size)
        self.batch_size, self.length, self.packing, self.seed = batch_size, length, packing, seed
        self.follow, self.epochs, self.outputs, self.columns = follow, epochs, tuple(outputs), list(columns)
        self._multiple, self._pad, self._dtype = multiple, pad_id, np.dtype(dtype)
        self._shuffle, self._window_bytes, self._tolerant = shuffle, window_bytes, on_bad == "skip"
        self._mapped, self._cache_at = mapped, (cache, cache_bytes)
        self._agreement = Agreement(run, run_options or {}, self.world_size)
        if follow and self.world_size > 1:
            self._check_run()
        self._given = as_sources(sources)
        self._schedules = [s.steps() for s in self._given]
        self._own = ((bos,) if bos is not None else (), (eod,) if eod is not None else ())
        self._ids = ids
        self._pin(vocabulary)
        raw = [p.source.dataset for p in self.pinned if not p.tokens]
        if (raw or columns) and packing != "ragged":
            raise ConfigError(
                f"{raw[0] if raw else 'columns'}: whole samples come with packing='ragged' only", field="packing"
            )
        self.settings = order_settings(
            self.pinned,
            length=length if packing != "ragged" else None,
            packing=packing,
            multiple=multiple,
            shuffle=shuffle,
            seed=seed,
            window_bytes=window_bytes,
            epochs=epochs,
            follow=follow,
            ids=[bos, eod] if self.vocabulary is None else ids_setting(self.pinned, self.vocabulary),
        )
        self._agreed_settings()
        self._at: dict[str, Any] | None = None  # an anchor
        self._g = 0  # the next sequence of the job
        self._base = 0  # where batches are counted from
        self._ended = False
        self._eras: dict[tuple[int, int], Era] = {}
        self._held: tuple[dict[str, Any] | None, int, dict[str, Any]] | None = None

    # ---- reading ----

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the state on. An iterator that was dropped is continued by the next; after the last batch a new
        iterator begins at the first again, in the same order (give `epochs` for passes in different orders).

        Raises: ShardError naming the shard of a bad block; StorageError; ConfigError.
        """
        worker, workers = worker_of()
        if self.follow and workers > 1:
            self._check_run()
        if self._ended:
            self._at, self._g, self._base, self._ended, self._eras, self._held = None, 0, 0, False, {}, None
        if workers == 1:
            self._base = self._g
        share = Share(self.rank, self.world_size, self.batch_size, self._base, worker, workers)
        reading = self._read(share)
        try:
            for batch in reading.batches():
                self._at, self._g = batch["state"]["at"], int(batch["state"]["g"])
                yield batch
            self._ended = True
        finally:
            reading.close()

    def state_dict(self) -> dict[str, Any]:
        """Where to go on: plain JSON values, under 1 kB. Of a worker process: after the batch it gave last."""
        return self._state(self._at, self._g, self._base)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch whose `state` (or `state_dict()`) this is: other ranks, workers and batch sizes may
        read on from here, and the dataset may have grown.

        Raises: ConfigError naming what differs if the state belongs to another dataset or to other settings.
        """
        check_state(state, self.settings, "the state")
        check_places(state, len(self.pinned))
        for pinned, (version, digest) in zip(self.pinned, state["versions"]):
            pinned.repin(int(version), str(digest))
        self._eras = {(int(c), int(lap)): Era(int(a), int(b)) for c, lap, a, b in state["eras"]}
        self._held = None
        self._at, self._g, self._ended = state["at"], int(state["g"]), False
        # A worker process goes on in the turn it had; anybody else begins to count batches here.
        self._base = int(state["base"]) if worker_of()[1] > 1 else self._g

    def torch(self) -> Any:
        """This dataset as a torch IterableDataset of tensors, for `DataLoader(…, batch_size=None)`.

        `samples` is int64 [S, 5] there: source, stream, lane, seq, offset.

        Raises: MissingExtra without torch.
        """
        from headrace.shards.loader.torch_dataset import torch_dataset

        return torch_dataset(self)

    def why(self, sample: Any) -> dict[str, Any]:
        """Where a segment of `batch["samples"]` came from: source, license, commit, tokenizer, place in its file.

        Raises: ConfigError for padding; KeyError if it was deleted since; ShardError.
        """
        source, stream, lane, seq, _ = (int(value) for value in sample.tolist())
        if seq < 0:
            raise ConfigError("this segment is padding", field="sample")
        pinned = self.pinned[source]
        return pinned.why(pinned.streams[stream], lane, seq)

    # ---- parts ----

    def _pin(self, vocabulary: Vocabulary | None) -> None:
        self.pinned = [PinnedSource(i, source, self._agreement) for i, source in enumerate(self._given)]
        self.vocabulary: Vocabulary | None = None
        if self._ids == "unified":
            self.vocabulary = unified([p for p in self.pinned if p.tokens], vocabulary)
        else:
            check_same_tokenizer([p for p in self.pinned if p.tokens])

    def _check_run(self) -> None:
        # A collective would not do: ranks come to the end of an era at different steps, and others are in the step.
        if not self._agreement.shared:
            raise ConfigError("`follow` in several processes needs `run`, a folder where they agree", field="run")

    def _agreed_settings(self) -> None:
        if not self._agreement.shared:
            return
        agreed = self._agreement.settle("settings", lambda: {"settings": self.settings})
        check_state({"format": FORMAT, **agreed}, self.settings, f"the run folder {self._agreement.run}")

    def _read(self, share: Share) -> Reading:
        folder, limit = self._cache_at
        cache = NodeCache(folder, limit) if folder is not None else None
        components = []
        closed = threading.Event()
        for i, (pinned, source) in enumerate(zip(self.pinned, self._given)):
            assembler = Assembler(
                pinned.borders(self.vocabulary, self._own) if pinned.tokens else [],
                outputs=self.outputs if pinned.tokens else (),
                dtype=self._dtype,
                pad=self._pad,
                multiple=self._multiple,
            )
            plan = Plan(
                i, self.seed, self._shuffle, self._window_bytes, self.packing, self.length, source.fold, self._tolerant
            )
            spot = Spot() if self._at is None else Spot.from_json(self._at["spots"][i])
            components.append(Component(plan, assembler, self._blocks_of(i, cache, closed), spot, _warn))
        order = Order(components, self._schedules, self._at)
        length = None if self.packing == "ragged" else self.length
        return Reading(order, components, share, self._g, length, self.columns, self.outputs, self._lasting, closed)

    def _blocks_of(self, number: int, cache: NodeCache | None, closed: threading.Event) -> Any:
        pinned = self.pinned[number]
        held: dict[str, Blocks] = {}
        wanted = watch(closed)

        def blocks(lap: int) -> Blocks | None:
            if not self.follow:
                if self.epochs is not None and lap >= self.epochs:
                    return None
                if "all" not in held:
                    held["all"] = pinned.blocks(Era(0, pinned.version), mapped=self._mapped, cache=cache)
                    if self.epochs is None and not held["all"].table.rows.sum():
                        raise ConfigError(f"{pinned.source.dataset} has no samples yet", field="sources")
                return held["all"]
            era = self._eras.get((number, lap))
            if era is None:
                before = self._eras.get((number, lap - 1))
                found = Era(0, pinned.version) if before is None else pinned.following(before, lap, wanted)
                if found is None:
                    return None
                era = self._eras[number, lap] = found
            return pinned.blocks(era, mapped=self._mapped, cache=cache)

        return blocks

    def _state(self, at: dict[str, Any] | None, g: int, base: int) -> dict[str, Any]:
        return {**self._lasting(at), "g": g, "base": base}

    def _lasting(self, at: dict[str, Any] | None) -> dict[str, Any]:
        """What states of one anchor have in common: an anchor lasts for many batches."""
        held = self._held
        if held is None or held[0] is not at or held[1] != len(self._eras):
            held = self._held = at, len(self._eras), self._described(at)
        return held[2]

    def _described(self, at: dict[str, Any] | None) -> dict[str, Any]:
        laps = [0] * len(self.pinned) if at is None else [int(spot[0]) for spot in at["spots"]]
        known = sorted(self._eras.copy().items())  # the thread that reads ahead may find another meanwhile
        eras = [[c, lap, era.since, era.upto] for (c, lap), era in known if lap >= laps[c] - 1]
        return {
            "format": FORMAT,
            "settings": self.settings,
            "versions": [[p.version, p.digest[:16]] for p in self.pinned],
            "eras": eras,
            "at": at,
        }


def _check(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError("a whole number of 1 or more", field=name, value=value)


def _check_one_of(**settings: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, known) in settings.items():
        if value not in known:
            raise ConfigError(f"one of {', '.join(known)}", field=name, value=value)


def _warn(message: str) -> None:
    _log.warning("skipped a block: %s", message)
