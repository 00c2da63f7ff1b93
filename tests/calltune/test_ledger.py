"""The promotion ledger, in a folder and on a real S3 server, with MLflow's aliases following it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from calltune import ledger
from calltune.storage import AlreadyThere
from calltune.tracking import aliases, register, run_of, set_alias


@pytest.fixture(params=["store", "s3"])
def place(request):
    return request.getfixturevalue(request.param)


def entry(number, version=None):
    return {"n": number, "version": str(version or number), "digest": f"d{number}", "run_id": "run-1"}


def registered(count):
    for number in range(1, count + 1):
        register("helpdesk", f"s3://x/models/d{number}", f"d{number}", run_of("helpdesk"), {})


def test_entries_come_in_the_order_of_their_numbers(place):
    assert ledger.entries("helpdesk") == []
    for number in (2, 1, 10, 3):
        ledger.append("helpdesk", entry(number))
    ledger.append("helpdesk-2", entry(1))
    assert [found["n"] for found in ledger.entries("helpdesk")] == [1, 2, 3, 10]


def test_an_entry_is_written_once(place):
    ledger.append("helpdesk", entry(1, version=1))
    with pytest.raises(AlreadyThere):
        ledger.append("helpdesk", entry(1, version=2))
    assert [found["version"] for found in ledger.entries("helpdesk")] == ["1"]


def test_of_eight_promoters_exactly_one_writes_the_next_entry(place):
    ledger.append("helpdesk", entry(1))

    def promote(version):
        try:
            ledger.append("helpdesk", entry(2, version=version))
        except AlreadyThere:
            return None
        return str(version)

    with ThreadPoolExecutor(8) as pool:
        won = [version for version in pool.map(promote, range(2, 10)) if version]
    assert len(won) == 1
    assert [found["version"] for found in ledger.entries("helpdesk")] == ["1", won[0]]


def test_nothing_to_heal_touches_nothing(store, tracking):
    ledger.heal("helpdesk", "champion")
    assert aliases("helpdesk") == {}


def test_aliases_are_healed_from_the_ledger(store, tracking):
    registered(3)
    ledger.append("helpdesk", entry(1))
    ledger.heal("helpdesk", "champion")
    assert aliases("helpdesk") == {"champion": "1"}
    ledger.append("helpdesk", entry(2, version=3))
    set_alias("helpdesk", "champion", "2")  # by hand, against the ledger
    ledger.heal("helpdesk", "champion")
    ledger.heal("helpdesk", "champion")
    assert aliases("helpdesk") == {"champion": "3", "previous": "1"}
