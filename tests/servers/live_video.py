"""Real senders of live video on loopback, for tests: ffmpeg that pushes, a GStreamer RTSP server, HTTP, a lossy relay.

    clip = make_clip(folder / "clip.mp4", seconds=12)
    with Sender(clip, "flv", f"rtmp://127.0.0.1:{port}/live/cam", speed=4) as sender: sender.freeze(); sender.kill()
    with RtspServer(clip) as camera: camera.url; camera.kill(); camera.restart()
    with HttpServer() as web: web.files["/live.m3u8"] = b"#EXTM3U…"
    with UdpRelay(port, drop=lambda n: n % 50 == 7) as relay: relay.port
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: A Python that has GStreamer's bindings; they are Debian packages, so it is the system's.
_SYSTEM_PYTHON = "/usr/bin/python3"
_RTSP_PACKAGES = "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
_RTSP_SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(sys.argv[2])
factory.set_shared(True)
server.get_mount_points().add_factory("/cam", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


def ffmpeg() -> str:
    """The ffmpeg command; skips the test where it is not installed."""
    found = shutil.which("ffmpeg")
    if found is None:
        pytest.skip("ffmpeg is not installed (Debian package ffmpeg)")
    return found


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for_port(port: int, kind: str = "tcp", timeout_s: float = 20) -> None:
    """Wait until somebody listens; seen in /proc, since a connection would be taken for the sender's."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and (kind == "udp" or fields[3] == "0A"):
                return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at {kind} port {port}")


def make_clip(
    path: Path,
    *,
    seconds: float = 12,
    size: str = "320x240",
    rate: str = "30000/1001",
    gop: int = 30,
    video: str = "libx264 -preset veryfast -bf 2",
    audio: str = "aac",
) -> Path:
    """A moving test picture with a tone: H.264 with B pictures and AAC, unless ffmpeg's options say otherwise."""
    command = [ffmpeg(), "-hide_banner", "-loglevel", "error", "-y"]
    command += ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}", "-f", "lavfi", "-i", "sine=440:r=44100"]
    command += ["-t", str(seconds), "-threads", "1", "-g", str(gop), "-c:v", *video.split()]
    command += ["-c:a", *audio.split(), str(path)]
    subprocess.run(command, check=True, timeout=120)
    return path


def remux(source: Path, path: Path, *more: str) -> Path:
    """The same packets in another container."""
    command = [ffmpeg(), "-hide_banner", "-loglevel", "error", "-y", "-i", str(source), "-c", "copy", *more, str(path)]
    subprocess.run(command, check=True, timeout=120)
    return path


class _Process:
    """A child process that tests stop, freeze and kill, by its own number."""

    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def freeze(self) -> None:
        """SIGSTOP: it is there, and sends nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None


class Sender(_Process):
    """ffmpeg that pushes a file's packets, unchanged, at `speed` times their own pace."""

    def __init__(
        self, clip: Path, format: str, url: str, *, speed: float = 1, loop: bool = False, more: tuple[str, ...] = ()
    ) -> None:
        command = [ffmpeg(), "-hide_banner", "-loglevel", "error", "-readrate", str(speed)]
        command += ["-stream_loop", "-1"] if loop else []
        self._command = [*command, "-i", str(clip), "-c", "copy", *more, "-f", format, url]
        self.restart()

    def restart(self) -> None:
        """Start it, again."""
        self.kill()
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class RtspServer(_Process):
    """GStreamer's RTSP server, which serves one clip (or any pipeline) as `/cam`."""

    def __init__(self, clip: Path | None = None, launch: str | None = None) -> None:
        check = [_SYSTEM_PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"]
        if not os.path.exists(_SYSTEM_PYTHON) or subprocess.run(check, capture_output=True, check=False).returncode:
            pytest.skip(f"no GStreamer RTSP server (Debian packages {_RTSP_PACKAGES})")
        self.port = free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"
        self._launch = launch or (
            f"( filesrc location={clip} ! qtdemux name=d d. ! queue ! h264parse ! rtph264pay name=pay0 pt=96 "
            "config-interval=-1 d. ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97 )"
        )
        self.restart()

    def restart(self) -> None:
        """Start it, again, at the same port."""
        self.kill()
        command = [_SYSTEM_PYTHON, "-c", _RTSP_SERVER, str(self.port), self._launch]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"


class UdpRelay:
    """Passes datagrams on to 127.0.0.1:`target`, save those that `drop` (given their number) says yes to."""

    def __init__(self, target: int, drop: Callable[[int], bool]) -> None:
        self._in = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._in.bind(("127.0.0.1", 0))
        self._in.settimeout(0.2)
        self.port: int = self._in.getsockname()[1]
        self.passed = self.dropped = 0
        self._drop, self._target, self._stop = drop, target, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> UdpRelay:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._in.close()

    def _run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            while not self._stop.is_set():
                try:
                    data = self._in.recv(1 << 16)
                except TimeoutError:
                    continue
                if self._drop(self.passed + self.dropped):
                    self.dropped += 1
                else:
                    out.sendto(data, ("127.0.0.1", self._target))
                    self.passed += 1


class HttpServer:
    """Serves `files` (path → bytes, or a function that writes to the connection); `asked` lists what was asked for.

    A path that is not in `files` is looked up in `folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.files: dict[str, bytes | Callable[[Any], None]] = {}
        self.redirects: dict[str, str] = {}
        self.headers: list[dict[str, str]] = []
        self.asked: list[str] = []
        self._own = tempfile.TemporaryDirectory() if folder is None else None
        self.folder = Path(self._own.name) if self._own else folder
        owner = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append(self.path)
                owner.headers.append(dict(self.headers.items()))
                path = self.path.partition("?")[0]
                if path in owner.redirects:
                    self.send_response(302)
                    self.send_header("Location", owner.redirects[path])
                    self.end_headers()
                    return
                found = owner.files.get(path)
                if found is None:
                    super().do_GET()
                    return
                self.send_response(200)
                if isinstance(found, bytes):
                    self.send_header("Content-Length", str(len(found)))
                    self.end_headers()
                    self.wfile.write(found)
                else:
                    self.end_headers()
                    found(self.wfile)

            def log_message(self, *_: Any) -> None:
                """Keep the tests' output quiet."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that leaves is no news."""

        self._server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(self.folder)))
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> HttpServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._own is not None:
            self._own.cleanup()


class SilentServer:
    """Accepts connections and answers each request with `answer`, or never."""

    def __init__(self, answer: bytes = b"") -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.1)
        self.port: int = self._server.getsockname()[1]
        self.requests: list[bytes] = []
        self._answer, self._stop = answer, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> SilentServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._server.close()

    def _run(self) -> None:
        held = []
        while not self._stop.is_set():
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            held.append(connection)
            connection.settimeout(2)
            while self._answer and (request := connection.recv(1 << 16)):
                self.requests.append(request)
                sequence = request.partition(b"CSeq: ")[2].partition(b"\r\n")[0]
                connection.sendall(self._answer.replace(b"{cseq}", sequence))
        for connection in held:
            connection.close()
