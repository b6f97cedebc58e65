"""Which neighbouring shards of a lane become one: a plain function of the state, without I/O.

A service writes one shard per stream, lane and commit. The policy is size-tiered: shards below a bound are merged as
soon as `min_shards` of them stand side by side, for bounds that grow by that factor up to half the target, so that a
byte is written again about log(target / first size) / log(min_shards) times. A shard larger than all the others of its
run together is left out of it: a large file is not written again for a handful of small ones.

The newest shards of a lane stay: a commit that is repeated after an unknown outcome must meet what it may have written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from headrace.shards.entry import ShardInfo
from headrace.shards.state import State

Blocks = Literal["verbatim", "merge"]
Age = Callable[[ShardInfo], float | None]  #: seconds since a shard was written, None if unknown

_FIRST_BOUND = 64 << 10
_BLOCK_MIB = 4.0  #: of streams whose settings do not say


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to merge. The defaults are those of a service; see `everything` for a command."""

    target_bytes: int = 256 << 20  #: a merged shard is at most this large; shards of half of it are left alone
    min_shards: int = 8  #: so many small neighbours are merged
    max_wait_s: float | None = None  #: two neighbours are enough once the older one is of this age
    min_age_s: float = 0.0  #: shards younger than this are left alone
    keep_newest: int = 1  #: shards at the end of a lane that are never touched
    tiered: bool = True  #: False: as few files as possible, at whatever cost
    step_bytes: int = 256 << 20  #: read by one step at most (one merge is always done)
    max_blocks: int = 4096  #: of a merged shard, for its table stands in a log entry
    blocks: Blocks = "verbatim"  #: "merge": small record batches are joined to the stream's block size

    def __post_init__(self) -> None:
        if self.target_bytes < 1 or self.min_shards < 2 or self.max_blocks < 2 or self.keep_newest < 0:
            raise ValueError(f"a policy needs target_bytes >= 1, min_shards >= 2 and max_blocks >= 2: {self}")


def everything(target_bytes: int = 256 << 20, *, min_age_s: float = 0.0, blocks: Blocks = "verbatim") -> Policy:
    """The policy of a command: all small neighbours, the newest too, for no service is at work beside it."""
    return Policy(
        target_bytes=target_bytes, min_shards=2, min_age_s=min_age_s, keep_newest=0, tiered=False, blocks=blocks
    )


@dataclass(frozen=True)
class Merge:
    """Neighbouring live shards of one lane, oldest first. `block_bytes` None: their blocks are copied verbatim."""

    shards: tuple[ShardInfo, ...]
    block_bytes: int | None = None

    @property
    def stream(self) -> str:
        return self.shards[0].stream

    @property
    def lane(self) -> int:
        return self.shards[0].lane

    @property
    def bytes(self) -> int:
        return sum(s.bytes for s in self.shards)


def plan(
    state: State, policy: Policy, *, stream: str | None = None, age: Age | None = None, skip: Iterable[str] = ()
) -> list[Merge]:
    """Disjoint merges, those first that remove the most files for their bytes.

    `age` is asked only where the policy needs it, from a lane's newest shard backward until one is old enough. `skip`
    are paths that stay as they are. The log refuses a merge of which a shard was replaced since `state`.
    """
    skipped, found = frozenset(skip), []
    for (name, _), shards in sorted(state.shards.items()):
        if stream not in (None, name):
            continue
        block_bytes = None
        if policy.blocks == "merge":
            settings = state.settings[name].detail.get("shards", {})
            block_bytes = int(float(settings.get("block_mib", _BLOCK_MIB)) * (1 << 20))
        usable = _old_enough(shards[: len(shards) - policy.keep_newest], policy, age)
        for run in _runs(usable, policy, block_bytes, skipped):
            found += [Merge(tuple(group), block_bytes) for group in _groups(run, policy, block_bytes, age)]
    return sorted(found, key=lambda m: (m.bytes / len(m.shards), m.stream, m.lane, m.shards[0].first_seq))


