"""What `models history` says: the ledger's promotions, each with what the registry knows of that very model."""

from datetime import datetime

import pytest

from calltune import ledger
from calltune.tracking import register, run_of
from pipelines.config import load
from pipelines.registry import promotions


@pytest.fixture
def config(store, tracking, tmp_path):
    (tmp_path / "run.yaml").write_text("name: shop\nmodel: {base: none}\ningest: {source: none.jsonl}\n")
    return load(tmp_path / "run.yaml")


def promoted(number, alias="champion"):
    entry = {"n": number, "version": str(number), "uri": f"s3://x/models/d{number}", "digest": f"d{number}"}
    ledger.append(
        "shop", alias, {**entry, "files": {}, "run_id": f"run-{number}", "fingerprint": "f", "reason": "passed the gate"}
    )


def registered(number):
    register("shop", f"s3://x/models/d{number}", f"d{number}", run_of("shop"), {"tool_accuracy": f"0.{number}"})


def rows(table):
    columns = {column.header: list(column.cells) for column in table.columns}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def test_a_registry_that_was_lost_and_counts_anew_is_read_by_digest(config):
    for number in (1, 2, 3):
        promoted(number)
    for number in (3, 2):  # as healed: the champion first, the one before the previous never again
        registered(number)
    told = [
        [row[name] for name in ("n", "version", "alias", "digest", "tool_accuracy", "run")] for row in rows(promotions(config))
    ]
    assert told == [
        ["3", "1", "champion", "d3", "0.300", "run-3"],
        ["2", "2", "previous", "d2", "0.200", "run-2"],
        ["1", "", "", "d1", "", "run-1"],
    ]


def test_a_promotion_says_when_it_was(config):
    promoted(1)
    (row,) = rows(promotions(config))
    (entry,) = ledger.entries("shop", "champion")
    assert row["promoted"] == datetime.fromisoformat(entry["time"]).astimezone().strftime("%Y-%m-%d %H:%M")


def test_the_history_is_that_of_the_runs_alias(config):
    promoted(1)
    promoted(2, alias="staging")
    assert [row["digest"] for row in rows(promotions(config))] == ["d1"]
    staging = config.model_copy(update={"promote": config.promote.model_copy(update={"alias": "staging"})})
    assert [(row["digest"], row["alias"]) for row in rows(promotions(staging))] == [("d2", "staging")]
