"""A language model that compares two answers, asked over OpenAI's chat completions: its words, and the verdict in them."""

import json
import os
import re
import time
from dataclasses import dataclass
from typing import Any

import jinja2
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.exceptions import HTTPError, LocationValueError

from calltune import runtime
from calltune.credentials import JUDGE_TOKEN, without_secrets
from calltune.errors import ConfigError, Unavailable
from calltune.records import once, sha256
from components.evaluate.config import RUBRIC, JudgeConfig

VERDICTS = ("A", "B", "tie")
TRIES = 7
TIMED_OUT = 2
"""How often what took too long is asked again."""
BACKOFF_S = 1.0
"""The wait doubles with each try: 2 s before the third, 32 s before the last; where a server says how long, that."""
LONGEST_WAIT_S = 60
AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which the same again may end better."""
NOT_TAKEN = (400, 422)
"""Where what is asked for beside the messages may not be known, or a question is too long or not allowed."""
SHOWN = 200
"""Letters of a judge's own error that a message quotes."""
_SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "string", "enum": list(VERDICTS)}},
    "required": ["reason", "verdict"],
    "additionalProperties": False,
}
_STRICT = {"response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": _SCHEMA}}}
# The tokens are for judges that think first, and end one that runs on.
_GREEDY = {"temperature": 0, "max_tokens": 2048}
OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("", {**_GREEDY, **_STRICT}),
    ("no JSON schema", _GREEDY),
    ("no temperature and no max_tokens", _STRICT),
    ("no JSON schema, no temperature and no max_tokens", {}),
)
"""What is asked for beside the messages, and what an endpoint does not take that makes us come to it."""
_PROMPT = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(RUBRIC.read_text(encoding="utf-8")).module


def messages(question: str, first: str, second: str) -> list[dict[str, str]]:
    """What a judge is asked: ``[{"role": "system", "content": …}, {"role": "user", "content": …}]``."""
    tag = sha256([question, first, second])[:16]
    rules, pair = _PROMPT.rules(tag), _PROMPT.pair(tag, question, first, second)  # type: ignore[attr-defined]
    return [{"role": "system", "content": str(rules)}, {"role": "user", "content": str(pair)}]


def verdict(words: str) -> str | None:
    """`A`, `B` or `tie`, from all of a judge's words or from their last line, after what it thought; None for anything else.

    Only an object with one verdict that is one of these, and perhaps a reason, is one.
    """
    # Not splitlines, for which some letters inside of a JSON string end a line, too.
    lines = [line for line in words.rpartition("</think>")[2].strip().split("\n") if line.strip() not in ("```", "```json")]
    for text in ("\n".join(lines), *lines[-1:]):
        try:
            found = json.loads(text, object_pairs_hook=once)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found.keys() <= {"reason", "verdict"} and found.get("verdict") in VERDICTS:
            return str(found["verdict"])
    return None


@dataclass(frozen=True)
class Reply:
    """What an endpoint answers.

    Attributes:
        status: of HTTP.
        location: where it redirects to.
        said: its JSON; None where it is none.
    """

    status: int
    location: str
    said: Any

    @property
    def done(self) -> bool:
        """Whether it is what was asked for, and no error."""
        return 200 <= self.status < 300


