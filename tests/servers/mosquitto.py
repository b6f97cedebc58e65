"""A real Mosquitto broker on loopback, for tests: started, killed with SIGKILL, restarted on the same data and port.

    with Mosquitto() as broker:
        broker.url, broker.port
        broker.save(); broker.kill(); broker.restart()
        broker.publish("a/b", [b"1", b"2"], qos=1)

With `persistent` it keeps a store on disk, which it writes when `save` says so and never by itself: what arrived since
then is gone with a SIGKILL, so that a test decides what a crash of the broker costs.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from .process import ServerProcess, free_port


class Mosquitto(ServerProcess):
    """mosquitto on 127.0.0.1; skips the test where it is not installed."""

    def __init__(
        self,
        *lines: str,
        persistent: bool = True,
        users: dict[str, str] | None = None,
        tls: tuple[str, Path, Path] | None = None,
        max_inflight: int = 1000,
        max_queued: int = 100_000,
    ) -> None:
        """lines: more of mosquitto.conf; users: name → password; tls: (CA, certificate, key) files."""
        self._binary = _binary()
        pytest.importorskip("paho.mqtt.client", reason="the Python library paho-mqtt is not installed (headrace[mqtt])")
        super().__init__("mosquitto")
        self.port = free_port()
        self.tls = tls
        self._users = users or {}
        settings = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'false' if users else 'true'}",
            f"max_inflight_messages {max_inflight}",
            f"max_queued_messages {max_queued}",
            f"persistence {'true' if persistent else 'false'}",
            f"persistence_location {self.folder}/",
            "autosave_interval 0",
            "user root",  # it would give up the right to its own folder otherwise
            *lines,
        ]
        if tls:
            settings += [f"cafile {tls[0]}", f"certfile {tls[1]}", f"keyfile {tls[2]}"]
        if users:
            settings += [f"password_file {self._password_file(users)}"]
        (self.folder / "mosquitto.conf").write_text("\n".join(settings) + "\n")
        try:
            self.restart()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """As the connector's setting `url` wants it."""
        return f"mqtt{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    # -- life ---------------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Start on the same port and data, and wait until it accepts."""
        self.launch([self._binary, "-c", str(self.folder / "mosquitto.conf")], self._accepts)

    def _accepts(self) -> bool:
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        return True

    def save(self) -> None:
        """Write the store to disk now (SIGUSR1), and wait until it is there."""
        assert self._process is not None
        store = self.folder / "mosquitto.db"
        before = store.stat().st_mtime_ns if store.exists() else 0
        self._process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while not store.exists() or store.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline, "mosquitto did not save its store"
            time.sleep(0.01)
            self._process.send_signal(signal.SIGUSR1)

    def forget(self) -> None:
        """Remove the store of a broker that is not running: its sessions are gone."""
        (self.folder / "mosquitto.db").unlink(missing_ok=True)

    # -- a publisher --------------------------------------------------------------------------------------------------

    def client(self, client_id: str, **settings: Any) -> Any:
        """A connected paho client (MQTT 5) whose network loop runs; end it with loop_stop and disconnect."""
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, **settings)
        if self._users:
            client.username_pw_set(*next(iter(self._users.items())))
        if self.tls:
            client.tls_set(self.tls[0])
        client.max_queued_messages_set(0)
        client.max_inflight_messages_set(1000)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        return client

    def publish(
        self, topic: str, payloads: Iterable[bytes], *, qos: int = 1, retain: bool = False, **properties: Any
    ) -> None:
        """Publish and wait until the broker has confirmed all. properties: of MQTT 5, by paho's names."""
        client = self.client("publisher")
        try:
            said = _properties(properties)
            sent = [client.publish(topic, payload, qos, retain, said) for payload in payloads]
            for info in sent:
                info.wait_for_publish(20)
                assert info.is_published(), "the broker did not confirm a publication"
        finally:
            client.disconnect()
            client.loop_stop()

    def _password_file(self, users: dict[str, str]) -> Path:
        path = self.folder / "passwords"
        path.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
        hasher = shutil.which("mosquitto_passwd") or "/usr/bin/mosquitto_passwd"
        subprocess.run([hasher, "-U", str(path)], check=True, capture_output=True)
        return path


def _properties(said: dict[str, Any]) -> Any:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.PUBLISH)
    for name, value in said.items():
        setattr(properties, name, value)
    return properties


def _binary() -> str:
    # Debian puts it into sbin, which is not on everybody's PATH.
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("mosquitto is not installed (Debian package mosquitto)")
    return found


class Tap:
    """Stands between a client and a broker and counts the packets that the client sends, by type.

    This is how a broker is asked what was confirmed to it: PUBACK, PUBREC and PUBCOMP are what it was told.
    """

    PUBACK, PUBREC, PUBCOMP = 4, 5, 7

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.packets: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, name="tap", daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """End every connection there is now."""
        with self._lock:
            ends = list(self._sockets)
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End every connection and thread."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            for source, sink, counts in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pump, args=(source, sink, counts), name="tap", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        buffer = bytearray()
        try:
            while data := source.recv(1 << 16):
                if counts:
                    buffer += data
                    self._count(buffer)
                sink.sendall(data)
        except OSError:
            pass  # the other direction or a cut ended it
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets.discard(source)
        source.close()

    def _count(self, buffer: bytearray) -> None:
        """Take whole packets off the buffer: a byte with the type above, then the rest's length in 7-bit groups."""
        while len(buffer) >= 2:
            length, at = 0, 1
            while at < len(buffer):
                length |= (buffer[at] & 127) << 7 * (at - 1)
                at += 1
                if not buffer[at - 1] & 128:
                    break
            else:
                return
            if len(buffer) < at + length:
                return
            self.packets[buffer[0] >> 4] += 1
            del buffer[: at + length]
