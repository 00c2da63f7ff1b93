"""Token ids must be those of the whole text: with tokenizers as models have them, on texts made to fall between two stools."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from calltune.pieces import _ENDS_AT_A_LINE, Pieces

QWEN, LLAMA = sorted(_ENDS_AT_A_LINE, key=len)
MARKERS = ["<|im_start|>", "<|im_end|>", "<|im_end|>x"]
SPACES = ["\n", "\n\n", "\r\n", " ", "  ", "\t", "\x0b", "\x1c", "\x85", "\xa0", "\u2028", "\u3000"]
LETTERS = ["a", "I'll", "'s", "s", "7", "2026", "}", "é", "e\u0301", "\u0301", "字", "ß", "🙂", "²", "<|im", '{"name": "find"}']
PARTS = st.sampled_from([*SPACES, *LETTERS, *MARKERS])
TEXTS = st.lists(PARTS, max_size=30).map("".join)


def trained(pre_tokenizer, normalizer=None, **flags):
    """A small BPE tokenizer that has merged what it could, line feeds too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    corpus = ['{"name": "find"}\n\n{\'s}\n \n  a\n\n\nI\'ll find it.\n7 2026\n}\n\r\n e\u0301 é\n' * 3] * 5
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), min_frequency=1)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(marker, normalized=False, special=True, **flags) for marker in MARKERS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_level(**options):
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": True, **options})


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(use_regex=False)])


MADE = {
    "gpt2": (lambda: trained(byte_level()), True, True),
    "digits": (lambda: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level()])), True, True),
    "qwen": (lambda: trained(split(QWEN), normalizers.NFC()), True, True),
    "llama": (lambda: trained(split(LLAMA)), True, True),
    "another expression": (lambda: trained(split(r"\n+\S|\s+|\S+")), True, False),
    "spaces before": (lambda: trained(byte_level(add_prefix_space=True)), True, False),
    "another normalizer": (lambda: trained(byte_level(), normalizers.Replace("\n", " ")), True, False),
    "markers that take spaces": (lambda: trained(byte_level(), rstrip=True), False, False),
    "markers that are words": (lambda: trained(byte_level(), single_word=True), False, False),
    "first piece alone": (lambda: trained(pre_tokenizers.Metaspace(prepend_scheme="first")), False, False),
}


@pytest.fixture(scope="module")
def pieces():
    """Of each kind of tokenizer one, made when it is first asked for."""
    made = {}
    return lambda name: made.setdefault(name, Pieces(MADE[name][0]()))


@pytest.mark.parametrize("name", MADE)
def test_texts_are_cut_only_where_that_is_certain(pieces, name):
    _, at_markers, at_lines = MADE[name]
    assert (pieces(name).sure, pieces(name).by_line) == (at_markers, at_lines)


@pytest.mark.parametrize("name", MADE)
@given(text=TEXTS)
@example(text="a\n\n{\n")
@example(text="}\n\u0301a\n7\n7")
@example(text="<|im_start|>user\na\n{\n<|im_end|>x\n<|im_end|>\n")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ids_are_those_of_the_whole_text(pieces, name, text):
    one = pieces(name)
    assert one.ids(text) == one.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_bundled_tokenizer_is_cut_at_lines(tokenizer):
    one = Pieces(tokenizer)
    text = "<|im_start|>system\nTools:\n<tools>\n" + '{"name": "find", "parameters": {}}\n' * 3 + "</tools><|im_end|>\n"
    assert one.by_line
    assert one.ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_tokenizer_that_reads_markers_as_text_encodes_whole_texts(tokenizer):
    tokenizer.split_special_tokens = True
    one = Pieces(tokenizer)
    assert one.ids("<|im_end|>\nHi") == tokenizer("<|im_end|>\nHi", add_special_tokens=False)["input_ids"]
    assert len(one.ids("<|im_end|>")) > 1
