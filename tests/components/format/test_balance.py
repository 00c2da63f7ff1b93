"""What is said of lopsided rows, and that chance alone is not: on rows made for it, and on the helpdesk example."""

import json
import random

import pytest

from calltune.metrics import label_of
from calltune.records import read_jsonl
from components.format.balance import Counted, warnings
from components.format.config import SplitConfig
from components.format.split import TEST, TRAIN, parts_of, stratum

TOOLS = ["search", "ticket", "book"]
GROWING = SplitConfig(mode="growing", test=0.3, validation=0.1)


def row(number, *called, tools=TOOLS, asked=None):
    calls = [{"type": "function", "function": {"name": name, "arguments": {}}} for name in called]
    return {
        "messages": [
            {"role": "user", "content": asked or f"question {number}"},
            {"role": "assistant", **({"tool_calls": calls} if calls else {"content": "Hm."})},
        ],
        "tools": [{"type": "function", "function": {"name": name}} for name in tools],
    }


def counted(rows):
    found = Counted()
    for one in rows:
        found.add(one, stratum(one))
    return found


def mixed(seed=0, tools=TOOLS, **counts):
    """Rows of these kinds of answer, `none` among them, `a_b` two calls, in a random order."""
    kinds = [[] if kind == "none" else kind.split("_") for kind, count in counts.items() for _ in range(count)]
    random.Random(seed).shuffle(kinds)
    return [row(f"{seed}.{number}", *kind, tools=tools) for number, kind in enumerate(kinds)]


def said(train, test, split=SplitConfig(), unseen=()):  # noqa: B008  # frozen
    return warnings(counted(train), counted(test), split, unseen)


def test_nothing_is_said_of_rows_that_are_mixed_and_taught():
    assert said(mixed(search=30, ticket=30, book=20, none=20), mixed(1, search=15, ticket=15, book=10, none=10)) == {}


def test_one_answer_for_most_rows_is_said_with_what_a_model_that_always_gives_it_would_reach():
    train, test = mixed(search=80, ticket=10, book=10), mixed(1, search=7, ticket=2, book=1)
    assert said(train, test)["majority"] == (
        "80.0% of the training rows expect search: a model that always answers so would pick the right tools in 70.0% of the test"
    )
    silent = said(mixed(none=60, search=20, ticket=10, book=10), mixed(1, none=5, search=5))
    assert "expect no call: a model that always answers so would pick the right tools in 50.0% of the test" in silent["majority"]
    half = said(mixed(search=50, ticket=25, book=25), test)
    assert "majority" not in half


def test_instructions_without_tools_are_no_majority():
    assert said(mixed(none=40, tools=[]), mixed(1, none=10, tools=[])) == {}


def test_tools_that_training_shows_and_never_calls_are_counted_and_the_first_named():
    tools = [*TOOLS, *(f"spare_{number}" for number in range(5))]
    train = mixed(search=10, ticket=10, book=10, tools=tools)
    found = said(train, mixed(1, search=5, ticket=5, book=5, tools=tools))
    assert found == {
        "never_called": "5 of 8 tools in the training rows are never called there: spare_0, spare_1, spare_2 and 2 more"
    }
    earlier = row(0, "search", tools=tools)
    earlier["messages"][1:1] = row(0, *tools[3:], tools=tools)["messages"][1:]
    assert "never_called" not in said([earlier, *train], mixed(1, search=5, tools=tools))


def test_answers_of_the_test_that_training_hardly_teaches_are_said():
    train = mixed(search=40, ticket=40, book=5, search_ticket=4)
    test = mixed(1, search=5, ticket=5, book=5, search_ticket=2, book_book=1)
    assert said(train, test) == {
        "untaught": "of 5 kinds of answer in the test 1 have no training row: book + book; "
        "1 have fewer than 5 training rows: search + ticket (4)"
    }
    assert said(train, mixed(1, search=5, book=5)) == {}


def test_tools_that_a_split_by_tool_keeps_for_the_test_are_not_untaught():
    test = mixed(1, new=5, search_new=5, search=5)
    train = mixed(search=20, ticket=20, book=20)
    assert said(train, test, unseen={"new"}) == {}
    assert "2 have no training row" in said(train, test)["untaught"]


def test_a_growing_split_by_chance_is_said_in_no_more_runs_than_its_level():
    alarms = 0
    rows = mixed(search=300, ticket=120, book=60, none=40, search_book=12, ticket_book=6)
    for seed in range(200):
        split = GROWING.model_copy(update={"seed": seed})
        parts = parts_of(rows, split)
        by_part = ([one for one, of in zip(rows, parts, strict=True) if of == part] for part in (TRAIN, TEST))
        alarms += "shares" in said(*by_part, split)
    assert alarms <= 5  # 0.01 of 200, and what a binomial count of them may be


