"""The suite `execution`: the model's calls are run, their results go back to it, and what comes of it is judged.

The applications that a model is trained for do the same, so that this says whether the calls are of use there. Every model is
asked with its own template, greedily, in the batches of `hf.py`: all first answers, then all second ones, and so on.
"""

import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calltune import guard, runtime
from calltune.parse import PARSERS
from calltune.records import Call, Message
from calltune.render import answer_text
from components.evaluate.config import ExecutionConfig
from components.evaluate.engines import hf
from components.evaluate.engines.answer import Answer
from components.evaluate.questions import seen_in_training
from components.evaluate.served import Served, Unaskable
from components.evaluate.suites.details import Details
from components.evaluate.suites.execution import tool_process
from components.evaluate.suites.execution.contains import contains
from components.evaluate.suites.execution.questions import QUERY, SEARCH, Prepared, Question, prepare
from components.evaluate.suites.execution.tool_process import Outcome
from components.evaluate.suites.measure import Measure

ANSWER = "answer"
"""How a conversation ends that ends well: with words, and by itself."""


@dataclass
class Conversation:
    """A question, and what has come of it so far.

    Attributes:
        question: the row.
        folder: where its calls run: what one of them has written there, the next ones find.
        messages: all turns, those of tools among them, as records have them.
        calls: each with its outcome, `{"name", "arguments", "failed"}`.
        found: the documents that its searches have found.
        ended: how; empty while it goes on.
        answer: the text of the answer without a call; None where there is none.
    """

    question: Question
    folder: Path
    messages: list[Message]
    calls: list[dict[str, Any]] = field(default_factory=list)
    found: set[str] = field(default_factory=set)
    ended: str = ""
    answer: str | None = None

    def judged(self) -> dict[str, float]:
        """0 or 1 for each measure that this question counts in."""
        question = self.question
        # Without a call nothing was executed: a model that calls nothing must not have the best of numbers.
        well = bool(self.calls) and all(call["failed"] is None for call in self.calls) and self.ended != "malformed"
        judged = {"success": well, "finished": self.ended == ANSWER}
        if question.document:
            judged["retrieved"] = question.document in self.found
        if question.answer_contains:
            judged["answered"] = all(contains(self.answer or "", wanted) for wanted in question.answer_contains)
        return {f"execution.{name}": float(right) for name, right in judged.items()}


def measures(served: Served, settings: ExecutionConfig, details: Details) -> dict[str, Measure]:
    """The measures of one model.

    Args:
        served: the model.
        settings: of the suite, its files on this machine.
        details: get the conversations with what became of each.

    Raises:
        DataError: as :func:`prepare`.
    """
    prepared, which = prepare(settings), served.identity["which"]
    records = [{"id": id_, "messages": question.prompt} for id_, question in prepared.questions.items()]
    for id_ in seen_in_training(served.folder.path, records, which) or []:
        runtime.note(
            f"evaluate {which}: execution: the model was trained on the question in line {id_}, which says little of it now"
        )
    with tempfile.TemporaryDirectory(prefix="calltune-execution-", ignore_cleanup_errors=True) as place:
        conversations: dict[str, Conversation] = {}
        for id_, question in prepared.questions.items():
            (folder := Path(place) / id_).mkdir()
            conversations[id_] = Conversation(question, folder, list(question.prompt))
        _play(served, settings, prepared, list(conversations.values()))
    judged = {id_: conversation.judged() for id_, conversation in conversations.items()}
    details.write([_row(id_, conversation, judged[id_]) for id_, conversation in conversations.items()])
    outcomes = Counter(call["failed"] or "ran" for one in conversations.values() for call in one.calls)
    ends = Counter(one.ended for one in conversations.values())
    runtime.note(f"evaluate {which}: execution: calls: {_counted(outcomes)}; conversations: {_counted(ends)}")
    asked = {id_: question.model_dump() for id_, question in prepared.questions.items()}
    found = {}
    for name in prepared.measures:
        items = {id_: numbers[name] for id_, numbers in judged.items() if name in numbers}
        found[name] = Measure(items, [{id_: asked[id_] for id_ in items}, prepared.tools, settings.max_turns])
    return found


def _row(id_: str, conversation: Conversation, judged: dict[str, float]) -> dict[str, Any]:
    return {"id": id_, "messages": conversation.messages, "calls": conversation.calls, "ended": conversation.ended, **judged}


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common()) or "none"


def _play(served: Served, settings: ExecutionConfig, prepared: Prepared, conversations: list[Conversation]) -> None:
    """Ask and call until each conversation has ended."""
    network = hf.load(served.folder.path)
    room = getattr(network.config, "max_position_embeddings", None) or float("inf")
    progress = runtime.Progress("play the conversations through", len(conversations), "questions")
    for _ in range(settings.max_turns):
        prompts: list[list[int]] = []
        asked: list[Conversation] = []
        for conversation in (one for one in conversations if not one.ended):
            try:
                prompt = served.prompt(conversation.messages, prepared.tools, "a conversation")
            except Unaskable:  # some take one call a turn, and say so by an exception
                conversation.ended = "refused by the template"
                continue
            if len(prompt) + settings.max_new_tokens > room:
                conversation.ended = "too long for the model"
                continue
            prompts.append(prompt)
            asked.append(conversation)
        for answer in hf.answers(network, prompts, served.stop_ids, settings.max_new_tokens):
            _take(asked[answer.row], served, prepared, answer, settings)
            progress.update(sum(bool(one.ended) for one in conversations))
    for conversation in conversations:
        conversation.ended = conversation.ended or "max_turns reached"
    progress.update(len(conversations))


def _take(conversation: Conversation, served: Served, prepared: Prepared, answer: Answer, settings: ExecutionConfig) -> None:
    """Go on with what the model says: its words are the end, its calls are run."""
    text = answer_text(served.tokenizer, answer.ids, served.stop_ids)
    parsed = PARSERS[served.syntax](text)
    if parsed.malformed is not None or not parsed.calls:
        conversation.messages.append({"role": "assistant", "content": text})
        if parsed.malformed is not None:
            conversation.ended = "malformed"
        else:
            conversation.answer = text
            conversation.ended = "nothing said" if not text.strip() else ANSWER if answer.stopped else "cut off"
        return
    calls = [{"type": "function", "function": call} for call in parsed.calls]
    words = {"content": parsed.content} if parsed.content else {}
    conversation.messages.append({"role": "assistant", **words, "tool_calls": calls})
    for call in parsed.calls:
        outcome = _outcome(call, conversation, prepared, settings)
        conversation.calls.append({**call, "failed": outcome.failed})
        conversation.messages.append({"role": "tool", "content": outcome.text})


def _outcome(call: Call, conversation: Conversation, prepared: Prepared, settings: ExecutionConfig) -> Outcome:
    guarded = guard.check(call, prepared.tools)
    if guarded.reason is not None:
        return Outcome(f"error: {guarded.reason}", "invalid")
    name, arguments = call["name"], call["arguments"]
    if prepared.knowledge is not None and name == SEARCH:
        passages = prepared.knowledge.search(arguments.get(QUERY, ""))
        conversation.found |= {passage.document for passage in passages}
        shown = [{"document": passage.document, "text": passage.text} for passage in passages]
        return Outcome(json.dumps(shown, ensure_ascii=False))
    return tool_process.call(Path(settings.tools), name, arguments, conversation.folder, settings.timeout_s)
