"""Ingesting a few rows."""

import json

import pytest

from components.ingest.config import IngestConfig
from components.ingest.step import Ingested, ingest


@pytest.fixture
def take(tmp_path):
    """Ingest rows (objects, or lines as they are); everything that a run left can be looked at under `tmp_path/out`."""

    def run(rows, name="rows.jsonl", **config) -> Ingested:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        result = ingest(IngestConfig(source=str(tmp_path / name), **config), tmp_path / "out")
        assert result.read == result.kept + result.quarantined + result.duplicates
        return result

    return run
