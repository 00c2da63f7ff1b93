"""Bucket notifications over HTTP, as S3, MinIO, Ceph and SeaweedFS send them: something may have changed, so look.

Nothing in a notification is believed but that: what there is to train with, the look finds out by itself.
"""

import hmac
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote_plus

from calltune.errors import UserError

MAX_BYTES = 2**20
TIMEOUT_S = 10


def objects(body: bytes) -> list[str]:
    """The addresses of the objects that a notification names.

    ``{"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": "a+b.jsonl"}}}]}`` of S3, MinIO and Ceph, the key encoded
    as in a form, or ``{"key": "/buckets/b/a b.jsonl", "event_type": "create"}`` of SeaweedFS' filer.

    Raises:
        ValueError: it is neither.
    """
    try:
        event = json.loads(body)
        if "Records" in event:
            records = [record["s3"] for record in event["Records"]]
            return [f"s3://{of['bucket']['name']}/{unquote_plus(of['object']['key'])}" for of in records]
        if event["key"].startswith("/buckets/"):
            return [f"s3://{event['key'].removeprefix('/buckets/')}"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError("no bucket notification: an object with Records, or SeaweedFS' with a key below /buckets/, is one")


def concerns(address: str, watched: Sequence[str]) -> bool:
    """Whether an object is one of the watched ones, or in a folder that is watched."""
    return any(address == one or address.startswith(f"{one.rstrip('/')}/") for one in watched)


@contextmanager
def listening(where: str, watched: Sequence[str], wake: Callable[[], None], token: str) -> Iterator[str]:
    """Take notifications while the block runs; yields the address.

    Args:
        where: HOST:PORT; port 0 is any free one.
        watched: addresses of data, tools and base model.
        wake: called for a notification of one of them.
        token: that a sender must bring, as `Authorization: Bearer`; empty: none.

    Raises:
        UserError: it cannot be listened there.
    """
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UserError(f"--listen {where}: must be HOST:PORT, for example 0.0.0.0:8080")
    try:
        server = ThreadingHTTPServer((host, int(port)), _handler(watched, wake, token))
    except OSError as error:
        raise UserError(f"--listen {where}: cannot be listened on: {error.strerror or error}") from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _handler(watched: Sequence[str], wake: Callable[[], None], token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S

        def do_GET(self) -> None:
            """For probes."""
            self.answer(200, "POST bucket notifications here")

        def do_POST(self) -> None:
            """A notification."""
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MAX_BYTES:
                return self.answer(413, f"a body of at most {MAX_BYTES} bytes with its Content-Length is taken")
            body = self.rfile.read(int(length))  # before any answer: who is still sending hears none
            told = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token and not hmac.compare_digest(told.encode(), token.encode()):
                return self.answer(401, "Authorization: Bearer must bring the value of CALLTUNE_WATCH_TOKEN")
            try:
                named = objects(body)
            except ValueError as error:
                return self.answer(400, str(error))
            if not any(concerns(address, watched) for address in named):
                return self.answer(200, "is not watched")
            wake()
            return self.answer(202, "will be looked at")

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(text) + 1))
            self.end_headers()
            self.wfile.write(f"{text}\n".encode())

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing: what is looked at is said."""

    return Handler
