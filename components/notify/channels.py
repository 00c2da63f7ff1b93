"""How a message goes out: a POST, or mail. What goes wrong is said without the address, which is a secret."""

import smtplib
import ssl
import time
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

from components.notify.config import EmailConfig

TRIES = 3
WAIT_S = 2.0
"""Before the second try; twice as long before the third."""
TIMEOUT_S = 10


class NotSent(Exception):
    """A message did not go out. Its text names no address and no password.

    Attributes:
        again: whether another try may end better.
    """

    def __init__(self, why: str, again: bool = False) -> None:
        super().__init__(why)
        self.again = again


def post(address: str, body: dict[str, Any]) -> None:
    """POST JSON.

    Raises:
        NotSent: nobody answers, or with another status than 2xx.
    """
    _tried(lambda: _post(address, body))


def mail(config: EmailConfig, password: str, subject: str, text: str) -> None:
    """Send mail, one message to all recipients.

    Raises:
        NotSent: the server does not answer, is not who it should be, or refuses.
    """
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = config.sender, ", ".join(config.to), subject
    message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=config.sender.rpartition("@")[2])
    message.set_content(text)
    _tried(lambda: _mail(config, password, message))


def _tried(send: Callable[[], None]) -> None:
    for left in range(TRIES - 1, -1, -1):
        try:
            send()
            return
        except NotSent as error:
            if not left or not error.again:
                raise
        time.sleep(WAIT_S * 2 ** (TRIES - 1 - left))


def _post(address: str, body: dict[str, Any]) -> None:
    import requests

    try:
        # Not redirected: a POST would become a GET. The answer's text is not read: nobody needs it.
        answer = requests.post(address, json=body, timeout=TIMEOUT_S, allow_redirects=False, stream=True)
        answer.close()
    except (requests.ConnectionError, requests.Timeout) as error:
        raise NotSent(f"nobody answers ({type(error).__name__})", again=True) from None
    if not 200 <= answer.status_code < 300:
        raise NotSent(f"HTTP {answer.status_code}", again=answer.status_code == 429 or answer.status_code >= 500)


def _mail(config: EmailConfig, password: str, message: EmailMessage) -> None:
    try:
        with _connection(config) as server:
            if config.user:
                server.login(config.user, password)
            refused = server.send_message(message)
    except smtplib.SMTPResponseException as error:
        raise NotSent(f"the mail server refuses (SMTP {error.smtp_code})", again=400 <= error.smtp_code < 500) from None
    except smtplib.SMTPRecipientsRefused as error:
        raise NotSent("the mail server refuses every recipient", again=_later(error.recipients)) from None
    except smtplib.SMTPNotSupportedError:
        raise NotSent("the mail server has no STARTTLS or no login: notify.email.security and user say which") from None
    except ssl.SSLError as error:
        raise NotSent(f"the mail server's certificate or encryption is not trusted ({type(error).__name__})") from None
    except OSError as error:  # smtplib's other errors among them
        raise NotSent(f"the mail server does not answer ({type(error).__name__})", again=True) from None
    if refused:
        raise NotSent(f"{len(refused)} of {len(config.to)} recipients were refused, the others have it")


def _connection(config: EmailConfig) -> smtplib.SMTP:
    trusted = ssl.create_default_context()
    if config.security == "tls":
        return smtplib.SMTP_SSL(config.host, config.port, timeout=TIMEOUT_S, context=trusted)
    server = smtplib.SMTP(config.host, config.port, timeout=TIMEOUT_S)
    if config.security == "starttls":
        server.starttls(context=trusted)
    return server


def _later(recipients: dict[str, tuple[int, bytes]]) -> bool:
    """Whether all were refused only for now, as greylisting does."""
    return all(400 <= code < 500 for code, _ in recipients.values())
