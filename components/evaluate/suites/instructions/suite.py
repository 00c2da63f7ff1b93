"""The suite `instructions`: is what calls no tool still answered well? A judge says so, or the words of a reference answer."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from calltune import runtime
from calltune.errors import DataError
from calltune.records import Message, Record, prompt_of
from calltune.render import answer_text
from components.evaluate.config import InstructionsConfig
from components.evaluate.journal import Asked, Written
from components.evaluate.questions import seen_in_training
from components.evaluate.served import Served
from components.evaluate.suites.details import Details
from components.evaluate.suites.instructions.pairwise import agreement, judged, readable, win
from components.evaluate.suites.instructions.questions import questions
from components.evaluate.suites.instructions.rouge import exact_match, rouge_l
from components.evaluate.suites.measure import Measure

NAMED = 5
"""Questions that an error names at most."""
_BY_JUDGE: dict[str, Callable[[dict[str, Any]], float]] = {
    "instructions.win_rate": win,
    "instructions.judge_agreement": agreement,
    "instructions.verdict_rate": readable,
}
_BY_WORDS: dict[str, Callable[[dict[str, Any]], float]] = {
    "instructions.rouge_l": lambda row: float(row["rouge_l"]),
    "instructions.exact_match": lambda row: float(row["exact_match"]),
}


def measures(served: Served, settings: InstructionsConfig, details: Details) -> dict[str, Measure]:
    """The measures of one model; what it answered, and what was said of that, goes into the details' rows.

    Raises:
        DataError: the file cannot be used, the candidate was trained on it, a question does not fit the model, or the judge
            gives too few verdicts.
        ConfigError: the judge does not take what it is asked.
        Unavailable: the judge does not answer.
    """
    which = served.identity["which"]
    records = questions(Path(settings.questions), settings.limit)
    _require_unseen(served, records)
    answers = _answers(served, records, settings.max_new_tokens, details)
    rows = [_row(served, record, answers[record["id"]]) for record in records]
    if settings.judge.url:
        rows = judged(rows, settings.judge, details, which)
    details.write(rows)
    asked = [record["messages"] for record in records]
    functions = _BY_JUDGE if settings.judge.url else _BY_WORDS
    return {name: Measure({row["id"]: of(row) for row in rows}, asked) for name, of in functions.items()}


def _require_unseen(served: Served, records: Sequence[Record]) -> None:
    """Refuse a candidate that was trained on the questions. Of the others it is said: they are only harder to beat."""
    which = served.identity["which"]
    seen = seen_in_training(served.folder.path, records, which) or []
    if not seen:
        return
    named = ", ".join(seen[:NAMED]) + (", …" if len(seen) > NAMED else "")
    said = f"evaluate.instructions: the {which} was trained on {len(seen)} of its questions, rows {named}"
    if which == "candidate":
        raise DataError(f"{said}: take them out of the file, or out of the training data")
    runtime.note(said)


def _answers(served: Served, records: Sequence[Record], max_new_tokens: int, details: Details) -> dict[str, Written]:
    """The model's own greedy answers by id, as it is served, without tools; those of an earlier try first."""
    # It imports torch, for which a file that cannot be used need not wait.
    from components.evaluate.engines import hf

    which = served.identity["which"]
    file = "evaluate.instructions.questions"
    prompts = [served.prompt(prompt_of(record), [], f"{file}, row {record['id']}") for record in records]
    journal = details.journal(f"evaluate {which}: instructions")
    known = journal.read() if journal else {}
    found = {record["id"]: known[Asked("", record["id"])] for record in records if Asked("", record["id"]) in known}
    rows = [row for row, record in enumerate(records) if record["id"] not in found]
    if not rows:
        return found
    with contextlib.ExitStack() as stack:
        if journal:
            stack.enter_context(journal.writing())
        network = hf.load(served.folder.path)
        context = getattr(network.config, "max_position_embeddings", None)
        for row in rows:
            if context and len(prompts[row]) + max_new_tokens > context:
                needs = f"{len(prompts[row])} tokens and {max_new_tokens} for the answer"
                raise DataError(f"{file}, row {records[row]['id']}: {needs} are more than the model's {context}")
        answers = hf.answers(network, [prompts[row] for row in rows], served.stop_ids, max_new_tokens)
        for answer in runtime.tracked(answers, f"answer {which}: instructions", len(rows), "questions"):
            id_ = records[rows[answer.row]]["id"]
            found[id_] = Written(answer.ids, answer.stopped)
            if journal:
                journal.add(Asked("", id_), found[id_])
    return found


def _row(served: Served, record: Record, written: Written) -> dict[str, Any]:
    """A question's line for people to read."""
    reference = record["messages"][-1]["content"]
    answer = answer_text(served.tokenizer, written.ids, served.stop_ids).strip()
    return {
        "id": record["id"],
        "question": _shown(prompt_of(record)),
        "reference": reference,
        "answer": answer,
        "stop": "stop" if written.stopped else "length",
        "rouge_l": rouge_l(answer, reference),
        "exact_match": exact_match(answer, reference),
    }


def _shown(prompt: Sequence[Message]) -> str:
    """What was asked as one text; of a conversation each turn with who says it."""
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in prompt)
