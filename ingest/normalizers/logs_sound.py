"""Sound of logged messages (foxglove.RawAudio): short pieces joined to windows of ten seconds.

Pieces are joined while rate and channels stay and each begins within a tenth of a second of where the one before ended;
otherwise a new window begins. So windows depend on the messages alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.ingest.normalizers.sensor_series import Draft
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

WINDOW_S = 10
SLACK_NS = 100_000_000


class Sound:
    """The open window of one topic."""

    def __init__(self, topic: str, time_source: str) -> None:
        self._topic = topic
        self._time_source = time_source
        self._parts: list[npt.NDArray[np.int16]] = []
        self._format = (0, 0)
        self._first = self._start = self._length = self._last = 0

    def add(self, number: int, message: Mapping[str, Any], data: bytes, t: int) -> Iterator[Draft]:
        """Take message `number`; gives the windows that it completed. Raises: RecordError for what is not PCM s16."""
        form, rate, channels = (
            str(message.get("format", "")),
            int(message.get("sample_rate") or 0),
            int(message.get("number_of_channels") or 0),
        )
        if form != "pcm-s16" or rate <= 0 or channels <= 0 or len(data) % (2 * channels):
            raise RecordError(
                "unsupported:audio",
                f"sound as {form!r}, {rate} Hz, {channels} channels in {len(data)} bytes; pcm-s16 is read",
            )
        samples = np.frombuffer(data, "<i2").astype(np.int16).reshape(-1, channels)
        expected = self._start + self._length * 1_000_000_000 // self._format[0] if self._format[0] else t
        if self._parts and (self._format != (rate, channels) or abs(t - expected) > SLACK_NS):
            yield from self.finish()
        if not self._parts:
            self._first, self._start, self._format = number, t, (rate, channels)
        self._parts.append(samples)
        self._length += len(samples)
        self._last = number
        while self._length >= WINDOW_S * rate:
            joined = np.concatenate(self._parts)
            yield self._draft(joined[: WINDOW_S * rate])
            rest = joined[WINDOW_S * rate :]
            self._parts, self._length = ([rest], len(rest)) if len(rest) else ([], 0)
            self._first, self._start = number, self._start + WINDOW_S * 1_000_000_000

    def finish(self) -> Iterator[Draft]:
        """The window that is open."""
        if self._parts:
            yield self._draft(np.concatenate(self._parts))
            self._parts, self._length = [], 0

    def _draft(self, samples: npt.NDArray[np.int16]) -> Draft:
        rate = self._format[0]
        locator = canonical_json({"topic": self._topic, "message": self._first, "start_ns": self._start}).decode()
        end = self._start + len(samples) * 1_000_000_000 // rate
        return Draft(
            "audio",
            {
                "locator": locator,
                "samples": samples,
                "rate": rate,
                "event_time": self._start // 1000,
                "event_end": end // 1000,
                "time_source": self._time_source,
                "extra": canonical_json({"topic": self._topic}).decode(),
            },
            self._last,
        )
