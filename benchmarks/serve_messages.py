"""The messages that benchmarks/serve.py sends, and what its bare loops do with them: tokenize and keep."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from headrace.schemas.record import RecordBuilder
from headrace.tokenizers.registry import tokenizer_class

WORDS = "the tide at the quay stands high and the ferry waits for the pilot who is late again "
TEXT = "{type: text, field: body}"
SENSOR = "{type: sensor, time: t, channels: {level: m}}"

Keep = Callable[[list[bytes]], None]  #: tokenizes messages, keeps the tokens
Bare = Callable[[int, Keep], None]  #: reads so many messages and hands them over


def text_message(n: int) -> bytes:
    """About 900 bytes."""
    return json.dumps({"id": f"m-{n}", "body": f"{n} " + WORDS * 10}).encode()


def sensor_message(n: int) -> bytes:
    """One reading; a second each, from 2025 on."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_735_689_600 + n))
    return json.dumps({"id": f"m-{n}", "t": stamp, "level": round(8 + n % 100 / 30, 3)}).encode()


def keep_text() -> Keep:
    import orjson

    tokenizer: Any = tokenizer_class("bytes")
    made, kept = tokenizer(tokenizer.Config(), None), []

    def keep(messages: list[bytes]) -> None:
        builder = RecordBuilder("text")
        for message in messages:
            builder.add(locator="", text=orjson.loads(message)["body"])
        kept.append(made.encode(builder.finish()).values)

    return keep


def keep_sensor() -> Keep:
    import numpy as np
    import orjson

    tokenizer: Any = tokenizer_class("zscore-mu-law")
    made, kept, times, values = tokenizer(tokenizer.Config(), None), [], [], []

    def keep(messages: list[bytes]) -> None:
        for message in messages:
            reading = orjson.loads(message)
            times.append(np.datetime64(reading["t"].removesuffix("Z"), "ns").astype(np.int64))
            values.append(reading["level"])
        while len(times) >= 512:
            builder = RecordBuilder("sensor")
            t, v = np.array(times[:512]), np.array(values[:512])
            builder.add(locator="", t=t, value=v, valid=np.ones(512, bool), channel="level", unit="m")
            kept.append(made.encode(builder.finish()).values)
            del times[:512], values[:512]

    return keep
