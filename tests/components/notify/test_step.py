"""Notify: one sentence on how the run ended, whatever happened, and messages to whom the config names."""

import email
import email.policy
import json

import pytest

from calltune import runtime, storage
from calltune.credentials import SECRET_VARIABLES
from calltune.errors import DataError
from calltune.tracking import run_of
from components.notify import component
from components.notify.config import NotifyConfig
from components.notify.step import notify

CONFIG = NotifyConfig(name="helpdesk")
NOTHING = dict.fromkeys(("baseline", "candidate", "champion", "gate", "promoted", "artifacts"))


def metrics(accuracy, tokens=500.25):
    whole = {"low": 0.0, "high": 1.0, "n": 240}
    return {"tool_accuracy": {"value": accuracy, **whole}, "prompt_tokens_mean": {"value": tokens, **whole}}


MEASURED = {
    "config_sha256": "c0ffee",
    "dataset": {"fingerprint": "print-1", "read": 640},
    "baseline": metrics(0.125),
    "candidate": metrics(0.825),
    "champion": None,
    "artifacts": {"report": "s3://b/runs/run-1/report.html", "model": "s3://b/models/d1", "adapter": None},
}
CHECK = {"name": "threshold: tool_accuracy", "passed": False, "observed": 0.825, "required": 0.9}
SUMMARIES = {
    "promoted": {
        "outcome": "promoted",
        "reason": "passed the gate",
        **MEASURED,
        "gate": {"passed": True, "checks": [{**CHECK, "passed": True, "reason": "0.825 reaches 0.8"}]},
        "promoted": {"model": "helpdesk", "version": 3, "alias": "champion", "previous": 2, "unchanged": False},
    },
    "refused": {
        "outcome": "refused",
        "reason": "the gate refused: threshold: tool_accuracy",
        **MEASURED,
        "gate": {"passed": False, "checks": [{**CHECK, "reason": "0.825 is below <0.9> & more"}]},
        "promoted": None,
    },
    "nothing_new": {"outcome": "nothing_new", "reason": "nothing new since the champion was trained", **NOTHING},
}
SENTENCES = {
    "promoted": "helpdesk: run run-1: promoted: version 3 is champion, after version 2",
    "refused": "helpdesk: run run-1: refused: the gate refused: threshold: tool_accuracy",
    "nothing_new": "helpdesk: run run-1: nothing new",
}
TABLE = """\
                      base  candidate
tool_accuracy       12.5 %     82.5 %
prompt_tokens_mean   500.2      500.2"""


@pytest.fixture
def ended(store):
    """A function that lets the run end so."""
    return lambda outcome: store.put_json("runs/run-1/summary.json", SUMMARIES[outcome])


def fails(message, step="train"):
    with pytest.raises(SystemExit), runtime.step(step):
        raise DataError(message)


@pytest.fixture
def notes(tmp_path):
    """A function that says what is in the log."""

    def read():
        events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
        return [event["message"] for event in events if event["kind"] == "note"]

    return read


@pytest.fixture
def told(hook, monkeypatch):
    """A function that makes a config in which the hook is told, as Slack or as a program."""

    def config(*via, **settings):
        for name in ("CALLTUNE_SLACK_URL", "CALLTUNE_WEBHOOK_URL"):
            monkeypatch.setenv(name, hook.address)
        return NotifyConfig(name="helpdesk", via=via, **settings)

    return config


@pytest.mark.parametrize("outcome", SUMMARIES)
def test_a_run_with_a_summary_has_its_outcome(store, tracking, ended, outcome):
    ended(outcome)
    assert notify(CONFIG) == SENTENCES[outcome]
    assert tracking.get_experiment_by_name("helpdesk") is None, "and its MLflow run is left as it is"


def test_a_failed_step_is_named_with_its_reason(store, tracking):
    with runtime.step("look"):
        pass
    fails("questions.jsonl: no such file", step="ingest")
    assert notify(CONFIG) == "helpdesk: run run-1: failed at ingest: questions.jsonl: no such file"
    assert tracking.get_run(run_of("helpdesk")).info.status == "FAILED"


def test_a_run_that_ended_without_a_word_has_failed(store, tracking):
    assert notify(CONFIG) == "helpdesk: run run-1: failed: no step has said why"


def test_what_failed_is_said_also_where_mlflow_is_away(store, notes, monkeypatch):
    monkeypatch.setenv("CALLTUNE_TRACKING", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SystemExit), runtime.step("look"):
        raise DataError("questions.jsonl: no such file")
    assert notify(CONFIG) == "helpdesk: run run-1: failed at look: questions.jsonl: no such file"
    assert notes()[-2].startswith("notify: MLflow was not told: ")


