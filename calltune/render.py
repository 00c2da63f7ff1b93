"""Records to tokens and loss mask, through the model's own chat template.

The same prompt is rendered in training, in evaluation and by whoever serves the exported folder: the template travels
inside the tokenizer, and nothing else in Calltune builds a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from calltune.errors import ConfigError, DataError
from calltune.parse import PARSERS
from calltune.pieces import Pieces
from calltune.records import Message, Record, Tool, calls_of, canonical, sha256
from calltune.template import TEMPLATES, Template, refusals, template_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

__all__ = ["TEMPLATES", "NotRepresentable", "Rendered", "Renderer", "Template", "template_of"]


PREFIXES_KNOWN = 4096
"""Of data whose every row has tools of its own, knowing all prefixes would take more memory than the rows."""

_ASKS_AFTER_OTHERS = "{% set add_generation_prompt = messages[-1]['role'] != 'assistant' %}\n"
"""Before a template: prompts and whole conversations are rendered in one call, which copies and looks through the tools once.
transformers has Jinja drop a line's end after a block, so that what follows is read as the beginning that it is."""


@dataclass(frozen=True)
class Rendered:
    """One row for the trainer.

    Attributes:
        input_ids: token ids, shape ``(tokens,)``.
        loss_mask: true on the tokens that the assistant wrote, its stop token included; shape ``(tokens,)``.
    """

    input_ids: list[int]
    loss_mask: list[bool]


class NotRepresentable(DataError):
    """The template cannot express the record so that it can be read back."""


class Renderer:
    """Renders records for one tokenizer and one template.

    Raises:
        ConfigError: the model does not know the template's markers as single special tokens. It would then have to
            learn to stop, and a base model often never does.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: Template) -> None:
        special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
        unknown = [marker for marker in template.markers if marker not in special]
        if unknown:
            raise ConfigError(
                f"format.template: {template.name!r} needs {', '.join(unknown)} as special tokens, "
                f"which {tokenizer.name_or_path} does not have"
            )
        # Some tokenizers have runs of spaces or HTML's tags, as Gemma's, as added tokens, which are text like any other.
        written = f"{tokenizer.chat_template or ''}{template.text}"
        added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
        self.special_tokens = sorted(token for token in special if token.strip() and (added.get(token, True) or token in written))
        self.tokenizer, self.template = tokenizer, template
        self.tokenizer.chat_template = template.text
        self.stop_ids = [tokenizer.convert_tokens_to_ids(stop) for stop in template.stops]
        self._prefixes: dict[str, int] = {}

    @cached_property
    def _pieces(self) -> Pieces:
        # Not before it is needed: it reads the tokenizer's whole vocabulary.
        return Pieces(self.tokenizer)

    def rows(self, record: Record) -> list[Rendered]:
        """The record's training rows: one, or one per assistant turn where the template does not keep prefixes.

        Raises:
            NotRepresentable: a turn's text does not survive the template, the template refuses the conversation, or the
                prompt is not a token prefix.
        """
        return self._cut(record, [])[0]

    def length(self, record: Record) -> int:
        """How many tokens the whole conversation comes to: one rendering, where its rows take as many as it has turns.

        Raises:
            NotRepresentable: the template refuses it.
        """
        (text,) = self._texts([record["messages"]], record["tools"], [False])
        return len(self._pieces.ids(text))

    def prefix_length(self, record: Record) -> int:
        """How many tokens come before the first user turn's own text: system message and tools.

        Found by rendering two different questions and counting the tokens that they share, so that it is right for
        any template.

        Raises:
            NotRepresentable: the template refuses the questions.
        """
        key, head, _ = _head(record)
        if key not in self._prefixes:
            self._know(key, *self._texts([[*head, _asked(letter)] for letter in "Az"], record["tools"], [True, True]))
        return self._prefixes[key]

    def rows_and_prefix(self, record: Record) -> tuple[list[Rendered], int]:
        """:meth:`rows` and :meth:`prefix_length`, rendered at once."""
        key, head, question = _head(record)
        if key in self._prefixes:
            return self.rows(record), self._prefixes[key]
        # Where the text of this letter stands is where it leaves the record's own: another letter there is another question.
        letter, other = "zA" if question.startswith("A") else "Az"
        try:
            rows, (whole, one) = self._cut(record, [[*head, _asked(letter)]])
        except NotRepresentable:  # of the record, or of the question?
            return self.rows(record), self.prefix_length(record)
        place = common_prefix(whole, one)
        # Not so where the template prints something else of a longer conversation, such as the tools before its last question.
        if not (question and whole.startswith(question, place) and one.startswith(letter, place)):
            return rows, self.prefix_length(record)
        self._know(key, one, one[:place] + other + one[place + 1 :])
        return rows, self._prefixes[key]

    def _know(self, key: str, one: str, two: str) -> None:
        if len(self._prefixes) >= PREFIXES_KNOWN:
            self._prefixes.clear()
        self._prefixes[key] = common_prefix(self._pieces.ids(one), self._pieces.ids(two))

    def _cut(self, record: Record, others: Sequence[list[Message]]) -> tuple[list[Rendered], list[str]]:
        """The record's rows; and its text, and that of others with its tools, which end where the assistant begins to write."""
        messages, tools = record["messages"], record["tools"]
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        begun = [messages[:turn] for turn in turns]
        text, *rest = self._texts([messages, *begun, *others], tools, [False, *(True for _ in (*begun, *others))])
        whole, prompts = self._pieces.ids(text), [self._pieces.ids(prompt) for prompt in rest[: len(turns)]]
        texts = [text, *rest[len(turns) :]]
        begin = self.tokenizer.bos_token_id
        if begin is not None and whole[:2] == [begin, begin]:
            raise NotRepresentable(f"the row begins with two {self.tokenizer.bos_token!r}: the model never saw that")
        if all(whole[: len(prompt)] == prompt for prompt in prompts):
            answers = zip(turns, prompts, strict=True)
            spans = [self._answer_span(whole, len(prompt), messages[turn]) for turn, prompt in answers]
            return [self._masked(whole, spans)], texts
        rows = []
        for turn, prompt in zip(turns, prompts, strict=True):
            (text,) = self._texts([messages[: turn + 1]], tools, [False])
            ids = self._pieces.ids(text)
            if ids[: len(prompt)] != prompt:
                raise NotRepresentable("the prompt's tokens are not a prefix of the conversation's tokens")
            rows.append(self._masked(ids, [self._answer_span(ids, len(prompt), messages[turn])]))
        return rows, texts

    def _texts(self, conversations: Sequence[list[Message]], tools: list[Tool], asks: Sequence[bool]) -> list[str]:
        """Conversations with the same tools, as the chat template renders each by itself.

        Args:
            asks: of each, whether it ends where the assistant begins to write.

        Raises:
            NotRepresentable: the template refuses one of them.
        """
        each = list(zip(conversations, asks, strict=True))
        try:
            if all(messages and (messages[-1]["role"] != "assistant") == ask for messages, ask in each):
                return _texts(
                    self.tokenizer, conversations, tools, template=f"{_ASKS_AFTER_OTHERS}{self.tokenizer.chat_template}"
                )
            return [_texts(self.tokenizer, [messages], tools, ask)[0] for messages, ask in each]
        except refusals() as error:
            raise NotRepresentable(f"the template {self.template.name!r} does not take this conversation: {error}") from None

    def _answer_span(self, ids: Sequence[int], start: int, turn: Message) -> tuple[int, int]:
        """From where to where the assistant's turn stands, its stop token included; it must read back as its calls."""
        end = next((position + 1 for position in range(start, len(ids)) if ids[position] in self.stop_ids), None)
        if end is None:
            raise NotRepresentable("the assistant's turn does not end in a stop token")
        parsed = PARSERS[self.template.syntax](answer_text(self.tokenizer, ids[start:end], self.stop_ids))
        # As JSON, because True == 1 == 1.0 in Python.
        if parsed.malformed is not None or canonical(list(parsed.calls)) != canonical(calls_of(turn)):
            raise NotRepresentable(f"the template {self.template.name!r} cannot express this answer so that it reads back")
        stop = self.template.call_stop if turn.get("tool_calls") else self.template.text_stop
        if ids[end - 1] != self.tokenizer.convert_tokens_to_ids(stop):
            raise NotRepresentable(f"the assistant's turn ends in {self.tokenizer.decode([ids[end - 1]])!r}, not in {stop!r}")
        return start, end

    @staticmethod
    def _masked(ids: list[int], spans: Sequence[tuple[int, int]]) -> Rendered:
        mask = [False] * len(ids)
        for start, end in spans:
            mask[start:end] = [True] * (end - start)
        return Rendered(ids, mask)


