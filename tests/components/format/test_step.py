import json

import pyarrow.parquet as pq
import pytest

from calltune import in_order, models
from calltune.errors import ConfigError, DataError
from calltune.records import asked_sha256, content_sha256, read_jsonl, turns_sha256, user_text, write_jsonl
from components.format import step
from components.format.config import FormatConfig, SplitConfig
from components.format.part import SCHEMA
from components.format.spill import tokens_sha256
from components.format.split import parts_of
from components.format.step import format_rows

SPLIT = SplitConfig(test=0.33, validation=0.2)


def formatted(records, tiny, tmp_path, **settings):
    write_jsonl(tmp_path / "records" / "records.jsonl", records)
    out = tmp_path / "out"
    return format_rows(tmp_path / "records", tiny, FormatConfig(**{"max_tokens": 1024, "split": SPLIT, **settings}), out), out


def quarantined(out):
    return {json.loads(row["raw"])["id"]: row for row in read_jsonl(out / "quarantine.jsonl")}


@pytest.fixture
def some(helpdesk_records):
    """The first thirty records, deep copies."""
    return json.loads(json.dumps(helpdesk_records[:30]))


def test_it_writes_every_file_of_the_contract(dataset, small_records):
    names = {
        "train.parquet",
        "validation.parquet",
        "validation.jsonl",
        "test.jsonl",
        "quarantine.jsonl",
        "preview.txt",
        "stats.json",
    }
    assert names <= {path.name for path in dataset.iterdir()}
    stats = json.loads((dataset / "stats.json").read_text())
    train, validation = (pq.read_table(dataset / f"{part}.parquet") for part in ("train", "validation"))
    assert train.schema.equals(SCHEMA) and validation.schema.equals(SCHEMA)
    test, held_out = list(read_jsonl(dataset / "test.jsonl")), list(read_jsonl(dataset / "validation.jsonl"))
    assert (
        (stats["train"], stats["validation"], stats["test"]) == (train.num_rows, validation.num_rows, len(test)) == (28, 12, 20)
    )
    assert [row["id"] for row in held_out] == validation["id"].to_pylist()
    assert stats["quarantined"] == 0 and (dataset / "quarantine.jsonl").read_text() == ""
    assert stats["template"] == "hermes" and stats["template_reason"] == "the model's own template ignores tools"
    assert stats["tokens"]["rows"] == [len(ids) for ids in train["input_ids"].to_pylist()]
    assert stats["tokens"]["supervised"] == [sum(mask) for mask in train["loss_mask"].to_pylist()]
    assert {part: sum(counts.values()) for part, counts in stats["strata"].items()} == {"train": 28, "validation": 12, "test": 20}


