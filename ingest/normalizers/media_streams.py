"""Which streams of a file are read: the best picture, the best sound, all text; and a word about every one left out.

The best video is the largest in area that can be decoded, cover art and thumbnails apart; ties go to the stream marked
default, then to the first. The best audio is the one marked default (and not a commentary or a service for the
impaired) with the most samples a second over all channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.ingest.normalizers.media import Media
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

Choice = Literal["best"] | int

#: libav codec names, and tags of tracks that libav gives no codec: what timed_text_track.py can read.
TEXT_CODECS = frozenset(
    {"mov_text", "subrip", "srt", "text", "webvtt", "ass", "ssa", "ttml", "wvtt", "stpp", "S_TEXT/WEBVTT"}
)


@dataclass
class Streams:
    """The streams to read, and what is wrong with those that one would have wanted."""

    video: Any = None
    audio: list[Any] = field(default_factory=list)
    text: list[Any] = field(default_factory=list)
    problems: list[RecordError] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def require_any(self) -> None:
        """Raises: RecordError that says why there is nothing to read."""
        if self.video is not None or self.audio or self.text:
            return
        if self.problems:
            raise self.problems[0]
        raise RecordError(
            "no_signal", f"none of its streams is what is asked for ({', '.join(self.left_out) or 'it has none'})"
        )


def choose(media: Media, *, video: Choice | None, audio: Choice | Literal["all"] | None, text: bool) -> Streams:
    """The streams to read; None or False means that this kind is not wanted.

    Raises: RecordError if a stream chosen by its number is not there.
    """
    chosen = Streams()
    if video is not None:
        found = _pick(media, chosen, "video", video)
        chosen.video = found[0] if found else None
    if audio is not None:
        chosen.audio = _pick(media, chosen, "audio", audio)
    if text:
        chosen.text = [
            s
            for s in media.container.streams
            if s.type in ("subtitle", "data") and media.codec(s) in TEXT_CODECS and not obstacle(media, s)
        ]
    taken = {s.index for s in [chosen.video, *chosen.audio, *chosen.text] if s is not None}
    chosen.left_out = [_word(media, s) for s in media.container.streams if s.index not in taken]
    return chosen


def _pick(media: Media, chosen: Streams, kind: str, choice: Choice | Literal["all"]) -> list[Any]:
    streams = [s for s in media.container.streams if s.type == kind and (kind != "video" or not _is_still(s))]
    if isinstance(choice, int):
        streams = [s for s in streams if s.index == choice]
        if not streams:
            raise RecordError("missing_field", f"stream {choice} is not a {kind} stream of this file")
    ranked = sorted(streams, key=_video_rank if kind == "video" else _audio_rank, reverse=True)
    readable = [s for s in ranked if obstacle(media, s) is None]
    if ranked and not readable:
        problem = obstacle(media, ranked[0])
        chosen.problems += [problem] if problem else []
    return sorted(readable, key=lambda s: s.index) if choice == "all" else readable[:1]


def obstacle(media: Media, stream: Any) -> RecordError | None:
    """Why a stream cannot be read, or None."""
    facts = media.facts.track(stream.index)
    codec = media.codec(stream)
    place = canonical_json({"stream": stream.index}).decode()
    if facts.encrypted:
        return RecordError("encrypted", f"stream {stream.index} ({codec}) is encrypted", locator=place)
    if facts.external is not None:
        what = f"stream {stream.index} keeps its data in {facts.external!r}"
        return RecordError("external_reference", what, locator=place)
    if facts.size[0] * facts.size[1] > media.limits.max_pixels:
        width, height = facts.size
        what = f"stream {stream.index} has frames of {width}x{height}, more than {media.limits.max_pixels} pixels"
        return RecordError("too_large", what, locator=place)
    if facts.dolby_only:
        what = f"stream {stream.index} is Dolby Vision without a base layer that makes a picture"
        return RecordError("unsupported:dolby-vision", what, locator=place)
    if stream.type in ("video", "audio") and stream.codec_context is None and media.facts.cut is not None:
        what = f"stream {stream.index}: what it is encoded with is not there: {media.facts.cut}"
        return RecordError("truncated", what, locator=place)
    if stream.type in ("video", "audio") and stream.codec_context is None:
        what = f"stream {stream.index}: there is no decoder for {codec}"
        return RecordError(f"unsupported:{codec}", what, locator=place)
    return None


def _is_still(stream: Any) -> bool:
    from av.stream import Disposition

    return bool(
        stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image)
    )


def _video_rank(stream: Any) -> tuple[int, int, int]:
    from av.stream import Disposition

    context = stream.codec_context
    area = context.width * context.height if context is not None else 0
    return area, int(bool(stream.disposition & Disposition.default)), -stream.index


def _audio_rank(stream: Any) -> tuple[int, int, int, int]:
    from av.stream import Disposition

    context = stream.codec_context
    aside = Disposition.comment | Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.descriptions
    rate = context.sample_rate * context.layout.nb_channels if context is not None else 0
    marked = int(bool(stream.disposition & Disposition.default))
    return int(not stream.disposition & aside), marked, rate, -stream.index


def _word(media: Media, stream: Any) -> str:
    """ "0:video:h264:320x180"."""
    context = stream.codec_context
    size = ""
    if context is not None and stream.type == "video":
        size = f":{context.width}x{context.height}"
    elif context is not None and stream.type == "audio":
        size = f":{context.sample_rate}Hz"
    return f"{stream.index}:{stream.type}:{media.codec(stream)}{size}"