def test_shares_that_chance_does_not_explain_are_said_with_both():
    train, test = mixed(search=300, ticket=280, book=20), mixed(1, search=100, ticket=60, book=40)
    found = said(train, test, GROWING)["shares"]
    assert found == (
        "2 of 3 kinds of answer have another share of the test's questions than of training's, by more than chance explains "
        "(hypergeometric test, p < 0.01 / 3): book (20.0%, 3.3%), ticket (30.0%, 46.7%)"
    )
    for other in (SplitConfig(), SplitConfig(test_source="x.jsonl", mode="growing"), SplitConfig(by="tool", mode="growing")):
        assert "shares" not in said(train, test, other)


def test_rows_of_one_question_are_one_draw_of_a_growing_split():
    train, test = mixed(search=60, ticket=60), mixed(1, search=20, ticket=20)
    assert "shares" in said(train, [*test, *(row(number, "book") for number in range(20))], GROWING)
    again = [row(number, "book", asked="the same question") for number in range(20)]
    assert "shares" not in said(train, [*test, *again], GROWING)


def test_rows_in_the_order_of_their_tools_are_said():
    train = sorted(mixed(search=40, ticket=30, book=20), key=stratum)
    assert said(train, mixed(1, search=5))["ordered"] == (
        "the rows come ordered by what they call: 100% of neighbours expect the same, 35% by chance (binomial test, p < 0.001); "
        "split and training shuffle, but a cut of the file, such as its head, is no sample of it"
    )


def test_shuffled_rows_are_said_to_be_ordered_in_no_more_runs_than_the_tests_level():
    few = [said(mixed(seed, search=14, ticket=10, book=6), []) for seed in range(300)]
    many_kinds = [said(mixed(seed, search=3, **{f"t{n}": 2 for n in range(40)}), []) for seed in range(300)]
    assert sum("ordered" in one for one in [*few, *many_kinds]) <= 3


def test_an_order_that_hardly_shows_is_not_said_however_many_rows_show_it():
    generator = random.Random(5)
    kinds = [TOOLS[(number // 50) % 2 if generator.random() < 0.2 else generator.randrange(2)] for number in range(20_000)]
    assert "ordered" not in said([row(number, kind) for number, kind in enumerate(kinds)], [row("t", "search")])


def test_the_turns_of_one_conversation_are_no_order_of_the_file():
    kinds = mixed(search=30, ticket=30, book=30)
    turns = [{**one, "messages": [*one["messages"]]} for one in kinds for _ in range(4)]
    assert "ordered" not in said(turns, mixed(1, search=5))
    apart = [row(f"{number} {copy}", *[kind]) for number, kind in enumerate(map(stratum, kinds)) for copy in range(4)]
    assert "ordered" in said(apart, mixed(1, search=5))


def test_a_long_name_does_not_make_a_long_line():
    train = mixed(**{"x" * 500: 40}, search=10, tools=["x" * 500, "search", *(f"{name}" * 100 for name in "abcd")])
    for line in said(train, mixed(1, book=9)).values():
        assert "\n" not in line and len(line) < 900


def test_what_is_said_of_the_example_is_true_and_in_stats_json_and_in_the_log(helpdesk_records, tiny, tmp_path):
    from calltune.records import write_jsonl
    from components.format.config import FormatConfig
    from components.format.step import format_rows

    write_jsonl(tmp_path / "records" / "records.jsonl", helpdesk_records[:120])
    format_rows(tmp_path / "records", tiny, FormatConfig(max_tokens=1024), tmp_path / "out")
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    told = [event["message"] for event in read_jsonl(tmp_path / "events.jsonl") if event["kind"] == "note"]
    assert [f"format: {line}" for line in stats["warnings"].values()] == [note for note in told if "kinds of answer" in note]
    assert list(stats["warnings"]) == ["untaught"]
    taught = stats["strata"]["train"]
    few = [label for label in stats["strata"]["test"] if 0 < taught.get(label, 0) < 5]
    assert f"{len(few)} have fewer than 5 training rows: {few[0]} ({taught[few[0]]})" in stats["warnings"]["untaught"]
    assert ("no training row" in stats["warnings"]["untaught"]) == bool(stats["strata"]["test"].keys() - taught.keys())


@pytest.mark.parametrize("names", [["a"], ["a", "b + c"]])
def test_a_kind_of_answer_with_a_tool_held_out_is_known_by_its_tools_and_not_by_its_label(names):
    test = [row(number, *names, tools=names) for number in range(3)]
    assert said(mixed(search=20, ticket=20, book=20), test, unseen={names[-1]}) == {}
    assert label_of(names) in said(mixed(search=20, ticket=20, book=20), test)["untaught"]
