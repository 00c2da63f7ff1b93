"""Our batched greedy decoding gives what transformers' own `generate` gives for each prompt alone."""

import random

import pytest
import torch

from calltune import models
from components.evaluate.engines import hf

LIMIT = 12


@pytest.fixture(scope="module")
def plain(tiny_model):
    return models.load(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def ours(tiny_model):
    return hf.load(tiny_model)


def tokens(count, dice):
    return [dice.randrange(10, 40_000) for _ in range(count)]


def prompts_of(seed, shared, lengths):
    dice = random.Random(seed)
    prefix = tokens(shared, dice)
    return [prefix + tokens(length, dice) for length in lengths]


def alone(plain, prompt, stop_ids, limit=LIMIT):
    """transformers' greedy answer to one prompt."""
    ids = torch.tensor([prompt])
    stops = {"eos_token_id": list(stop_ids)} if stop_ids else {"eos_token_id": None}
    out = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, pad_token_id=2, **stops)
    return out[0, len(prompt) :].tolist()


def check(plain, ours, prompts, stop_ids, limit=LIMIT):
    answers = list(hf.answers(ours, prompts, stop_ids, limit))
    assert sorted(answer.row for answer in answers) == list(range(len(prompts)))
    for answer in answers:
        expected = alone(plain, prompts[answer.row], stop_ids, limit)
        assert answer.ids == expected, f"row {answer.row}"
        assert answer.stopped == (expected[-1] in stop_ids)
    return answers


CASES = {
    "20 lengths behind a shared prefix": (90, range(1, 21)),
    "20 lengths and nothing shared": (0, range(1, 60, 3)),
    "equal lengths": (40, [7] * 20),
    "very different lengths": (10, [1, 200, 2, 150, 3, 90, 1, 1, 40, 300]),
    "one prompt": (0, [30]),
    "one token": (0, [1, 1, 1]),
}


@pytest.mark.parametrize("name", CASES)
def test_answers_are_those_of_generate(plain, ours, name):
    check(plain, ours, prompts_of(1, *CASES[name]), stop_ids=[2])


def test_rows_stop_one_by_one_and_the_others_go_on(plain, ours):
    prompts = prompts_of(2, 50, range(1, 21))
    free = [alone(plain, prompt, []) for prompt in prompts]
    # Tokens that these very answers hold, early and late, make rows stop at every step.
    stops = sorted({answer[index % LIMIT] for index, answer in enumerate(free)})
    answers = check(plain, ours, prompts, stops)
    assert len({len(answer.ids) for answer in answers}) > 3
    assert any(answer.stopped for answer in answers)


@pytest.mark.parametrize("batch", [1, 6, 19, 20, 21])
def test_answers_do_not_depend_on_the_batch(plain, ours, monkeypatch, batch):
    monkeypatch.setattr(hf, "BATCH_ROWS", batch)
    check(plain, ours, prompts_of(3, 35, range(2, 42, 2)), stop_ids=[2])


def test_a_prompt_that_is_the_others_beginning_keeps_a_token_of_its_own(plain, ours):
    dice = random.Random(4)
    first = tokens(20, dice)
    check(plain, ours, [first, first + tokens(5, dice), first + tokens(1, dice), first], stop_ids=[2])


def test_identical_prompts_get_identical_answers(plain, ours):
    answers = check(plain, ours, prompts_of(5, 0, [25]) * 4, stop_ids=[2])
    assert len({tuple(answer.ids) for answer in answers}) == 1


@pytest.mark.parametrize("limit", [1, 2, 40])
def test_the_limit_ends_an_answer_that_does_not_stop(plain, ours, limit):
    answers = check(plain, ours, prompts_of(6, 12, [3, 9, 4]), stop_ids=[], limit=limit)
    assert all(len(answer.ids) == limit and not answer.stopped for answer in answers)


@pytest.mark.parametrize(("shared", "most"), [(90, 5_000), (0, 3_000), (90, 2_300)])
def test_a_step_holds_no_more_scores_than_memory_lets_the_shared_prefix_counted(plain, ours, monkeypatch, shared, most):
    held, embed = [], ours.get_input_embeddings().forward
    monkeypatch.setattr(hf, "BATCH_SCORES", most)

    def counted(ids):
        held.append(ids.shape)
        return embed(ids)

    monkeypatch.setattr(ours.get_input_embeddings(), "forward", counted)
    prompts = prompts_of(7, shared, range(1, 21))
    check(plain, ours, prompts, stop_ids=[2])
    steps = [rows * columns for rows, columns in held if rows > 1]
    assert max(steps) * (shared + 20) <= most
    assert max(rows for rows, _ in held) == 20  # all of them are decoded together


def test_long_rows_that_share_nothing_come_in_smaller_batches():
    batches = list(hf._batches([1000] * 64 + [3000, 50]))
    assert sorted(row for batch in batches for row in batch) == list(range(66))
    longest = {row: 3000 if row == 64 else 1000 for row in range(65)} | {65: 50}
    assert all(len(batch) == 1 or len(batch) * max(map(longest.get, batch)) <= hf.BATCH_TOKENS for batch in batches)
    assert [len(batch) for batch in batches] == [32, 32, 2]
    assert [len(batch) for batch in hf._batches([90] * 130)] == [64, 64, 2]


def test_no_prompts_give_no_answers(ours):
    assert list(hf.answers(ours, [], [2], 5)) == []


def test_the_logits_are_those_of_plain_attention(plain, ours):
    """Closer than equal tokens: the prefix is attended to exactly."""
    (prompt,) = prompts_of(7, 0, [60])
    prefix = hf.prefill(ours, prompt[:45])
    rest = torch.tensor([prompt[45:]])
    mask = torch.ones(15, 15, dtype=torch.bool).tril()[None, None]
    with torch.inference_mode():
        got = ours(input_ids=rest, position_ids=torch.arange(45, 60)[None], prefix=prefix, own_mask=mask, use_cache=False).logits
        expected = plain(input_ids=torch.tensor([prompt])).logits[:, 45:]
    assert (got - expected).abs().max() < 1e-4