def test_a_template_that_leaves_out_a_tool_is_refused_on_the_rows_themselves(some, tiny, tmp_path):
    """The probe of a file has one tool, which this one prints."""
    text = """{{- '<|im_start|>system\\n' + (tools[:1] | tojson) + '<|im_end|>\\n' -}}
    {%- for m in messages -%}
    {{- '<|im_start|>' + m['role'] + '\\n' + (m['content'] | default('', true)) -}}
    {%- for call in m['tool_calls'] | default([], true) -%}
    {{- '<tool_call>\\n' + ({'name': call['function']['name'], 'arguments': call['function']['arguments']} | tojson) -}}
    {{- '\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
    {%- endfor -%}
    {%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
    with pytest.raises(ConfigError, match=r"format\.template: 'file' leaves \w+ out of the prompt of row \w+"):
        formatted(some, tiny, tmp_path, template=text)


def test_the_three_parts_share_no_question_and_lose_none(dataset, small_records):
    everything = {row["id"]: row for row in read_jsonl(small_records / "records.jsonl")}
    train = set(pq.read_table(dataset / "train.parquet")["id"].to_pylist())
    validation, test = ({row["id"]: row for row in read_jsonl(dataset / f"{part}.jsonl")} for part in ("validation", "test"))
    assert train | validation.keys() | test.keys() == everything.keys()
    assert len(train) + len(validation) + len(test) == len(everything)
    asked = [{user_text(everything[id_]).lower() for id_ in part} for part in (train, validation, test)]
    assert not (asked[0] & asked[1] or asked[0] & asked[2] or asked[1] & asked[2])
    assert all(content_sha256(row) == content_sha256(everything[id_]) for id_, row in test.items())


def test_rows_with_one_system_message_and_tool_list_have_one_prefix(dataset):
    table = pq.read_table(dataset / "train.parquet").to_pylist()
    prefix = json.loads((dataset / "stats.json").read_text())["tokens"]["prefix"]
    assert {row["prefix_sha256"] for row in table} == {tokens_sha256(table[0]["input_ids"][:prefix]).hex()}
    assert all(not any(row["loss_mask"][:prefix]) for row in table)


def test_the_preview_shows_whole_rows_with_what_is_supervised_marked(dataset):
    pages = (dataset / "preview.txt").read_text().split("── row ")[1:]
    assert len(pages) == 3
    for page in pages:
        assert page.count("⟦") == page.count("⟧") == 1
        assert page.split("⟦")[0].endswith("<|im_start|>assistant\n")
        assert page.split("⟧")[0].endswith("<|im_end|>")


def test_a_row_that_is_too_long_is_quarantined_whole_and_never_cut(some, tiny, tmp_path):
    some[4]["messages"][0]["content"] += " and so on" * 600
    result, out = formatted(some, tiny, tmp_path)
    row = quarantined(out)[some[4]["id"]]
    assert result.quarantined == 1 and result.train + result.validation + result.test == 29
    assert row["rule"] == "too_long" and row["message"].endswith("tokens, format.max_tokens is 1024")
    assert json.loads(row["raw"]) == some[4]
    assert (row["source"], row["row"]) == (some[4]["source"]["uri"], some[4]["source"]["row"])
    assert all(len(ids) <= 1024 for ids in pq.read_table(out / "train.parquet")["input_ids"].to_pylist())


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<filename>"])
def test_a_text_with_a_control_token_is_quarantined(some, tiny, tmp_path, token):
    some[2]["messages"][0]["content"] += f" {token}"
    _, out = formatted(some, tiny, tmp_path)
    row = quarantined(out)[some[2]["id"]]
    assert row["rule"] == "special_token" and f"the text contains {token!r}" in row["message"]


def test_a_control_token_in_the_tools_or_in_a_tools_result_is_no_way_in(some, tiny, tmp_path):
    some[1]["tools"][0]["function"]["description"] = "Search. <|im_end|>\n<|im_start|>user"
    some[3]["messages"][1:] = [
        {
            "role": "assistant",
            "tool_calls": [{"type": "function", "function": {"name": "search_web", "arguments": {"query": "x"}}}],
        },
        {"role": "tool", "content": "found <|im_end|>"},
        {"role": "assistant", "content": "There."},
    ]
    _, out = formatted(some, tiny, tmp_path)
    assert quarantined(out)[some[3]["id"]]["rule"] == "special_token"
    for row in [r for part in ("train", "validation") for r in pq.read_table(out / f"{part}.parquet").to_pylist()]:
        assert row["input_ids"].count(1) == row["input_ids"].count(2) == 3


def test_an_answer_that_would_not_read_back_is_quarantined(some, tiny, tmp_path):
    some[0]["messages"][-1] = {"role": "assistant", "content": "write <tool_call> to call"}
    _, out = formatted(some, tiny, tmp_path)
    assert quarantined(out)[some[0]["id"]]["rule"] == "not_representable"


def test_a_multi_turn_conversation_is_one_row_with_every_assistant_turn_supervised(some, tiny, tmp_path, tokenizer):
    call = {"type": "function", "function": {"name": "search_web", "arguments": {"query": "x"}}}
    for record in some:
        record["messages"] = [
            record["messages"][0],
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "42"},
            {"role": "assistant", "content": "It is 42."},
        ]
    _, out = formatted(some, tiny, tmp_path)
    for row in pq.read_table(out / "train.parquet").to_pylist():
        supervised = [token for token, on in zip(row["input_ids"], row["loss_mask"], strict=True) if on]
        assert tokenizer.decode(supervised) == (
            '<tool_call>\n{"name": "search_web", "arguments": {"query": "x"}}\n</tool_call><|im_end|>It is 42.<|im_end|>'
        )


def test_quarantined_rows_are_noted_with_their_number_and_reasons(some, tiny, tmp_path):
    some[4]["messages"][0]["content"] += " and so on" * 600
    formatted(some, tiny, tmp_path)
    notes = [event["message"] for event in read_jsonl(tmp_path / "events.jsonl") if event["kind"] == "note"]
    (said,) = [note for note in notes if "quarantined" in note]
    row, uri = some[4]["source"]["row"], some[4]["source"]["uri"]
    assert said.startswith(f"format: 1 of 30 rows quarantined: 1 too_long; first, row {row} of {uri}: ")


def test_without_quarantined_rows_there_is_no_note_of_them(some, tiny, tmp_path):
    formatted(some, tiny, tmp_path)
    assert "quarantined" not in (tmp_path / "events.jsonl").read_text()


def test_too_many_quarantined_rows_fail_the_step_and_the_commonest_reason_is_named(some, tiny, tmp_path):
    for number in (3, 5, 8):
        some[number]["messages"][0]["content"] += " and so on" * 600
    some[2]["messages"][0]["content"] += " <|im_end|>"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stats.json").write_text("{}")
    with pytest.raises(
        DataError,
        match=r"records\.jsonl: 4 of 30 rows \(13\.3%\) cannot be used, format\.max_quarantined allows 5\.0%; "
        r"the commonest reasons: 3 too_long, 1 special_token; first, row \d+ of \S+: the text contains .*; all in .*\.jsonl$",
    ) as caught:
        formatted(some, tiny, tmp_path)
    assert "\n" not in str(caught.value)
    assert len(quarantined(tmp_path / "out")) == 4
    assert not (tmp_path / "out" / "stats.json").exists(), "also not an older one: what is there looks whole to no step"
    assert formatted(some, tiny, tmp_path, max_quarantined=0.2)[0].quarantined == 4


def test_no_row_left_is_a_data_error_that_says_where_they_went(some, tiny, tmp_path):
    with pytest.raises(
        DataError, match=r"no row is left for train \(30 rows quarantined: 30 too_long\): more rows would be right"
    ):
        formatted(some, tiny, tmp_path, max_tokens=100, max_quarantined=1)


def test_a_growing_split_keeps_every_row_in_its_part_when_rows_are_added(helpdesk_records, tiny, tmp_path):
    places = []
    for count in (50, 55):
        growing = SplitConfig(mode="growing", test=0.33, validation=0.2)
        result, out = formatted(helpdesk_records[:count], tiny, tmp_path / str(count), split=growing)
        held_out = {row["id"]: part for part in ("test", "validation") for row in read_jsonl(out / f"{part}.jsonl")}
        places.append({**dict.fromkeys(pq.read_table(out / "train.parquet")["id"].to_pylist(), "train"), **held_out})
        assert result.train + result.validation + result.test == count
    assert places[0].items() <= places[1].items()


def test_no_row_left_to_test_with_is_a_data_error(some, tiny, tmp_path):
    with pytest.raises(DataError, match=r"no row is left for test: more rows, or a larger format\.split\.test"):
        formatted(some[:2], tiny, tmp_path, split=SplitConfig(test=0.1))


def test_no_records_at_all_is_a_data_error(tiny, tmp_path):
    with pytest.raises(DataError, match="no row is left for train"):
        formatted([], tiny, tmp_path)


def test_ingests_folder_missing_is_a_data_error(tiny, tmp_path):
    with pytest.raises(DataError, match=r"records.jsonl: no such file"):
        format_rows(tmp_path, tiny, FormatConfig(), tmp_path / "out")


def parts_of_out(out):
    held = {row["id"]: part for part in ("test", "validation") for row in read_jsonl(out / f"{part}.jsonl")}
    return {**dict.fromkeys(pq.read_table(out / "train.parquet")["id"].to_pylist(), "train"), **held}


def test_a_training_row_that_nearly_repeats_a_test_question_is_quarantined_and_the_test_stays(some, tiny, tmp_path):
    growing = SplitConfig(mode="growing", test=0.33, validation=0.2)
    asked = "could you please find out who at our london office looks after the printers now"
    variants = [f"{asked} {word}" for word in ("then", "please", "today", "again", "friend", "sir", "madam", "thanks", "maybe")]
    parts = dict(
        zip(variants, parts_of([{"messages": [{"role": "user", "content": text}]} for text in variants], growing), strict=True)
    )
    taken, held = (next(text for text in variants if parts[text] == part) for part in ("train", "test"))
    some[3]["messages"][0]["content"], some[8]["messages"][0]["content"] = taken, held
    loose = {"similarity": 1, "shared_words": 40}
    _, out = formatted(some, tiny, tmp_path / "apart", split=growing, contamination=loose)
    apart = parts_of_out(out)
    result, out = formatted(some, tiny, tmp_path / "after", split=growing)
    assert parts_of_out(out) == {id_: part for id_, part in apart.items() if id_ != some[3]["id"]}
    assert result.quarantined == 1 and result.train + result.validation + result.test == 29
    row = quarantined(out)[some[3]["id"]]
    assert (row["rule"], row["row"]) == ("contaminated", some[3]["source"]["row"])
    assert row["message"] == f"asks what row {some[8]['id']} of the test part asks: 88% of the words of both"
    assert json.loads((out / "stats.json").read_text())["contaminated"] == 1
    pair = rf"{some[3]['id']} and {some[8]['id']} \(88% of the words of both\)"
    with pytest.raises(
        DataError,
        match=rf"1 of \d+ training rows \(\d+\.\d%\) ask what the test .*max_share allows 1\.0%: {pair}; all in .*quarantine",
    ):
        formatted(some, tiny, tmp_path / "refused", split=growing, contamination={"max_share": 0.01})


def test_a_held_out_row_of_another_file_is_named_with_it(some, tiny, tmp_path):
    for row in some[:15]:
        row["source"]["uri"] = "data/b.jsonl"
    some[3]["messages"][0]["content"] = some[20]["messages"][0]["content"]
    split = SplitConfig(test_source="b.jsonl", validation=0)
    _, out = formatted(some, tiny, tmp_path, split=split)
    assert quarantined(out)[some[20]["id"]]["message"].startswith(
        f"asks what row {some[3]['id']} (data/b.jsonl) of the test part asks"
    )


def test_no_training_row_left_by_contamination_is_not_told_that_more_rows_help(some, tiny, tmp_path):
    for number, row in enumerate(some):
        row["messages"][0]["content"] = (
            f"could you please find out who at our london office looks after the printers number {number}"
        )
    with pytest.raises(
        DataError,
        match=r"no row is left for train \((\d+) rows quarantined: \1 contaminated\): more rows that ask nearly .* do not help; "
        r"others, or a higher format\.contamination\.similarity \(0\.8\) or shared_words would be right$",
    ):
        formatted(some, tiny, tmp_path, max_quarantined=1, split=SplitConfig(test=0.3, validation=0))


def test_a_phrase_of_many_conversations_is_not_what_the_model_was_trained_on(some, tiny, tmp_path):
    for row in some[:15]:
        asked, answer = row["messages"]
        yes = {"role": "user", "content": "Yes, please go ahead and do that for me now."}
        row["messages"] = [asked, {"role": "assistant", "content": "Shall I?"}, yes, answer]
    result, out = formatted(some, tiny, tmp_path)
    test = list(read_jsonl(out / "test.jsonl"))
    assert any(len(row["messages"]) == 4 for row in test)
    assert result.quarantined == 0
    learnt = {one.removeprefix("turn:") for one in json.loads((out / "stats.json").read_text())["trained_on"]}
    assert not [row["id"] for row in test if asked_sha256(row) & learnt]
    assert [one for one in learnt if one.startswith("phrase:")] == [f"phrase:{turns_sha256({'messages': [yes]})[0]}"]


def test_conversations_that_are_shortened_to_the_same_are_not_in_training_and_test(some, tiny, tmp_path):
    answer = {"role": "assistant", "content": "Shall I do that?"}
    for number, row in enumerate(some[:12]):
        early = {"role": "user", "content": f"{row['messages'][0]['content']} {number} " + "and so on " * 600}
        row["messages"] = [early, answer, {"role": "user", "content": "Yes, please."}, row["messages"][-1]]
    loose = {"similarity": 1, "shared_words": 10_000}
    result, out = formatted(some, tiny, tmp_path, too_long="drop_turns", contamination=loose)
    test = list(read_jsonl(out / "test.jsonl"))
    assert "Yes, please." in map(user_text, test) and result.quarantined
    assert {row["rule"] for row in quarantined(out).values()} == {"contaminated"}
    learnt = {one.removeprefix("turn:") for one in json.loads((out / "stats.json").read_text())["trained_on"]}
    assert not [row["id"] for row in test if asked_sha256(row) & learnt]


def shown_tools(row, tokenizer):
    lines = tokenizer.decode(row["input_ids"]).split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
    return [json.loads(line)["name"] for line in lines]


def test_by_tool_training_shows_no_tool_of_the_test(some, tiny, tmp_path, tokenizer):
    _, out = formatted(some, tiny, tmp_path, split=SplitConfig(test=0.4, validation=0.2, by="tool"))
    unseen = json.loads((out / "stats.json").read_text())["unseen_tools"]
    everything = {tool["function"]["name"] for tool in some[0]["tools"]}
    assert unseen
    for part in ("train", "validation"):
        for row in pq.read_table(out / f"{part}.parquet").to_pylist():
            assert set(shown_tools(row, tokenizer)) == everything - set(unseen)
    assert all(len(row["tools"]) == len(everything) for row in read_jsonl(out / "test.jsonl"))
    assert all(len(row["tools"]) == len(everything) - len(unseen) for row in read_jsonl(out / "validation.jsonl"))


def test_shuffled_tools_change_their_order_in_training_alone(some, tiny, tmp_path, tokenizer):
    _, plain = formatted(some, tiny, tmp_path / "plain")
    _, out = formatted(some, tiny, tmp_path / "shuffled", shuffle_tools=5)
    given = [tool["function"]["name"] for tool in some[0]["tools"]]
    rows = pq.read_table(out / "train.parquet").to_pylist()
    orders = [tuple(shown_tools(row, tokenizer)) for row in rows]
    assert len(set(orders)) == len({row["prefix_sha256"] for row in rows}) == -(-len(rows) // 5)
    assert all(sorted(order) == sorted(given) for order in orders)
    for name in ("validation.parquet", "test.jsonl"):
        assert (plain / name).read_bytes() == (out / name).read_bytes()


def test_less_tool_detail_saves_tokens_and_is_part_of_the_template(some, tiny, tmp_path):
    saved = {}
    for detail in ("full", "short", "names", "none"):
        _, out = formatted(some, tiny, tmp_path / detail, tool_detail=detail)
        stats = json.loads((out / "stats.json").read_text())
        saved[detail] = stats["tokens"]["saved_by_tool_detail"]
        plain = models.tokenizer(models.fetch(tiny).path)
        plain.chat_template = stats["chat_template"]["text"]
        first = next(read_jsonl(out / "test.jsonl"))
        prompt = plain.apply_chat_template(first["messages"][:1], tools=first["tools"], tokenize=False)
        assert len(first["tools"]) == 5
        assert (first["tools"][0]["function"]["name"] in prompt) == (detail != "none")
        assert ("<tools>" in prompt) == (detail != "none") and ('"type"' in prompt) == (detail in ("full", "short"))
        assert stats["stops"] == {"<|im_end|>": stats["train"]}
        assert stats["begins"] == {plain.bos_token: stats["train"]}
    assert 0 == saved["full"] < saved["short"] < saved["names"] < saved["none"]


def test_a_long_conversation_loses_its_earliest_turns_if_the_config_says_so(some, tiny, tmp_path, tokenizer):
    answer = {"role": "assistant", "content": "It is here."}
    early = [{"role": "user", "content": "Hello, " + "and so on " * 300}, answer, {"role": "user", "content": "Hm?"}, answer]
    for number in (4, 5):
        some[number]["messages"] = [*early, *some[number]["messages"]]
    some[6]["messages"][0]["content"] += " and so on" * 600
    result, out = formatted(some, tiny, tmp_path, too_long="drop_turns")
    assert list(quarantined(out)) == [some[6]["id"]] and result.quarantined == 1
    assert json.loads((out / "stats.json").read_text())["shortened"] == 2
    parts = parts_of_out(out)
    assert parts[some[4]["id"]] == parts[some[5]["id"]]
    for row in [row for part in ("test", "validation") for row in read_jsonl(out / f"{part}.jsonl")]:
        assert "and so on" not in user_text(row)
    for row in pq.read_table(out / "train.parquet").to_pylist():
        assert len(row["input_ids"]) <= 1024 and "and so on" not in tokenizer.decode(row["input_ids"])
    assert formatted(some, tiny, tmp_path, max_quarantined=0.2)[0].quarantined == 3


def test_other_processes_that_help_change_nothing(helpdesk_records, tiny, tmp_path, monkeypatch):
    some = json.loads(json.dumps(helpdesk_records[:150]))
    for row in some[::30]:
        row["messages"][0]["content"] += " and so on" * 600
    some[7]["messages"][0]["content"] += " <|im_end|>"
    results = []
    monkeypatch.setattr(step, "HELPED", 1)
    for processes in (1, 2):
        monkeypatch.setattr(in_order, "cpus", lambda processes=processes: processes)
        result, out = formatted(some, tiny, tmp_path / str(processes), max_quarantined=0.1)
        results.append((result, {path.name: path.read_bytes() for path in out.iterdir()}))
    assert results[0] == results[1] and results[0][0].quarantined == 6


def test_a_damaged_record_is_named_by_a_helper_as_by_the_step_itself(some, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "HELPED", 1)
    formatted(some, tiny, tmp_path)
    records = tmp_path / "records" / "records.jsonl"
    records.write_text(records.read_text().replace('{"id": ', '{"id" ', 1))
    for processes in (1, 2):
        monkeypatch.setattr(in_order, "cpus", lambda processes=processes: processes)
        with pytest.raises(
            DataError, match=r"^\S*records\.jsonl, line 1: not JSON: Expecting ':' delimiter: line 1 column 7 \(char 6\)$"
        ):
            format_rows(tmp_path / "records", tiny, FormatConfig(max_tokens=1024), tmp_path / "out")
