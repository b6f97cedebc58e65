"""Reading a JetStream stream in order: a pull consumer that is thrown away and made anew whenever it is in doubt.

The consumer keeps no state that we need: it acknowledges nothing, lives in memory, and begins where we say. What it
delivers carries in its reply subject the stream's sequence and the consumer's own, which counts deliveries without a
hole. A hole there is a message lost on its way, so the consumer is replaced by one that begins after the last message
that arrived. Source: ADR-13 (pull), ADR-15 (acknowledgement subject), ADR-17 (ordered consumer).

    $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time ns>.<pending>
    $JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time ns>.<pending>[.<token>]
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.connectors.nats_wire import Message, Wire
from headrace.schemas.errors import ConfigError, SourceError

#: A consumer that nobody pulls from for so long is removed by the server: nothing is left behind by a crash.
_INACTIVE_NS = 30_000_000_000
_PULL_BYTES = 1 << 20
_STREAM_NOT_FOUND = 10059
_NOT_ENABLED = (10039, 10076)  #: JetStream is not enabled for the account, or not at all
_MAX_RENEWALS = 5
#: After a pause of our own the consumer may be gone, or about to go.
_TOO_OLD_S = 20.0
#: A server that lost the consumer says nothing at all; after so long a silence we ask.
_DOUBT_S = 1.0


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message of a stream."""

    seq: int
    time_ns: int
    message: Message


