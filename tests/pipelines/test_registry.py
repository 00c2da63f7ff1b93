"""What `models history` says: the ledger's promotions, each with what the registry knows of that very model; `rollback`."""

import getpass
import hashlib
import itertools
import socket
from datetime import datetime

import pytest
import requests
from mlflow import MlflowClient
from mlflow.utils.rest_utils import verify_rest_response

from calltune import ledger, models, s3
from calltune.tracking import aliases, register, run_of, set_alias
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
        [row[name] for name in ("n", "version", "alias", "digest", "tool_accuracy", "by")] for row in rows(promotions(config))
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


def test_a_rollback_is_one_line_and_one_more_line_of_the_history(store, tracking, tmp_path, command):
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "run.yaml").write_text(
        f"name: shop\nmodel: {{base: none}}\ningest: {{source: none.jsonl}}\nstorage: {{uri: {tmp_path}/store}}\n"
        f"tracking: {{uri: '{address}'}}\n"
    )
    for number in (1, 2):
        files = {"weights": hashlib.sha256(bytes(number)).hexdigest()}
        digest = models.digest(files)
        store.put(f"models/{digest}/weights", bytes(number))
        register("shop", f"{store.uri}/models/{digest}", digest, run_of("shop"), {})
        entry = {"n": number, "version": str(number), "uri": f"{store.uri}/models/{digest}", "digest": digest, "files": files}
        ledger.append("shop", "champion", {**entry, "run_id": f"run-{number}", "fingerprint": "f", "reason": "passed the gate"})
    given = ["models", "rollback", "-c", tmp_path / "run.yaml"]
    code, _, said = command(*given, "--reason", " ")
    assert (code, said) == (2, "calltune: --reason: say why; the ledger keeps it\n")
    code, printed, _ = command(*given, "--reason", "wrong\nrefunds")
    assert (code, printed) == (0, "shop@champion is version 1 again; it was version 2\n")
    code, printed, _ = command(*given, "--reason", "again", "--to", "1")
    assert (code, printed) == (0, "shop@champion is version 1 already: nothing changes\n")
    last = rows(promotions(load(tmp_path / "run.yaml")))[0]
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    assert [last[name] for name in ("n", "version", "alias", "by", "reason")] == [
        "3",
        "1",
        "champion",
        who,
        "rollback: wrong refunds",
    ]
    code, _, said = command(*given, "--reason", "r", "--to", "7")
    assert code == 2 and said.splitlines()[-1].startswith("calltune: shop@champion: version 7 has never served")


@pytest.fixture
def cut_off(store, tracking, tmp_path):
    """A config whose registry names version 1, while the ledger has version 2: a promotion ended between the two."""
    (tmp_path / "run.yaml").write_text(
        f"name: shop\nmodel: {{base: none}}\ningest: {{source: none.jsonl}}\nstorage: {{uri: {tmp_path}/store}}\n"
        f"tracking: {{uri: 'sqlite:///{tmp_path / 'mlflow.db'}'}}\n"
    )
    for number in (1, 2):
        registered(number)
        promoted(number)
    set_alias("shop", "champion", "1")
    return tmp_path / "run.yaml"


@pytest.mark.parametrize("which", ["list", "history"])
def test_aliases_are_put_right_before_they_are_shown(cut_off, command, which):
    code, printed, said = command("models", which, "-c", cut_off)
    assert code == 0 and "champion@" not in printed
    assert "shop@champion is version 2, as the promotion ledger says; it was version 1" in said
    assert aliases("shop") == {"champion": "2", "previous": "1"}
    (line,) = [line for line in printed.splitlines() if "champion" in line and "│" in line and "alias" not in line]
    assert " 2 " in line
    assert "promotion ledger says" not in command("models", which, "-c", cut_off)[2]


@pytest.mark.parametrize("which", ["list", "history"])
def test_a_model_that_another_ledger_may_have_promoted_goes_on_serving(cut_off, command, which):
    registered(3)
    set_alias("shop", "champion", "3")
    code, _, said = command("models", which, "-c", cut_off)
    assert code == 0 and aliases("shop") == {"champion": "3"}
    assert "says that shop@champion is version 2, and the registry 3; shop@previous is version 1, and the registry none" in said


@pytest.mark.parametrize("which", ["list", "history"])
def test_who_may_only_read_the_registry_is_told_what_the_ledger_says(cut_off, command, monkeypatch, which):
    def forbidden(*_):
        answer = requests.Response()
        answer.status_code, answer._content = 403, b"Permission denied"  # as MLflow's server with users says it
        verify_rest_response(answer, "/api/2.0/mlflow/registered-models/alias")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", forbidden)
    code, _, said = command("models", which, "-c", cut_off)
    both = "shop@champion is version 2, and the registry 1; shop@previous is version 1, and the registry none"
    assert (
        code == 0
        and f"warning: the promotion ledger says that {both}: it was left so" in said
        and aliases("shop") == {"champion": "1"}
    )


def test_who_does_not_reach_the_store_sees_the_versions_as_the_registry_has_them(cut_off, command, server, monkeypatch):
    for name, value in {**server, "AWS_ACCESS_KEY_ID": "nobody"}.items():
        monkeypatch.setenv(name, value)
    there = f"storage={{uri: '{server['CALLTUNE_STORAGE']}', endpoint_url: '{server['AWS_ENDPOINT_URL_S3']}'}}"
    code, printed, said = command("models", "list", "-c", cut_off, "--set", there)
    assert code == 0 and "champion" in printed
    assert "warning: shop: the aliases are as the registry has them, not held against the promotion ledger: s3://" in said
    assert "InvalidAccessKeyId" in said


class Silent:
    """A server that takes connections and never answers."""

    def __init__(self, listening):
        self.listening = listening
        self.address = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def asked(self):
        """How often anybody has connected since the last call."""
        self.listening.setblocking(False)
        for number in itertools.count():
            try:
                self.listening.accept()[0].close()
            except BlockingIOError:
                return number


@pytest.fixture
def silent():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Silent(listening)


@pytest.mark.parametrize("which", ["list", "history"])
def test_a_registry_that_does_not_answer_is_asked_once_by_who_only_looks(cut_off, command, silent, which):
    code, _, said = command("models", which, "-c", cut_off, "--set", f"tracking.uri={silent.address}")
    assert (code, said) == (2, f"calltune: tracking.uri: {silent.address} does not answer: Read timed out.\n")
    assert silent.asked() == 1


def test_a_store_that_does_not_answer_hides_no_versions_and_is_tried_once(cut_off, command, silent, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(s3, "HURRIED_ANSWER_S", 1)
    there = f"storage={{uri: 's3://bucket', endpoint_url: '{silent.address}'}}"
    code, printed, said = command("models", "list", "-c", cut_off, "--set", there)
    assert code == 0 and "champion" in printed and "not held against the promotion ledger: s3://bucket/ledger/" in said
    assert silent.asked() == 1
    code, _, said = command("models", "history", "-c", cut_off, "--set", there)
    assert code == 1 and said.startswith("calltune: s3://bucket/ledger/shop/champion/: Read timeout")
    assert silent.asked() == 2  # for the aliases, and for the history itself
