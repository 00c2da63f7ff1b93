"""Secrets in the environment: which variables hold them, and a text without their values."""

import json
import os
import re
from collections.abc import Iterator
from urllib.parse import quote

NOTIFY_VARIABLES = ("CALLTUNE_SLACK_URL", "CALLTUNE_WEBHOOK_URL", "CALLTUNE_SMTP_PASSWORD")
"""What notify alone needs. Whoever has a webhook's address may write there, so that it is a secret, too."""
PROMOTE_VARIABLES = ("CALLTUNE_HUB_TOKEN",)
"""What promote alone needs: a token that may write to the Hub."""
JUDGE_TOKEN = "CALLTUNE_JUDGE_TOKEN"
"""What evaluate alone needs: the token of a judge. A name of ours, so that no config can have another secret sent to a judge."""
SECRET_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("CALLTUNE_KFP_TOKEN", "CALLTUNE_KFP_COOKIE", "CALLTUNE_WATCH_TOKEN"),
    *(JUDGE_TOKEN, *NOTIFY_VARIABLES, *PROMOTE_VARIABLES),
)
"""Variables whose values must be neither in a package nor in a message, whatever path they would come by."""
STEP_OF = {
    JUDGE_TOKEN: "evaluate",
    **dict.fromkeys(NOTIFY_VARIABLES, "notify"),
    **dict.fromkeys(PROMOTE_VARIABLES, "promote"),
}
"""Of those that one step alone needs, which; on a cluster no other step's pod gets them."""
IDENTIFIERS = ("AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_USERNAME")
"""Those of them that say who, and are no secret by themselves."""


def secrets_in(text: str) -> Iterator[tuple[str, str]]:
    """Variables whose values are in a text: name and value, as it is written there."""
    for name in SECRET_VARIABLES:
        # What a file brings into a cluster's secret often has a line's end, which whoever uses it leaves away.
        value = os.environ.get(name, "").strip()
        # A user or a key may be called `calltune`, as a package is everywhere; what AWS makes has 16 letters at least.
        if len(value) >= (16 if name in IDENTIFIERS else 8):
            yield from ((name, written) for written in _written(value) if written in text)


def _written(value: str) -> dict[str, None]:
    """A secret as it may stand in a message: as it is, on one line, in JSON, and in an address."""
    return dict.fromkeys((value, " ".join(value.split()), json.dumps(value)[1:-1], quote(value, safe="")))


def without_secrets(text: str) -> str:
    """The text with … where it has a secret's value, or user and password in an address."""
    # The longest first: of two webhooks one address may begin with the other, and the rest of it would be left.
    for value in sorted((value for _, value in secrets_in(text)), key=len, reverse=True):
        text = text.replace(value, "…")
    return without_passwords(text)


def line_without_secrets(said: object) -> str:
    """The text of an error, say, on one line and without a secret."""
    return " ".join(without_secrets(str(said)).split())


def without_passwords(text: str) -> str:
    """The text with … in the place of user and password in an address."""
    # A password may have an apostrophe in it, and none of the signs that are left out here.
    return re.sub(r"://[^/\s\"]+@", "://…@", text)
