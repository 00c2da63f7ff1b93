"""Settings of the export step."""

from typing import Literal

from calltune.settings import Settings


class ExportConfig(Settings):
    """Settings of the export step."""

    merge_into: Literal["dequantized", "original"] = "dequantized"
    """For `qlora`: the weights that the adapter is added to. It was trained against the dequantised ones."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Of the exported weights; `auto`: the base's, for `full` that of what train saved."""
    base_license: str = ""
    """For the model card: the base model's licence, such as `apache-2.0`; empty: what its own card states, if it has one."""
    data_license: str = ""
    """For the model card: the licence of the data."""
    gguf: Literal["none", "f16", "bf16", "q8_0"] = "none"
    """Also write one GGUF file for llama.cpp, with weights in this type. For models of the Llama and Qwen3 families."""
