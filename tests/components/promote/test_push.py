"""Champions on the Hub, over HTTP to a server that stands for it: what is promoted gets there, and the token nowhere."""

import json
import os
import sys

import pytest
from huggingface_hub import HfApi

from calltune import ledger, models, runtime
from calltune import tracking as registry
from components.promote.config import PromoteConfig, PushConfig
from components.promote.push import NotPushed, champion, push
from components.promote.rollback import rollback
from components.promote.step import promote
from pipelines import cli

REPO = "acme/helpdesk"
WEIGHTS = {"one": b"1" * 3000, "two": b"2" * 4000}


@pytest.fixture
def act(store, tracking, hub, tmp_path, monkeypatch):
    """A function that promotes a model made of the given files, after a gate that compared with the champion."""

    def run(files, run_id="run-1", passed=True, **settings):
        monkeypatch.setenv("CALLTUNE_RUN_ID", run_id)
        folder = tmp_path / "made" / run_id
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        sums = models.checksums(folder)
        digest = models.digest(sums)
        for name in sums:
            store.upload(folder / name, f"models/{digest}/{name}")
        history = ledger.entries("helpdesk", "champion")
        compared = history[-1]["digest"] if history else None
        check = {"name": "threshold: tool_accuracy", "passed": passed, "reason": "0.9.", "observed": 0.9, "required": 0.8}
        decision = {
            "passed": passed,
            "checks": [{**check, "low": None, "high": None}],
            "candidate": {"digest": digest},
            "champion": {"version": None if compared is None else "1", "digest": compared},
            "metrics": {"tool_accuracy": 0.9},
        }
        runtime.write_json(tmp_path / "model.json", {"uri": f"{store.uri}/models/{digest}", "digest": digest, "files": sums})
        runtime.write_json(tmp_path / "decision.json", decision)
        config = config_of(**settings)
        return promote(tmp_path / "model.json", tmp_path / "decision.json", "print-1", config, tmp_path / "promotion.json")

    return run


def config_of(**settings):
    return PromoteConfig(name="helpdesk", push=PushConfig(**{"repo": REPO, **settings}))


def model(which="one", **more):
    return {
        "model.safetensors": WEIGHTS[which],
        "config.json": b'{"a": 1}',
        "README.md": b"---\nlicense: mit\n---\n# Card\n",
        **more,
    }


def test_a_promoted_model_is_one_commit_that_says_what_it_is(act, hub):
    done = act(model(**{"components/tokenizer/tokenizer.json": b"{}"}))
    files = hub.files(REPO)
    assert hub.private[REPO] is True
    assert {name: data for name, data in files.items() if name not in (".gitattributes", "manifest.json")} == model(
        **{"components/tokenizer/tokenizer.json": b"{}"}
    )
    (entry,) = ledger.entries("helpdesk", "champion")
    assert json.loads(files["manifest.json"]) == entry["files"]
    assert len(hub.branches[REPO]["main"]) == 2
    commit = hub.head(REPO)
    assert commit["title"] == f"helpdesk version 1, model {entry['digest'][:12]}"
    assert commit["description"].splitlines() == [
        "alias: champion",
        "promotion: 1",
        "run: run-1",
        "decision: passed the gate",
        f"model: {entry['digest']}",
        "data: print-1",
    ]
    assert done.promoted and done.hub.startswith(f"{REPO} on the Hub has it now, commit ")


def test_a_refused_model_is_not_pushed(act, hub):
    act(model())
    refused = act(model("two"), run_id="run-2", passed=False)
    assert refused.hub is None and len(hub.branches[REPO]["main"]) == 2


def test_a_champion_that_is_there_already_makes_no_commit_and_sends_no_weights(act, hub):
    act(model())
    hub.requests.clear()
    again = act(model(), run_id="run-2")
    assert again.unchanged and again.hub.startswith(f"{REPO} on the Hub has it already, commit ")
    assert len(hub.branches[REPO]["main"]) == 2
    assert not hub.sent("PUT /lfs/") and not hub.sent("/commit/")


