"""The HTTP of the stand-ins for servers that cannot run here: what comes in as one request, and what goes out."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Refused(Exception):
    """What a server answers instead: a status and a message, or where else to look.

    A message that is HTML or JSON itself is the whole answer, as of a gateway in front of the server.
    """

    def __init__(self, status: int, message: str, location: str = "") -> None:
        super().__init__(message)
        self.status, self.location = status, location


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes:
        method: `GET`, `POST` or `DELETE`.
        path: without the query.
        query: of each name the first value.
        body: empty where there is none.
        headers: by name, in any case.
    """

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    headers: Mapping[str, str]


def serve(answer: Callable[[Request], Any], refusal: Callable[[str], dict[str, str]]) -> tuple[ThreadingHTTPServer, str]:
    """Start the server on a free port; returns it and its address.

    Args:
        answer: the answer to a request: text, or what JSON can be made of. It may raise `Refused`.
        refusal: how this server says a message with which it refuses.
    """

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            location = ""
            try:
                status, made = 200, answer(Request(self.command, parts.path, query, body, self.headers))
            except Refused as refused:
                said = str(refused)
                status, made, location = refused.status, said if said[:1] in ("<", "{") else refusal(said), refused.location
            text = made if isinstance(made, str) else json.dumps(made)
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            kind = "application/json" if text[:1] in ("{", "[") else "text/html" if text[:1] == "<" else "text/plain"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"
