"""Normalizer of sound files, and of the sound of video files: windows of int16 samples at one rate."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from headrace.connectors.contract import Item
from headrace.ingest.normalizers.audio_track import AudioTrack, SoundRule
from headrace.ingest.normalizers.contract import Normalized, Normalizer, NormalizerConfig, blob_of
from headrace.ingest.normalizers.media import open_media
from headrace.ingest.normalizers.media_parts import part_of
from headrace.ingest.normalizers.media_read import read_tracks
from headrace.ingest.normalizers.media_streams import choose
from headrace.schemas.pipeline import bytes_field

Rate = Annotated[int, Field(ge=1, le=768_000)]


class AudioConfig(NormalizerConfig):
    """Settings of `type: audio`, and of `audio:` in `type: video`."""

    rate: Rate | Literal["native"] = bytes_field(16_000, description="Hz; native keeps the track's own")
    channels: Literal["mono", "native"] = bytes_field("mono", description="mono mixes all channels; native keeps them")
    window_s: float = bytes_field(10, gt=0, le=3600, description="seconds of one record; a track's last is shorter")
    track: Literal["best", "all"] | int = bytes_field("best", description="best, all, or a stream's number in its file")

    def rule(self) -> SoundRule:
        """The settings as the track reader takes them."""
        rate = None if self.rate == "native" else self.rate
        return SoundRule(rate, self.channels == "mono", Fraction(str(self.window_s)))


class AudioNormalizer(Normalizer):
    """WAV, FLAC, MP3, Ogg, AAC, AC-3, AMR and the sound of MP4, Matroska, MPEG, AVI … → audio."""

    Config = AudioConfig
    modality = "audio"

    def open(self, item: Item) -> Iterator[Normalized]:
        """Windows of the chosen tracks, in the order in which the file completes them. Raises: RecordError.

        A file that was divided gives all its sound with its first part: a decoder that starts in the middle of a track
        would not give the same samples.
        """
        blob = blob_of(item)
        if part_of(item).number > 1:
            return
        with open_media(blob, item.headers.get("format"), self.limits) as media:
            streams = choose(media, video=None, audio=self.config.track, text=False)
            streams.require_any()
            rule = self.config.rule()
            left = streams.left_out
            makers = [partial(AudioTrack, media, s, rule, self.limits, left_out=left) for s in streams.audio]
            yield from read_tracks(media, makers)
