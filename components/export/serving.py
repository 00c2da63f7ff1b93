"""How vLLM serves the folder: `serve.json`, and where vLLM has no parser for the call syntax, `tool_parser.py`."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import calltune
from calltune import runtime
from calltune.records import sha256
from calltune.render import Template

VLLM = "0.33.0"
"""What the arguments and the plugin were written against, from its sources: it was not run."""
BUILT_IN = {"hermes": "hermes", "llama3": "llama3_json", "pythonic": "pythonic"}
"""From a call syntax to vLLM's own parser of it. vLLM has a `functiongemma` too, which drops arguments that are no strings;
its `xlam` reads another form than the template of that name writes."""
OPENINGS = {"functiongemma": "<start_function_call>", "json": "<calls>", "python": "<calls>", "yaml": "<calls>"}
"""From a call syntax without such a parser to the text with which a call begins."""
SERVE, PLUGIN = "serve.json", "tool_parser.py"

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True)


def write_serving(template: Template, dtype: str, out: Path) -> dict[str, Any]:
    """Write `serve.json` and, where it takes one, `tool_parser.py`.

    Args:
        template: that training used.
        dtype: of the weights, as torch names it.
        out: the exported folder; the paths in `serve.json` are relative to it.

    Returns:
        vLLM's arguments: name without dashes → value; true for a flag.
    """
    arguments: dict[str, Any] = {
        "model": ".",
        "dtype": dtype,
        "chat-template": "chat_template.jinja",
        "enable-auto-tool-choice": True,
        "tool-call-parser": BUILT_IN.get(template.syntax, f"calltune_{template.syntax}"),
    }
    if template.syntax not in BUILT_IN:
        arguments["tool-parser-plugin"] = PLUGIN
        (out / PLUGIN).write_text(tool_parser(template.syntax), encoding="utf-8")
    runtime.write_json(out / SERVE, {"engine": "vllm", "written_for": VLLM, "arguments": arguments})
    return arguments


def command(arguments: dict[str, Any]) -> str:
    """The command line for a shell in the folder."""
    flags = [f"--{name}" if value is True else f"--{name} {value}" for name, value in arguments.items() if name != "model"]
    return " ".join(["vllm serve", arguments["model"], *flags])


def tool_parser(syntax: str) -> str:
    """A Python file that gives vLLM Calltune's own parser of a call syntax, and needs nothing of Calltune."""
    modules = _modules("calltune.parse")
    # A name of its own, so that it is this parser also where another Calltune is installed, or another model's is loaded.
    root = f"calltune_{sha256(modules)[:12]}"
    own = [(name.replace("calltune", root, 1), _renamed(source, root)) for name, source in modules.items()]
    return TEMPLATES.get_template(f"{PLUGIN}.jinja").render(
        name=f"calltune_{syntax}",
        syntax=syntax,
        vllm=VLLM,
        root=root,
        opening=repr(OPENINGS[syntax]),
        sources=[(root, '"__path__ = []"'), *((name, _literal(source)) for name, source in own)],
    )


@cache
def _modules(name: str) -> dict[str, str]:
    """The source of a module of Calltune's and of those that it imports in turn, each after what it imports itself."""
    source = _file(name).read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for other in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                if other.startswith("calltune.") and _file(other).is_file():
                    found |= _modules(other)
    return {**found, name: source}


def _file(module: str) -> Path:
    return Path(calltune.__file__).parent.parent.joinpath(*module.split(".")).with_suffix(".py")


def _renamed(source: str, root: str) -> str:
    return re.sub(r"(?m)^(\s*(?:from|import) )calltune\b", rf"\g<1>{root}", source)


def _literal(source: str) -> str:
    """A text as Python writes it, over as many lines as it has."""
    return '"""' + source.replace("\\", "\\\\").replace('"', '\\"') + '"""'
