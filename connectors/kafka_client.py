"""What a Kafka cluster says of itself: topics, their ids, the ends of partitions; and its errors as ours.

Offsets here are Kafka's: of the next message to read. Positions, of the last one that was read, are made elsewhere.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from headrace.connectors.kafka_config import KafkaConfig, connection_properties, consumer_properties
from headrace.schemas.errors import ConfigError, HeadraceError, MissingExtra, SourceChanged, SourceError

log = logging.getLogger(__name__)

#: librdkafka's and Kafka's names of errors that no retry mends.
_REFUSED = {
    "_AUTHENTICATION": "check username, password and sasl",
    "SASL_AUTHENTICATION_FAILED": "check username, password and sasl",
    "UNSUPPORTED_SASL_MECHANISM": "set sasl to what the brokers offer",
    "ILLEGAL_SASL_STATE": "check sasl and tls",
    "TOPIC_AUTHORIZATION_FAILED": "the user needs READ and DESCRIBE of the topic",
    "CLUSTER_AUTHORIZATION_FAILED": "the user needs DESCRIBE of the cluster",
}
_TRUNCATED = {"_LOG_TRUNCATION"}
#: Errors that concern what headrace does not use: groups, and the way to one broker of several.
_NO_MATTER = {"GROUP_AUTHORIZATION_FAILED", "_TRANSPORT", "_RESOLVE", "_TIMED_OUT", "COORDINATOR_NOT_AVAILABLE"}


def kafka() -> Any:
    """The library. Raises: MissingExtra."""
    try:
        import confluent_kafka
        import confluent_kafka.admin
    except ImportError as exc:
        raise MissingExtra("confluent-kafka", "kafka", need="the source type `kafka`") from exc
    return confluent_kafka


def error_of(error: Any, what: str) -> HeadraceError:
    """Our error for a KafkaError; `what` says what was being done, and to what."""
    name, text = error.name(), error.str()
    if name in _REFUSED:
        return ConfigError(f"kafka: {what}: {text}; {_REFUSED[name]}")
    if name in _TRUNCATED:
        return SourceChanged(f"kafka: {what}: {text}: messages that were read are no longer in the log")
    return SourceError(f"kafka: {what}: {text} ({name})")


class KafkaClient:
    """One cluster. Every method may be called from any thread."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._admin: Any = None
        #: The last error that concerns the whole cluster, until somebody looked.
        self._trouble: Any = None
        self._words = ""

    # -- clients ------------------------------------------------------------------------------------------------------

    def new_consumer(self) -> Any:
        """A consumer with no partition assigned; its owner closes it. Raises: ConfigError."""
        library = kafka()
        settings: dict[str, Any] = {**consumer_properties(self._config), "error_cb": self._on_error}
        return self._made(lambda: library.Consumer(settings, logger=log))

    def trouble(self) -> HeadraceError | None:
        """What went wrong with the whole cluster since this was asked last; None for nothing known."""
        with self._lock:
            error, self._trouble = self._trouble, None
        return None if error is None else error_of(error, "connecting")

    def last_words(self) -> str:
        """`: ` and what the library said last of any error; empty if it said nothing since this was asked last."""
        with self._lock:
            words, self._words = self._words, ""
        return words and f": {words}"

    def _on_error(self, error: Any) -> None:
        with self._lock:
            self._words = error.str()
            # A refused password outlives the brokers that are down because of it.
            refused = self._trouble is not None and self._trouble.name() in _REFUSED
            if error.name() not in _NO_MATTER and not refused:
                self._trouble = error

    def _made(self, make: Any) -> Any:
        try:
            return make()
        except kafka().KafkaException as exc:
            raise ConfigError(f"kafka: {exc.args[0].str()}") from exc

    @property
    def _questions(self) -> Any:
        """The client that asks for topics."""
        library = kafka()
        with self._lock:
            if self._admin is None:
                settings: dict[str, Any] = {**connection_properties(self._config), "error_cb": self._on_error}
                self._admin = self._made(lambda: library.admin.AdminClient(settings, logger=log))
            return self._admin

    def close(self) -> None:
        with self._lock:
            self._admin = None  # the library ends its threads with the last reference

    # -- questions ----------------------------------------------------------------------------------------------------

    def topics(self) -> dict[str, list[int]]:
        """Topic → its partitions, of all topics the user may see. Raises: SourceError, ConfigError."""
        found = self._metadata()
        return {name: sorted(topic.partitions) for name, topic in found.topics.items() if topic.error is None}

    def _metadata(self) -> Any:
        client, timeout_s = self._questions, self._config.timeout_s
        return self._ask(client, "asking for topics", lambda: client.list_topics(timeout=timeout_s))

    def topic_ids(self, topics: list[str]) -> dict[str, str]:
        """Topic → its id, which a topic made anew under its name does not share; none from brokers before 2.8.

        Raises: SourceError, ConfigError.
        """
        library, client = kafka(), self._questions
        cluster = self._metadata()
        if not topics or cluster.controller_id not in cluster.brokers:
            return {}  # the library would wait for a controller
        wanted = library.TopicCollection(topics)
        asked = client.describe_topics(wanted, request_timeout=self._config.timeout_s)
        found = {}
        for topic, answer in asked.items():
            try:
                id = str(answer.result().topic_id)
            except library.KafkaException as exc:
                if exc.args[0].name() in ("UNKNOWN_TOPIC_OR_PART", "_UNSUPPORTED_FEATURE", "UNSUPPORTED_VERSION"):
                    continue
                raise error_of(exc.args[0], f"describing {topic}") from exc
            if id.strip("A="):  # zeroes in base64: the broker has no ids
                found[topic] = id
        return found

    def ends(self, topic: str, partition: int) -> tuple[int, int]:
        """(offset of the first message, offset behind the last committed one). Raises: SourceError, ConfigError.

        The second is the last stable offset: what lies behind it belongs to transactions that are not decided.
        """
        spec = kafka().admin.OffsetSpec
        first, end = (self._offset(topic, partition, which) for which in (spec.earliest(), spec.latest()))
        if first is None or end is None:
            raise SourceError(f"kafka: {topic}/{partition}: the broker names no end of the log")
        return first, end

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int | None:
        """The offset of the first message stamped `time_ms` or later; None if there is none yet."""
        return self._offset(topic, partition, kafka().admin.OffsetSpec.for_timestamp(time_ms))

    def _offset(self, topic: str, partition: int, spec: Any) -> int | None:
        library, client = kafka(), self._questions
        asked = {library.TopicPartition(topic, partition): spec}
        committed = library.IsolationLevel.READ_COMMITTED
        timeout_s = self._config.timeout_s

        def ask() -> int:
            (answer,) = client.list_offsets(asked, isolation_level=committed, request_timeout=timeout_s).values()
            found: int = answer.result().offset
            return found

        what = f"asking {topic}/{partition} for an offset"
        found = self._ask(client, what, ask)
        if found < -1:  # the library answers so, without an error, where no broker answered in time
            raise self.trouble() or SourceError(f"kafka: {what}: no answer within {timeout_s:g} s")
        return None if found == -1 else found

    def _ask(self, client: Any, what: str, question: Any) -> Any:
        client.poll(0)  # serves what the library has to log, which would pile up
        try:
            return question()
        except kafka().KafkaException as exc:
            error = exc.args[0]
            client.poll(0)  # the answer says only that there was none; why not comes by callback
            trouble = self.trouble()
            if isinstance(trouble, ConfigError) or (trouble and error.name() in ("_TRANSPORT", "_TIMED_OUT")):
                raise trouble from exc
            raise error_of(error, what) from exc
