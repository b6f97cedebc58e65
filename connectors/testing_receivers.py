"""The conformance kit for receivers: connectors of `replay = "none"`, whose items go to a spool and are confirmed then.

    from headrace.connectors.testing_receivers import ReceiverKit, Sender

    class TestDoorbell(ReceiverKit):
        connector = Doorbell

        def settings(self):
            return {"port": self.port}

        def sender(self):
            return RealDoorbellClient(self.port)

`settings` and `sender` talk about one source for the length of a test; each test needs one that holds nothing of an
earlier test (`setup_method` gives it a new port, topic or session). The sender is a real client, since only it can say
what it was told. Where a broker stands between, the sender is the broker: what counts is what *it* was told by us.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from headrace.connectors.contract import Connector, Item
from headrace.connectors.registry import guarantee_of
from headrace.connectors.testing import open_files as open_files
from headrace.connectors.testing_reception import Child, Reception, Sender, said
from headrace.schemas.canonical import position_json

Observed = Literal["exactly once", "at least once, exactly once by key", "at least once", "at most once", "none"]


class ReceiverKit(ABC):
    """Tests that each receiver passes. Subclass it as Test…, and write `settings` and `sender`."""

    connector: ClassVar[type[Connector]]
    #: Values of `settings` that may never be shown.
    secrets: ClassVar[tuple[str, ...]] = ()
    #: What the receiver may hold by the settings of `flood_settings`, in bytes; ten times as much is offered.
    holds_bytes: ClassVar[int] = 4 << 20
    flood_payload_bytes: ClassVar[int] = 64 << 10
    #: Resident memory that a receiver may take beyond three times what it may hold.
    slack_bytes: ClassVar[int] = 32 << 20

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The settings of the receiver under test, secrets in plain text, the same for the length of a test."""

    @abstractmethod
    def sender(self) -> Sender:
        """A new real client that sends to it."""

    def flood_settings(self) -> dict[str, Any]:
        """Settings under which it holds `holds_bytes` at most."""
        return self.settings()

    def make(self) -> Connector:
        """A new receiver."""
        return self.connector(self.connector.Config.model_validate(self.settings()))

    # -- what it says of itself ---------------------------------------------------------------------------------------

    def test_it_declares_what_a_receiver_is(self) -> None:
        """Unbounded, not to be read again, and one split with a stable relative id."""
        assert (self.connector.bounded, self.connector.replay) == (False, "none")
        one, other = self.make(), self.make()
        assert list(one.splits()) == list(other.splits()) and len(list(one.splits())) == 1
        assert not next(iter(one.splits())).id.startswith("/")
        one.close()
        other.close()

    def test_unknown_settings_are_refused_and_secrets_never_shown(self) -> None:
        """A misspelt setting is an error; tokens and passwords stand in no text of ours, that error included."""
        connector = self.make()
        shown = [repr(connector.config), connector.describe(), connector.config.model_dump_json()]
        try:
            self.connector.Config.model_validate({**self.settings(), "no_such_setting": 1})
            raise AssertionError("an unknown setting was accepted: settings forbid extra fields")
        except ValueError as exc:
            shown.append(str(exc))
        assert not [s for s in self.secrets if any(s in text for text in shown)], "a secret is shown"
        connector.close()

    # -- receiving and confirming -------------------------------------------------------------------------------------

    def test_everything_sent_arrives_and_is_confirmed_once_acknowledged(self) -> None:
        """Payloads are the sender's bytes, keys its keys, and each message is confirmed to it."""
        messages = numbered(30)
        with self._receiving() as (here, sender):
            sender.send(messages)
            items = here.take(len(messages))
            assert Counter(said(i) for i in items) == Counter(messages)
            positions = [position_json(item.position) for item in items]
            assert len(set(positions)) == len(positions), "two items share a position"
            here.ack()
            if not self.connector.acknowledges:
                return
            assert _rises_to(sender, len(messages)), f"{sender.confirmed()} of {len(messages)} were confirmed"

    def test_payloads_of_any_bytes_arrive_as_they_are(self) -> None:
        """One byte, none that is UTF-8, line ends, and much more than a packet."""
        payloads = self.odd_payloads()
        with self._receiving() as (here, sender):
            sender.send([(f"odd-{n}", payload) for n, payload in enumerate(payloads)])
            assert Counter(item.data for item in here.take(len(payloads))) == Counter(payloads)

    def odd_payloads(self) -> list[bytes]:
        """Payloads that may not be altered; a receiver that takes text only says its own."""
        return [b"\0", bytes(range(256)), b"a\r\nb\n\n", b"\xff\xfe" * 40_000]

    def test_nothing_is_confirmed_to_the_sender_before_ack(self) -> None:
        """A sender that is told too early forgets what a crash of ours then loses."""
        with self._receiving() as (here, sender):
            sender.send(numbered(8))
            assert len(here.take(8)) == 8
            here.take_until_idle()
            time.sleep(0.5)
            assert sender.confirmed() == 0, "confirmed before ack"

    def test_ack_confirms_what_came_before_it_and_nothing_behind_it(self) -> None:
        """`ack` may come from another thread, and covers all items up to its position."""
        if not self.connector.acknowledges:
            return
        with self._receiving() as (here, sender):
            sender.send(numbered(9))
            items = here.take(9)
            thread = threading.Thread(target=here.ack, args=(items[4].position,))
            thread.start()
            thread.join()
            assert _rises_to(sender, 5)
            time.sleep(0.4)
            assert sender.confirmed() == 5, "more was confirmed than acknowledged"

    def test_a_new_read_does_not_confirm_what_an_older_one_gave(self) -> None:
        """What was given to a read that ended may not be on disk: only its own `ack` may speak for it."""
        with self._receiving() as (here, sender):
            sender.send(numbered(3))
            assert len(here.take(3)) == 3
            here.end_read()
            here.begin()
            sender.send(numbered(2, "later"))
            while not any((item.key or "").startswith("later") for item in here.items):
                assert here.take(1, sender=sender), "a new read gives nothing"
            here.ack()
            acknowledged = len({item.data for item in here.items})
            time.sleep(0.7)
            assert sender.confirmed() <= acknowledged, "an item of the older read was confirmed"

    def test_equal_keys_are_passed_through_as_equal_keys(self) -> None:
        """A sender that repeats itself says so by the key; dropping repeats is not the receiver's to do."""
        with self._receiving() as (here, sender):
            sender.send([("same", b'{"n": 1}'), ("same", b'{"n": 1}'), ("other", b'{"n": 1}')])
            assert sorted(item.key or "" for item in here.take(3)) == ["other", "same", "same"]

    def test_idle_ticks_come_while_nothing_is_sent(self) -> None:
        """The engine can look around twice a second."""
        with self._receiving() as (here, _):
            here.take_until_idle()
            begun = time.monotonic()
            ticks = [not here.pull() for _ in range(3)]
            assert all(ticks) and time.monotonic() - begun < 4

    # -- crashes ------------------------------------------------------------------------------------------------------

    def test_what_was_not_acknowledged_comes_again_to_a_new_instance(self) -> None:
        """After `close` without `ack`, the sender still has it, and a new receiver gets it."""
        if not self.connector.acknowledges:
            return
        messages = numbered(10)
        with self._sending() as sender:
            first = Reception(self.make())
            sender.send(messages)
            items = first.take(10)
            first.ack(items[3].position)
            assert _rises_to(sender, 4)
            first.close()
            second = Reception(self.make())
            again = _take_all(second, sender, {said(item) for item in items[4:]})
            assert not {said(item) for item in items[:4]} & {said(i) for i in again}, "an acknowledged one came again"
            second.close()

    def test_the_declared_guarantee_is_not_more_than_what_is_observed(self) -> None:
        """Crashes are played through; the strongest guarantee that survives them must be what the class declares."""
        declared, observed = guarantee_of(self.connector), self.observed_guarantee()
        assert observed in (declared, "exactly once"), f"declares `{declared}`, but `{observed}` was observed"

    def observed_guarantee(self) -> Observed:
        """The strongest guarantee that no crash of the schedule violates.

        A receiver gives t items, of which the first c are on disk and acknowledged; it crashes, and another one goes
        on. What is on disk in the end is compared with what was sent.
        """
        missing = repeated = unkeyed = False
        with self._sending() as sender:
            for run, (taken, acked) in enumerate([(1, 0), (3, 3), (6, 2), (8, 8)]):
                messages = numbered(8, f"run{run}")
                first = Reception(self.make())
                sender.send(messages)
                disk = first.take(taken)[:acked]
                if disk:
                    first.ack(disk[-1].position)
                first.close()
                second = Reception(self.make())
                lacking = {message[1] for message in messages} - {said(item)[1] for item in disk}
                deadline = time.monotonic() + 8
                while lacking - {said(item)[1] for item in second.items} and time.monotonic() < deadline:
                    second.take(1, timeout_s=1, sender=sender)
                second.take_until_idle()
                disk += second.items
                if second.items:
                    second.ack()
                second.close()
                got = Counter(said(item)[1] for item in disk if (item.key or "").startswith(f"run{run}"))
                missing |= bool(lacking - set(got))
                repeated |= any(count > 1 for count in got.values())
                unkeyed |= len({said(item) for item in disk}) != len({item.data for item in disk})
        if missing:
            return "none" if repeated else "at most once"
        if not repeated:
            return "exactly once"
        return "at least once" if unkeyed else "at least once, exactly once by key"

    def test_address_and_session_can_be_used_right_after_a_kill(self) -> None:
        """SIGKILL of the receiving process: another one receives at once, and gets what was not acknowledged."""
        messages = numbered(10)
        with self._sending() as sender:
            with Child(self.connector, self.settings()) as child:
                sender.send(messages)
                taken = child.take(10)
                assert len(taken) == 10, f"the child received {len(taken)} of 10"
                child.ack(3)
                acknowledges = self.connector.acknowledges
                assert not acknowledges or _rises_to(sender, 4)
                child.kill()
            second = Reception(self.make())
            if acknowledges:
                lost = {(key, payload) for key, payload in messages} - set(taken[:4])
                _take_all(second, sender, lost)
            second.close()

    # -- resources ----------------------------------------------------------------------------------------------------

    def test_close_frees_sockets_threads_and_files(self) -> None:
        """Receiving a little and closing, with and without ack, again and again, leaves nothing behind."""
        counts = []
        for number in range(5):
            with self._receiving() as (here, sender):
                sender.send(numbered(2, f"round{number}"))
                here.take(2, sender=sender)
                if number % 2:
                    here.ack()
            counts.append((threading.active_count(), open_files()))
        threads, files = (max(count[i] for count in counts[:2]) for i in (0, 1))
        for _ in range(30):
            if threading.active_count() <= threads and open_files() <= files:
                return
            time.sleep(0.1)
        raise AssertionError(f"(threads, files) after each round: {counts}")

    def test_memory_is_bounded_under_a_slow_consumer_while_ten_times_as_much_is_offered(self) -> None:
        """While nothing is taken the receiver holds the sender back; when it goes on, everything arrives."""
        count = 10 * self.holds_bytes // self.flood_payload_bytes
        payloads = [json.dumps({"n": n, "fill": "x" * self.flood_payload_bytes}).encode() for n in range(count)]
        with self._sending() as sender, Child(self.connector, self.flood_settings()) as child:
            before = child.resident_bytes()
            sender.send([(f"flood-{n}", payload) for n, payload in enumerate(payloads)])
            highest, deadline = before, time.monotonic() + 2
            while time.monotonic() < deadline:
                highest = max(highest, child.resident_bytes())
                time.sleep(0.05)
            growth = highest - before
            limit = 3 * self.holds_bytes + self.slack_bytes
            assert growth <= limit, f"memory grew by {growth >> 20} MiB, {limit >> 20} MiB were to be enough"
            if not self.connector.acknowledges:
                return
            lacking = {hashlib.sha256(payload).hexdigest() for payload in payloads}
            deadline = time.monotonic() + 40
            while lacking and time.monotonic() < deadline:
                lacking -= {payload for _, payload in child.take(64, digests=True, timeout_s=0.3)}
                child.ack()
                sender.again()
            assert not lacking, f"{len(lacking)} of {count} never arrived"

    # -- helpers ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _sending(self) -> Iterator[Sender]:
        sender = self.sender()
        try:
            yield sender
        finally:
            sender.close()

    @contextmanager
    def _receiving(self) -> Iterator[tuple[Reception, Sender]]:
        connector = self.make()
        try:
            here = Reception(connector)
            with self._sending() as sender:
                yield here, sender
                here.close()
        finally:
            connector.close()


def numbered(count: int, name: str = "message") -> list[tuple[str, bytes]]:
    """(key, payload) pairs that differ; payloads are small JSON objects."""
    return [(f"{name}-{n}", json.dumps({"name": name, "n": n}).encode()) for n in range(count)]


def _rises_to(sender: Sender, count: int, timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while sender.confirmed() < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return sender.confirmed() >= count


def _take_all(here: Reception, sender: Sender, wanted: set[tuple[str, bytes]]) -> list[Item]:
    """Take until all of `wanted` came, the sender sending again meanwhile; everything that came."""
    deadline = time.monotonic() + 20
    while missing := wanted - {said(item) for item in here.items}:
        assert time.monotonic() < deadline, f"{len(missing)} of {len(wanted)} did not come again"
        here.take(1, timeout_s=1, sender=sender)
    return here.items
