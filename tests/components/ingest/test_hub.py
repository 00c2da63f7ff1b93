"""What of the Hub can be tried without it: addresses, a data set's folder, and how errors are told."""

import json

import pytest
from huggingface_hub import errors

from calltune import hub
from calltune.errors import DataError
from components.ingest.hub import HubSource

URI = "hf://datasets/acme/calls"


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        (URI, ("acme/calls", "main", "", "train")),
        (f"{URI}@v1.2", ("acme/calls", "v1.2", "", "train")),
        (f"{URI}#test", ("acme/calls", "main", "", "test")),
        (f"{URI}@refs/pr/1#en/train[:10%]", ("acme/calls", "refs/pr/1", "en", "train[:10%]")),
        ("hf://datasets/squad#plain/validation", ("squad", "main", "plain", "validation")),
    ],
)
def test_an_address_names_set_revision_config_and_split(uri, parts):
    assert hub.parsed(uri) == hub.Address(*parts)


@pytest.mark.parametrize("uri", ["hf://datasets/", "hf://datasets/a/b/c", f"{URI}@", f"{URI}#", f"{URI} x", "hf://models/a/b"])
def test_what_is_no_address_is_refused(uri):
    with pytest.raises(DataError, match=r"must be hf://datasets/OWNER/NAME, with @REVISION and #CONFIG/SPLIT"):
        hub.parsed(uri)


def test_an_address_without_a_split_after_its_config_is_refused():
    with pytest.raises(DataError, match="after # there must be a split"):
        hub.parsed(f"{URI}#en/")


@pytest.fixture
def folder(tmp_path):
    """A data set with two configs, as its repository on the Hub would be laid out."""
    for config, questions in (("en", ["Who?", "When?"]), ("de", ["Wer?"])):
        (tmp_path / "set" / config).mkdir(parents=True)
        rows = [{"query": text, "answers": "[]", "none": None} for text in questions]
        (tmp_path / "set" / config / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    configs = [{"config_name": name, "data_files": f"{name}/train.jsonl"} for name in ("en", "de")]
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    return tmp_path / "set"


def rows(folder, part):
    return list(HubSource(f"{URI}#{part}", (), (), 2, "rows", str(folder)).rows())


def test_the_rows_of_a_config_are_read_without_their_nulls(folder):
    read = rows(folder, "en/train")
    assert [json.loads(row.text) for row in read] == [{"query": "Who?", "answers": "[]"}, {"query": "When?", "answers": "[]"}]
    assert [(row.uri, row.row) for row in read] == [(f"{URI}#en/train", 1), (f"{URI}#en/train", 2)]


@pytest.mark.parametrize(("part", "says"), [("fr/train", "fr"), ("en/tset", "tset"), ("train", "en.*de|de.*en")])
def test_a_config_or_split_that_is_not_there_is_one_clear_line(folder, part, says):
    with pytest.raises(DataError, match=f"{URI}#{part}: .*({says})") as raised:
        rows(folder, part)
    assert "\n" not in str(raised.value)


def answered(kind, status=404):
    from httpx2 import Request, Response

    return kind("no", response=Response(status, request=Request("GET", "https://huggingface.co")))


def not_in_the_cache_either(cause):
    error = errors.LocalEntryNotFoundError("cannot find the appropriate snapshot folder")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            answered(errors.GatedRepoError, 403),
            "is gated: accept its terms at https://huggingface.co/datasets/acme/calls, and set HF_TOKEN",
        ),
        (answered(errors.RepositoryNotFoundError, 401), "no such data set on the Hub, or a private one: then set HF_TOKEN"),
        (answered(errors.RevisionNotFoundError), "has no revision 'v9'"),
        (errors.OfflineModeIsEnabled("offline"), "the Hub cannot be reached: offline"),
        (answered(errors.HfHubHTTPError, 503), "the Hub cannot be reached: no"),
    ],
)
def test_what_the_hub_says_is_one_clear_line(error, says):
    assert str(hub.explained(f"{URI}@v9", error)).startswith(f"{URI}@v9: {says}")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (answered(errors.HfHubHTTPError, 503), 1),
        (answered(errors.HfHubHTTPError, 429), 1),
        (answered(errors.HfHubHTTPError, 400), 2),
        (answered(errors.GatedRepoError, 403), 2),
        (ConnectionError("no route"), 1),
        (PermissionError("the cache"), 2),
        (not_in_the_cache_either(ConnectionError("no route")), 1),
        (not_in_the_cache_either(answered(errors.HfHubHTTPError, 503)), 1),
        (not_in_the_cache_either(answered(errors.HfHubHTTPError, 403)), 2),
    ],
)
def test_only_of_a_hub_that_is_away_the_same_again_may_end_better(error, exit_code):
    assert hub.explained(URI, error).exit_code == exit_code


def test_an_error_of_another_kind_is_not_explained_away():
    with pytest.raises(ZeroDivisionError):
        hub.explained(URI, ZeroDivisionError())


def test_a_hub_that_cannot_be_reached_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=f"{URI}: the Hub cannot be reached: "):
        hub.commit_of(URI)
