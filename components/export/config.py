"""Settings of the export step."""

from typing import Literal

from calltune.settings import Settings


class ExportConfig(Settings):
    """Settings of the export step."""

    merge_into: Literal["dequantized", "original"] = "dequantized"
    """For `qlora`: the weights that the adapter is added to. It was trained against the dequantised ones."""