def test_the_next_champion_takes_away_what_it_has_not_and_leaves_what_others_have_put_there(act, hub):
    act(model(**{"model-00002.safetensors": WEIGHTS["two"], "tool_parser.py": b"x"}))
    hub.files(REPO)["NOTES.md"] = b"by hand"
    act(model("two"), run_id="run-2")
    assert set(hub.files(REPO)) == {".gitattributes", "manifest.json", "NOTES.md", *model()}
    assert hub.files(REPO)["model.safetensors"] == WEIGHTS["two"]


@pytest.mark.parametrize("other", [b'{"NOTES.md": {"icon": 1}}', b'[{"src": "NOTES.md"}]'])
def test_a_manifest_of_another_tool_removes_nothing(act, hub, other):
    act(model())
    hub.files(REPO).update({"manifest.json": other, "NOTES.md": b"by hand"})
    done = act(model("two"), run_id="run-2")
    assert " has it now, commit " in done.hub
    assert set(hub.files(REPO)) == {".gitattributes", "manifest.json", "NOTES.md", *model()}


@pytest.mark.parametrize("broken", ["POST /api/repos/create", "PUT /lfs/", "POST .*/commit/"])
def test_a_push_that_fails_leaves_the_promotion_and_can_be_given_again(act, hub, tmp_path, broken):
    hub.down.add(broken)
    done = act(model())
    assert done.promoted and registry.aliases("helpdesk") == {"champion": "1"}
    assert done.hub.startswith(f"not pushed: promote.push: {REPO}: ") and done.hub.endswith(
        "`calltune models push -c FILE` tries again"
    )
    assert json.loads((tmp_path / "promotion.json").read_text())["hub"] == done.hub
    assert done.hub in json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1]).values()
    hub.down.clear()
    config = config_of()
    first, second = push(champion(config), config), push(champion(config), config)
    assert not first.unchanged and second.unchanged and second.commit == first.commit
    assert hub.files(REPO)["model.safetensors"] == WEIGHTS["one"]
    assert len(ledger.entries("helpdesk", "champion")) == 1


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {},
            r"promote\.push: neither CALLTUNE_HUB_TOKEN nor HF_TOKEN is set: set one to a token that may write to acme/helpdesk",
        ),
        ({"HF_TOKEN": "hf_nobody-knows-this-one"}, r"the Hub does not know the token in CALLTUNE_HUB_TOKEN or HF_TOKEN"),
        ({"HF_TOKEN": "READ"}, r"the token in .* may not write there: it needs write access to acme's repositories"),
    ],
)
def test_a_missing_or_refused_token_is_one_line_with_the_way_out(act, hub, monkeypatch, tmp_path, variables, message):
    monkeypatch.delenv("HF_TOKEN")
    for name, value in variables.items():
        monkeypatch.setenv(name, hub.read_only if value == "READ" else value)
    # One that `hf auth login` has left on this machine is nobody's who runs a pipeline.
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("hf_left-on-the-machine")
    done = act(model())
    assert done.promoted and "\n" not in done.hub
    with pytest.raises(NotPushed, match=message):
        push(champion(config_of()), config_of())
    assert not hub.branches


def test_a_token_for_the_push_alone_goes_before_the_one_that_reads(act, hub, monkeypatch):
    monkeypatch.setenv("CALLTUNE_HUB_TOKEN", os.environ["HF_TOKEN"])
    monkeypatch.setenv("HF_TOKEN", hub.read_only)
    assert "has it now" in act(model()).hub


def test_the_token_is_in_no_file_no_log_and_not_in_the_ledger(act, hub, tmp_path, capfd, monkeypatch):
    token = os.environ["HF_TOKEN"]
    act(model())
    # This Hub even repeats a token that it does not know.
    monkeypatch.setenv("HF_TOKEN", token[::-1])
    assert "not pushed" in act(model("two"), run_id="run-2").hub
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    said = "".join(capfd.readouterr()).encode()
    assert b"print-1" in written
    for secret in (token.encode(), token[::-1].encode()):
        assert secret not in written and secret not in said


def test_a_branch_is_made_and_main_stays(act, hub):
    act(model(), revision="staging", private=False)
    assert hub.private[REPO] is False and "config.json" not in hub.files(REPO)
    assert hub.files(REPO, "staging")["config.json"] == b'{"a": 1}'


