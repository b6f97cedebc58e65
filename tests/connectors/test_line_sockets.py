"""Lines and syslog from real sockets and standard input: what arrives is given, and loss is told where it can be."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.connectors.contract import Broken, Gap, Idle, Item, Read, Split
from headrace.connectors.line_sockets import LineSockets
from headrace.connectors.line_sockets_frames import Frame, Frames, syslog_headers, syslog_time_us
from headrace.connectors.registry import guarantee_of
from headrace.connectors.testing_receivers import Child, ReceiverKit, Sender, numbered
from headrace.schemas.errors import ConfigError, SourceError

RFC5424 = b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.org su 111 ID47 [x@1 a='b'] \xef\xbb\xbf'su root' failed"
RFC3164 = b"<34>Oct 11 22:14:15 mymachine su[230]: 'su root' failed for lonvick on /dev/pts/8"


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Here:
    """A receiver that is read from."""

    def __init__(self, **config: Any) -> None:
        self.connector = LineSockets(LineSockets.Config(**config))
        self.reads: Any = self.connector.read(Split("messages"), None)
        assert isinstance(next(self.reads), Idle)  # now it listens

    def take(self, count: int, timeout_s: float = 20) -> list[Any]:
        out: list[Read] = []
        deadline = time.monotonic() + timeout_s
        while len(out) < count and time.monotonic() < deadline:
            read = next(self.reads)
            out += [] if isinstance(read, Idle) else [read]
        return out

    def close(self) -> None:
        self.reads.close()
        self.connector.close()


@contextmanager
def receiving(**config: Any) -> Iterator[Here]:
    with closing(Here(**config)) as here:
        yield here


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


# -- what arrives -----------------------------------------------------------------------------------------------------


def test_lines_of_several_tcp_connections_arrive_whole_however_they_are_cut_into_packets() -> None:
    port = free_port()
    with receiving(listen=f"tcp://127.0.0.1:{port}", format="json") as here:
        one, two = connect(port), connect(port)
        for piece in (b"a", b" line\r\n\n", b"\xff\0 bytes\nlast"):
            one.sendall(piece)
            two.sendall(b"two\n")
            time.sleep(0.05)
        one.close()
        items = here.take(6)
        assert Counter(item.data for item in items) == Counter([b"a line", b"\xff\0 bytes", b"last"] + [b"two"] * 3)
        assert all(item.headers == {"peer": "127.0.0.1", "format": "json"} for item in items)
        assert len({str(item.position) for item in items}) == 6
        two.close()


@pytest.mark.parametrize("format", ["syslog", "text"])
def test_a_udp_datagram_is_one_message(format: str) -> None:
    port = free_port(socket.SOCK_DGRAM)
    with receiving(listen=f"udp://127.0.0.1:{port}", format=format) as here, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # fmt: skip
        for data in (RFC5424 + b"\n", RFC3164, b"two\nlines", b"", b"\n"):
            sender.sendto(data, ("127.0.0.1", port))
        first, second, third = here.take(3)
        assert [first.data, second.data, third.data] == [RFC5424, RFC3164, b"two\nlines"]
        if format == "syslog":
            assert first.event_time == 1065910455003000 and second.event_time is None
            assert (first.headers["syslog.host"], second.headers["syslog.app"]) == ("mymachine.example.org", "su")
        assert not here.take(1, timeout_s=0.6)


@pytest.mark.parametrize("scheme", ["unix", "unixgram"])
def test_unix_sockets_are_taken_over_from_a_killed_process_but_not_from_a_living_one(scheme: str) -> None:
    kind = socket.SOCK_STREAM if scheme == "unix" else socket.SOCK_DGRAM
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/lines.sock"
        with socket.socket(socket.AF_UNIX, kind) as abandoned:
            abandoned.bind(path)
        with receiving(listen=f"{scheme}://{path}") as here:
            with pytest.raises(SourceError, match="in use"):
                LineSockets(LineSockets.Config(listen=f"{scheme}://{path}")).probe()
            with socket.socket(socket.AF_UNIX, kind) as sender:
                sender.connect(path)
                sender.sendall(b"hello\n")
                (item,) = here.take(1)
                assert item.data == b"hello" and item.headers == {}
        assert not os.path.exists(path)
        Path(path).write_text("a file")
        with pytest.raises(SourceError):
            LineSockets(LineSockets.Config(listen=f"{scheme}://{path}")).probe()
        assert Path(path).read_text() == "a file"


def test_standard_input_is_read_to_its_end_and_then_idle() -> None:
    program = (
        "from headrace.connectors.line_sockets import LineSockets as L\n"
        "from headrace.connectors.contract import Idle, Split\n"
        "idle = 0\n"
        "for read in L(L.Config(listen='stdin')).read(Split('messages'), None):\n"
        "    idle += isinstance(read, Idle)\n"
        "    if not isinstance(read, Idle): print(read.data, flush=True)\n"
        "    if idle == 2: break\n"
    )
    for source in ("pipe", "file"):
        with tempfile.TemporaryFile() as file:
            file.write(b"one\ntwo\nhalf")
            file.seek(0)
            given_ = {"stdin": file} if source == "file" else {"input": b"one\ntwo\nhalf"}
            command = [sys.executable, "-c", program]
            done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True, **given_)  # type: ignore[call-overload]
        assert done.stdout == b"b'one'\nb'two'\nb'half'\n"


def test_counted_messages_are_recognised_and_may_hold_line_ends() -> None:
    port = free_port()
    with receiving(listen=f"tcp://127.0.0.1:{port}", format="syslog") as here, connect(port) as sender:
        two_lines = RFC3164 + b"\nand a second line"
        sender.sendall(b"%d %s%d %s" % (len(RFC5424), RFC5424, len(two_lines), two_lines))
        assert [item.data for item in here.take(2)] == [RFC5424, two_lines]
        with connect(port) as other:
            other.sendall(b"12 monkeys\n")
            assert here.take(1)[0].data == b"12 monkeys"


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_long_message_costs_itself_only() -> None:
    port = free_port()
    with receiving(listen=f"tcp://127.0.0.1:{port}", max_message_bytes=1000) as here, connect(port) as sender:
        sender.sendall(b"before\n" + b"x" * 300_000 + b"\nafter\n" + b"y" * 1001 + b"\nend\n")
        reads = here.take(5)
        assert [type(read) for read in reads] == [Item, Broken, Item, Broken, Item]
        assert reads[1].reason == "too_large" and "300000 bytes" in reads[1].message and len(reads[1].data) <= 1 << 17
        assert "127.0.0.1" in reads[1].message


def test_a_connection_that_breaks_in_a_message_says_so() -> None:
    port = free_port()
    with receiving(listen=f"tcp://127.0.0.1:{port}") as here:
        sender = connect(port)
        sender.sendall(b"whole\nhal")
        assert here.take(1)[0].data == b"whole"
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sender.close()  # with a reset
        (broken,) = here.take(1)
        assert (broken.reason, broken.data) == ("truncated", b"hal")


def test_a_counted_connection_that_loses_count_is_closed_and_others_go_on() -> None:
    port = free_port()
    with receiving(listen=f"tcp://127.0.0.1:{port}", framing="octets") as here, connect(port) as bad, \
            connect(port) as good, connect(port) as short:  # fmt: skip
        bad.sendall(b"3 abcxyz")
        good.sendall(b"2 ok")
        short.sendall(b"9 half")
        short.shutdown(socket.SHUT_WR)
        reads = here.take(4)
        assert Counter(read.data for read in reads) == Counter([b"abc", b"xyz", b"ok", b"9 half"])
        assert {read.data: read.reason for read in reads if isinstance(read, Broken)} == {
            b"xyz": "corrupt", b"9 half": "truncated",
        }  # fmt: skip
        assert bad.recv(1) == b""


def test_dropped_datagrams_are_a_gap_with_their_number() -> None:
    port = free_port(socket.SOCK_DGRAM)
    with receiving(listen=f"udp://127.0.0.1:{port}", receive_buffer_bytes=4096) as here, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # fmt: skip
        for number in range(500):
            sender.sendto(b"%d " % number + b"x" * 1000, ("127.0.0.1", port))
        reads = here.take(500, timeout_s=1)
        sender.sendto(b"after", ("127.0.0.1", port))
        reads += here.take(2, timeout_s=3)
        items, gaps = [r for r in reads if isinstance(r, Item)], [r for r in reads if isinstance(r, Gap)]
        assert items[-1].data == b"after"
        assert len(items) - 1 + sum(gap.lost or 0 for gap in gaps) == 500 and gaps


def test_a_datagram_over_the_limit_is_refused() -> None:
    port = free_port(socket.SOCK_DGRAM)
    with receiving(listen=f"udp://127.0.0.1:{port}", max_message_bytes=100) as here, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # fmt: skip
        sender.sendto(b"x" * 101, ("127.0.0.1", port))
        sender.sendto(b"y" * 100, ("127.0.0.1", port))
        broken, item = here.take(2)
        assert broken.reason == "too_large" and item.data == b"y" * 100


def test_connections_beyond_the_limit_wait_their_turn() -> None:
    port = free_port()
    with receiving(listen=f"tcp://127.0.0.1:{port}", max_connections=2) as here:
        senders = [connect(port) for _ in range(4)]
        for number, sender in enumerate(senders):
            sender.sendall(b"%d\n" % number)
        assert len(here.take(4, timeout_s=1.5)) == 2
        senders[0].close()
        senders[1].close()
        assert len(here.take(2)) == 2
        for sender in senders:
            sender.close()


def test_a_port_that_is_taken_may_become_free_and_an_address_that_is_not_ours_is_a_wrong_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SourceError, match="in use"):
            LineSockets(LineSockets.Config(listen=f"tcp://127.0.0.1:{taken.getsockname()[1]}")).probe()
    for listen in ("tcp://192.0.2.1:5140", "unix:///no/such/folder/x.sock", "udp://no-such-host.invalid:5140"):
        with pytest.raises(ConfigError):
            LineSockets(LineSockets.Config(listen=listen)).probe()


@pytest.mark.parametrize(
    "listen",
    ["127.0.0.1:5140", "tcp://127.0.0.1", "tcp://:5", "http://h:1", "tcp://u@h:1", "unix://x", "tcp://h:99999", ""],
)
def test_addresses_that_cannot_be_meant_are_refused(listen: str) -> None:
    with pytest.raises(ValueError):
        LineSockets.Config(listen=listen)


def test_a_read_ends_when_the_connector_is_closed() -> None:
    connector = LineSockets(LineSockets.Config(listen=f"tcp://127.0.0.1:{free_port()}"))
    reader = threading.Thread(target=lambda: list(connector.read(Split("messages"), None)))
    reader.start()
    time.sleep(0.2)
    connector.close()
    reader.join(5)
    assert not reader.is_alive()


# -- frames and heads -------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=30).filter(lambda b: b.rstrip(b"\r\n\0") == b), max_size=12), st.data())
def test_counted_messages_come_out_however_they_are_cut(messages: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(b"%d %s" % (len(message), message) for message in messages)
    frames, got, at = Frames("octets", 20), [], 0
    while at < len(wire):
        size = data.draw(st.integers(1, 20))
        got += list(frames.feed(wire[at : at + size]))
        at += size
    got += list(frames.end(cut=False))
    assert [frame.data for frame in got] == messages
    assert [frame.reason == "too_large" for frame in got] == [len(message) > 20 for message in messages]


@given(st.binary(max_size=200), st.data())
def test_lines_are_those_of_split(wire: bytes, data: st.DataObject) -> None:
    frames, got, at = Frames("lines", 40), [], 0
    while at < len(wire):
        size = data.draw(st.integers(1, 20))
        got += list(frames.feed(wire[at : at + size]))
        at += size
    got += list(frames.end(cut=False))
    *whole, last = wire.split(b"\n")
    want = [line if len(line) > 40 else line.removesuffix(b"\r") for line in whole] + [last]
    want = [line for line in want if line]
    assert [frame.data for frame in got if frame.reason is None] == [line for line in want if len(line) <= 40]
    assert sum(frame.reason == "too_large" for frame in got) == sum(len(line) > 40 for line in want)


def test_the_first_bytes_decide_how_a_connection_is_cut() -> None:
    assert list(Frames("auto", 100).feed(b"5 <1>ab")) == [Frame(b"<1>ab")]
    assert list(Frames("auto", 100).feed(b"5 apples\n")) == [Frame(b"5 apples")]
    slowly = Frames("auto", 100)
    assert [frame for byte in b"5 <1>ab" for frame in slowly.feed(bytes([byte]))] == [Frame(b"<1>ab")]
    short = Frames("auto", 100)
    assert list(short.feed(b"12")) == [] and list(short.end(cut=False)) == [Frame(b"12")]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (RFC5424, {"facility": "20", "severity": "5", "time": "2003-10-11T22:14:15.003Z",
                   "host": "mymachine.example.org", "app": "su", "procid": "111", "msgid": "ID47"}),
        (RFC3164, {"facility": "4", "severity": "2", "time": "Oct 11 22:14:15", "host": "mymachine", "app": "su",
                   "procid": "230"}),
        (b"<13>1 - - - - - - text", {"facility": "1", "severity": "5"}),
        (b"<0>Use the BFG!", {"facility": "0", "severity": "0"}),
        (b"<192>too high", {}),
        (b"no priority", {}),
    ],
)  # fmt: skip
def test_heads_of_syslog_messages(message: bytes, expected: dict[str, str]) -> None:
    assert syslog_headers(message) == {f"syslog.{name}": value for name, value in expected.items()}


def test_times_need_a_zone() -> None:
    assert syslog_time_us({"syslog.time": "1970-01-01T01:00:00.000001+01:00"}) == 1
    for text in ("1970-01-01T00:00:00", "Oct 11 22:14:15", ""):
        assert syslog_time_us({"syslog.time": text}) is None


# -- conformance ------------------------------------------------------------------------------------------------------


class TcpSender(Sender):
    """A client that writes lines and is told nothing; it comes back when it finds the connection closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._over = False

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        thread = threading.Thread(target=self._send, args=([payload for _, payload in messages],))
        self._threads.append(thread)
        thread.start()

    def _send(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            for _ in range(200):
                if self._over:
                    return
                try:
                    self._socket = self._socket or connect(self._port)
                    self._socket.sendall(payload + b"\n")
                    break
                except OSError:
                    self._socket = None
                    time.sleep(0.05)

    def confirmed(self) -> int:
        return 0

    def again(self) -> None:
        """It does not know what failed."""

    def close(self) -> None:
        self._over = True
        if self._socket is not None:
            self._socket.close()
        for thread in self._threads:
            thread.join(20)


class TestTcp(ReceiverKit):
    """Senders give no keys and hear of nothing, so what the kit asks about keys and confirmation is said anew here."""

    connector = LineSockets

    def setup_method(self) -> None:
        self.port = free_port()

    def settings(self) -> dict[str, Any]:
        return {"listen": f"tcp://127.0.0.1:{self.port}", "max_message_bytes": 1 << 18}

    def sender(self) -> Sender:
        return TcpSender(self.port)

    def odd_payloads(self) -> list[bytes]:
        return [b"\0", bytes(b for b in range(256) if b != 10), b"\xff\xfe" * 40_000]

    def test_everything_sent_arrives_and_is_confirmed_once_acknowledged(self) -> None:
        messages = numbered(30)
        with self._receiving() as (here, sender):
            sender.send(messages)
            items = here.take(len(messages))
            assert [item.data for item in items] == [payload for _, payload in messages]
            assert len({json.dumps(item.position) for item in items}) == 30

    def test_a_new_read_does_not_confirm_what_an_older_one_gave(self) -> None:
        with self._receiving() as (here, sender):
            sender.send(numbered(3))
            assert len(here.take(3)) == 3
            older = [item.position for item in here.items]
            here.end_read()
            here.begin()
            again = self.sender()
            again.send(numbered(2, "later"))
            assert len(here.take(2)) == 2
            assert not [item for item in here.items if item.position in older]
            again.close()

    def test_equal_keys_are_passed_through_as_equal_keys(self) -> None:
        with self._receiving() as (here, sender):
            sender.send([("same", b"x"), ("same", b"x")])
            assert [(item.key, item.data) for item in here.take(2)] == [(None, b"x")] * 2

    def test_the_declared_guarantee_is_not_more_than_what_is_observed(self) -> None:
        """A receiver dies with what it took and nobody wrote down: that is missing, and nothing comes twice."""
        assert guarantee_of(LineSockets) == "at most once"
        messages = numbered(8)
        with self._sending() as sender:
            with Child(LineSockets, self.settings()) as child:
                sender.send(messages)
                kept = [payload for _, payload in child.take(8)][:3]
                child.kill()
            with self._receiving() as (here, _):
                later = self.sender()
                later.send(numbered(2, "later"))
                kept += [item.data for item in here.take(2)]  # type: ignore[misc]
                later.close()
        sent = [payload for _, payload in messages + numbered(2, "later")]
        assert Counter(kept) <= Counter(sent) and len(kept) == 5


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError):
        LineSockets.Config(listen="stdin", port=5)  # type: ignore[call-arg]


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_names_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "connectors" / "line-sockets.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")}
    assert set(LineSockets.Config.model_fields) <= rows
