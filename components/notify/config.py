"""Settings of the notify step."""

from calltune.settings import Settings


class NotifyConfig(Settings):
    """What notify says, and of which model."""

    name: str
    """The registered model."""