def test_what_the_store_has_lost_since_is_not_pushed(act, hub, store):
    hub.down.add("POST /api/repos/create")
    act(model())
    hub.down.clear()
    entry = champion(config_of())
    store.put(f"models/{entry['digest']}/config.json", b"{}")
    with pytest.raises(NotPushed, match=r"config\.json is not what was promoted: nothing was pushed"):
        push(entry, config_of())
    assert len(hub.branches[REPO]["main"]) == 1


def test_a_store_that_is_lost_between_promotion_and_push_does_not_fail_the_step(act, hub, store, monkeypatch):
    kept = type(store).download

    def gone(self, key, path):
        if "/files/" in str(path):
            raise OSError("the store is away")
        kept(self, key, path)

    monkeypatch.setattr(type(store), "download", gone)
    done = act(model())
    assert done.promoted and done.hub.startswith("not pushed: ") and "the store is away" in done.hub
    assert registry.aliases("helpdesk") == {"champion": "1"}


def test_after_a_rollback_a_push_brings_the_old_one_back(act, hub):
    act(model())
    act(model("two"), run_id="run-2")
    config = config_of()
    rollback(config, None, "worse", "me")
    done = push(champion(config), config)
    assert not done.unchanged and hub.files(REPO)["model.safetensors"] == WEIGHTS["one"]
    assert "decision: worse" in hub.head(REPO)["description"]


def test_two_pushes_at_once_make_no_mixture_of_two_models(act, hub, monkeypatch):
    act(model())
    listed = HfApi.list_repo_tree

    def while_another_one_pushes(api, *arguments, **options):
        found = list(listed(api, *arguments, **options))
        head = hub.head(REPO)
        hub.branches[REPO]["main"].append({**head, "files": {**head["files"], "model.safetensors": WEIGHTS["two"]}})
        return found

    monkeypatch.setattr(HfApi, "list_repo_tree", while_another_one_pushes)
    # Of its files only the card is new: the weights would be the other one's.
    done = act(model(**{"README.md": b"another card"}), run_id="run-2")
    assert done.promoted
    assert done.hub == (
        f"not pushed: promote.push: {REPO}: somebody else has written to this branch meanwhile; "
        "`calltune models push -c FILE` tries again"
    )
    assert hub.files(REPO)["README.md"] == model()["README.md"]


def test_a_token_in_a_long_answer_is_not_cut_in_two(act, hub, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("x" * 190 + os.environ["HF_TOKEN"])

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    assert os.environ["HF_TOKEN"][:5] not in act(model()).hub


def test_a_hub_that_does_not_answer_is_said_in_one_line(act, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = act(model())
    assert done.promoted and done.hub.startswith("not pushed: promote.push: acme/helpdesk: ") and "\n" not in done.hub


def test_models_push_says_in_one_line_what_it_did(act, hub, tmp_path, capsys, monkeypatch):
    (tmp_path / "run.yaml").write_text(
        f"name: helpdesk\nmodel: {{base: none}}\ningest: {{source: none.jsonl}}\nstorage: {{uri: {tmp_path}/store}}\n"
        f"tracking: {{uri: 'sqlite:///{tmp_path / 'mlflow.db'}'}}\n"
    )

    def command(*more):
        monkeypatch.setattr(sys, "argv", ["calltune", "models", "push", "-c", str(tmp_path / "run.yaml"), *more])
        capsys.readouterr()
        code = cli._code()
        printed = capsys.readouterr()
        return code, printed.out, printed.err.splitlines()[-1:]

    to = ("--set", f"promote.push.repo={REPO}")
    assert command() == (
        2, "", ["calltune: promote.push.repo is not set: name the repository, owner/name, there or with --set"]
    )  # fmt: skip
    assert command(*to)[2] == ["calltune: helpdesk@champion: nothing has been promoted yet, so that there is nothing to push"]
    act(model(), repo="")
    assert not hub.branches
    code, said, _ = command(*to)
    assert code == 0 and said.startswith(f"helpdesk@champion, version 1: {REPO} on the Hub has it now, commit ")
    with monkeypatch.context() as away:
        away.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert command(*to)[0] == 1
    monkeypatch.delenv("HF_TOKEN")
    code, said, error = command(*to)
    assert (code, said) == (2, "") and error[0].startswith(
        "calltune: promote.push: neither CALLTUNE_HUB_TOKEN nor HF_TOKEN is set"
    )
