"""What lies beside the weights: how vLLM serves them, a parser plugin that stands alone, the card, and MLflow's file."""

import json
import re
import shlex
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from calltune import models, tools
from calltune.parse import PARSERS
from calltune.render import template_of
from calltune.settings import ModelConfig
from components.export import card, serving
from components.export.config import ExportConfig
from components.export.verify import Agreement

REPO = Path(__file__).parents[3]
# Fields and signatures as in vLLM 0.33.0, which does not run beside this transformers. It has no Calltune.
VLLM = {
    "vllm/__init__.py": "",
    "vllm/entrypoints/__init__.py": "",
    "vllm/entrypoints/generate/__init__.py": "",
    "vllm/entrypoints/generate/base/__init__.py": "",
    "vllm/entrypoints/generate/base/protocol.py": """
from uuid import uuid4
from pydantic import BaseModel, Field
class FunctionCall(BaseModel):
    name: str
    arguments: str
class ToolCall(BaseModel):
    id: str = Field(default_factory=lambda: f"call_{uuid4().hex}")
    type: str = "function"
    function: FunctionCall
class DeltaFunctionCall(BaseModel):
    name: str | None = None
    arguments: str | None = None
class DeltaToolCall(BaseModel):
    id: str | None = None
    type: str | None = None
    index: int
    function: DeltaFunctionCall | None = None
class ExtractedToolCallInformation(BaseModel):
    tools_called: bool
    tool_calls: list[ToolCall]
    content: str | None = None
class DeltaMessage(BaseModel):
    content: str | None = None
    tool_calls: list[DeltaToolCall] = Field(default_factory=list)
""",
    "vllm/tool_parsers/__init__.py": "",
    "vllm/tool_parsers/abstract_tool_parser.py": """
class ToolParser:
    def __init__(self, tokenizer, tools=None):
        self.prev_tool_call_arr, self.streamed_args_for_tool, self.current_tool_id = [], [], -1
    def adjust_request(self, request):
        return request
class ToolParserManager:
    found = {}
    @classmethod
    def register_module(cls, name=None, force=True, module=None):
        cls.found[name] = module
""",
    "ask.py": """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("tool_parser", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
from vllm.tool_parsers.abstract_tool_parser import ToolParserManager
(name, made), = ToolParserManager.found.items()
for text in json.load(sys.stdin):
    whole = made(None).extract_tool_calls(text, None)
    parser, sent = made(None), []
    for end in range(1, len(text) + 1):
        delta = parser.extract_tool_calls_streaming(text[:end - 1], text[:end], text[end - 1], [], [], [], None)
        sent += [delta] if delta else []
    calls = lambda found: [[c.function.name, json.loads(c.function.arguments)] for c in found]
    streamed = [call for delta in sent for call in delta.tool_calls]
    print(json.dumps({"name": name, "calls": calls(whole.tool_calls), "content": whole.content, "streamed": calls(streamed),
        "indices": [call.index for call in streamed], "ids": len({call.id for call in streamed}),
        "said": "".join(delta.content or "" for delta in sent), "left": parser.streamed_args_for_tool ==
        [json.dumps(call["arguments"], ensure_ascii=False) for call in parser.prev_tool_call_arr]}))
assert not any(name.split(".")[0] in ("calltune", "components", "pipelines") for name in sys.modules)
""",
}
ANA = '<tool_call>\n{"name": "find_employee", "arguments": {"name": "Ana Å", "limit": 4}}\n</tool_call>'
ROOM = '<tool_call>\n{"name": "book_room", "arguments": {}}\n</tool_call>'


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A function that gives answers to the plugin of a syntax, in a process with such a vLLM and no Calltune."""
    monkeypatch.setitem(serving.OPENINGS, "hermes", "<tool_call>")
    for name, text in VLLM.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def ask(*texts, syntax="hermes"):
        (tmp_path / "tool_parser.py").write_text(serving.tool_parser(syntax), encoding="utf-8")
        # Not -I, which would hide the script's own folder; PYTHONPATH must not lead to Calltune.
        monkeypatch.delenv("PYTHONPATH", raising=False)
        command = [sys.executable, "-s", str(tmp_path / "ask.py"), str(tmp_path / "tool_parser.py")]
        done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


def test_the_plugin_stands_alone_and_reads_what_evaluation_reads(asked):
    texts = [f"One moment. {ANA}\n{ROOM}", ANA, "Which room < 4 <tool", f"{ANA}\n{ROOM[:-3]}", '<tool_call>{"name"</tool_call>']
    answers = asked(*texts)
    for text, answer in zip(texts, answers, strict=True):
        parsed = PARSERS["hermes"](text)
        expected = [] if parsed.malformed else [[call["name"], call["arguments"]] for call in parsed.calls]
        assert answer["calls"] == expected and answer["name"] == "calltune_hermes"
        assert answer["content"] == ((parsed.content or None) if expected else text)
        assert answer["left"], "vLLM sends at the end what it takes for missing"
    both, one, none, cut, broken = answers
    assert both["streamed"] == both["calls"] and both["indices"] == [0, 1] and both["ids"] == 2
    assert both["said"] == "One moment. "
    assert one["streamed"] == one["calls"] and one["said"] == ""
    assert none["streamed"] == [] and none["said"] == "Which room < 4 ", "what may be the beginning of a call waits"
    assert cut["streamed"] == one["calls"], "a call that was whole is sent, the next one is not"
    assert broken["streamed"] == [] and broken["said"] == ""


def test_the_plugin_of_yaml_stands_alone_too(asked):
    room = '<calls>\n- name: book_room\n  arguments:\n    day: "2026-11-21"\n    people: [{"name": "Ana Å"}]\n'
    both, cut, laughs = asked(
        f"One moment.\n{room}- name: ping\n  arguments: {{}}\n</calls>", room, "<calls>[&a [1], *a]</calls>", syntax="yaml"
    )
    calls = [["book_room", {"day": "2026-11-21", "people": [{"name": "Ana Å"}]}], ["ping", {}]]
    assert both["name"] == "calltune_yaml" and both["content"] == "One moment."
    assert both["calls"] == both["streamed"] == calls and both["indices"] == [0, 1] and both["left"]
    assert cut["calls"] == cut["streamed"] == [] and cut["content"] == room
    assert laughs["calls"] == laughs["streamed"] == []


def test_every_call_syntax_has_a_parser_in_vllm():
    assert set(PARSERS) <= {*serving.BUILT_IN, *serving.OPENINGS}
    assert not set(serving.BUILT_IN) & set(serving.OPENINGS)


def test_serve_json_names_files_that_are_there(exported):
    folder = exported("full").folder
    told = json.loads((folder / "serve.json").read_text())
    assert told["arguments"] == {
        "model": ".", "dtype": "bfloat16", "chat-template": "chat_template.jinja",
        "enable-auto-tool-choice": True, "tool-call-parser": "hermes",
    }  # fmt: skip
    assert (folder / "chat_template.jinja").read_text() == template_of("hermes").text
    assert not (folder / "tool_parser.py").exists(), "vLLM has a parser of its own"


def test_a_syntax_that_vllm_does_not_read_brings_its_parser(tmp_path, monkeypatch):
    monkeypatch.delitem(serving.BUILT_IN, "hermes")
    monkeypatch.setitem(serving.OPENINGS, "hermes", "<tool_call>")
    told = serving.write_serving(template_of("hermes"), "float16", tmp_path)
    assert (told["tool-call-parser"], told["tool-parser-plugin"]) == ("calltune_hermes", "tool_parser.py")
    assert (tmp_path / "tool_parser.py").is_file()
    assert serving.command(told) == (
        "vllm serve . --dtype float16 --chat-template chat_template.jinja --enable-auto-tool-choice "
        "--tool-call-parser calltune_hermes --tool-parser-plugin tool_parser.py"
    )


def test_all_that_lies_beside_the_weights_is_in_the_manifest(exported):
    run = exported("qlora")
    beside = {"README.md", "MLmodel", "serve.json", "components/tokenizer/tokenizer.json"}
    assert beside <= run.result.files.keys()
    assert json.loads((run.folder / models.MANIFEST).read_text()) == run.result.files == models.checksums(run.folder)


def test_the_card_says_what_is_known(exported, dataset, tiny_model):
    rows = json.loads((dataset / "stats.json").read_text())
    text = (exported("qlora").folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["tool-calling"]}
    assert f"Base model: {tiny_model.name}\n" in text and str(tiny_model.parent) not in text
    known_here = [
        "qlora, rank 16, alpha 32; the weights here are merged, in bfloat16",
        f"Data: `questions.jsonl`; {rows['train']} rows to learn from, {rows['validation']} to validate, {rows['test']} held out",
        "- Data: not stated",
        "vllm serve . --dtype bfloat16",
        "with a mean KL divergence of at most 1e-0",
    ]
    for known in known_here:
        assert known in text


@pytest.mark.parametrize(
    ("own", "set_", "expected"),
    [("---\nlicense: mit\n---\n# Card", "", "mit"), ("---\nlicense: mit\n---\n", "gemma", "gemma"), (None, "", "not stated"),
     ("# No front", "", "not stated"), ("---\n: {\n---\n", "", "not stated"), ("---\n- a\n---\n", "", "not stated")],
)  # fmt: skip
def test_the_bases_licence_is_its_own_cards_or_the_configs(tmp_path, own, set_, expected):
    if own is not None:
        (tmp_path / "README.md").write_text(own)
    assert card.base_license(ModelConfig(base=str(tmp_path)), tmp_path, ExportConfig(base_license=set_)) == expected


def test_the_card_of_a_hub_model_names_it_and_its_licence(exported, trained, dataset, tmp_path):
    model, config = ModelConfig(base="org/small", revision="a" * 40), ExportConfig(base_license="mit", data_license="cc-by-4.0")
    near = replace(Agreement(1.0, 0.0, 7), top1=0.99951)
    serve = serving.write_serving(template_of("hermes"), "bfloat16", tmp_path)
    card.write_card(model, tmp_path, trained("full").adapter, dataset, template_of("hermes"), config, near, serve, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "org/small"
    for known in (
        "every weight trained; the weights here are in bfloat16",
        "- Base model: mit",
        "- Data: cc-by-4.0",
        "at 99.9 %, with a mean KL divergence of 0 nats",
    ):
        assert known in text


def test_mlflow_loads_the_folder_as_it_is(exported):
    import mlflow

    folder = exported("full").folder
    loaded = mlflow.transformers.load_model(str(folder), return_type="components")
    assert type(loaded["model"]).__name__ == "LlamaForCausalLM" and str(loaded["model"].dtype) == "torch.bfloat16"
    assert loaded["tokenizer"].chat_template == template_of("hermes").text


GUARDED = (REPO / "docs" / "serve.md").read_text(encoding="utf-8").split("### The guard in front of it")[1].split("\n## ")[0]
"""The page's section, with the command of the server and the application's lines."""
SAID = (
    "<start_function_call>call:book_room{minutes:<escape>half an hour<escape>}<end_function_call>"
    "<start_function_call>call:find_employee{name:<escape>Ana<escape>,limit:3}<end_function_call>"
)
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}
    for name, properties in {
        "book_room": {"minutes": {"type": "integer"}},
        "find_employee": {"name": {"type": "string"}, "limit": {"type": "integer"}},
    }.items()
]


def test_the_server_of_the_guides_guard_is_started_as_export_says(tmp_path):
    (block,) = re.findall(r"```sh\n(.*?)```", GUARDED, re.DOTALL)
    told = serving.write_serving(template_of("functiongemma"), "bfloat16", tmp_path)
    assert shlex.split(block.replace("\\\n", " ")) == [*shlex.split(serving.command(told)), "--served-model-name", "helpdesk"]


def test_the_guard_of_the_guide_takes_what_the_exported_parser_reads(asked, tmp_path, monkeypatch, capsys):
    (answer,) = asked(SAID, syntax="functiongemma")
    functions = [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in answer["calls"]]
    message = {"role": "assistant", "content": answer["content"], "tool_calls": []}
    message["tool_calls"] = [{"id": f"c{n}", "type": "function", "function": one} for n, one in enumerate(functions)]
    got = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode())

    (block,) = re.findall(r"```python\n(.*?)```", GUARDED, re.DOTALL)
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "localhost")
    with HTTPServer(("localhost", 0), Server) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        exec(compile(block.replace("localhost:8000", f"localhost:{server.server_port}"), "serve.md", "exec"), {})
        thread.join()
    assert capsys.readouterr().out.splitlines() == [
        'rejected book_room.minutes: must be of type integer, not the string "half an hour"',
        "run find_employee {'name': 'Ana', 'limit': 3}",
    ]
    ((path, body),) = got
    assert (path, body["model"], body["temperature"]) == ("/v1/chat/completions", "helpdesk", 0)
    assert body["tools"] == tools.load(str(tmp_path / "tools.json")) and len(body["tools"]) == len(TOOLS)
