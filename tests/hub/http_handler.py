"""How the loopback Hub speaks HTTP."""

from __future__ import annotations

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from .repositories import Fault, Seen

if TYPE_CHECKING:
    from .server import LoopbackHub


class Handler(BaseHTTPRequestHandler):
    """What both servers share: reading bodies, answering, failing on purpose."""

    hub: LoopbackHub
    origin: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def handle_all(self) -> None:
        parts = urlsplit(self.path)
        self.place, self.query = unquote(parts.path), parse_qs(parts.query)
        self.raw_place = parts.path
        self.entry = Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, self.origin)
        with self.hub.lock:
            self.hub.seen.append(self.entry)
            fault = next((f for f in self.hub.faults if f.times and self._hit(f)), None)
            if fault and fault.after:
                fault.after -= 1
                fault = None
            elif fault:
                fault.times -= 1
        body = self._body(fault.cut if fault and self.command in ("PUT", "POST") else 0.0)
        if body is None:
            self.close_connection = True
            self.connection.close()
            return
        self.entry.nbytes = len(body)
        if fault and fault.status:
            self.reply(fault.status, {"error": fault.error} if fault.body is None else fault.body, fault.headers)
            return
        self.cut = fault.cut if fault else 0.0
        with self.hub.lock:
            self.answer(body)

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self.handle_all
        raise AttributeError(name)

    def _hit(self, fault: Fault) -> bool:
        return fault.method == self.command and re.search(fault.pattern, self.path) is not None

    def _body(self, cut: float) -> bytes | None:
        """The body; None where it was cut off."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
                if cut:
                    return None
            self.rfile.readline()
            return data
        length = int(self.headers.get("Content-Length") or 0)
        if cut:
            self.rfile.read(int(length * cut))
            return None
        return self.rfile.read(length)

    def reply(self, status: int, body: object = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if not isinstance(body, bytes) else {}
        sent |= headers or {}
        self.send_response(status)
        for name, value in sent.items():
            self.send_header(name, value)
        if "Content-Length" not in sent:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut:
            data = data[: int(len(data) * self.cut)]
            self.close_connection = True
        self.entry.sent = len(data)
        self.wfile.write(data)

    cut = 0.0

    def reply_data(self, data: bytes, headers: dict[str, str]) -> None:
        """A file or the range of it that was asked for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self.reply(200, data, headers | {"Accept-Ranges": "bytes", "Content-Length": str(len(data))})
            return
        start, stop = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if start >= len(data):
            self.reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        piece = data[start : stop + 1]
        self.reply(206, piece, headers | {
            "Content-Range": f"bytes {start}-{stop}/{len(data)}", "Content-Length": str(len(piece))
        })  # fmt: skip

    def answer(self, body: bytes) -> None:
        raise NotImplementedError
