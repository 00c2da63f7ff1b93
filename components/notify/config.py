"""Settings of the notify step."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from calltune.settings import Settings, written_as

Channel = Literal["slack", "webhook", "email"]
Outcome = Literal["promoted", "refused", "nothing_new", "failed"]
ADDRESSES = {"slack": "CALLTUNE_SLACK_URL", "webhook": "CALLTUNE_WEBHOOK_URL"}
"""Variables with the addresses, which are secrets: who has one may write there."""
PASSWORD = "CALLTUNE_SMTP_PASSWORD"
Mailbox = Annotated[str, written_as(r"[^@\s<>,;]+@[^@\s<>,;]+", "an e-mail address such as ml-team@example.com")]


class EmailConfig(Settings):
    """Where mail goes out, and to whom. The password is `CALLTUNE_SMTP_PASSWORD` in the environment."""

    host: Annotated[str, written_as(r"[A-Za-z0-9.-]*", "the mail server's name, without a port")] = ""
    """The mail server."""
    port: int = Field(587, ge=1, le=65535)
    """Its port."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls`, as servers have it on port 587; `tls` from the first byte, on 465; or `none`, inside of a network."""
    user: str = ""
    """Name to log in with; empty: without."""
    sender: Mailbox | Literal[""] = ""
    """Address that mail comes from."""
    to: list[Mailbox] = []
    """Addresses that it goes to."""


class NotifySection(Settings):
    """Who is told how a run ended. No secret is here: addresses of webhooks and the password are in the environment."""

    via: list[Channel] = []
    """`slack` (whatever takes Slack's webhooks: `CALLTUNE_SLACK_URL`), `webhook` (JSON: `CALLTUNE_WEBHOOK_URL`), `email`."""
    about: list[Outcome] = list(get_args(Outcome))
    """Endings that are told; without `nothing_new` a nightly schedule is quieter."""
    email: EmailConfig = EmailConfig()

    @model_validator(mode="after")
    def _mail_can_go_out(self) -> "NotifySection":
        if "email" not in self.via:
            return self
        absent = [key for key in ("host", "sender", "to") if not getattr(self.email, key)]
        if absent:
            raise ValueError(f"email.{absent[0]} is empty: mail needs host, sender and to")
        if self.email.user and self.email.security == "none":
            raise ValueError("email.security is none: the password of email.user would travel in clear text")
        return self


class NotifyConfig(NotifySection):
    """What notify says, to whom, and of which model."""

    name: str
    """The registered model."""


def variables(config: NotifySection) -> list[str]:
    """Names of the variables that the environment must have."""
    found = [ADDRESSES[channel] for channel in config.via if channel in ADDRESSES]
    return [*found, PASSWORD] if "email" in config.via and config.email.user else found