class Judge:
    """A judge that can be asked from several threads at once.

    Args:
        settings: which one.
    """

    def __init__(self, settings: JudgeConfig) -> None:
        self.settings, self._option, self._known, self._answered = settings, 0, False, False
        retry = Retry(
            total=TRIES - 1,
            read=TIMED_OUT,
            status_forcelist=AGAIN,
            allowed_methods={"POST"},
            backoff_factor=BACKOFF_S,
            backoff_max=LONGEST_WAIT_S,
            retry_after_max=LONGEST_WAIT_S,
            raise_on_status=False,
        )
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=settings.parallel))
        # As a function, since requests would put what a .netrc has of the host over a header.
        self._session.auth = self._authorised

    def _authorised(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        token = os.environ.get(JUDGE_TOKEN, "").strip()
        if not re.fullmatch(r"[!-~]*", token):  # the library's own error would show it
            raise ConfigError(self._said(f"{JUDGE_TOKEN} has a space, a line's end or a letter beyond ASCII in it: no token has"))
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    def words(self, question: str, first: str, second: str) -> str:
        """What the judge says of two answers, as it says it; empty where it says nothing.

        Of one that it does not take, or answers in another form, while it takes others, its error: no verdict, and no reason to
        lose those of the others.

        Raises:
            Unavailable: it does not answer, or only with errors of its own, however often it is asked.
            ConfigError: it does not know the token or the model, or is no such endpoint.
        """
        answer = self._asked(question, first, second)
        if answer.done:
            return self._content(answer)
        if answer.status in (*NOT_TAKEN, 413) and (self._known or self._asked("?", "", "").done):
            # This one is too long for it, or a provider's filter holds it back. The words are kept and shown.
            return without_secrets(_status(answer))
        raise self._refused(answer)

    def _asked(self, question: str, first: str, second: str) -> Reply:
        """The reply, with the first options that the endpoint takes; once these are known no others are tried."""
        asked = {"model": self.settings.model, "messages": messages(question, first, second)}
        for place in range(self._option, len(OPTIONS)):
            if self._known and place > self._option:
                break
            lacks, more = OPTIONS[place]
            answer = self._post({**asked, **more})
            if answer.status not in NOT_TAKEN:
                break
        if not answer.done:
            return answer
        self._known = True
        if place > self._option:
            self._option = place
            runtime.note(f"judge {self.settings.model}: takes {lacks}; its verdict is read from its last line")
        return answer

    def _post(self, body: dict[str, Any]) -> Reply:
        where = f"{self.settings.url.rstrip('/')}/chat/completions"
        timeout_s = self.settings.timeout_s
        try:
            for _ in range(TIMED_OUT + 1):
                deadline = time.monotonic() + timeout_s
                # Not redirected: a POST would become a GET, and the token would go where nobody has sent it.
                with self._session.post(where, json=body, timeout=timeout_s, allow_redirects=False, stream=True) as answer:
                    content = _whole(answer, deadline)
                if content is not None:
                    return Reply(answer.status_code, answer.headers.get("Location", "nowhere"), _json(content))
            raise Unavailable(self._said(f"does not answer (not done after {timeout_s} s, {TIMED_OUT + 1} times)"))
        except requests.exceptions.SSLError as error:
            raise ConfigError(self._said(f"its certificate is not trusted ({type(error).__name__})")) from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise Unavailable(self._said(f"does not answer ({_cause(error)})")) from None
        except (requests.RequestException, LocationValueError) as error:
            raise ConfigError(self._said(f"cannot be asked: {error}")) from None
        except HTTPError as error:  # of the content, which requests has no part in
            raise Unavailable(self._said(f"does not answer ({type(error).__name__})")) from None

    def _refused(self, answer: Reply) -> ConfigError | Unavailable:
        """The error for a status that is none of success."""
        status = _status(answer)
        if answer.status in AGAIN or answer.status >= 500:
            return Unavailable(self._said(f"{status}, {TRIES} times" if answer.status in AGAIN else status))
        if answer.status in (401, 403):
            known = "is not accepted" if os.environ.get(JUDGE_TOKEN, "").strip() else "is not set"
            return ConfigError(self._said(f"{JUDGE_TOKEN} {known} ({status})"))
        if 300 <= answer.status < 400:
            return ConfigError(self._said(f"redirects to {answer.location}: set that address"))
        return ConfigError(self._said(status))

    def _content(self, answer: Reply) -> str:
        try:
            content = answer.said["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            if self._answered:  # a provider that could not, or did not want to, may say so with status 200
                return _status(answer)
            raise ConfigError(self._said("answers, but not as OpenAI's chat completions do: is the address right?")) from None
        self._answered = True
        # Null is what a model says that refuses, or that has only thought; half of a surrogate pair is what no file can hold.
        return content.encode(errors="replace").decode() if isinstance(content, str) else ""

    def _said(self, what: str) -> str:
        return without_secrets(f"evaluate.instructions.judge: {self.settings.model} at {self.settings.url}: {what}")


def _cause(error: requests.RequestException) -> str:
    """The kind of error below what the libraries wrap it in."""
    inner = getattr(error.args[0], "reason", error) if error.args else error
    return type(inner).__name__


def _whole(answer: requests.Response, deadline: float) -> bytes | None:
    """An answer's content; None where it is not there in time: each wait is short for what comes letter by letter."""
    content = b""
    while piece := answer.raw.read1(65_536, decode_content=True):
        content += piece
        if time.monotonic() > deadline:
            return None
    return content


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _status(answer: Reply) -> str:
    """An error's status, and what the endpoint says of it where that has OpenAI's form."""
    status = f"HTTP {answer.status}"
    try:
        text = " ".join(str(answer.said["error"]["message"]).split()).encode(errors="replace").decode()
    except (KeyError, TypeError):
        return status
    return f"{status}: {text if len(text) <= SHOWN else text[: SHOWN - 1] + '…'}"