def _old_enough(shards: list[ShardInfo], policy: Policy, age: Age | None) -> list[ShardInfo]:
    """The lane without its young end."""
    if policy.min_age_s <= 0:
        return shards
    for stop in range(len(shards), 0, -1):
        known = age(shards[stop - 1]) if age else None
        if known is not None and known >= policy.min_age_s:
            return shards[:stop]
    return []


def _runs(
    shards: Sequence[ShardInfo], policy: Policy, block_bytes: int | None, skip: frozenset[str]
) -> Iterator[list[ShardInfo]]:
    """Longest rows of neighbours that may be joined at all: small, and with the same schema bytes."""
    run: list[ShardInfo] = []
    for shard in shards:
        full = 2 * shard.bytes >= policy.target_bytes or (
            block_bytes is None and 2 * len(shard.blocks) >= policy.max_blocks
        )
        fits = not full or (block_bytes is not None and not policy.tiered and _has_small_blocks(shard, block_bytes))
        alike = not run or (run[-1].head_xxh3, run[-1].head_bytes) == (shard.head_xxh3, shard.head_bytes)
        if run and not (fits and alike and shard.path not in skip):
            yield run
            run = []
        if fits and shard.path not in skip:
            run.append(shard)
    if run:
        yield run


def _groups(
    run: list[ShardInfo], policy: Policy, block_bytes: int | None, age: Age | None
) -> Iterator[list[ShardInfo]]:
    if not policy.tiered:
        yield from _filled(run, policy, block_bytes)
        return
    taken: set[str] = set()
    for bound in _bounds(policy):
        for part in _below(run, bound, taken):
            for worth in _worthwhile(part):
                waited = policy.max_wait_s is not None and _age_of(worth[0], age) >= policy.max_wait_s
                if len(worth) >= policy.min_shards or (waited and 2 * bound >= policy.target_bytes):
                    groups = list(_filled(worth, policy, block_bytes))
                    taken.update(s.path for group in groups for s in group)
                    yield from groups


def _bounds(policy: Policy) -> Iterator[int]:
    bound = min(_FIRST_BOUND, policy.target_bytes)
    while 2 * bound < policy.target_bytes:
        yield bound
        bound *= policy.min_shards
    yield policy.target_bytes


def _below(run: list[ShardInfo], bound: int, taken: set[str]) -> Iterator[list[ShardInfo]]:
    part: list[ShardInfo] = []
    for shard in run:
        if shard.bytes < bound and shard.path not in taken:
            part.append(shard)
        elif part:
            yield part
            part = []
    if part:
        yield part


def _worthwhile(part: list[ShardInfo]) -> Iterator[list[ShardInfo]]:
    """What is left of a run when shards that outweigh all others together are left out."""
    while len(part) >= 2:
        total = sum(s.bytes for s in part)
        at = max(range(len(part)), key=lambda i: part[i].bytes)
        if 2 * part[at].bytes <= total:
            yield part
            return
        yield from _worthwhile(part[:at])
        part = part[at + 1 :]


def _filled(run: list[ShardInfo], policy: Policy, block_bytes: int | None) -> Iterator[list[ShardInfo]]:
    """The run in groups as large as a shard may be; groups of which nothing would change are left out."""
    group: list[ShardInfo] = []
    size = blocks = 0
    for shard in [*run, None]:
        if shard is not None:
            size, blocks = size + shard.bytes, blocks + len(shard.blocks)
            if not group or (size <= policy.target_bytes and (block_bytes is not None or blocks <= policy.max_blocks)):
                group.append(shard)
                continue
        alone = not policy.tiered and block_bytes is not None and group and _has_small_blocks(group[0], block_bytes)
        if len(group) > 1 or alone:
            yield group
        if shard is not None:
            group, size, blocks = [shard], shard.bytes, len(shard.blocks)


def _has_small_blocks(shard: ShardInfo, block_bytes: int) -> bool:
    """Whether joining blocks would make fewer of them; by a wide margin, so that nothing is written again for one."""
    return any(4 * (a.length + b.length) <= block_bytes for a, b in zip(shard.blocks, shard.blocks[1:]))


def _age_of(shard: ShardInfo, age: Age | None) -> float:
    known = age(shard) if age else None
    return -1.0 if known is None else known
