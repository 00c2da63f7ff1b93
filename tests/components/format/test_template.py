from dataclasses import replace

import pytest
from pydantic import ValidationError
from tokenizers.pre_tokenizers import ByteLevel

from calltune.errors import ConfigError
from calltune.template import TEMPLATES, Template, fitted, with_syntax
from components.format.config import FormatConfig
from components.format.probe import probe
from components.format.template import choose, chosen

TURNS = "{% for m in messages %}{{ TURN }}{% endfor %}"
CONTENT = "m['content'] | default('', true)"
IGNORES = TURNS.replace("TURN", "m['content']")
NO_CALLS = "{{ tools | tojson }}" + TURNS.replace("TURN", CONTENT)
RAISES = "{{ tools | tojson }}" + TURNS.replace("TURN", "m['content'] or raise_exception('no content')")
DIVIDES = "{{ tools | tojson }}" + TURNS.replace("TURN", "1 // (m['content'] | length)")
RENDERS = "{{ tools | tojson }}" + TURNS.replace("TURN", f"({CONTENT}) ~ (m['tool_calls'] | default([], true) | tojson)")


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (None, "the model's own template does not exist"),
        (IGNORES, "the model's own template ignores tools"),
        (NO_CALLS, "the model's own template does not print tool calls"),
        (RAISES, "the model's own template fails on a tool call: no content"),
        (DIVIDES, "the model's own template fails on a tool call: integer division or modulo by zero"),
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


# Llama 3's way of calls in ChatML turns: a template that no one has named, which can do all that is needed.
GOOD = """{%- if tools -%}{{- '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' -}}{%- endif -%}
{%- for m in messages -%}
{{- '<|im_start|>' + m['role'] + '\\n' + (m['content'] | default('', true)) -}}
{%- for call in m['tool_calls'] | default([], true) -%}
{%- set f = call['function'] -%}
{{- ('; ' if not loop.first else '') + '{"name": ' + (f['name'] | tojson) -}}
{{- ', "parameters": ' + (f['arguments'] | tojson) + '}' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def test_the_models_own_template_is_taken_where_it_can_do_all(tokenizer):
    tokenizer.chat_template = GOOD
    choice = choose("auto", tokenizer)
    assert choice.reason == "the model's own renders tools, calls and results; it writes calls as llama3 does"
    assert choice.template == Template("own", "llama3", "<|im_end|>", "<|im_end|>", (), GOOD)
    assert tokenizer.chat_template == GOOD


@pytest.mark.parametrize("name", ["functiongemma", "llama3", "hermes", "phi3", "xlam", "alpaca"])
def test_the_probe_finds_syntax_and_stop_tokens_of_each_named_template(tokenizer, name):
    known = TEMPLATES[name]
    tokenizer.add_special_tokens({"additional_special_tokens": [m for m in (*known.markers, *known.stops) if m]})
    if name == "llama3":  # whose prompts end in two line feeds, which SmolLM2's own rule splits by what follows
        tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    fit = fitted(known, tokenizer)
    assert probe(fit.text, tokenizer, name) == replace(fit, markers=())


@pytest.mark.parametrize(
    ("wrong", "by", "lacks"),
    [
        ("m['role'] + '\\n' + (", "m['role'] + '\\n' + ('' if m['role'] == 'tool' else ", "does not print the results of tools"),
        ("+ (f['name'] | tojson)", "+ ('\"x\"' if f['name'][0] == 'p' else '')", "no parser for its call syntax is known"),
        ("{{- '<|im_end|>\\n' -}}\n{%- endfor", "{{- '\\n' -}}\n{%- endfor", "has no token that ends an answer"),
        ("'; ' if not loop.first else ''", "', ' if not loop.first else ''", "does not print two calls"),
        ("'<|im_start|>assistant\\n' -}}{%- endif", "'<|im_start|>assistant\\n\\n' -}}{%- endif", "are not a prefix"),
        ("{{- '<|im_start|>' + m", "{{- m['content'] + '<|im_start|>' + m", "fails on a tool call: "),
    ],
    ids=["results", "name", "end", "two calls", "prefix", "content"],
)
def test_a_template_that_lacks_one_thing_is_not_taken_and_a_file_with_it_is_refused(tokenizer, wrong, by, lacks):
    assert GOOD.count(wrong) == 1
    broken = GOOD.replace(wrong, by)
    tokenizer.chat_template = broken
    choice = choose("auto", tokenizer)
    assert choice.template.name == "hermes" and lacks in choice.reason
    with pytest.raises(ConfigError, match=f"format.template: the file's template .*{lacks}"):
        choose(broken, tokenizer)


@pytest.mark.parametrize("calls", ["json", "yaml", "python"])
def test_the_probe_finds_in_which_syntax_a_file_writes(tokenizer, calls):
    text = with_syntax(fitted(TEMPLATES["alpaca"], tokenizer), calls).text
    assert choose(text, tokenizer).template == Template("file", calls, "<|im_end|>", "<|im_end|>", (), text)


def test_a_file_is_read_into_the_setting_and_taken(tokenizer, tokenizer_folder, tmp_path):
    (tmp_path / "mine.jinja").write_text(GOOD, encoding="utf-8")
    config = FormatConfig(template=str(tmp_path / "mine.jinja"))
    assert config.template == GOOD
    choice = chosen(config, tokenizer, tokenizer_folder)
    assert (choice.template.name, choice.template.syntax) == ("file", "llama3")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValidationError, match=r"cannot be read: .*No such file"):
        FormatConfig(template=str(tmp_path / "mine.jinja"))


def test_the_reason_says_that_a_stop_token_was_replaced(tokenizer, tmp_path):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]})
    choice = chosen(FormatConfig(template="phi3", call_syntax="python"), tokenizer, tmp_path)
    assert (
        choice.reason == "named in the config; calls as python; the model never learnt <|end|>: answers end in its eos <|im_end|>"
    )
    assert choice.template.syntax == "python" and choice.template.stops == ("<|im_end|>",)
