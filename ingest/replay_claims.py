"""Which quarantined row an output of an item stands for, and what became of each row. No I/O.

An item is decoded again from its beginning, but most of it may be in the dataset. A row has a claim on what it names:

    whole         the item was refused as a whole: everything
    encode        the record of that output at that very locator
    from_record   all outputs from that number on (or with no locator at all: all)
    locator       the records at that place, or inside it: {"line": 5} holds {"chars": [0, 9], "line": 5}
    loose         neither: the records that no other row claims and the dataset does not have

The last is a guess that is only made where nothing of the stream was forgotten. What no selected row claims is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.ingest.replay_rows import Group, Row, fields, from_record


@dataclass(frozen=True)
class Refusal:
    """A record that was refused again, or newly."""

    stream: str  #: whose quarantine it belongs to
    locator: str | None
    stage: str
    reason: str
    message: str
    data: bytes | None
    uri: str
    position: object
    license: str | None
    owner: Row | None = None  #: of the record, where an output has one


@dataclass
class Outcome:
    """What became of the rows of a group."""

    replayed: list[Row] = field(default_factory=list)
    stays: list[tuple[Row, str, str]] = field(default_factory=list)  #: row, new reason, message
    refused: list[Refusal] = field(default_factory=list)  #: to be quarantined in place of what was replayed


class Claims:
    """The rows of one group while its item is decoded."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._have = set(group.have)
        self._got: dict[tuple[str, int], int] = {}
        self._refusals: list[Refusal] = []
        self._loose = [row for row in group.rows if row.selected and self._is_loose(row)]

    @property
    def any(self) -> bool:
        """Whether something came."""
        return bool(self._got)

    def owner(self, stream: str, locator: str, index: int) -> Row | None:
        """The selected row that claims output number `index`; None if it is not to be added."""
        row = self._claim(stream, locator, index)
        if row is None or not row.selected:
            return None
        exact = row.stage == "encode" or (row.whole and row.stage == "normalize")
        return None if not exact and (stream, locator) in self._have else row

    def got(self, row: Row, count: int = 1) -> None:
        """Records of a row are in: written, or known as forgotten."""
        self._got[row.id] = self._got.get(row.id, 0) + count

    def refused(self, refusal: Refusal) -> None:
        """A record was refused."""
        self._refusals.append(refusal)

    def outcome(self, nothing: tuple[str, str] | None = None) -> Outcome:
        """The end; `nothing` says why there was no item at all."""
        out = Outcome()
        loose_got = any(row.id in self._got for row in self._loose)
        for row in self._group.selected():
            again = next((f for f in self._refusals if self._is_of(f, row)), None)
            if row.id in self._got or (loose_got and row in self._loose and again is None):
                out.replayed.append(row)
            elif again is not None:
                out.stays.append((row, again.reason, again.message))
            elif nothing is not None:
                out.stays.append((row, *nothing))
            else:
                words = "the item can be decoded now, but no record of it stands for this row"
                out.stays.append((row, row.reason, words))
        done = {row.id for row in out.replayed}
        out.refused = [f for f in self._refusals if (owner := self._owner_of(f)) is not None and owner.id in done]
        return out

    def _owner_of(self, refusal: Refusal) -> Row | None:
        """The row in whose place a refusal would come."""
        if refusal.owner is not None:
            return refusal.owner
        if (refusal.stream, refusal.locator) in self._have:
            return None
        named = (row for row in self._group.rows if self._is_of(refusal, row))
        return next(named, None) or self._claim(refusal.stream, refusal.locator or "", -1)

    def _claim(self, stream: str, locator: str, index: int) -> Row | None:
        """index -1: a refusal, which comes behind the outputs before it."""
        loose = None
        for row in self._group.rows:
            if row.whole:
                return row
            if row.stage == "encode":
                if (row.stream, row.locator) == (stream, locator):
                    return row
                continue
            first = from_record(row)
            if first is not None:
                if index >= first or index < 0:
                    return row
            elif not _vague(row) and _holds(row, locator):
                return row
            elif row in self._loose and loose is None:
                loose = row
        return loose

    def _is_of(self, refusal: Refusal, row: Row) -> bool:
        if refusal.owner is not None:
            return refusal.owner.id == row.id
        if row.whole:
            return True
        return row.stage == refusal.stage and row.stream == refusal.stream and row.locator == refusal.locator

    def _is_loose(self, row: Row) -> bool:
        named = row.whole or row.stage == "encode" or from_record(row) is not None
        return not named and not self._group.strict


def _vague(row: Row) -> bool:
    return not fields(row.locator)


def _holds(row: Row, locator: str) -> bool:
    inner = fields(locator)
    return all(name in inner and inner[name] == value for name, value in fields(row.locator).items())
