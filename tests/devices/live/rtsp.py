"""A camera that speaks RTSP on loopback: H.264 in RTP, interleaved into one TCP connection."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 25
SDP = "\r\n".join(
    [
        "v=0",
        "o=- 1 1 IN IP4 127.0.0.1",
        "s=camera",
        "c=IN IP4 127.0.0.1",
        "t=0 0",
        "m=video 0 RTP/AVP 96",
        "a=rtpmap:96 H264/90000",
        "a=fmtp:96 packetization-mode=1",
        "a=control:track0",
        "",
    ]
)


def encode(pictures: Sequence[NDArray[np.uint8]]) -> list[list[bytes]]:
    """H.264 without delay: for each picture its NAL units."""
    import av

    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt = "yuv420p"
    encoder.framerate = RATE_HZ
    encoder.options = {"tune": "zerolatency", "preset": "veryfast", "crf": "10", "g": "10"}
    frames = []
    for picture in pictures:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        data = b"".join(bytes(packet) for packet in encoder.encode(frame))
        frames.append([unit for unit in re.split(rb"\x00\x00\x00?\x01", data) if unit])
    return frames


class RtspServer:
    """Plays a list of pictures over and over to whoever asks."""

    def __init__(self, pictures: Sequence[NDArray[np.uint8]]) -> None:
        self._frames = encode(pictures)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._stop = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/live"

    def close(self) -> None:
        self._stop.set()
        for one in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            for method, sequence in _requests(connection):
                connection.sendall(_answer(method, sequence, self.url))
                if method == "PLAY":
                    threading.Thread(target=self._play, args=(connection,), daemon=True).start()

    def _play(self, connection: socket.socket) -> None:
        sequence = 0
        with contextlib.suppress(OSError):
            for number in range(10**6):
                units = self._frames[number % len(self._frames)]
                for unit in units:
                    marker = 0x80 if unit is units[-1] else 0
                    stamp = number * 90_000 // RATE_HZ & 0xFFFF_FFFF
                    head = struct.pack(">BBHII", 0x80, marker | 96, sequence & 0xFFFF, stamp, 7)
                    sequence += 1
                    connection.sendall(struct.pack(">cBH", b"$", 0, len(head + unit)) + head + unit)
                if self._stop.wait(1 / RATE_HZ):
                    return


def _requests(connection: socket.socket) -> Iterator[tuple[str, str]]:
    received = b""
    while data := connection.recv(4096):
        received += data
        while b"\r\n\r\n" in received:
            head, _, received = received.partition(b"\r\n\r\n")
            start = re.search(rb"(OPTIONS|DESCRIBE|SETUP|PLAY|TEARDOWN|GET_PARAMETER) ", head)
            sequence = re.search(rb"CSeq: *(\d+)", head)
            if start and sequence:  # else: the client's own RTCP reports
                yield start[1].decode(), sequence[1].decode()


def _answer(method: str, sequence: str, url: str) -> bytes:
    lines = ["RTSP/1.0 200 OK", f"CSeq: {sequence}"]
    body = ""
    if method == "OPTIONS":
        lines.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
    elif method == "DESCRIBE":
        body = SDP
        lines += ["Content-Type: application/sdp", f"Content-Base: {url}/"]
    elif method == "SETUP":
        lines += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
    else:
        lines.append("Session: 1")
    lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