def _head(record: Record) -> tuple[str, list[Message], str]:
    """What stands before the first user turn: its digest, with the tools', and its messages; and what the user says."""
    first_user = next(i for i, message in enumerate(record["messages"]) if message["role"] == "user")
    head = record["messages"][:first_user]
    return sha256([head, record["tools"]]), head, str(record["messages"][first_user]["content"])


def _asked(question: str) -> Message:
    return {"role": "user", "content": question}


def token_ids(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    tools: Sequence[Tool],
    add_generation_prompt: bool = False,
    template: str | None = None,
) -> list[int]:
    """Token ids of a conversation through the tokenizer's own chat template, or through another one's Jinja source."""
    (text,) = _texts(tokenizer, [messages], tools, add_generation_prompt, template)
    # The template prints its own BOS where the model wants one: adding another is a known silent bug.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _texts(
    tokenizer: "PreTrainedTokenizerBase",
    conversations: Sequence[Sequence[Message]],
    tools: Sequence[Tool],
    add_generation_prompt: bool = False,
    template: str | None = None,
) -> list[str]:
    """Conversations with the same tools through a chat template, all at once: each time it looks through the tools first."""
    if not all(conversations):
        raise ValueError("a conversation has no message")
    found: list[str] = tokenizer.apply_chat_template(
        [list(messages) for messages in conversations],
        tools=list(tools) or None,
        chat_template=template,
        add_generation_prompt=add_generation_prompt,
        tokenize=False,
    )
    return found


def prompt_ids(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], tools: Sequence[Tool], template: str | None = None
) -> list[int]:
    """Token ids of a prompt, ending where the assistant begins to write."""
    return token_ids(tokenizer, messages, tools, add_generation_prompt=True, template=template)


def answer_text(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], stop_ids: Sequence[int]) -> str:
    """Generated ids as text, without the stop token and with every other marker kept."""
    kept = list(ids)
    if kept and kept[-1] in stop_ids:
        kept.pop()
    return str(tokenizer.decode(kept, skip_special_tokens=False))


def common_prefix(one: Sequence[T], two: Sequence[T]) -> int:
    """How many leading items two sequences of the same type share."""
    shared, most = 0, min(len(one), len(two))
    while shared < most:
        middle = (shared + most + 1) // 2
        # By halves, because slices are compared in C.
        if one[shared:middle] == two[shared:middle]:
            shared = middle
        else:
            most = middle - 1
    return shared
