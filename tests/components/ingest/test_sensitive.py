"""The keys here open nothing; they are put together so that no scanner of this repository takes them for real ones."""

import json

import pytest

from calltune.errors import DataError
from calltune.records import read_jsonl
from components.ingest.config import IngestConfig
from components.ingest.sensitive import PERSONAL, SECRETS, found, masked
from components.ingest.step import ingest
from tests.timing import least_cpu_s

LETTERS = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dF3gH5"
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
EXAMPLES = {
    "private_key": "-----BEGIN RSA PRIVATE" + f" KEY-----\n{LETTERS}\n{LETTERS}\n-----END RSA PRIVATE KEY-----",
    "aws_key": AWS,
    "aws_secret": "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
    "github_token": "ghp_" + LETTERS,
    "gitlab_token": "glpat-" + LETTERS[:20],
    "slack_token": "xoxb-" + "123456789012-" + LETTERS[:24],
    "jwt": ".".join(["eyJ" + LETTERS, "eyJ" + LETTERS, LETTERS]),
    "provider_key": "sk-" + "proj-" + LETTERS,
    "email": "Ana.Lima+it@mail.example.co.uk",
    "card_number": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
}
BEFORE = {"aws_secret": "AWS_SECRET_ACCESS_KEY="}
HARMLESS = [
    "4111 1111 1111 1112",
    "order 2024-01-02 10:20:30, tracking 1234567890123456",
    "550e8400-e29b-41d4-a716-446655440000",
    "commit 9d2ac39f0146ee8bd174b466a37fa6b9eedf9b55 of sk-learn-contrib-something-long",
    "me@localhost, @handle and a@b",
    "room DE12 3456 7890 1234 5678 90",
    "task_id hf_model npm_config",
]
TOOL = {
    "name": "mail",
    "parameters": {
        "type": "object",
        "properties": {"to": {"type": "string"}, "text": {"type": "string"}, "n": {"type": "integer"}},
    },
}


def kinds_in(text):
    return {kind: value for kinds in (SECRETS, PERSONAL) for kind, value in found(text, kinds)}


def asks(question, **arguments):
    made = {"role": "assistant", "tool_calls": [{"function": {"name": "mail", "arguments": arguments}}]}
    return {"messages": [{"role": "user", "content": question}, made], "tools": [TOOL]}


def left(tmp_path):
    return "".join(path.read_text() for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", [*SECRETS, *PERSONAL])
def test_each_kind_is_found_in_a_sentence_and_masked(kind):
    text = f"Use {BEFORE.get(kind, '')}{EXAMPLES[kind]}. 12/27 OK"
    assert kinds_in(text) == {kind: EXAMPLES[kind]}
    assert EXAMPLES[kind] not in masked(text)
    assert f"[{kind.upper()}]" in masked(text)


@pytest.mark.parametrize("kind", [*SECRETS, *PERSONAL])
@pytest.mark.parametrize("beside", ["a", "1", "A1", "-", "."])
def test_a_text_that_is_nothing_else_is_found_whatever_the_texts_beside_it(take, kind, beside):
    parameters = {"type": "object", "properties": {name: {"type": "string"} for name in "abc"}}
    arguments = {"a": beside, "b": BEFORE.get(kind, "") + EXAMPLES[kind], "c": beside}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "mail", "arguments": arguments}}]}
    row = {"messages": [{"role": "user", "content": beside}, call], "tools": [{"name": "mail", "parameters": parameters}]}
    with pytest.raises(DataError, match=f"holds {kind}, and"):
        take([row], secrets="quarantine", personal_data="quarantine")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_one_is_left(text):
    assert (kinds_in(text), masked(text)) == ({}, text)


def test_report_keeps_the_rows_and_counts_them(take, tmp_path):
    assert take([asks(f"My key is {AWS}", text="x"), asks("To a@b.io and c@d.io", to="a@b.io"), asks("Hi", n=1)]).kept == 3
    profile = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert (profile["secrets"], profile["personal_data"]) == ({"aws_key": 1}, {"email": 1})
    assert AWS not in (tmp_path / "out" / "profile.json").read_text() + (tmp_path / "out" / "profile.html").read_text()


def test_redact_puts_one_placeholder_wherever_the_text_stands(take, tmp_path):
    row = {
        **asks(f"Mail {AWS} to Ana@b.io, then to c@d.io", to="ana@b.io", text=AWS),
        "expected": [{"name": "mail", "arguments": {"to": ["ana@b.io", "Ana@b.io"], "text": [AWS, ""]}}],
        "id": "c@d.io",
    }
    take([row, asks("Call {", to="c@d.io", oops="x")], secrets="redact", personal_data="redact", max_quarantined=0.5)
    (kept,) = read_jsonl(tmp_path / "out" / "records.jsonl")
    assert kept["messages"][0]["content"] == "Mail [AWS_KEY_1] to [EMAIL_1], then to [EMAIL_2]"
    arguments = {"to": "[EMAIL_1]", "text": "[AWS_KEY_1]"}
    assert kept["messages"][1]["tool_calls"][0]["function"]["arguments"] == arguments
    assert kept["expected"][0]["arguments"] == {"to": ["[EMAIL_1]", "[EMAIL_1]"], "text": ["[AWS_KEY_1]", ""]}
    everything = left(tmp_path)
    assert "oops" in everything
    assert not any(text in everything for text in (AWS, "na@b.io", "c@d.io"))


