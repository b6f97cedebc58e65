"""Normalizer of video files: windows of RGB frames; their sound and their subtitles as records of their own.

One pass over the file gives all three. Sound and text do not derive from a window of frames but from the same file, so
they name no parent: `group_id` (the item) is what ties them together, and times are on one clock: `pts` of frames,
`track_start_us` of sound and `cues` of text all count from the container's own zero.

A video may come with files beside it (`clip.mp4`, `clip.en.srt`): they are text records of the same item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, field_validator

from headrace.connectors.contract import Blob, Item
from headrace.ingest.normalizers.audio import AudioConfig
from headrace.ingest.normalizers.audio_track import AudioTrack
from headrace.ingest.normalizers.contract import Bad, Normalized, Normalizer, NormalizerConfig, blob_of
from headrace.ingest.normalizers.media import Media, open_media
from headrace.ingest.normalizers.media_parts import Part, part_of
from headrace.ingest.normalizers.media_read import Reading, read_tracks
from headrace.ingest.normalizers.media_streams import Streams, choose
from headrace.ingest.normalizers.timed_text import EXTENSIONS, timed_text_file
from headrace.ingest.normalizers.timed_text_track import TextTrack
from headrace.ingest.normalizers.video_parts import seek_before, span_of
from headrace.ingest.normalizers.video_picture import MaxSide
from headrace.ingest.normalizers.video_track import VideoTrack
from headrace.ingest.normalizers.video_window import FrameRule
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.pipeline import bytes_field

Side = Annotated[int, Field(ge=1, le=1 << 16)]


class VideoNormalizer(Normalizer):
    """MP4, MOV, Matroska, WebM, MPEG-TS, MPEG-PS, MXF, AVI, FLV → video, audio, text."""

    class Config(NormalizerConfig):
        """Settings of `type: video`."""

        fps: float | str = bytes_field(2, description="frames kept a second, also as 30000/1001; native keeps all")
        max_side: Side | Literal["none"] = bytes_field(
            256, description="longest side in pixels; none keeps native size"
        )
        segment_s: float = bytes_field(8, gt=0, le=3600, description="seconds of one record")
        track: Literal["best"] | int = bytes_field("best", description="best, or a stream's number in its file")
        audio: bool | AudioConfig = bytes_field(
            True, description="sound as audio records: true, false, or its settings"
        )
        subtitles: bool = bytes_field(True, description="subtitle tracks and files beside the video as text")

        @field_validator("fps")
        @classmethod
        def _fps(cls, value: float | str) -> float | str:
            if value != "native":
                try:
                    rate = Fraction(str(value))
                except (ValueError, ZeroDivisionError) as exc:
                    raise ValueError(f"{value!r}: a number, a fraction like 30000/1001, or native is expected") from exc
                if not 0 < rate <= 1000:
                    raise ValueError(f"{value!r}: more than 0 and at most 1000 frames a second are expected")
            return value

        def rule(self) -> FrameRule:
            """The settings as the track reader takes them."""
            side: MaxSide = self.max_side
            fps = None if self.fps == "native" else Fraction(str(self.fps))
            return FrameRule(fps, Fraction(str(self.segment_s)), side)

        def sound(self) -> AudioConfig | None:
            """Settings of the sound, or None if it is not wanted."""
            if isinstance(self.audio, AudioConfig):
                return self.audio
            return AudioConfig() if self.audio else None

    modality = "video"
    derived = ("audio", "text")

    def open(self, item: Item) -> Iterator[Normalized]:
        """Text of files beside the video, then all tracks in the order in which the file completes their records.

        Part i of n (header `part`) gives its own windows; sound and text come whole with the first part.
        Raises: RecordError.
        """
        blob, beside = _files(item)
        part = part_of(item)
        if part.number == 1 and self.config.subtitles:
            for other in beside:
                yield from self._beside(other)
        format = item.headers.get("format")
        with open_media(blob, format, self.limits) as media:
            streams = self._choose(media)
            if part.number == 1:
                streams.require_any()
                for problem in streams.problems:
                    yield Bad(problem.reason, problem.message, problem.locator or "{}")
            elif streams.video is None:
                return
            start = self._seek(media, streams, part)
            if start:
                yield from self._read(media, streams, part)
        if not start:  # no key frame to start from: once more, from the beginning
            with open_media(blob, format, self.limits) as media:
                yield from self._read(media, self._choose(media), part)

    def _choose(self, media: Media) -> Streams:
        sound = self.config.sound()
        audio = sound.track if sound is not None else None
        return choose(media, video=self.config.track, audio=audio, text=self.config.subtitles)

    def _seek(self, media: Media, streams: Streams, part: Part) -> bool:
        if streams.video is None or part.number == 1:
            return True
        rule = self.config.rule()
        return seek_before(media, streams.video, rule, span_of(media, streams.video, rule, part))

    def _read(self, media: Media, streams: Streams, part: Part) -> Iterator[Normalized]:
        makers: list[Callable[[], Reading]] = []
        limits = self.limits
        if (video := streams.video) is not None:
            rule = self.config.rule()
            span = span_of(media, video, rule, part)
            makers.append(lambda: VideoTrack(media, video, rule, limits, span=span, left_out=streams.left_out))
        sound = self.config.sound()
        if part.number == 1 and sound is not None:
            makers += [partial(AudioTrack, media, s, sound.rule(), limits, left_out=[]) for s in streams.audio]
        if part.number == 1:
            makers += [partial(TextTrack, media, s) for s in streams.text]
        yield from read_tracks(media, makers, last=part.number == part.count)

    def _beside(self, blob: Blob) -> Iterator[Normalized]:
        """The text of a file beside the video; one that cannot be read costs itself alone."""
        place = {"member": blob.name}
        try:
            yield from timed_text_file(blob, EXTENSIONS[_extension(blob)], place, self.limits)
        except RecordError as exc:
            yield Bad(exc.reason, exc.message, canonical_json(place).decode())


def _files(item: Item) -> tuple[Blob, list[Blob]]:
    """(the video, the files beside it by name). Raises: RecordError if there is not exactly one video."""
    if not isinstance(item.data, list):
        return blob_of(item), []
    named = sorted(item.data, key=lambda blob: blob.id)
    text = [blob for blob in named if _extension(blob) in EXTENSIONS]
    media = [blob for blob in named if blob not in text]
    if len(media) != 1:
        names = ", ".join(blob.name for blob in named[:8])
        raise RecordError("inconsistent", f"one video with timed text beside it is expected, not [{names}]")
    return media[0], text


def _extension(blob: Blob) -> str:
    return blob.name.rsplit(".", 1)[-1].lower()
