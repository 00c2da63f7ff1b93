"""What is lopsided in the rows after the split: an answer that most of them have, some that few have, an order in the file."""

from array import array
from collections.abc import Collection, Sequence

import numpy as np

from calltune.metrics import names_in
from calltune.records import Record, number_of
from calltune.tools import names_of
from components.format.config import SplitConfig
from components.format.split import called_tools, question_key

MOST = 0.5
"""Share of the training rows above which one kind of answer is most of them."""
FEW = 5
"""Training rows below which a kind of answer is hardly taught."""
LEVEL = 0.01
"""Level of the test on the shares, divided by the number of kinds (Bonferroni): in so few runs it says something at all where
only chance is at work."""
ORDER_LEVEL = 0.001
CLEARLY = 0.1
"""Of many rows the slightest order is significant. It is said where this much of what could be above chance is."""
NAMED, NAME_LETTERS = 3, 60
"""How many are named, and how much of a name is shown."""


class Counted:
    """What the rows of one part expect, in their order: 12 bytes for each row.

    Attributes:
        labels: the kinds of answer, of `calltune.metrics.label_of`, by number.
        kinds: the number of each row's.
        questions: of each row, 8 bytes of its question's hash.
        offered: tools that a row of them has.
        called: tools that a row of them calls.
    """

    def __init__(self) -> None:
        self.labels: dict[str, int] = {}
        self.kinds, self.questions = array("I"), array("q")
        self.offered: dict[str, None] = {}
        self.called: set[str] = set()

    def add(self, record: Record, label: str) -> None:
        """Count a row, whose kind of answer has this label."""
        self.kinds.append(self.labels.setdefault(label, len(self.labels)))
        self.questions.append(number_of(question_key(record)))
        self.offered.update(dict.fromkeys(names_of(record["tools"])))
        self.called |= called_tools(record)

    def rows(self) -> dict[str, int]:
        """How many rows there are of each kind, the commonest first."""
        return self._by_label(np.array(self.kinds, np.int64))

    def asked(self) -> dict[str, int]:
        """The same of questions: rows that ask the same count once, as the kind of the first of them."""
        _, first = np.unique(np.array(self.questions, np.int64), return_index=True)
        return self._by_label(np.array(self.kinds, np.int64)[first])

    def _by_label(self, kinds: "np.ndarray") -> dict[str, int]:
        counts = np.bincount(kinds, minlength=len(self.labels)).tolist()
        return {label: count for count, label in sorted(zip(counts, self.labels, strict=True), key=lambda one: -one[0])}


def warnings(train: Counted, test: Counted, split: SplitConfig, unseen: Collection[str] = ()) -> dict[str, str]:
    """What somebody should know of the rows before they train on them: one line for each kind of it, by its name.

    Args:
        train: the training rows, in the order of their file.
        test: the test's.
        split: how they were divided.
        unseen: tools that only the test has, on purpose.
    """
    found = {
        "majority": _majority(train, test),
        "never_called": _never_called(train),
        "untaught": _untaught(train, test, unseen),
        "shares": _shares(train, test) if split.mode == "growing" and split.by == "question" and not split.test_source else "",
        "ordered": _ordered(train),
    }
    return {name: line for name, line in found.items() if line}


def _majority(train: Counted, test: Counted) -> str:
    label, count = next(iter(train.rows().items()), ("", 0))
    # Without any tool there is no other answer: such rows are instructions.
    if not train.offered or count <= MOST * len(train.kinds):
        return ""
    right = test.rows().get(label, 0) / len(test.kinds)
    return (
        f"{count / len(train.kinds):.1%} of the training rows expect {_short(label)}: a model that always answers so would pick "
        f"the right tools in {right:.1%} of the test"
    )


def _never_called(train: Counted) -> str:
    silent = [name for name in train.offered if name not in train.called]
    if not silent:
        return ""
    return f"{len(silent)} of {len(train.offered)} tools in the training rows are never called there: {_first(silent)}"


def _untaught(train: Counted, test: Counted, unseen: Collection[str]) -> str:
    taught = train.rows()
    asked = [label for label in test.rows() if not set(names_in(label)) & set(unseen)]
    without = [label for label in asked if not taught.get(label)]
    few = [f"{label} ({taught[label]})" for label in asked if 0 < taught.get(label, 0) < FEW]
    said = [f"{len(without)} have no training row: {_first(without)}"] if without else []
    said += [f"{len(few)} have fewer than {FEW} training rows: {_first(few)}"] if few else []
    return f"of {len(asked)} kinds of answer in the test {'; '.join(said)}" if said else ""


def _shares(train: Counted, test: Counted) -> str:
    """Each question's part is chance, so that of a kind's questions as many should be in the test as of all (hypergeometric)."""
    from scipy.stats import hypergeom  # takes a second, which only this mode needs

    learnt, asked = train.asked(), test.asked()
    in_train, in_test = sum(learnt.values()), sum(asked.values())
    labels = sorted({*learnt, *asked})
    drawn = np.array([asked.get(label, 0) for label in labels])
    there = drawn + np.array([learnt.get(label, 0) for label in labels])
    model = hypergeom(in_train + in_test, there, in_test)
    chance = np.minimum(1, 2 * np.minimum(model.cdf(drawn), model.sf(drawn - 1)))
    odd = sorted((p, label) for p, label in zip(chance.tolist(), labels, strict=True) if p < LEVEL / len(labels))
    if not odd:
        return ""
    named = [f"{label} ({asked.get(label, 0) / in_test:.1%}, {learnt.get(label, 0) / in_train:.1%})" for _, label in odd]
    return (
        f"{len(odd)} of {len(labels)} kinds of answer have another share of the test's questions than of training's, by more "
        f"than chance explains (hypergeometric test, p < {LEVEL:g} / {len(labels)}): {_first(named)}"
    )


def _ordered(train: Counted) -> str:
    """Whether neighbours in the file expect the same more often than rows anywhere.

    By pairs that share no row: in a shuffled file they are alike independently of each other but for the kinds' fixed numbers,
    which only make the binomial test say less.
    """
    from scipy.special import bdtrc

    # The rows of one conversation stand together in whatever order: that says nothing of the file's.
    questions = np.array(train.questions, np.int64)
    kinds = np.array(train.kinds, np.int64)[np.append(True, questions[1:] != questions[:-1])[: len(questions)]]
    pairs = len(kinds) // 2
    if not pairs:
        return ""
    alike = int((kinds[0 : 2 * pairs : 2] == kinds[1 : 2 * pairs : 2]).sum())
    counts = np.bincount(kinds).astype(np.float64)
    by_chance = float((counts * (counts - 1)).sum()) / (len(kinds) * (len(kinds) - 1))
    if alike == 0 or bdtrc(alike - 1, pairs, by_chance) >= ORDER_LEVEL:
        return ""
    share = alike / pairs
    if share - by_chance < CLEARLY * (1 - by_chance):
        return ""
    return (
        f"the rows come ordered by what they call: {share:.0%} of neighbours expect the same, {by_chance:.0%} by chance "
        f"(binomial test, p < {ORDER_LEVEL:g}); split and training shuffle, but a cut of the file, such as "
        "its head, is no sample of it"
    )


def _first(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(map(_short, names[:NAMED])) + (f" and {more} more" if more > 0 else "")


def _short(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else f"{name[:NAME_LETTERS]}…"
