"""Is the prompt that Calltune renders the one that a vLLM server renders from the same messages and tools? Byte for byte.

Takes rows of the helpdesk example, rows of Seal-Tools where they are at hand, and tools with unusual keys, each with the
templates hermes, functiongemma and llama3. Every one goes as the body of a chat request through vLLM's own code: its
pydantic classes, `OnlineRenderer.render_chat`, `HfRenderer` and its tokenizing. No model, no GPU: what vLLM imports for sound,
pictures and video on the way is an empty stand-in (:data:`STUBBED`), and its config is the few fields that rendering reads.
Nothing of the path itself is replaced. It then has vLLM's own classes build and check the requests of `evaluate.engine: vllm`.

Prints how many are equal, and each difference; ends with 1 if there is one that :data:`KNOWN` does not name. `--freeze FILE`
writes the unusual cases with the texts that vLLM made, which an ordinary test holds our rendering to. With --json FILE it
writes {"<set>, <template>": {"ours": equal prompts, "theirs": prompts, "ratio": ours / theirs, "unit": "prompts equal", "n":
prompts}, ...}.

    pip install --no-deps --target /tmp/vllm vllm==0.33.0 openai sniffio oss-harmony msgspec partial-json-parser cachetools \\
        jiter distro py-cpuinfo blake3 pyzmq tiktoken ijson pybase64 cbor2 prometheus_client lark cloudpickle psutil regex \\
        einops setproctitle python-json-logger compressed-tensors sentencepiece xgrammar==0.2.8 apache-tvm-ffi
    python -m benchmarks.vllm_prompts --vllm /tmp/vllm
"""

import argparse
import ast
import asyncio
import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from benchmarks.vllm_cases import CASES, HELPDESK, KNOWN, rows_of_helpdesk, rows_of_seal_tools
from calltune import models, tools
from calltune.grammar import grammar
from calltune.render import TEMPLATES, prompt_ids
from calltune.settings import ModelConfig

NAMES = ("hermes", "functiongemma", "llama3")
STUBBED = ("av", "cv2", "soundfile", "soxr", "torchaudio", "torchcodec", "uvloop", "mistral_common")
"""Libraries that vLLM's modules import on the way, and that nothing on the way of a text calls."""


class _Empty(ModuleType):
    """A module in which every name is a class that says nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in STUBBED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is in it."""


