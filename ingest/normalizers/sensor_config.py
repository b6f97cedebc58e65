"""Settings of the sensor normalizer: what is time, what is a channel, how long a window is."""

from __future__ import annotations

import zoneinfo
from typing import Literal

from pydantic import Field, field_validator

from headrace.ingest.normalizers.contract import NormalizerConfig
from headrace.ingest.normalizers.payload_config import PayloadConfig
from headrace.schemas.pipeline import later_field

#: Spellings that mean "no value here" in tables of text. Numbers among them (-9999) are matched as numbers, everywhere.
MISSING = (
    "", "NA", "N/A", "n/a", "na", "NaN", "nan", "-nan", "-NaN", "NAN", "null", "NULL", "Null", "None", "none", "nil",
    "-", "--", "---", "?", ".", "#N/A", "#NA", "#NAN!", "<NA>", "missing", "\\N",
)  # fmt: skip


class SensorConfig(NormalizerConfig):
    """`record: {type: sensor, …}`. Every field shapes the bytes of the stream."""

    time: str | tuple[str, ...] | None = Field(
        None,
        description="column of the time stamps; or date and clock time, or year, month, day, …; default: found",
    )
    time_format: str | None = Field(
        None,
        description="iso, ymd, mdy, dmy, s, ms, us, ns, excel, or a strptime pattern; default: found from the data",
    )
    timezone: str | None = Field(
        None, description="IANA zone of stamps that name none; default UTC, flagged naive_time"
    )
    channels: Literal["all"] | dict[str, str | None] = Field(
        "all", description="column → UCUM unit (null: unknown) of the columns to keep; `all` keeps every number"
    )
    device: str | None = Field("auto", description="column that names the device; auto: found by its name; null: none")
    channel: str | None = Field("auto", description="column that names the channel in long tables; auto, or null: none")
    window: int = Field(512, ge=1, le=1 << 20, description="samples of one channel in one record")
    period_s: float | None = Field(
        None, gt=0, description="declared sampling period in seconds; default: median of each window"
    )
    missing: tuple[str, ...] = Field(
        MISSING, description="spellings of a missing value; numbers among them match as numbers"
    )
    text: Literal["rows", "none"] | None = Field(
        None,
        description="rows: what is no number becomes JSON lines; default rows, but none where `channels` are named",
    )
    text_column: str | None = Field(None, description="take only this column as text, one record for each row")
    text_rows: int = Field(512, ge=1, le=1 << 20, description="rows in one text record")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="of CSV; default: found")
    decimal: Literal[".", ","] | None = Field(None, description="decimal mark of CSV; default: found")
    quote: str = Field('"', min_length=1, max_length=1, description="quote character of CSV")
    comment: str | None = Field("#", min_length=1, description="lines that begin so are not data")
    header: bool | None = Field(None, description="whether CSV has a line of names; default: found")
    encoding: str | None = Field(
        None, description="of CSV; default UTF-8, UTF-16 by its mark, else windows-1252, flagged"
    )
    clock: Literal["auto", "log", "publish", "header"] = Field(
        "auto", description="time of a logged message; auto: its header's stamp where it has one, else the log's"
    )
    topics: tuple[str, ...] | None = Field(None, description="patterns (fnmatch) of the topics to keep; default all")
    payload: PayloadConfig | None = later_field(
        description="what messages hold where their bytes do not say: avro, protobuf, line_protocol, csv …"
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                zoneinfo.ZoneInfo(name)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
                raise ValueError(f"{name!r} is no IANA time zone; Europe/Helsinki is one") from exc
        return name

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                "".encode(name)
            except LookupError as exc:
                raise ValueError(f"{name!r} is no encoding that Python knows; utf-8 and cp1252 are") from exc
        return name

    @property
    def keeps_text(self) -> bool:
        """Whether columns that are no numbers become text records."""
        return self.text == "rows" or (self.text is None and (self.channels == "all" or self.text_column is not None))

    @property
    def missing_numbers(self) -> tuple[float, ...]:
        """The missing markers that are finite numbers."""
        return tuple(v for v in map(_number, self.missing) if v is not None)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
