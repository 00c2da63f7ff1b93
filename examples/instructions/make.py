"""Writes rows.jsonl: 1,100 short instructions whose answers are worked out, so that none of them is wrong.

python examples/instructions/make.py
"""

import json
import random
from pathlib import Path

ROWS = 1100
ALIKE = 0.8
"""Share of two instructions' words from which on format would take them for the same question."""
NAMES = [
    "Ana",
    "Bo",
    "Carla",
    "Dmitri",
    "Elif",
    "Femi",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kira",
    "Luis",
    "Mina",
    "Noor",
    "Otto",
    "Pia",
    "Quentin",
    "Rosa",
    "Sven",
    "Tara",
]
THINGS = [
    "apple",
    "bag",
    "book",
    "bottle",
    "box",
    "brush",
    "button",
    "candle",
    "card",
    "chair",
    "clock",
    "coat",
    "cup",
    "desk",
    "door",
    "fork",
    "glass",
    "hat",
    "key",
    "knife",
    "lamp",
    "letter",
    "map",
    "mug",
    "needle",
    "nut",
    "orange",
    "pan",
    "pear",
    "pen",
    "pencil",
    "phone",
    "plate",
    "plum",
    "pot",
    "ring",
    "rope",
    "ruler",
    "scarf",
    "shelf",
    "shoe",
    "spoon",
    "stamp",
    "table",
    "tent",
    "ticket",
    "towel",
    "train",
    "umbrella",
    "vase",
    "wallet",
    "watch",
    "wheel",
    "window",
]
IRREGULAR = {"box": "boxes", "brush": "brushes", "glass": "glasses", "knife": "knives", "shelf": "shelves", "watch": "watches"}
PLACES = ["attic", "balcony", "cellar", "garage", "garden", "hall", "kitchen", "office", "porch", "shed", "station", "workshop"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
VERBS = {"paint": "painted", "clean": "cleaned", "repair": "repaired", "wash": "washed", "pack": "packed", "move": "moved"}


def _plural(thing: str) -> str:
    return IRREGULAR.get(thing, f"{thing}s")


def _listed(items: list[str]) -> str:
    return ", ".join(items[:-1]) + f" and {items[-1]}"


def _sort_words(dice: random.Random) -> tuple[str, str, str]:
    words = dice.sample(THINGS, dice.randint(4, 7))
    return "Put these words into alphabetical order.", ", ".join(words), ", ".join(sorted(words))


def _count_things(dice: random.Random) -> tuple[str, str, str]:
    words = dice.sample(THINGS, dice.randint(3, 8))
    return "How many things are in this list?", ", ".join(words), f"There are {len(words)} things in the list."


def _longest_word(dice: random.Random) -> tuple[str, str, str]:
    words = dice.sample(THINGS, 5)
    length = max(map(len, words))
    found = [word for word in words if len(word) == length]
    answer = f"The longest is {found[0]}" if len(found) == 1 else f"The longest are {_listed(found)}"
    return "Which of these words is the longest?", " ".join(words), f"{answer}, with {length} letters."


def _sum_of_prices(dice: random.Random) -> tuple[str, str, str]:
    one, two = dice.sample(THINGS, 2)
    a, b, n = dice.randint(2, 40), dice.randint(2, 40), dice.randint(2, 6)
    asked = f"{dice.choice(NAMES)} buys {n} {_plural(one)} at {a} euros each and one {two} for {b} euros. What does it cost?"
    return asked, "", f"It costs {n * a + b} euros: {n} times {a} is {n * a}, and {b} more."


def _past_tense(dice: random.Random) -> tuple[str, str, str]:
    verb, who, thing = dice.choice(list(VERBS)), dice.choice(NAMES), dice.choice(THINGS)
    rest = f"the {thing} in the {dice.choice(PLACES)} on {dice.choice(DAYS)}"
    return "Write the sentence in the past tense.", f"{who} will {verb} {rest}.", f"{who} {VERBS[verb]} {rest}."


def _passive(dice: random.Random) -> tuple[str, str, str]:
    verb, who, thing, day = dice.choice(list(VERBS)), dice.choice(NAMES), dice.choice(THINGS), dice.choice(DAYS)
    where = f"in the {dice.choice(PLACES)}"
    return (
        "Say this in the passive voice.",
        f"{who} {VERBS[verb]} the {thing} {where} last {day}.",
        f"The {thing} {where} was {VERBS[verb]} by {who} last {day}.",
    )


def _who_did_it(dice: random.Random) -> tuple[str, str, str]:
    (a, b), (x, y), (p, q) = dice.sample(NAMES, 2), dice.sample(THINGS, 2), dice.sample(PLACES, 2)
    text = f"{a} left the {x} in the {p}. {b} took the {y} to the {q}."
    return f"Read the text, then say where the {y} is.", text, f"The {y} is in the {q}."


def _as_json(dice: random.Random) -> tuple[str, str, str]:
    who, day, thing, count = dice.choice(NAMES), dice.choice(DAYS), dice.choice(THINGS), dice.randint(2, 30)
    row = {"name": who, "item": thing, "count": count, "day": day}
    return (
        "Write this order as JSON with name, item, count and day.",
        f"{who} wants {count} {_plural(thing)} on {day}.",
        json.dumps(row),
    )


def _shopping_list(dice: random.Random) -> tuple[str, str, str]:
    rows = [(dice.randint(2, 12), thing) for thing in dice.sample(THINGS, dice.randint(3, 5))]
    text = "Please bring " + _listed([f"{count} {_plural(thing)}" for count, thing in rows]) + "."
    return "Make a list of this, one thing a line.", text, "\n".join(f"- {count} {_plural(thing)}" for count, thing in rows)


def _reply(dice: random.Random) -> tuple[str, str, str]:
    who, other = dice.sample(NAMES, 2)
    thing, day, place = dice.choice(THINGS), dice.choice(DAYS), dice.choice(PLACES)
    asked = f"Write one sentence to {who} from {other}: the {thing} is ready and can be fetched from the {place} on {day}."
    return asked, "", f"Dear {who}, your {thing} is ready, and you can fetch it from the {place} on {day}. {other}"


KINDS = (
    _sort_words,
    _count_things,
    _longest_word,
    _sum_of_prices,
    _past_tense,
    _passive,
    _who_did_it,
    _as_json,
    _shopping_list,
    _reply,
)


def rows() -> list[dict[str, str]]:
    """The rows, the same ones each time."""
    dice = random.Random(0)
    made: list[dict[str, str]] = []
    seen: dict[str, list[set[str]]] = {kind.__name__: [] for kind in KINDS}
    while len(made) < ROWS:
        kind = KINDS[len(made) % len(KINDS)]
        instruction, given, output = kind(dice)
        words = set(f"{instruction} {given}".lower().replace(",", " ").replace(".", " ").split())
        if all(len(words & other) < ALIKE * len(words | other) for other in seen[kind.__name__]):
            seen[kind.__name__].append(words)
            made.append({"instruction": instruction, "input": given, "output": output})
    dice.shuffle(made)
    return made


if __name__ == "__main__":
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())
    Path(__file__).with_name("rows.jsonl").write_text(text, encoding="utf-8")
