"""Who is told: a real HTTP server and a real mail server on this machine."""

import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from components.notify import channels


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(channels, "WAIT_S", 0)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


class Hook:
    """What takes POSTs.

    Attributes:
        address: with a path that is a secret.
        bodies: of what came, as JSON.
        statuses: to answer with, one after the other; 200 when there are no more.
    """

    def __init__(self):
        self.bodies, self.statuses, hook = [], [], self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                hook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                status = hook.statuses.pop(0) if hook.statuses else 200
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", hook.address)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/services/T000/SECRET-PATH"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def hook():
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Mailbox:
    """What takes mail: `messages` as they came; `answer` is said to each, so that it may be refused."""

    def __init__(self):
        self.messages, self.answers = [], []

    async def handle_DATA(self, server, session, envelope):
        if self.answers:
            return self.answers.pop(0)
        self.messages.append(envelope)
        return "250 OK"


@pytest.fixture
def mail_server(certificate):
    """A function that starts a mail server, with encryption and a password where it has one; returns mailbox and port."""
    running = []

    def start(password=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = {}
        if password is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)

            def known(server, session, envelope, mechanism, data):
                # Not handled: the server is to answer 535 itself.
                return AuthResult(success=(data.login, data.password) == (b"calltune", password.encode()), handled=False)

            options = {"tls_context": context, "require_starttls": True, "auth_required": True, "authenticator": known}
        mailbox = Mailbox()
        controller = Controller(mailbox, hostname="127.0.0.1", port=port, **options)
        controller.start()
        running.append(controller)
        return mailbox, port

    yield start
    for controller in running:
        controller.stop()
