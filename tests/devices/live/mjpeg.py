"""A network camera on loopback: real pictures, numbered, at a rate that the test decides."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 128
BITS = 16


def numbered(picture: Image.Image, number: int) -> bytes:
    """A JPEG of 128 × 128 whose top 8 rows spell a number in black and white blocks."""
    image = picture.convert("RGB").resize((SIDE, SIDE))
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    strip = np.repeat(np.array(bits, np.uint8) * 255, 8)[None].repeat(8, axis=0)
    image.paste(Image.fromarray(strip), (0, 0))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def number_of(rgb: NDArray[np.uint8]) -> int:
    blocks = rgb[:8].reshape(8, BITS, 8, 3).mean(axis=(0, 2, 3))
    return sum(1 << bit for bit in range(BITS) if blocks[bit] > 127)


class MjpegServer:
    """Serves an endless MJPEG stream; can stall, be killed and be started again on its port."""

    def __init__(self, frames: Sequence[bytes], rate_hz: float = 50.0) -> None:
        self.frames = frames
        self.rate_hz = rate_hz
        self.sent = 0
        self.sent_s: dict[int, float] = {}
        self.stalled = threading.Event()
        self.refuse = 0
        self.user: str | None = None
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._connections: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/live.mjpg"

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"camera": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def kill(self) -> None:
        """Drop every connection and stop listening."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    @property
    def running(self) -> bool:
        return self._server is not None


class _Handler(BaseHTTPRequestHandler):
    camera: MjpegServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        camera = self.camera
        camera._connections.append(self.connection)
        if camera.refuse:
            self.send_error(camera.refuse)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        self.end_headers()
        with contextlib.suppress(OSError):  # the reader went away
            self._stream(camera)

    def _stream(self, camera: MjpegServer) -> None:
        due = time.monotonic()
        while camera.running:
            if camera.stalled.is_set():
                time.sleep(0.01)
                due = time.monotonic()
                continue
            jpeg = camera.frames[camera.sent % len(camera.frames)]
            camera.sent_s[camera.sent] = time.monotonic()
            head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            camera.sent += 1
            due += 1.0 / camera.rate_hz
            time.sleep(max(0.0, due - time.monotonic()))


def numbered_frames(folder: Path, count: int) -> list[bytes]:
    """Numbered JPEGs of real pictures from a folder of folders."""
    files = sorted(folder.glob("*/*.JPEG"))[:: max(1, 8000 // count)][:count]
    pictures = [Image.open(file).convert("RGB") for file in files]
    return [numbered(pictures[number % len(pictures)], number) for number in range(count)]