def test_rows_that_only_the_redacted_text_told_apart_are_one(take):
    assert take([asks("Mail a@b.io", to="a@b.io"), asks("Mail c@d.io", to="c@d.io")], personal_data="redact").duplicates == 1


def test_a_number_that_cannot_be_replaced_puts_its_row_into_quarantine(take, tmp_path):
    rows = [asks("Hi", n=1), asks("Charge it", n=4111111111111111)]
    take(rows, personal_data="redact", max_quarantined=0.5)
    (refused,) = read_jsonl(tmp_path / "out" / "quarantine.jsonl")
    assert refused["rule"] == "personal_data"
    assert refused["message"] == "holds card_number, without which its calls do not fit their tools any more"


def test_quarantine_takes_the_row_out_whole_and_its_message_has_no_key(take, tmp_path):
    with pytest.raises(DataError, match=r"the commonest reasons: 1 secrets; first, row 2: holds aws_key, and ingest.secrets"):
        take([asks("Hi", n=1), asks(f"Key {AWS}", text="x")], secrets="quarantine")
    (refused,) = read_jsonl(tmp_path / "out" / "quarantine.jsonl")
    assert AWS in refused["raw"]
    assert AWS not in refused["message"]


def test_what_is_in_rows_that_are_quarantined_for_another_reason_is_counted_too(take, tmp_path):
    cut = json.dumps(asks(f"Key:\n{AWS}", text="x"))[:-20]
    rows = [asks("Hi", n=1), asks(f"Key {AWS} of a@b.io", n="x"), {"id": AWS}, cut, json.dumps([AWS]), {"note": [f"a\n{AWS}"]}]
    take(rows, max_quarantined=0.9)
    profile = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert (profile["secrets"], profile["personal_data"]) == ({"aws_key": 5}, {"email": 1})
    page = (tmp_path / "out" / "profile.html").read_text()
    assert "None was found" not in page and "they stand as they were" in page
    take(rows, max_quarantined=0.9, secrets="redact")
    assert AWS not in left(tmp_path)
    assert "they stand with such texts masked" in (tmp_path / "out" / "profile.html").read_text()


def test_a_row_that_is_quarantined_for_a_key_has_its_personal_data_counted(take, tmp_path):
    take([asks("Hi", n=1), asks(f"Key {AWS} of a@b.io", text="x")], secrets="quarantine", max_quarantined=0.5)
    profile = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert (profile["secrets"], profile["personal_data"]) == ({"aws_key": 1}, {"email": 1})


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
@pytest.mark.parametrize("kind", ["aws_key", "card_number"])
def test_a_byte_that_is_no_utf8_hides_nothing_behind_it(tmp_path, kind, name):
    line = b'"It is:\xa0' + EXAMPLES[kind].encode() + b'",Yes.'
    if name == "rows.jsonl":
        line = b'{"instruction": ' + line.replace(b",", b', "output": "').replace(b"Yes.", b'Yes."}')
    good = b'Hi?,"Yes."' if name == "rows.csv" else b'{"instruction": "Hi?", "output": "Yes."}'
    header = [b"instruction,output"] if name == "rows.csv" else []
    (tmp_path / name).write_bytes(b"\n".join([*header, line, good]))
    config = IngestConfig(source=str(tmp_path / name), secrets="redact", personal_data="redact", max_quarantined=0.5)
    ingest(config, tmp_path / "out")
    (row,) = read_jsonl(tmp_path / "out" / "quarantine.jsonl")
    assert (row["rule"], EXAMPLES[kind] in row["raw"]) == ("not_utf8", False)
    profile = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert profile["secrets" if kind in SECRETS else "personal_data"] == {kind: 1}


def test_no_message_of_another_rule_shows_a_key(take):
    with pytest.raises(DataError, match=r"not the string \"\[AWS_KEY\]\"") as raised:
        take([asks("Hi", n=1), asks("Hi there", n=AWS)])
    assert AWS not in str(raised.value)


def test_a_key_in_a_tools_default_is_found(take, tmp_path):
    row = {**asks("Hi", text="x"), "tools": [{**TOOL, "description": f"Uses {AWS}."}]}
    take([row], secrets="redact")
    (kept,) = read_jsonl(tmp_path / "out" / "records.jsonl")
    assert kept["tools"][0]["function"]["description"] == "Uses [AWS_KEY_1]."


@pytest.mark.parametrize(
    "piece", ["sk-", "-eyJ", "-eyJ.", "SG.", "xoxb-", "pypi-", "-----BEGIN PRIVATE KEY-----", "a@", "a@a.", "4 ", "DE12 "]
)
def test_a_text_of_nothing_but_beginnings_takes_no_longer_than_its_length(piece):
    def least_s(letters):
        return least_cpu_s(kinds_in, piece * (letters // len(piece)))

    assert least_s(60_000) < 10 * max(least_s(15_000), 0.05)
