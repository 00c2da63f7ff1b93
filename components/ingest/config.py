"""Settings of the ingest step."""

from typing import Literal

from pydantic import Field

from calltune.settings import Settings


class IngestConfig(Settings):
    """Settings of the ingest step."""

    source: str = Field(min_length=1)
    """The rows: a file (JSON lines, a JSON array, CSV, each also as `.gz` or `.zst`; Parquet), a folder of such files, or
    `s3://bucket/prefix` with such objects."""
    dialect: Literal["auto", "openai", "xlam", "sharegpt", "tool_choice", "alpaca", "hermes", "prompt_completion", "bfcl"] = (
        "auto"
    )
    """How the rows are laid out; `auto` looks at their fields."""
    tools: str = ""
    """The tools for the rows that bring none of their own: a Python file; or JSON or YAML, also at `s3://…`: a list of tools, an
    OpenAPI 3 document, or an MCP server's answer to `tools/list`."""
    max_quarantined: float = Field(0.05, ge=0, le=1)
    """Share of the rows that may be unusable before the run fails."""
