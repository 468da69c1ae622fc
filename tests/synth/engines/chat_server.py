"""A real HTTP server on this machine that speaks the OpenAI protocol and behaves as badly as a test wants."""

import hashlib
import json
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """What is sent back; ``sleep`` seconds before, only ``cut`` bytes of the body, or the connection dropped."""

    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)
    sleep: float = 0.0
    cut: int | None = None
    drop: bool = False


def chat(text: object, **changes) -> Reply:
    """An answer of the right form around ``text``."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, **changes}
    return Reply(body=json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode())


def html() -> Reply:
    return Reply(body=b"<!doctype html><html><body>Bad gateway</body></html>", headers={"Content-Type": "text/html"})


class ChatServer(ThreadingHTTPServer):
    """``answer(body, n)`` makes the reply to the n-th request (from 0); what came in is kept for the test."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer, key=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.key = answer, key
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.lock = threading.Lock()
        self.bodies, self.paths, self.keys, self.times = [], [], [], []
        self.gone = False
        self.in_flight = self.most_in_flight = 0
        self.asked = Counter()  # how often each very request came

    def handle_error(self, request, client_address):
        """Clients that give up are part of the tests."""

    @property
    def texts(self):
        """What the user messages said, in the order of the requests."""
        return [body["messages"][-1]["content"] for body in self.bodies]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        server = self.server
        data = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(json.loads(data))
            server.paths.append(self.path)
            server.keys.append(self.headers.get("Authorization"))
            server.times.append(time.monotonic())
            server.asked[hashlib.sha256(data).hexdigest()] += 1
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                reply = Reply(401, b'{"error": "wrong key"}')
            else:
                reply = server.answer(server.bodies[number], number)
            time.sleep(reply.sleep)
        finally:
            with server.lock:
                server.in_flight -= 1
        if reply.drop or server.gone:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = reply.body if reply.cut is None else reply.body[: reply.cut]
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json", "Content-Length": len(reply.body)} | reply.headers
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
        if reply.cut is not None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


@contextmanager
def serving(answer, key=None):
    server = ChatServer(answer, key)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gone = True  # connections that are still open get nothing more
        server.shutdown()
        server.server_close()


def record_in(body: dict) -> dict:
    """The record that a rewording request asks about."""
    text = body["messages"][-1]["content"]
    return json.JSONDecoder().raw_decode(text, text.index("{"))[0]


ENDINGS = (", please", " here", " in this picture")


def honest(body: dict, number: int = 0) -> Reply:
    """A rewording that keeps all; which one depends on the request's seed alone."""
    record = record_in(body)
    ending = ENDINGS[body["seed"] % len(ENDINGS)]
    said = {"question": _with(record["question"], ending), "steps": [_with(t, ", now") for t in record["steps"]]}
    return chat(json.dumps(said))


def _with(text: str, ending: str) -> str:
    return text[:-1] + ending + text[-1]
