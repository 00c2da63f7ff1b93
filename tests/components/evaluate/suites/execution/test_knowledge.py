"""Search in a folder of documents, by the real bm25s."""

import json
from pathlib import Path

import pytest

from calltune.errors import DataError
from components.evaluate.suites.execution.knowledge import PASSAGE_WORDS, RESULTS, Knowledge

EXAMPLE = Path(__file__).parents[5] / "examples" / "helpdesk"


@pytest.fixture
def folder(tmp_path):
    """Three documents, one of them in a folder, and what is none."""
    place = tmp_path / "documents"
    (place / "hr").mkdir(parents=True)
    (place / "hr" / "leave.md").write_text("# Leave\n\nAnnual leave is 27 days a year.\n")
    (place / "vpn.txt").write_text("Start GateLink, then confirm in the app.")
    (place / "cars.md").write_text(
        "# Pool cars\n\nBring them back by 18:00.\n\n" + "A word more. " * 200 + "\n\nThe key is in the cabinet."
    )
    (place / "photo.png").write_bytes(b"\xff")
    (place / ".hidden.md").write_text("leave leave leave")
    return place


def test_the_passage_that_fits_comes_first_with_its_documents_name(folder):
    knowledge = Knowledge(folder)
    assert knowledge.documents == ["cars.md", "hr/leave.md", "vpn.txt"]
    first, *_ = knowledge.search("How many days of ANNUAL leave?")
    assert (first.document, first.text) == ("hr/leave.md", "# Leave\n\nAnnual leave is 27 days a year.")


def test_long_documents_are_searched_by_paragraphs_and_none_is_cut(folder):
    passages = [passage.text for passage in Knowledge(folder).passages if passage.document == "cars.md"]
    assert [len(text.split()) <= PASSAGE_WORDS for text in passages] == [True, False, True]
    assert "\n\n".join(passages) == (folder / "cars.md").read_text()
    found = Knowledge(folder).search("where is the key cabinet")
    assert found[0].text == "The key is in the cabinet."


@pytest.mark.parametrize("query", ["zzz qqq", "", "b", "?!"])
def test_a_query_of_which_no_word_is_there_finds_nothing(folder, query):
    assert Knowledge(folder).search(query) == []


@pytest.mark.parametrize(
    ("query", "document"), [("Is plan B for teams?", "plans.md"), ("年假有几天", "leave.md"), ("연차", "days.md")]
)
def test_a_word_of_one_letter_counts_and_a_character_where_no_space_parts_words(tmp_path, query, document):
    (tmp_path / "leave.md").write_text("每年二十七天年假。")
    (tmp_path / "days.md").write_text("연차휴가는 27일")
    (tmp_path / "other.md").write_text("会议室在二楼。 plan A")
    (tmp_path / "plans.md").write_text("plan B")
    assert Knowledge(tmp_path).search(query)[0].document == document


def test_of_equal_passages_the_first_in_the_folder_comes_first(tmp_path):
    for name in "edcba":
        (tmp_path / f"{name}.md").write_text("the same words")
    (tmp_path / "z.md").write_text("others")
    assert [passage.document for passage in Knowledge(tmp_path).search("same")] == ["a.md", "b.md", "c.md"][:RESULTS]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdf", b"x", r"documents: no document in it: a file that ends in \.md or \.txt$"),
        ("a.md", b"\xff", r"a\.md: not a text in UTF-8"),
        ("a.md", b"- ?\n", r"documents: no word in its documents$"),
    ],
)
def test_a_folder_that_cannot_be_searched_is_refused(tmp_path, name, content, message):
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Knowledge(folder)


def test_the_examples_questions_can_be_answered_from_its_documents_and_most_are_found_as_they_are_asked():
    knowledge = Knowledge(EXAMPLE / "documents")
    rows = [json.loads(line) for line in (EXAMPLE / "execution.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [row for row in rows if "document" in row]
    assert (len(knowledge.documents), len(rows), len(asked)) == (25, 40, 36)
    assert {row["document"] for row in asked} == set(knowledge.documents)
    from components.evaluate.suites.execution.contains import contains

    for row in asked:
        text = (EXAMPLE / "documents" / row["document"]).read_text(encoding="utf-8")
        assert all(contains(text, wanted) for wanted in row["answer_contains"]), row
    found = [row["document"] in {one.document for one in knowledge.search(row["question"])} for row in asked]
    assert 0.8 <= sum(found) / len(found) < 1, "neither beyond a search, nor so easy that no query could be better"
