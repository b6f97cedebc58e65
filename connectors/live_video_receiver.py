"""The thread that stays with a camera: open, cut, hand over, and when the stream ends say so and open it again."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from headrace.connectors.live_video_buffer import Buffer, Loss
from headrace.connectors.live_video_cutter import Cutter, Rule
from headrace.connectors.live_video_feed import Feed, FeedSettings, Opener
from headrace.connectors.live_video_segment import Segment
from headrace.connectors.live_video_url import Address
from headrace.schemas.errors import HeadraceError, SourceError

log = logging.getLogger(__name__)
#: Seconds over which the bit rate is judged: a server may send its last group of pictures at once.
_RATE_WINDOW_S = 10
_BACKOFF_S, _MAX_BACKOFF_S = 0.25, 15.0


@dataclass(frozen=True)
class ReceiverSettings:
    """What one receiver needs to know."""

    address: Address
    feed: FeedSettings
    rule: Rule
    buffer_bytes: int
    max_failures: int


class Receiver:
    """Reads one stream until it is stopped or its failure budget is spent. `buffer` holds what came."""

    def __init__(self, settings: ReceiverSettings, session: int, resumed: bool) -> None:
        """session: number of the last session; resumed: whether something was read before, so that it has a gap."""
        self.settings = settings
        self.buffer = Buffer(settings.buffer_bytes)
        self.session = session
        self._resumed = resumed
        self._stop = threading.Event()
        self._opener = Opener(settings.address, settings.feed, self._stop)
        self._thread = threading.Thread(target=self._run, name="live-video", daemon=True)

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def stop(self) -> None:
        """End at once for the reader; the thread follows when its wait inside libav ends: a packet, or a time-out."""
        self._stop.set()
        self.buffer.close()
        self._opener.unblock()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; whether it ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._receive()
        except HeadraceError as exc:
            self.buffer.note(exc)
        except Exception as exc:  # a thread's death must reach its reader
            log.exception("%s: the receiver failed", self.settings.address.masked)
            error = SourceError(f"{self.settings.address.masked}: the receiver failed: {type(exc).__name__}")
            self.buffer.note(error)

    def _receive(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                feed = self._opener.open()
            except SourceError as exc:
                failures += 1
                log.info("%s (try %d of %d)", exc, failures, self.settings.max_failures)
                if failures >= self.settings.max_failures:
                    raise SourceError(f"{exc} ({failures} tries one after another)") from exc
                self._pause(failures)
                continue
            if feed is None:  # nobody connected yet, which is no failure
                self._stop.wait(0.1)
                continue
            if self._resumed:
                self._lose(f"reconnected: reading began again at {_now()}; what was sent before that is lost")
                self._resumed = False  # of what follows the gaps are declared where they begin
            made, why = self._read(feed)
            failures = 0 if made else failures + 1
            if failures >= self.settings.max_failures:
                raise SourceError(f"{self.settings.address.masked}: {failures} connections gave no segment: {why}")
            self._pause(failures)

    def _read(self, feed: Feed) -> tuple[int, str]:
        """Read one connection to its end, and declare the gap that follows: (segments that came, why it ended)."""
        import av

        made, last, rate = 0, _now(), _Rate(self.settings.feed.max_bits_s)
        cutter = self._cutter(feed)
        why: str | None = None
        try:
            for packet, clock_us in feed.packets():
                last = _now()
                problem = cutter.problem_with(packet)
                if rate.over(packet.size):
                    why = f"more than {self.settings.feed.max_bits_s / 1e6:g} Mbit/s (`max_mbit_s`) came"
                    break
                if problem is not None and not problem.clock:
                    why = problem.message
                    break
                if problem is not None:  # nothing is missing, but times cannot be compared across it
                    made += self._hand(cutter.finish(problem.message))
                    self._lose(f"{problem.message}; at {last}")
                    cutter = self._cutter(feed)
                    cutter.problem_with(packet)
                made += self._hand(cutter.add(packet, clock_us))
            why = why or _sentence(feed.ended, self.settings.feed.stall_s)
            made += self._hand(cutter.finish(why))
        except av.error.FFmpegError as exc:
            why = f"reconnected: its packets cannot be stored: {exc.strerror}"
        finally:
            feed.close()
        if not self._stop.is_set():
            self._lose(f"{why}; the last packet came at {last}", feed.lost)
        return made, why

    def _cutter(self, feed: Feed) -> Cutter:
        self.session += 1
        return Cutter(feed.tracks, self.settings.rule, self.session, feed.clock_source)

    def _hand(self, segments: Iterable[Segment]) -> int:
        """Hand segments over; how many there were. What was lost inside one is declared behind it."""
        count = 0
        for segment in segments:
            count += 1
            self.buffer.put(segment, _now())
            if segment.corrupt:
                number = segment.headers["segment"]
                self._lose(f"packets lost: {segment.corrupt} packets of segment {number} came with parts missing")
        return count

    def _lose(self, reason: str, lost: int | None = None) -> None:
        log.warning("%s: %s", self.settings.address.masked, reason)
        self.buffer.note(Loss(reason, lost))

    def _pause(self, failures: int) -> None:
        ceiling = min(_MAX_BACKOFF_S, _BACKOFF_S * 2**failures)
        self._stop.wait(random.uniform(0.1, ceiling))


class _Rate:
    """Whether more comes than was agreed to, over windows of some seconds."""

    def __init__(self, max_bits_s: float) -> None:
        self._max_bytes = max_bits_s / 8 * _RATE_WINDOW_S
        self._begin, self._bytes = time.monotonic(), 0

    def over(self, size: int) -> bool:
        """Count a packet."""
        now = time.monotonic()
        if now - self._begin > _RATE_WINDOW_S:
            self._begin, self._bytes = now, 0
        self._bytes += size
        return self._bytes > self._max_bytes


def _sentence(ended: str, stall_s: float) -> str:
    """Why a connection ended, beginning with the word for its kind."""
    if ended.startswith("stalled"):
        return f"stalled: no packet for {stall_s:g} s{ended.removeprefix('stalled')}"
    return ended if ended.startswith("parameters changed") else f"reconnected: {ended}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