class Server:
    """The part of a vLLM server between a chat request and its tokens, for one tokenizer with its template."""

    def __init__(self, tokenizer: Any) -> None:
        from vllm.renderers.hf import HfRenderer
        from vllm.renderers.online_renderer import OnlineRenderer
        from vllm.tokenizers.hf import get_cached_tokenizer

        names = dict.fromkeys(("multimodal_config", "tokenizer_revision", "revision", "code_revision", "hf_overrides"))
        hf_config = SimpleNamespace(model_type="llama")
        model = SimpleNamespace(
            **names,
            hf_config=hf_config,
            hf_text_config=hf_config,
            model=tokenizer.name_or_path,
            tokenizer=tokenizer.name_or_path,
            trust_remote_code=False,
            enable_prompt_embeds=False,
            supports_multimodal_inputs=False,
            is_multimodal_model=False,
            is_encoder_decoder=False,
            renderer_num_workers=1,
            max_model_len=1_000_000,
            skip_tokenizer_init=False,
        )
        config = SimpleNamespace(model_config=model, parallel_config=SimpleNamespace(_api_process_rank=0))
        self._online = OnlineRenderer(
            model,
            HfRenderer(config, get_cached_tokenizer(tokenizer)),
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
        )

    def prompt(self, body: dict[str, Any]) -> tuple[str, list[int]]:
        """The text and the tokens that it makes of a chat request."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        # As it comes in: JSON.
        request = ChatCompletionRequest.model_validate_json(json.dumps(body))
        rendered = asyncio.run(self._online.render_chat(request))
        if not isinstance(rendered, tuple):
            raise ValueError(f"vLLM refuses the request: {rendered}")
        (made,) = rendered[1]
        return made["prompt"], list(made["prompt_token_ids"])


def request(messages: Sequence[dict[str, Any]], given: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The body that a client sends: the calls' arguments as JSON text and with ids, as OpenAI's API has them."""
    sent, ids = [], []
    for message in messages:
        one = {**message}
        if one.get("tool_calls"):
            ids = [f"call_{number}" for number in range(len(one["tool_calls"]))]
            one["tool_calls"] = [
                {**call, "id": id_, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
                for id_, call in zip(ids, one["tool_calls"], strict=True)
            ]
        if one["role"] == "tool":
            one["tool_call_id"] = ids.pop(0)
        sent.append(one)
    # "none": whether the server may parse calls out of the answer changes nothing of the prompt.
    return {"model": "m", "messages": sent, **({"tools": list(given), "tool_choice": "none"} if given else {})}


def ours(tokenizer: Any, messages: Sequence[dict[str, Any]], given: Sequence[dict[str, Any]]) -> tuple[str, list[int]]:
    """Our prompt: what training, evaluation and `calltune call` ask with."""
    ids = prompt_ids(tokenizer, messages, given)
    text = tokenizer.apply_chat_template(list(messages), tools=list(given) or None, add_generation_prompt=True, tokenize=False)
    return str(text), ids


def difference(mine: str, theirs: str) -> str:
    """Where two texts part, in one line."""
    at = next((place for place, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    return f"at {at}: ours {mine[max(0, at - 30) : at + 50]!r}, theirs {theirs[max(0, at - 30) : at + 50]!r}"


def tokenizer_with(name: str) -> Any:
    """The bundled model's tokenizer with one of Calltune's templates, and its markers as special tokens."""
    tokenizer = models.tokenizer(models.fetch(ModelConfig(base="bundled:smollm2-135m")).path)
    template = TEMPLATES[name]
    tokenizer.add_special_tokens({"additional_special_tokens": sorted({*template.markers, *template.stops} - {""})})
    tokenizer.chat_template = template.text
    return tokenizer


def engine(place: Path) -> Iterator[str]:
    """What `components/evaluate/engines/vllm.py` asks of vLLM, held against its classes and its sources; yields what was found.

    Raises:
        ValueError: vLLM would refuse something.
    """
    from vllm.v1.structured_output.backend_guidance import validate_guidance_grammar

    from components.evaluate.engines import vllm

    asked: list[Any] = []

    def enqueue(prompts: Sequence[Any], settings: Sequence[Any], *, use_tqdm: bool) -> list[str]:
        asked.extend(settings)
        return []

    model = SimpleNamespace(enqueue=enqueue, llm_engine=SimpleNamespace(has_unfinished_requests=lambda: False))
    # The tool with a limit of 1e21 has no grammar, which evaluation says before it asks.
    taken = [case for case in CASES if case.id != "numbers"]
    given = [*tools.load(HELPDESK / "tools.py"), *(tools.normalise(one, "") for case in taken for one in case.tools)]
    grammars = [grammar(syntax, given[:count], [2, 7]) for syntax in ("hermes", "json") for count in (0, 4, len(given))]
    grammars.append(grammar("hermes", given, [2, 7], {"<tool_call>": 3, "</tool_call>": 4}))
    list(vllm.answers(model, [[1, 2]] * len(grammars), [2, 7], 5, grammars))
    list(vllm.answers(model, [[1, 2]], [2, 7], 5))
    for settings in asked:
        validate_guidance_grammar(settings)
    yield f"{len(asked)} requests built by vLLM's SamplingParams, {len(grammars)} of them with a grammar that its validator takes"
    called = [node for node in ast.walk(ast.parse(Path(vllm.__file__).read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    (made,) = (node for node in called if isinstance(node.func, ast.Name) and node.func.id == "LLM")
    known = set()
    for file, name in (("entrypoints/llm.py", "LLM"), ("engine/arg_utils.py", "EngineArgs")):
        body = ast.parse((place / "vllm" / file).read_text(encoding="utf-8")).body
        (found,) = (node for node in body if isinstance(node, ast.ClassDef) and node.name == name)
        known |= {node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
        methods = {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}
        known |= (
            {one.arg for one in methods["__init__"].args.kwonlyargs + methods["__init__"].args.args} if name == "LLM" else set()
        )
    unknown = [word.arg for word in made.keywords if word.arg not in known]
    if unknown:
        raise ValueError(f"vLLM's LLM has no {', '.join(map(str, unknown))}")
    yield f"{len(made.keywords)} arguments of LLM that are in its sources"


def main() -> None:
    """Compare, print, and end with 1 if a difference has no name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, required=True, help="where vllm is installed")
    parser.add_argument("--seal-tools", type=Path, help="test.jsonl of Seal-Tools")
    parser.add_argument("--rows", type=int, default=200, help="of helpdesk and of Seal-Tools, each")
    parser.add_argument("--freeze", type=Path, help="write the unusual cases with vLLM's texts here")
    parser.add_argument("--json", type=Path, help="write the table here")
    given = parser.parse_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    sys.meta_path.insert(0, _Stubs())
    sys.path.append(str(given.vllm))
    sets = {"helpdesk": rows_of_helpdesk(given.rows), "unusual": CASES}
    if given.seal_tools:
        sets["Seal-Tools"] = rows_of_seal_tools(given.seal_tools, given.rows)
    table: dict[str, dict[str, Any]] = {}
    frozen: list[dict[str, Any]] = []
    unnamed = 0
    for template in NAMES:
        tokenizer = tokenizer_with(template)
        server = Server(tokenizer)
        for name, cases in sets.items():
            equal = 0
            for case in cases:
                mine = ours(tokenizer, case.messages, [tools.normalise(one, case.id) for one in case.tools])
                theirs = server.prompt(request(case.messages, case.tools))
                equal += mine == theirs
                if name == "unusual":
                    frozen.append({"template": template, "id": case.id, "text": theirs[0]})
                if mine != theirs:
                    unnamed += case.id not in KNOWN
                    print(f"{template}, {case.id} {difference(mine[0], theirs[0])}: {KNOWN.get(case.id, 'NO REASON')}")
            print(f"{name + ', ' + template:<28}{equal:>6} of {len(cases)} equal", flush=True)
            table[f"{name}, {template}"] = {
                **{"ours": equal, "theirs": len(cases), "ratio": equal / len(cases)},
                **{"unit": "prompts equal", "n": len(cases)},
            }
    for line in engine(given.vllm):
        print(line)
    if given.freeze:
        given.freeze.write_text(json.dumps(frozen, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if given.json:
        given.json.write_text(json.dumps(table, indent=1), encoding="utf-8")
    sys.exit(1 if unnamed else 0)


if __name__ == "__main__":
    main()
