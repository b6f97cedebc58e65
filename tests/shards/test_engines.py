"""Which engine made which sample: folded from any history of entries, against a plain list of samples."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from headrace.schemas.errors import LogError, Unbalanced
from headrace.shards.books import Books, StreamCounts
from headrace.shards.checkpoint import decode, encode
from headrace.shards.engines import REFERENCE, lane_name
from headrace.shards.entry import (
    ENGINES,
    Block,
    Delete,
    Entry,
    Range,
    Reencoded,
    Replace,
    RetiredEngine,
    ShardInfo,
    Span,
    StreamSettings,
    entry_name,
    joined,
    parse,
    seal,
)
from headrace.shards.spans import of_numbers
from headrace.shards.state import StalePlace, State

SETTINGS = {"text": StreamSettings(digest="d", modality="text", tokenizer="f", tokens="uint16", vocab_size=9)}


def shard(name: str, rows: int, tokens: int, lane: int = 0, first: int = -1) -> ShardInfo:
    block = Block(10, 5, rows, tokens, "0" * 16)
    return ShardInfo(
        "text", lane, f"data/text/L{lane:04d}/e1-{name}.arrow", "s", 20, rows, tokens, 10, "h", "t", [block],
        [Range("s", None, 0, 1, 0, rows)], first,
    )  # fmt: skip


def added(name: str, rows: int, tokens: int, engine: str = "", lane: int = 0) -> Entry:
    ext = {ENGINES: {lane_name("text", lane): engine}} if engine else {}
    books = Books([], {"text": StreamCounts(rows, rows, tokens=tokens)})
    return Entry(kind="commit", add=[shard(name, rows, tokens, lane)], books=books, ext=ext)


RETIRE = Entry(kind="commit", retired_engines=[RetiredEngine("f", "quick 1", "text", "0a")])


class Log:
    """A state that entries are appended to, as the log does it, each by way of its bytes."""

    def __init__(self) -> None:
        self.state = State()
        self.append(Entry(kind="claim", settings=SETTINGS, epoch=1))

    def append(self, entry: Entry) -> None:
        sealed = replace(entry, v=self.state.v + 1, epoch=1, id="x", add=self.state.numbered(entry.add))
        self.state.check(sealed)
        read, digest = parse(seal(sealed)[0], entry_name(sealed.v))
        assert read == sealed
        self.state.apply(read, digest)
        assert encode(decode(encode(self.state), self.state.v)) == encode(self.state)
        assert decode(encode(self.state), self.state.v) == self.state

    def due(self, *, unchecked: bool = False) -> set[int]:
        spans = self.state.engines.due(("text", 0), self.state.settings, unchecked=unchecked)
        return {n for s in spans for n in range(s.start, s.stop)}

    def refused(self, entry: Entry, kind: type[Exception], words: str) -> None:
        before = encode(self.state)
        with pytest.raises(kind, match=words):
            self.append(entry)
        assert encode(self.state) == before


def again(checked: Any, replaced: Any = (), unchecked: Any = (), tokens: int = 0, **more: Any) -> Entry:
    line = Reencoded("text", 0, of_numbers(checked), of_numbers(replaced), of_numbers(unchecked), tokens)
    return Entry(kind="reencode", reencoded=[line], **more)


def test_an_entry_without_engines_has_the_bytes_it_always_had() -> None:
    line = seal(Entry(kind="commit", v=1))[0]
    assert b"engine" not in line and b"reencoded" not in line
    assert b"engines" not in encode(State())


def test_any_history_leaves_due_what_a_retired_engine_made_and_nobody_looked_at() -> None:
    for seed in range(25):
        rng, log, made, done, left = random.Random(seed), Log(), [], set(), set()
        gone: set[int] = set()
        retired: set[str] = set()
        for n in range(25):
            what = rng.choice(["add", "add", "add", "retire", "delete", "again"])
            if what == "add":
                rows, engine = rng.randint(1, 5), rng.choice(["", "quick 1", "quick 2"])
                if engine in retired:
                    log.refused(added(f"{n}", rows, rows, engine), StalePlace, "retired")
                    engine = ""
                log.append(added(f"{n}", rows, rows, engine))
                made += [engine] * rows
            elif what == "retire":
                engine = rng.choice(["quick 1", "quick 2"])
                log.append(Entry(kind="commit", retired_engines=[RetiredEngine("f", engine)]))
                retired.add(engine)
            elif what == "delete" and made:
                seqs = {rng.randrange(len(made)) for _ in range(3)}
                log.append(Entry(kind="forget", delete=[Delete("text", 0, of_numbers(seqs))]))
                gone |= seqs
            elif what == "again" and (due := log.due(unchecked=True)):
                some = {s for s in due if rng.random() < 0.5} or due
                bad = {s for s in some if rng.random() < 0.3}
                log.append(again(some - bad, unchecked=bad))
                done, left = done | (some - bad), (left | bad) - (some - bad)
            expected = {s for s, engine in enumerate(made) if engine in retired} - gone - done
            assert log.due(unchecked=True) == expected
            assert log.due() == expected - left
        assert log.state.engines.in_use("text", SETTINGS) == (
            ", ".join(sorted({e for s, e in enumerate(made) if e and s not in gone} - retired)) or REFERENCE
        )


def test_replacing_shards_with_other_tokens_keeps_the_books() -> None:
    log = Log()
    log.append(added("a", 3, 30, "quick 1"))
    log.append(added("b", 2, 20, "quick 1"))
    log.append(RETIRE)
    old = log.state.shards["text", 0][0]
    new = replace(shard("n", 3, 27), first_seq=0)
    change = {"replace": [Replace([old.path], [new])]}
    log.refused(again([0, 1, 2], [1], tokens=-2, **change), Unbalanced, "-2 more tokens")
    log.refused(again([0, 1, 2], [1], tokens=0), Unbalanced, "replaced")
    log.refused(again([0, 1], [2], tokens=-3, **change), LogError, "not checked")
    log.refused(again([0, 1], unchecked=[1]), LogError, "both checked and unchecked")
    log.append(again([0, 1, 2], [1], tokens=-3, **change))
    assert log.state.streams["text"].tokens == 47 == sum(s.tokens for s in log.state.live_shards())
    assert log.state.changed["text", 0] == log.state.v
    log.refused(again([0]), StalePlace, "not to be encoded again")  # a repeated entry
    assert log.due() == {3, 4}


def test_a_sample_that_was_deleted_meanwhile_is_not_encoded_again() -> None:
    log = Log()
    log.append(added("a", 3, 30, "quick 1"))
    log.append(RETIRE)
    log.append(Entry(kind="forget", delete=[Delete("text", 0, [Span(1, 2)])]))
    log.refused(again([0, 1, 2]), StalePlace, "not to be encoded again")
    log.append(again([0, 2]))
    assert log.due() == set()


def test_only_engines_of_known_tokenizers_are_retired() -> None:
    log = Log()
    for info in (RetiredEngine("other", "quick 1"), RetiredEngine("f", REFERENCE), RetiredEngine("f", "")):
        log.refused(Entry(kind="commit", retired_engines=[info]), LogError, "no stream has a tokenizer")


def test_lanes_that_commit_together_keep_their_engines() -> None:
    log = Log()
    log.append(joined([added("a", 1, 1), added("b", 2, 2, "quick 1", lane=1), added("c", 3, 3, "quick 1", lane=2)]))
    assert log.state.engines.made == {
        ("text", 1): {"quick 1": [Span(0, 2)]}, ("text", 2): {"quick 1": [Span(0, 3)]}
    }  # fmt: skip
