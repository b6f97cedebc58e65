"""The Normalizer contract: Item → draft record batches.

A normalizer knows one family of formats. It yields draft batches (built with `RecordBuilder`) of one or several
modalities, and `Bad` for a record that cannot be had while its neighbours can. Raising RecordError ends the item: the
engine quarantines what was not yet yielded. Windowing happens here, by data only, never by blocks, commits or a clock.

Messages are many and small, and a batch for each costs more than all the rest. A normalizer that can say the records of
one as rows, plain Python values of its own, gives them as `rows`, and makes one batch of the rows of many as `gather`:

    list(open(item)) == [gather(rows(item))]        for every item whose `rows` is not None
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from headrace.connectors.contract import Blob, BytesBlob, Item
from headrace.schemas.errors import RecordError
from headrace.schemas.record import Modality


class NormalizerConfig(BaseModel):
    """Base of record settings: unknown fields are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True)
class Limits:
    """Budgets that hostile input may not exceed; checked from headers before memory is asked for."""

    max_bytes: int = 1 << 30  #: decoded bytes held at once for one record
    max_ratio: int = 1000  #: decompressed / compressed
    max_pixels: int = 1 << 28  #: of one image, frame or raster band that must be decoded whole


@dataclass(frozen=True)
class Bad:
    """One record that could not be had; its neighbours go on."""

    reason: str  #: a code of headrace.schemas.errors.REASONS
    message: str
    locator: str
    data: bytes | None = None  #: raw bytes, where they are small and at hand


Normalized: TypeAlias = pa.RecordBatch | Bad


class Normalizer(ABC):
    """Item → drafts. Registered under the entry point group `headrace.normalizers`."""

    Config: ClassVar[type[NormalizerConfig]] = NormalizerConfig
    #: The modality whose name the stream bears; others it yields become `<stream>.<modality>`.
    modality: ClassVar[Modality]
    #: True if records reach across lines (windows of a series): then line files come whole, not in batches.
    whole_objects: ClassVar[bool] = False
    #: Modalities that may come besides.
    derived: ClassVar[tuple[Modality, ...]] = ()

    def __init__(self, config: Any, limits: Limits | None = None) -> None:
        self.config: Any = config
        self.limits = limits or Limits()

    @abstractmethod
    def open(self, item: Item) -> Iterator[Normalized]:
        """The records of one item, in an order that depends on the item alone. Raises: RecordError."""

    def rows(self, item: Item) -> Sequence[Any] | None:
        """All records of a small item of bytes, of the one modality `modality`; none where only `open` can say them.

        Whatever is wrong with the item is for `open` to say: then nothing, or any error, will do here.
        """
        return None

    def gather(self, rows: Sequence[Any]) -> pa.RecordBatch:
        """The draft batch of rows of one item or several, in this order."""
        raise TypeError(f"{type(self).__name__} gives no rows")


def blob_of(item: Item) -> Blob:
    """The item's single object as a Blob. Raises: RecordError if it is a table or several files."""
    if isinstance(item.data, Blob):
        return item.data
    if isinstance(item.data, (bytes, bytearray, memoryview)):
        return BytesBlob(item.headers.get("object", ""), bytes(item.data))
    kind = "several files" if isinstance(item.data, list) else "a table"
    raise RecordError("inconsistent", f"one file was expected, this item is {kind}")
