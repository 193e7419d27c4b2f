"""A small HTTP server that answers as a test says and remembers what it was asked: for broken streams and refusals,
which a healthy service does not give on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    status: int = 200
    body: Any = None
    media: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    """Close the connection before the announced end."""
    then: Callable[[], None] | None = None
    """Called when the answer is sent."""


@dataclass
class Scripted:
    """For each `METHOD path`, answers in turn; the last one is given again and again."""

    script: dict[str, list[Answer]]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    def of(self, method: str, path: str) -> list[Asked]:
        return [one for one in self.asked if (one.method, one.path) == (method, path)]


@contextmanager
def scripted(script: dict[str, list[Answer]]) -> Iterator[Scripted]:
    told = Scripted(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            path, _, query = self.path.partition("?")
            length = int(self.headers.get("Content-Length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            told.asked.append(Asked(self.command, path, query, headers, self.rfile.read(length)))
            answers = told.script.get(f"{self.command} {path}", [Answer(404, {"title": "not scripted"})])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.media)
            self.send_header("Content-Length", str(len(body) + (1000 if answer.cut else 0)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
            if answer.then is not None:
                answer.then()
            if answer.cut:
                self.close_connection = True

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 — names that http.server wants

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