def test_it_reads_a_real_s3_store(s3, tracking):
    s3.put_json("runs/run-1/summary.json", SUMMARIES["promoted"])
    s3.put_json("runs/run-2/summary.json", SUMMARIES["refused"])
    assert notify(CONFIG) == SENTENCES["promoted"]


def test_its_own_failure_is_a_sentence_that_is_told_and_never_the_runs(store, tracking, told, hook):
    store.put("runs/run-1/summary.json", b"{")
    assert "how it ended cannot be read" in notify(told("webhook"))
    assert hook.bodies[0]["outcome"] == "failed" and "cannot be read" in hook.bodies[0]["error"]


def test_the_exit_task_ends_well_where_the_store_takes_no_record_of_it(tracking, notes, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CALLTUNE_STORAGE", str(tmp_path / "file" / "store"))
    component.notify.python_func(config={"name": "helpdesk"}, code="", status=None)
    assert "failed: no step has said why" in notes()[0] and "the store cannot be written" in notes()[1]


def test_slack_gets_text_with_the_table_the_reasons_and_the_links(ended, told, hook, notes):
    ended("refused")
    notify(told("slack"))
    text = (
        f"{SENTENCES['refused']}\n\n```\n{TABLE}\n```\n\n✗ threshold: tool_accuracy: 0.825 is below &lt;0.9&gt; &amp; more\n\n"
        "report: s3://b/runs/run-1/report.html\nmodel: s3://b/models/d1\n"
    )
    assert hook.bodies == [{"text": text}]
    assert notes()[-1] == "notify: slack: sent"


def test_a_champion_is_a_column_of_its_own(store, told, hook):
    store.put_json("runs/run-1/summary.json", {**SUMMARIES["promoted"], "champion": metrics(0.8)})
    notify(told("slack"))
    assert "base  candidate  champion\ntool_accuracy       12.5 %     82.5 %    80.0 %" in hook.bodies[0]["text"]


def test_a_program_gets_json_that_says_why(ended, told, hook):
    ended("promoted")
    notify(told("webhook"))
    (body,) = hook.bodies
    summary = SUMMARIES["promoted"]
    keys = ("reason", "config_sha256", "dataset", "baseline", "candidate", "champion", "gate", "promoted", "artifacts")
    links = {"report": "s3://b/runs/run-1/report.html", "model": "s3://b/models/d1"}
    ending = {"name": "helpdesk", "run_id": "run-1", "outcome": "promoted", "step": None, "error": None, "links": links}
    assert body == {"text": SENTENCES["promoted"], **ending, **{key: summary[key] for key in keys}}


def test_a_program_is_told_at_which_step_a_run_failed(store, tracking, told, hook):
    fails("rows.jsonl: is empty")
    notify(told("webhook"))
    (body,) = hook.bodies
    assert (body["outcome"], body["step"], body["error"], body["candidate"]) == ("failed", "train", "rows.jsonl: is empty", None)


def test_a_link_leads_to_mlflows_page_and_without_the_password(store, tracking, told, hook, monkeypatch):
    from calltune import tracking as ours

    run = run_of("helpdesk")
    page = f"/#/experiments/{tracking.get_run(run).info.experiment_id}/runs/{run}"
    monkeypatch.setenv("CALLTUNE_TRACKING", "https://admin:password@mlflow.example.com/base/")
    monkeypatch.setattr(ours, "client", lambda: tracking)
    store.put_json("runs/run-1/summary.json", SUMMARIES["promoted"])
    notify(told("webhook"))
    assert hook.bodies[0]["links"]["MLflow"] == f"https://mlflow.example.com/base{page}"


def test_only_the_endings_that_are_asked_for_are_told(ended, told, hook):
    for outcome in SUMMARIES:
        ended(outcome)
        notify(told("webhook", about=["promoted", "failed"]))
    assert [body["outcome"] for body in hook.bodies] == ["promoted"]


@pytest.mark.parametrize(
    ("statuses", "posts", "said"),
    [
        ([503, 429], 3, "sent"),
        ([500, 502, 503], 3, "not sent: HTTP 503"),
        ([404], 1, "not sent: HTTP 404"),
        ([302], 1, "not sent: HTTP 302"),
    ],
)
def test_what_may_pass_is_tried_again_and_the_rest_is_one_line(ended, told, hook, notes, statuses, posts, said):
    ended("promoted")
    hook.statuses += statuses
    assert notify(told("slack")) == SENTENCES["promoted"]
    assert len(hook.bodies) == posts and notes()[-1] == f"notify: slack: {said}"


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/services/SECRET-PATH", "SECRET-PATH", "http://[SECRET-PATH"])
def test_an_address_where_nobody_answers_is_one_line_without_the_address(ended, notes, monkeypatch, address):
    ended("promoted")
    monkeypatch.setenv("CALLTUNE_SLACK_URL", address)
    notify(NotifyConfig(name="helpdesk", via=["slack"]))
    assert notes()[-1].startswith("notify: slack: not sent: ") and "SECRET" not in str(notes())


def test_a_variable_that_is_not_set_is_one_line(ended, notes, monkeypatch):
    ended("promoted")
    monkeypatch.delenv("CALLTUNE_SLACK_URL", raising=False)
    notify(NotifyConfig(name="helpdesk", via=["slack"]))
    assert notes()[-1] == "notify: slack: not sent: CALLTUNE_SLACK_URL is not set"


def mail_config(port, **settings):
    where = {"host": "127.0.0.1", "port": port, "sender": "calltune@example.com", "to": ["a@example.com", "b@example.com"]}
    return NotifyConfig(name="helpdesk", via=["email"], email={**where, "security": "none", **settings})


def test_mail_has_the_sentence_as_its_subject_and_the_table(ended, mail_server, notes):
    ended("promoted")
    mailbox, port = mail_server()
    mailbox.answers.append("451 later")
    notify(mail_config(port))
    (envelope,) = mailbox.messages
    assert notes()[-1] == "notify: email: sent"
    assert envelope.rcpt_tos == ["a@example.com", "b@example.com"] and envelope.mail_from == "calltune@example.com"
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert message["Subject"] == SENTENCES["promoted"] and message["Date"] and message["Message-ID"].endswith("@example.com>")
    assert TABLE in message.get_content().replace("\r\n", "\n")


def test_mail_is_encrypted_and_the_password_comes_from_the_environment(ended, mail_server, certificate, notes, monkeypatch):
    ended("refused")
    mailbox, port = mail_server(password="mail-password")
    config = mail_config(port, security="starttls", user="calltune")
    monkeypatch.setenv("CALLTUNE_SMTP_PASSWORD", "mail-password")
    notify(config)
    assert notes()[-1].startswith("notify: email: not sent: the mail server's certificate") and mailbox.messages == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    notify(config)
    assert notes()[-1] == "notify: email: sent" and len(mailbox.messages) == 1
    monkeypatch.setenv("CALLTUNE_SMTP_PASSWORD", "another one")
    notify(config)
    assert notes()[-1] == "notify: email: not sent: the mail server refuses (SMTP 535)" and len(mailbox.messages) == 1
    assert "password" not in str(notes()).replace("SMTP_PASSWORD", "")


def test_of_a_secret_that_begins_as_another_or_has_a_quote_in_it_nothing_is_left(store, tracking, told, hook, monkeypatch):
    config = told("webhook")
    monkeypatch.setenv("CALLTUNE_SLACK_URL", hook.address)
    monkeypatch.setenv("CALLTUNE_WEBHOOK_URL", f"{hook.address}/REST-OF-IT")
    monkeypatch.setenv("CALLTUNE_SMTP_PASSWORD", 'canary"word\\')
    said = f'{hook.address}/REST-OF-IT and canary"word\\ were refused'
    store.put_json("runs/run-1/summary.json", {**SUMMARIES["refused"], "reason": said})
    assert notify(config) == "helpdesk: run run-1: refused: … and … were refused"
    assert hook.bodies[0]["reason"] == "… and … were refused"


def test_no_secret_is_in_a_log_or_in_a_message(store, tracking, told, hook, mail_server, tmp_path, monkeypatch):
    mailbox, port = mail_server()
    config = told("slack", "webhook", "email", email=mail_config(port).email)
    canaries = [f"canary-of-{name}" for name in SECRET_VARIABLES if name not in ("CALLTUNE_SLACK_URL", "CALLTUNE_WEBHOOK_URL")]
    for canary in canaries:
        monkeypatch.setenv(canary.removeprefix("canary-of-"), canary)
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "emit", lambda *_, **__: None)
        fails(f"<!channel> {' '.join(canaries)} {hook.address} http://user:canary-word@mlflow:5000 has said no")
    said = notify(config)
    assert said.count("…") == len(canaries) + 2 and said.endswith("http://…@mlflow:5000 has said no")
    mailed = email.message_from_bytes(mailbox.messages[0].content, policy=email.policy.default)
    sent = json.dumps(hook.bodies) + str(mailed["Subject"]) + mailed.get_content() + (tmp_path / "events.jsonl").read_text()
    assert len(hook.bodies) == 2 and "canary" not in sent and "SECRET-PATH" not in sent
    assert "<!channel>" not in hook.bodies[0]["text"]
    assert storage.of_run().list("runs/run-1/steps/") == ["runs/run-1/steps/train.json"]
