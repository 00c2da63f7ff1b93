import shutil

import pytest

from calltune import hub
from calltune.errors import DataError
from components.look.fingerprint import fingerprint


@pytest.fixture
def data(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"query": "Hi"}\n')
    (tmp_path / "tools.py").write_text("def f(): ...\n")
    return tmp_path


def test_the_same_content_under_another_name_has_the_same_fingerprint(data):
    shutil.copy(data / "rows.jsonl", data / "other.jsonl")
    assert fingerprint(f"{data}/rows.jsonl", "") == fingerprint(f"{data}/other.jsonl", "")


def test_one_changed_character_in_rows_or_tools_changes_it(data):
    rows, tools = f"{data}/rows.jsonl", f"{data}/tools.py"
    seen = {fingerprint(rows, ""), fingerprint(rows, tools)}
    (data / "tools.py").write_text("def g(): ...\n")
    seen.add(fingerprint(rows, tools))
    (data / "rows.jsonl").write_text('{"query": "Ho"}\n')
    seen.add(fingerprint(rows, tools))
    assert len(seen) == 4
    assert all(len(value) == 64 for value in seen)


def test_other_weights_in_the_same_folder_change_it(data):
    rows = f"{data}/rows.jsonl"
    weights = data / "base" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"1")
    first = fingerprint(rows, "", f"{data}/base")
    assert first == fingerprint(rows, "", f"{data}/base") != fingerprint(rows, "")
    weights.write_bytes(b"2")
    assert fingerprint(rows, "", f"{data}/base") != first


def test_other_weights_under_the_same_address_change_it_and_those_beside_it_do_not(data, s3):
    rows, base = f"{data}/rows.jsonl", f"{s3.uri}/base"
    s3.put("base/model.safetensors", b"1")
    first = fingerprint(rows, "", base)
    s3.put("base-2/model.safetensors", b"1")
    assert fingerprint(rows, "", base) == fingerprint(rows, "", f"{base}/") == first
    s3.put("base/model.safetensors", b"2")
    assert fingerprint(rows, "", base) != first
    with pytest.raises(DataError, match="nowhere/: there is no object"):
        fingerprint(rows, "", f"{s3.uri}/nowhere")


def test_another_name_or_revision_of_the_base_model_changes_it(data):
    models = [("", ""), ("bundled:smollm2-135m", ""), ("org/model", "0" * 40), ("org/model", "1" * 40), ("org/other", "0" * 40)]
    assert len({fingerprint(f"{data}/rows.jsonl", "", *model) for model in models}) == 5


def test_what_does_not_exist_is_named(data):
    with pytest.raises(DataError, match=r"nowhere.jsonl: no such data file"):
        fingerprint(f"{data}/nowhere.jsonl", "")
    with pytest.raises(DataError, match=r"nowhere.py: no such tools file"):
        fingerprint(f"{data}/rows.jsonl", f"{data}/nowhere.py")


def test_of_a_folder_names_and_contents_count(data):
    seen = {fingerprint(str(data), "")}
    (data / "rows.jsonl").write_text('{"query": "Ho"}\n')
    seen.add(fingerprint(str(data), ""))
    (data / "rows.jsonl").rename(data / "other.jsonl")
    seen.add(fingerprint(str(data), ""))
    assert len(seen) == 3
    with pytest.raises(DataError, match="is a folder; name the tools file"):
        fingerprint(f"{data}/other.jsonl", str(data))


def test_rows_in_a_file_called_manifest_count_too(data):
    rows = data / "rows"
    rows.mkdir()
    (rows / "manifest.json").write_text('[{"query": "Hi"}]')
    first = fingerprint(str(rows), "")
    (rows / "manifest.json").write_text('[{"query": "Ho"}]')
    assert fingerprint(str(rows), "") != first


def test_a_further_source_and_what_is_in_it_change_it(data):
    rows, more = f"{data}/rows.jsonl", data / "more.jsonl"
    more.write_text("1\n")
    alone, both = fingerprint(rows, ""), fingerprint(rows, "", more=[str(more)])
    more.write_text("2\n")
    assert len({alone, both, fingerprint(rows, "", more=[str(more)])}) == 3
    assert fingerprint(rows, "", more=[]) == alone


def test_a_data_set_of_the_hub_counts_by_its_commit_and_its_part(monkeypatch):
    commits = {"main": "a" * 40, "v2": "b" * 40}
    monkeypatch.setattr(hub, "commit_of", lambda uri: commits[hub.parsed(uri).revision])
    uri = "hf://datasets/acme/calls"
    assert fingerprint(uri, "") == fingerprint(f"{uri}@main#train", "")
    assert len({fingerprint(uri + rest, "") for rest in ("", "@v2", "#test", "#de/train")}) == 4
    before = fingerprint(uri, "")
    commits["main"] = "c" * 40
    assert fingerprint(uri, "") != before


def test_what_ingest_does_not_read_of_a_folder_is_no_news(data):
    folder = data / "rows"
    (folder / ".runs").mkdir(parents=True)
    (folder / "a.jsonl").write_text("1\n")
    first = fingerprint(str(folder), "")
    (folder / ".runs" / "run.log").write_text("one line more each time\n")
    (folder / "_SUCCESS").write_text("")
    assert fingerprint(str(folder), "") == first
    (folder / "b.jsonl").write_text("1\n")
    assert fingerprint(str(folder), "") != first
