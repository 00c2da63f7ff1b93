"""Settings of the ingest step."""

from typing import Literal

from pydantic import Field

from calltune.settings import Settings


class SourceConfig(Settings):
    """One source of rows."""

    source: str = Field(min_length=1)
    """The rows: a file (JSON lines, a JSON array, CSV, each also as `.gz` or `.zst`; Parquet), a folder of such files,
    `s3://bucket/prefix` with such objects, or `hf://datasets/OWNER/NAME`, with `@REVISION` and `#CONFIG/SPLIT` where needed."""
    dialect: Literal["auto", "openai", "xlam", "sharegpt", "tool_choice", "alpaca", "hermes", "prompt_completion", "bfcl"] = (
        "auto"
    )
    """How the rows are laid out; `auto` looks at their fields."""
    weight: float = Field(1, gt=0, le=1)
    """Share of its rows that are taken; which ones, follows from each row's own text."""


class IngestConfig(SourceConfig):
    """Settings of the ingest step."""

    more: list[SourceConfig] = []
    """Further sources, read after the first; of rows that several have, the first one's is kept."""
    tools: str = ""
    """The tools for the rows that bring none of their own: a Python file; or JSON or YAML, also at `s3://…`: a list of tools, an
    OpenAPI 3 document, or an MCP server's answer to `tools/list`."""
    near_duplicates: float = Field(0.9, ge=0.5, le=1)
    """Words that two users' texts share, divided by the words of both, from which on the later row is a duplicate, if all else is
    the same: the tools, the answers, the results of calls. 1: only where the texts are the same but for case and spacing."""
    secrets: Literal["report", "redact", "quarantine"] = "report"
    """Rows with a key (AWS, GitHub, GitLab, Slack, private keys, JWT, model and payment providers): `report` their number;
    `redact`, put a placeholder in place of the key wherever it stands; or `quarantine`."""
    personal_data: Literal["report", "redact", "quarantine"] = "report"
    """The same for e-mail addresses, card numbers and IBANs in what is said, called and expected."""
    max_quarantined: float = Field(0.05, ge=0, le=1)
    """Share of the rows that may be unusable before the run fails."""

    @property
    def sources(self) -> list[SourceConfig]:
        """All sources, in the order in which they are read."""
        return [self, *self.more]
