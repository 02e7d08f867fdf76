"""A server that answers like OpenAI's, and a proxy that spoils replies by their number: what a run must survive, on
this machine.
"""

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

GOOD = (
    "<think>\nAction: squat, from 0.0s to 4.0s.\nReps: rep1: 0.0s-2.0s, rep2: 2.0s-4.0s.\nCheck: 2 reps, in order, "
    "no overlap, no pause.\nTotal count: 2.\n</think>\n<answer>2</answer>"
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def served(handler: type):
    "The address of a server that runs while the block does."
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def upstream(text: str | Callable[[dict], str] = GOOD, delay: float = 0.0, refuses: tuple[str, ...] = ()):
    """A small server: tokens as a tile rule would count them; refuses settings as newer models do.

    `.asked` holds a digest of each request that it answered.
    """

    class Upstream(_Handler):
        asked: list[str] = []
        bodies: list[dict] = []

        def do_POST(self):
            raw = self.body()
            body = json.loads(raw)
            for name in refuses:
                if name in body:
                    hint = (
                        " Use 'max_completion_tokens' instead."
                        if name == "max_tokens"
                        else " Only the default (1) value is supported."
                    )
                    return self.answer(
                        400,
                        json.dumps(
                            {
                                "error": {
                                    "message": (
                                        f"Unsupported parameter: '{name}' is not supported with this model.{hint}"
                                    ),
                                    "type": "invalid_request_error",
                                    "param": name,
                                    "code": "unsupported_parameter",
                                }
                            }
                        ).encode(),
                    )
            self.asked.append(hashlib.sha256(raw).hexdigest())
            self.bodies.append(body)
            time.sleep(delay)
            parts = [
                part
                for m in body["messages"]
                for part in (
                    m["content"] if isinstance(m["content"], list) else [{"type": "text", "text": m["content"]}]
                )
            ]
            tokens = sum(170 if part["type"] == "image_url" else len(part["text"]) // 4 for part in parts)
            said = text(body) if callable(text) else text
            data = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}],
                "usage": {
                    "prompt_tokens": tokens,
                    "completion_tokens": len(said) // 4,
                    "total_tokens": tokens + len(said) // 4,
                },
            }
            self.answer(200, json.dumps(data).encode())

    Upstream.asked, Upstream.bodies = [], []
    return Upstream


def proxy(target: str, faults: dict[int, str]):
    "Passes requests on, but for those whose number (from 1) has a fault. `.seen` holds their digests and times."

    class Proxy(_Handler):
        seen: list[tuple[str, float]] = []
        lock = threading.Lock()

        def do_POST(self):
            raw = self.body()
            with self.lock:
                self.seen.append((hashlib.sha256(raw).hexdigest(), time.monotonic()))
                fault = faults.get(len(self.seen), "")
            self.spoil(fault, raw) if fault else self.answer(*self.passed_on(raw))

        def passed_on(self, raw: bytes) -> tuple[int, bytes]:
            place = urlsplit(target)
            line = HTTPConnection(place.hostname, place.port, timeout=120)
            line.request("POST", self.path, raw, {"Content-Type": "application/json"})
            reply = line.getresponse()
            return reply.status, reply.read()

        def spoil(self, fault: str, raw: bytes) -> None:
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")

            def error(status: int, message: str, code: str = "", **headers: str):
                self.answer(
                    status, json.dumps({"error": {"message": message, "code": code, "type": code}}).encode(), **headers
                )

            if fault.startswith("429 after"):
                return error(429, "Rate limit reached", "rate_limit_exceeded", Retry_After=fault.split()[-1])
            if fault == "429":
                return error(429, "Rate limit reached", "rate_limit_exceeded")
            if fault == "quota":
                return error(429, "You exceeded your current quota, please check your plan", "insufficient_quota")
            if fault == "500":
                return error(500, f"internal, while serving {key}")
            if fault == "401":
                return error(
                    401,
                    f"Incorrect API key provided: {key[:5]}********{key[-4:]} ({key}). It ends in {key[-4:]}.",
                    "invalid_api_key",
                )
            if fault == "400":
                return error(400, "Invalid image")
            if fault == "hang":
                return time.sleep(6)
            if fault == "malformed":
                return self.answer(200, b'{"choices": [{"mess')
            if fault == "html":
                return self.answer(200, b"<html><body>Bad gateway</body></html>", Content_Type="text/html")
            if fault == "blank":
                return self.answer(
                    200, b'{"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": null}}]}'
                )
            if fault == "cut":
                self.send_response(200)
                for name, value in {"Content-Type": "application/json", "Content-Length": "5000"}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.wfile.flush()
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )  # the line is dropped, not closed
                self.close_connection = True
                return self.connection.close()
            data = json.loads(self.passed_on(raw)[1])
            if fault == "empty":
                data["choices"] = []
            if fault == "filter":
                data["choices"][0] |= {
                    "finish_reason": "content_filter",
                    "message": {"role": "assistant", "content": None},
                }
            if fault == "refusal":
                data["choices"][0]["message"] = {
                    "role": "assistant",
                    "content": None,
                    "refusal": "I cannot help with that.",
                }
            if fault == "length":
                data["choices"][0] |= {
                    "finish_reason": "length",
                    "message": {"role": "assistant", "content": "<think>Down, up, do"},
                }
            if fault == "echo":
                data["choices"][0]["message"]["content"] += f" {key}"
            self.answer(200, json.dumps(data).encode())

    Proxy.seen, Proxy.lock = [], threading.Lock()
    return Proxy
