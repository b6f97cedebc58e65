"""What decoding one track has in common for picture and sound: the decoder, what was lost, whether it was cut.

A packet that does not decode costs that packet. Each window that lost packets keeps what did decode, is flagged
`corrupt_packets:N`, and is accompanied by one `Bad` that says where. A track that ends too early flags its last window
`truncated`; the file then gives one `Bad` for the rest. Signs of a cut, from the surest on:

- the container accounts for more bytes than there are (media_facts.py), and its index for more packets than came;
- FLAC says how many samples, Xing and VBRI headers how many frames there are, and fewer came;
- a format without any index ends inside a packet: the last one does not decode, or not wholly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.media import Media, translate
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

#: Formats that are packets end to end: nothing but the last packet can show that they were cut.
_UNINDEXED = frozenset({"mp3", "aac", "ac3", "eac3", "amr", "flac", "mpegts", "mpegps"})
#: Formats whose header states a duration, rather than libav guessing it from the bit rate.
_STATES_DURATION = frozenset({"mp4", "avi", "mxf", "wav", "flac"})
#: Seconds by which a stated duration may differ from what was decoded: rounding, edit lists, encoder padding.
DURATION_TOLERANCE = Fraction(1, 2)


WindowKey = tuple[int, int]  #: (run, window)


@dataclass
class Loss:
    """Packets of one window that did not decode."""

    count: int = 0
    first_byte: int | None = None
    last_byte: int | None = None
    message: str = ""


class Track(ABC):
    """One stream being decoded, with one thread, in packet order."""

    def __init__(self, media: Media, stream: Any, limits: Limits) -> None:
        """Raises: RecordError if the decoder cannot be set up."""
        import av
        from av.codec.context import Flags, ThreadType

        self.media = media
        self.stream = stream
        self.limits = limits
        self.codec = media.codec(stream)
        if not stream.time_base or stream.time_base < 0:
            raise RecordError("corrupt", f"stream {stream.index} counts time in units of {stream.time_base} s")
        self.time_base: Fraction = stream.time_base
        self.packets = 0
        self._losses: dict[WindowKey, Loss] = {}
        self._last_failed = self._last_corrupt = False
        self._lost = 0
        self.last_error: Exception | None = None
        self.emitted = 0
        self.done = False
        self._errors = (av.error.FFmpegError, ValueError, RuntimeError)
        self.context = stream.codec_context
        # Threads would not change pixels, but a lane is one core, and PyAV's slice threads have hung (PyAV#1962).
        self.context.thread_count = 1
        self.context.thread_type = ThreadType.NONE
        self.context.flags |= Flags.bitexact
        self.context.options = {"max_pixels": str(limits.max_pixels), **self.decoder_options()}
        try:
            self.context.open(strict=False)
        except (av.error.FFmpegError, ValueError) as exc:
            raise RecordError(
                f"unsupported:{self.codec}", f"stream {stream.index}: the decoder refuses it: {exc}"
            ) from exc

    def decoder_options(self) -> dict[str, str]:
        """Options of this codec's decoder."""
        return {}

    @abstractmethod
    def window_of(self, packet: Any | None) -> WindowKey:
        """The window that a packet's frames fall in, as well as that can be told before it is decoded."""

    def decode(self, packet: Any | None) -> list[Any]:
        """The frames that come out for one packet, or at the end for None; what fails is noted under its window."""
        if packet is not None:
            self.packets += 1
            self._last_failed = False
        try:
            frames: list[Any] = self.context.decode(packet)
        except MemoryError as exc:
            raise translate(exc, self.media.format, self.media.facts, "a frame cannot be decoded") from exc
        except self._errors as exc:
            self.note_loss(self.window_of(packet), packet, exc)
            return []
        if frames:
            self._last_corrupt = frames[-1].is_corrupt
        return frames

    def note_loss(self, window: WindowKey, packet: Any | None, exc: Exception) -> None:
        """Remember that a packet did not decode."""
        loss = self._losses.setdefault(window, Loss())
        loss.count += 1
        loss.message = loss.message or getattr(exc, "strerror", None) or str(exc)
        if packet is not None and packet.pos is not None:
            loss.first_byte = packet.pos if loss.first_byte is None else min(packet.pos, loss.first_byte)
            loss.last_byte = max(packet.pos + packet.size, loss.last_byte or 0)
        self.last_error = exc
        self._last_failed = packet is not None
        self._lost += 1

    def has_loss(self, window: WindowKey) -> bool:
        """Whether a window has lost packets so far."""
        return window in self._losses

    def take_loss(self, window: WindowKey) -> Loss | None:
        """What a window lost, once."""
        return self._losses.pop(window, None)

    def losses_left(self) -> list[tuple[WindowKey, Loss]]:
        """Losses of windows that never came to be, in the order in which they were noted."""
        left, self._losses = list(self._losses.items()), {}
        return left

    def bad(self, loss: Loss, **place: Any) -> Bad:
        """The quarantined part of a window."""
        found = {"first_byte": loss.first_byte, "last_byte": loss.last_byte}
        where = f" between bytes {loss.first_byte} and {loss.last_byte}" if loss.first_byte is not None else ""
        message = (
            f"{loss.count} packets of stream {self.stream.index} ({self.codec}){where} do not decode: {loss.message}"
        )
        locator = {"stream": self.stream.index, **place, "lost_packets": loss.count, **found}
        return Bad("corrupt", message, canonical_json(locator).decode())

    def cut(self) -> str | None:
        """Why this track is known to end too early, as a sentence; asked once all packets are in."""
        facts = self.media.facts
        if self.media.read_error is not None:
            return self.media.read_error.message
        if facts.cut is not None and not 0 < self.stream.frames <= self.packets:
            return facts.cut
        came = self.packets - self._lost
        if facts.frames is not None and came < facts.frames - 1:  # some count the header's own frame
            return f"its header promises {facts.frames} frames, {came} came"
        if self.media.format in _UNINDEXED:
            if self._last_failed:
                return f"it ends inside a packet ({self.last_error})"
            if self._last_corrupt:
                return "its last frame is not whole"
            if not self.packets:
                return "it ends before its first packet"
        return None

    def duration_flags(self, decoded: Fraction) -> list[str]:
        """Findings for the last window; `decoded`: seconds from the track's start to its end."""
        if self.media.format not in _STATES_DURATION or self.stream.duration is None:
            return []  # a container's own duration is that of its longest track
        away = abs(self.stream.duration * self.time_base - decoded)
        return ["duration_mismatch"] if away > DURATION_TOLERANCE else []

    def nothing_decoded(self) -> RecordError:
        """Why a track gave no frame at all."""
        place = f"stream {self.stream.index} ({self.codec})"
        if (reason := self.cut()) is not None:
            return RecordError("truncated", f"{place}: nothing decodes before the end: {reason}")
        if self.last_error is not None:
            import av

            if isinstance(self.last_error, (av.error.PatchWelcomeError, av.error.NotImplementedError)):
                return RecordError(f"unsupported:{self.codec}", f"{place}: {self.last_error}")
            if isinstance(self.last_error, av.error.ArgumentError) and self._sizeless():
                what = f"{place}: libav refuses its frame size; {self.limits.max_pixels} pixels are allowed"
                return RecordError("too_large", what)
            return RecordError("corrupt", f"{place}: none of its {self.packets} packets decodes: {self.last_error}")
        return RecordError("empty", f"{place}: it has no frames")

    def _sizeless(self) -> bool:
        """Whether this is a video whose size libav does not give: it clears a size that is over `max_pixels`."""
        return self.stream.type == "video" and not self.context.width * self.context.height
