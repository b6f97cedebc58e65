"""torchcodec: `get_frames_at` of the frames that are due in its approximate (scanless) mode, scaled by torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from job import FPS, FRAME, Job, Sums, sums_of_arrays


def begin(job: Job) -> Any:
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)
    return torch, VideoDecoder


def run(job: Job, state: Any) -> None:
    torch, decoder_class = state
    threads = max(1, job.cores // len(job.files))

    def clip(path: Path) -> None:
        decoder = decoder_class(str(path), num_ffmpeg_threads=threads, seek_mode="approximate")
        rate, count = decoder.metadata.average_fps, decoder.metadata.num_frames
        due = np.ceil(np.arange(0, count / rate * FPS) / FPS * rate - 1e-6).astype(int)
        with open(job.out / f"{path.stem}.bin", "wb") as out:
            for i in range(0, len(due), 16):  # all frames of 1080p at once would be gigabytes
                frames = decoder.get_frames_at(due[i : i + 16].tolist()).data
                scaled = torch.nn.functional.interpolate(
                    frames.float(), (FRAME[1], FRAME[0]), mode="bilinear", antialias=True
                )
                out.write(scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy().data)

    with ThreadPoolExecutor(job.cores) as pool:
        list(pool.map(clip, job.files))


def sums(job: Job, state: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint8)
