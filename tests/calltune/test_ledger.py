"""The promotion ledger, in a folder and on a real S3 server, with MLflow's aliases following it."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from calltune import ledger
from calltune.errors import DataError
from calltune.storage import AlreadyThere
from calltune.tracking import aliases, client, register, run_of, set_alias, versions


@pytest.fixture(params=["store", "s3"])
def place(request):
    return request.getfixturevalue(request.param)


def entry(number, version=None):
    version = version or number
    model = {"version": str(version), "uri": f"s3://x/models/d{version}", "digest": f"d{version}"}
    return {"n": number, **model, "run_id": "run-1", "fingerprint": "print-1"}


def registered(count):
    for number in range(1, count + 1):
        register("helpdesk", f"s3://x/models/d{number}", f"d{number}", run_of("helpdesk"), {})


def test_entries_come_in_the_order_of_their_numbers(place):
    assert ledger.entries("helpdesk", "champion") == []
    for number in (2, 1, 10, 3):
        ledger.append("helpdesk", "champion", entry(number))
    ledger.append("helpdesk-2", "champion", entry(1))
    ledger.append("helpdesk", "champion-2", entry(7))
    assert [found["n"] for found in ledger.entries("helpdesk", "champion")] == [1, 2, 3, 10]


@pytest.mark.parametrize("damaged", [b"", b'{"n": 2', b"[]", b'{"version": "2"}', b'{"n": "second"}'])
def test_a_damaged_entry_is_named_with_its_address(place, damaged):
    ledger.append("helpdesk", "champion", entry(1))
    place.put("ledger/helpdesk/champion/000002.json", damaged)
    with pytest.raises(DataError, match=rf"^{place.uri}/ledger/helpdesk/champion/000002\.json: damaged, "):
        ledger.entries("helpdesk", "champion")


def test_an_entry_is_written_once(place):
    ledger.append("helpdesk", "champion", entry(1, version=1))
    with pytest.raises(AlreadyThere):
        ledger.append("helpdesk", "champion", entry(1, version=2))
    assert [found["version"] for found in ledger.entries("helpdesk", "champion")] == ["1"]


def test_an_entry_says_when_it_was_written(place):
    ledger.append("helpdesk", "champion", entry(1))
    (found,) = ledger.entries("helpdesk", "champion")
    written = datetime.fromisoformat(found["time"])
    assert written.utcoffset() == timedelta(0) and abs(datetime.now(UTC) - written) < timedelta(minutes=5)


def test_of_eight_promoters_exactly_one_writes_the_next_entry(place):
    ledger.append("helpdesk", "champion", entry(1))

    def promote(version):
        try:
            ledger.append("helpdesk", "champion", entry(2, version=version))
        except AlreadyThere:
            return None
        return str(version)

    with ThreadPoolExecutor(8) as pool:
        won = [version for version in pool.map(promote, range(2, 10)) if version]
    assert len(won) == 1
    assert [found["version"] for found in ledger.entries("helpdesk", "champion")] == ["1", won[0]]


def test_nothing_to_heal_touches_nothing(store, tracking):
    assert ledger.heal("helpdesk", "champion") == []
    assert aliases("helpdesk") == {}


def test_aliases_are_healed_from_the_ledger(store, tracking):
    registered(3)
    ledger.append("helpdesk", "champion", entry(1))
    ledger.heal("helpdesk", "champion")
    assert aliases("helpdesk") == {"champion": "1"}
    ledger.append("helpdesk", "champion", entry(2, version=3))
    set_alias("helpdesk", "champion", "2")  # by hand, against the ledger
    ledger.heal("helpdesk", "champion")
    ledger.heal("helpdesk", "champion")
    assert aliases("helpdesk") == {"champion": "3", "previous": "1"}


def test_each_alias_has_a_ledger_of_its_own(store, tracking):
    registered(4)
    ledger.append("helpdesk", "champion", entry(1, version=1))
    for number, version in ((1, 2), (2, 3)):
        ledger.append("helpdesk", "staging", entry(number, version=version))
    for alias in ("staging", "champion", "staging"):
        ledger.heal("helpdesk", alias)
    assert aliases("helpdesk") == {"champion": "1", "staging": "3", "previous-staging": "2"}
    ledger.append("helpdesk", "champion", entry(2, version=4))
    ledger.heal("helpdesk", "champion")
    assert aliases("helpdesk") == {"champion": "4", "previous": "1", "staging": "3", "previous-staging": "2"}


def test_an_alias_that_heal_moves_is_told(store, tracking, tmp_path):
    registered(2)
    ledger.append("helpdesk", "champion", entry(1))
    for by_hand in ("1", "2"):
        set_alias("helpdesk", "champion", by_hand)
        ledger.heal("helpdesk", "champion")
    ledger.heal("helpdesk", "champion")
    notes = [json.loads(line)["message"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert notes == ["registry: helpdesk@champion is version 1, as the promotion ledger says; it was version 2"]


def test_aliases_that_a_promotion_itself_sets_are_no_repair_to_be_told(store, tracking, tmp_path, monkeypatch):
    registered(2)
    monkeypatch.setenv("CALLTUNE_EVENTS", str(tmp_path / "of_promotions.jsonl"))
    for number in (1, 2):
        ledger.append("helpdesk", "champion", entry(number))
        ledger.heal("helpdesk", "champion", promoted=True)
    assert aliases("helpdesk") == {"champion": "2", "previous": "1"}
    assert not (tmp_path / "of_promotions.jsonl").exists()


def test_a_registry_that_was_lost_gets_champion_and_previous_back(store, tracking):
    for number, version in ((1, 2), (2, 3), (3, 5)):
        ledger.append("helpdesk", "champion", entry(number, version=version))
    history = ledger.heal("helpdesk", "champion")
    named = {alias: client().get_model_version("helpdesk", version) for alias, version in aliases("helpdesk").items()}
    assert {alias: found.tags["digest"] for alias, found in named.items()} == {"champion": "d5", "previous": "d3"}
    assert named["champion"].source == "s3://x/models/d5" and named["champion"].tags["run_id"] == "run-1"
    assert [entry["version"] for entry in history[1:]] == [str(named[alias].version) for alias in ("previous", "champion")]
    assert ledger.heal("helpdesk", "champion") == history and len(versions("helpdesk")) == 2


def test_a_registry_that_counts_anew_is_read_by_digest(store, tracking):
    registered(3)
    ledger.append("helpdesk", "champion", {**entry(1), "version": "2"})  # version 2 is another model now
    assert [found["version"] for found in ledger.heal("helpdesk", "champion")] == ["1"]
    assert aliases("helpdesk") == {"champion": "1"} and len(versions("helpdesk")) == 3


def test_of_two_versions_of_one_model_the_promoted_one_stays_champion(store, tracking, monkeypatch):
    registered(1)
    monkeypatch.setenv("CALLTUNE_RUN_ID", "run-2")
    registered(1)
    ledger.append("helpdesk", "champion", entry(1))
    ledger.heal("helpdesk", "champion")
    assert len(versions("helpdesk")) == 2 and aliases("helpdesk") == {"champion": "1"}
