import pytest

from calltune.errors import ConfigError
from components.format.template import choose

TURNS = "{% for m in messages %}{{ TURN }}{% endfor %}"
CONTENT = "m['content'] | default('', true)"
IGNORES = TURNS.replace("TURN", "m['content']")
NO_CALLS = "{{ tools | tojson }}" + TURNS.replace("TURN", CONTENT)
RAISES = "{{ tools | tojson }}" + TURNS.replace("TURN", "m['content'] or raise_exception('no content')")
RENDERS = "{{ tools | tojson }}" + TURNS.replace("TURN", f"({CONTENT}) ~ (m['tool_calls'] | default([], true) | tojson)")


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (None, "the model's own template does not exist"),
        (IGNORES, "the model's own template ignores tools"),
        (NO_CALLS, "the model's own template does not print tool calls"),
        (RAISES, "the model's own template fails on a tool call: no content"),
        (RENDERS, "the model's own template renders tools, but no parser for its call syntax is known"),
    ],
)
def test_auto_says_why_the_models_own_template_is_not_taken(tokenizer, own, reason):
    tokenizer.chat_template = own
    choice = choose("auto", tokenizer)
    assert (choice.template.name, choice.reason) == ("hermes", reason)


def test_smollm2s_own_template_is_found_to_ignore_tools(tokenizer):
    assert choose("auto", tokenizer).reason == "the model's own template ignores tools"


def test_a_named_template_is_taken(tokenizer):
    assert choose("hermes", tokenizer).reason == "named in the config"


def test_an_unknown_name_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"format\.template: 'qwen' is not one of auto, hermes"):
        choose("qwen", tokenizer)
