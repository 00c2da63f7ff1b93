"""Settings of the report step."""

from calltune.settings import Settings


class ReportConfig(Settings):
    """What the report says of the run as a whole."""

    name: str
    """The registered model."""
    config_sha256: str
    """Of the run's whole config."""
    price_per_hour: float = 0
    """Of all machines that train; 0: no price is given."""