class Api:
    """JSON requests to JetStream over one connection."""

    def __init__(self, wire: Wire, domain: str | None) -> None:
        self.wire = wire
        self._prefix = f"$JS.{domain}.API." if domain else "$JS.API."

    def ask(self, what: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The answer; None: there is no such stream or message. Raises: SourceError, ConfigError."""
        message = self.wire.request(self._prefix + what, json.dumps(body or {}).encode())
        if message.status()[0] == 503:
            raise SourceError(
                f"{self.wire.url}: nobody answers {self._prefix}{what}: JetStream is not enabled, or has no leader now"
            )
        try:
            answer: dict[str, Any] = json.loads(message.payload)
            error = answer.get("error")
        except (ValueError, AttributeError) as exc:
            raise SourceError(f"{self.wire.url} answers {what} with something that is not JSON") from exc
        if error is None:
            return answer
        code, text = error.get("err_code"), f"{self.wire.url}: {what}: {error.get('description')}"
        if code in _NOT_ENABLED:
            raise ConfigError(f"{text}. The server needs JetStream (`nats-server -js`), and so does the account")
        if error.get("code") == 404:
            return None
        raise SourceError(f"{text} ({code})")

    def next_after(self, stream: str, seq: int, subject: str | None) -> int | None:
        """The sequence of the next message after `seq`; None if there is none now."""
        return self._stored(stream, {"seq": seq + 1, "next_by_subj": subject or ">"})

    def last_of(self, stream: str, subject: str) -> int | None:
        """The sequence of the newest message of a subject filter."""
        return self._stored(stream, {"last_by_subj": subject})

    def _stored(self, stream: str, which: dict[str, Any]) -> int | None:
        answer = self.ask(f"STREAM.MSG.GET.{stream}", which)
        return None if answer is None else int(answer["message"]["seq"])

    def send(self, what: str, body: dict[str, Any], reply: str = "") -> None:
        """Ask without waiting."""
        self.wire.publish(self._prefix + what, json.dumps(body).encode(), reply)


class Puller:
    """Messages of one stream after a sequence, in order and without holes of our own making."""

    def __init__(self, api: Api, stream: str, subject: str | None, batch: int, timeout_s: float) -> None:
        self._api, self._stream, self._subject = api, stream, subject
        self._batch, self._timeout_s = batch, timeout_s
        self._name: str | None = None
        self._inbox, self._sid, self._delivered, self._renewals = "", 0, 0, 0
        self._one_by_one = False
        self._pulled = 0.0

    def pull(self, after: int, wait_s: float = 0) -> list[Delivered]:
        """All there is now, at most a batch and about 1 MiB; with `wait_s` the next message, if one comes in time.

        `after` is the last sequence that the caller has. The answer is complete before it is given: a reader that then
        pauses for long leaves nothing unread in the connection, for which a server would close it.
        """
        if self._name is None or time.monotonic() - self._pulled > _TOO_OLD_S:
            self._renew({"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1})
        self._pulled = time.monotonic()
        wire = self._api.wire
        most = 1 if wait_s or self._one_by_one else self._batch
        request: dict[str, Any] = {"batch": most, **({"expires": round(wait_s * 1e9)} if wait_s else {"no_wait": True})}
        if not self._one_by_one:
            # One message always fits, with room for its subjects.
            request["max_bytes"] = max(_PULL_BYTES, wire.max_payload + (64 << 10))
        self._api.send(f"CONSUMER.MSG.NEXT.{self._stream}.{self._name}", request, self._inbox)
        deadline = time.monotonic() + wait_s + self._timeout_s
        doubt = min(deadline, time.monotonic() + wait_s + _DOUBT_S)
        out: list[Delivered] = []
        while len(out) < most:
            message = wire.next(doubt)
            if message is None and doubt < deadline:
                if self._api.ask(f"CONSUMER.INFO.{self._stream}.{self._name}") is None:
                    self.drop()
                    break
                doubt = deadline
                continue
            if message is None:
                raise SourceError(f"{wire.url} did not answer a pull from {self._stream} within {self._timeout_s:g} s")
            if message.sid != self._sid:
                continue
            code, text = message.status()
            if code == 100:
                continue
            if code and not message.reply.startswith(b"$JS.ACK"):
                self._after_status(code, text, message.headers(), most, len(out))
                break
            where = parse_ack(message.reply)
            if where is None:
                raise SourceError(f"{wire.url} delivers a message with the reply {message.reply[:80]!r}, not $JS.ACK.…")
            seq, delivery, time_ns = where
            if delivery != self._delivered + 1:
                self.drop()  # one was lost on its way
                break
            self._delivered = delivery
            self._renewals = 0
            out.append(Delivered(seq, time_ns, message))
        return out

    def drop(self) -> None:
        """Let the consumer go; the next pull makes a new one."""
        if self._name is not None:
            self._api.wire.unsubscribe(self._sid)
            self._api.send(f"CONSUMER.DELETE.{self._stream}.{self._name}", {})
            self._name = None

    def first_since(self, time_us: int) -> int | None:
        """The sequence of the first message that the stream took at a time or later; None if there is none yet.

        time_us: microseconds since 1970 UTC.
        """
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
        rfc3339 = moment.isoformat().replace("+00:00", "Z")
        self._renew({"deliver_policy": "by_start_time", "opt_start_time": rfc3339})
        found = self.pull(0, 0.5)
        self.drop()
        # For a time behind the last message a server begins at the first one (2.9.10).
        return found[0].seq if found and found[0].time_ns >= time_us * 1000 else None

    def pending(self, after: int) -> int:
        """How many messages come after a sequence."""
        count = self._renew({"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1})
        self.drop()
        return count

    def _renew(self, policy: dict[str, Any]) -> int:
        self.drop()
        self._renewals += 1
        if self._renewals > _MAX_RENEWALS:
            raise SourceError(f"{self._api.wire.url}: consumers of {self._stream} vanish as soon as they are made")
        config = {
            **policy, "ack_policy": "none", "replay_policy": "instant", "mem_storage": True, "max_deliver": -1,
            "inactive_threshold": _INACTIVE_NS,
        }  # fmt: skip
        if self._subject is not None:
            config["filter_subject"] = self._subject
        answer = self._api.ask(f"CONSUMER.CREATE.{self._stream}", {"stream_name": self._stream, "config": config})
        if answer is None:
            raise SourceError(f"{self._api.wire.url}: the stream {self._stream} is gone")
        self._inbox = self._api.wire.new_inbox()
        self._sid = self._api.wire.subscribe(self._inbox)
        self._name, self._delivered, self._pulled = str(answer["name"]), 0, time.monotonic()
        return int(answer.get("num_pending", 0))

    def _after_status(self, code: int, text: str, headers: dict[str, str], most: int, came: int) -> None:
        """The end of a pull, as the server tells it."""
        if code == 409 and "maxbytes" in text.lower().replace(" ", ""):
            self._one_by_one = not came  # only a server that takes less than it once took gets here with nothing
        elif code in (404, 408):
            self._renewals = 0
            left = headers.get("Nats-Pending-Messages", "")
            if left.isdigit() and most - int(left) > came:
                self.drop()  # the server counts more than arrived
        else:
            self.drop()  # deleted, moved to another server, shut down, or no longer known: a new one goes on


def parse_ack(reply: bytes) -> tuple[int, int, int] | None:
    """(stream sequence, consumer sequence, nanoseconds since 1970) of a reply subject."""
    words = reply.split(b".")
    if words[:2] != [b"$JS", b"ACK"] or len(words) < 9 or len(words) == 10:
        return None
    numbers = words[5:8] if len(words) == 9 else words[7:10]
    if not all(word.isdigit() for word in numbers):
        return None
    seq, delivery, time_ns = (int(word) for word in numbers)
    return seq, delivery, time_ns
