"""What is left of secrets in a text: nothing, however they are written there."""

import json
from urllib.parse import quote, quote_plus

import pytest

from calltune.credentials import secrets_in, without_secrets


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("hf_abcdefghijklmnop\n", "the Hub does not know hf_abcdefghijklmnop"),
        (" hf_abcdefghijklmnop", f"Bearer {json.dumps('hf_abcdefghijklmnop')}"),
        ("correct  horse", "no login with correct  horse"),
        ("correct  horse", "no login with correct horse"),
        ('a"b\\c ü/&d', json.dumps({"key": 'a"b\\c ü/&d'})),
        ("pass/word+&1", f"GET /?token={quote('pass/word+&1', safe='')}"),
        ("pass/word+&1", f"GET /?token={quote_plus('pass/word+&1')}"),
    ],
)
def test_a_secret_is_found_however_it_is_written(monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    monkeypatch.setenv("HF_TOKEN", value)
    assert [name for name, _ in secrets_in(said)] == ["HF_TOKEN"]
    left = without_secrets(said)
    assert "…" in left
    assert not any(part in left for part in ("abcdef", "horse", "word", "/&d"))


@pytest.mark.parametrize("value", ["", "  \n", "short", "  short  "])
def test_what_is_too_short_to_be_one_is_left(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_TOKEN", value)
    assert list(secrets_in("a short text")) == []


@pytest.mark.parametrize("address", ["http://bob:it's@mlflow:5000/", "postgres://u:p%40ss@db/x", "s3://key@bucket"])
def test_user_and_password_of_an_address_are_left_out(address: str) -> None:
    assert without_secrets(f"no answer from {address}").startswith("no answer from " + address.split("//")[0] + "//…@")
