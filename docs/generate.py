"""Writes what the code itself says best: each component's README.md, and docs/config.md with every setting.

python docs/generate.py            # write (`make docs`)
python docs/generate.py --check    # name the files that are not what the code says, exit 1 (`make check`)
"""

import argparse
import ast
import importlib
import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from kfp.dsl.base_component import BaseComponent
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from calltune.settings import Settings
from pipelines.config import RunConfig
from pipelines.finetune import STEPS

ROOT = Path(__file__).parent.parent
NOTICE = "<!-- Written by docs/generate.py from the code: change the code, then run `make docs`. -->"
WITH_MODEL = ("format", "train", "export", "evaluate")
WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "any value"}
FINAL_STATUS = "PipelineTaskFinalStatus"
"""An input that KFP fills in by itself."""


@dataclass(frozen=True)
class Setting:
    """One row of a table of settings.

    Attributes:
        key: dotted, as `--set` takes it.
        values: what it may be.
        default: as YAML; empty where it is required.
        description: what it does; the text below the field in its config class.
    """

    key: str
    values: str
    default: str
    description: str


def main() -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the generated documents.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a document is not up to date")
    only_check = parser.parse_args().check
    stale = [path for path, text in documents().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'is not what the code says: run `make docs`' if only_check else 'written'}")
        if not only_check:
            path.write_text(documents()[path], encoding="utf-8")
    return 1 if only_check and stale else 0


def documents() -> dict[Path, str]:
    """Every generated document: path → text."""
    readmes = {ROOT / "components" / step / "README.md": readme(step) for step in STEPS}
    return {**readmes, ROOT / "docs" / "config.md": config_page()}


def readme(step: str) -> str:
    """The README of one step: what it does, its component's inputs and outputs, its function, its settings."""
    adapter, config = (importlib.import_module(f"components.{step}.{name}") for name in ("component", "config"))
    # Read, not imported: some steps import torch, and their docstrings are all that is needed.
    code = ast.parse((ROOT / "components" / step / "step.py").read_text(encoding="utf-8"))
    lines = [NOTICE, "", f"# {step}", "", ast.get_docstring(code) or ""]
    for component in _components(adapter):
        lines += ["", f"## Component `{component.name}`", "", *_interface(component)]
    for function in _called(adapter, code):
        text = ast.get_docstring(function) or ""
        lines += ["", f"## Function `{function.name}` in `step.py`", "", "```text", text, "```"]
    lines += ["", "## Settings", ""]
    lines += _table(list(settings(_config_class(config))))
    if step in WITH_MODEL:
        lines += ["", "It also gets the run's `model` section; see [docs/config.md](../../docs/config.md#model)."]
    return "\n".join(lines) + "\n"


def config_page() -> str:
    """docs/config.md: all settings of a run, by section."""
    lines = [NOTICE, "", "# Every setting", ""]
    lines += [
        "A run's config is one YAML file with these sections. An unknown key is refused, and the nearest known one is",
        "named. `--set section.key=value` changes one setting for one run. Paths are relative to the current folder.",
        "`pipelines/recipes/` has whole files to copy.",
    ]
    lines += ["", "## The run", "", *_table(list(settings(RunConfig, nested=False)))]
    for name, field in RunConfig.model_fields.items():
        section = _settings_in(field.annotation)
        if section is not None:
            prefix = f"{name}.<step>." if get_origin(field.annotation) is dict else f"{name}."
            lines += ["", f"## {name}", "", _doc(section), "", *_table(list(settings(section, prefix)))]
    return "\n".join(lines) + "\n"


def settings(section: type[Settings], prefix: str = "", nested: bool = True) -> Iterator[Setting]:
    """The settings of a config class in the order of its fields, those of the classes in it among them.

    Args:
        section: the class.
        prefix: of the keys.
        nested: whether to go into settings that are classes themselves; else these are left out.
    """
    described = _descriptions(section)
    for name, field in section.model_fields.items():
        inner = _settings_in(field.annotation)
        if inner is None:
            yield Setting(f"{prefix}{name}", _values(field), _default(field), described.get(name, ""))
        elif nested:
            is_mapping = get_origin(field.annotation) is dict
            if is_mapping:
                yield Setting(f"{prefix}{name}", "a mapping", _default(field), described.get(name, ""))
            yield from settings(inner, f"{prefix}{name}.{'<metric>.' if is_mapping else ''}")


def _components(adapter: ModuleType) -> list[BaseComponent]:
    return [value for value in vars(adapter).values() if isinstance(value, BaseComponent)]


def _interface(component: BaseComponent) -> list[str]:
    spec = component.component_spec
    inputs = [(name, one) for name, one in (spec.inputs or {}).items() if one.type != FINAL_STATUS]
    lines = [spec.description or "", "", "| | name | type |", "|---|---|---|"]
    for name, one in inputs:
        optional = " (optional)" if one.optional else ""
        lines.append(f"| input | `{name}` | {_kfp_type(one.type)}{optional} |")
    lines += [f"| output | `{name}` | {_kfp_type(one.type)} |" for name, one in (spec.outputs or {}).items()]
    return lines


def _kfp_type(name: str) -> str:
    """`system.Dataset@0.0.1` is an artifact; everything else is a parameter."""
    if "@" in name:
        kind = name.split("@")[0].removeprefix("system.")
        return "artifact" if kind == "Artifact" else f"{kind} artifact"
    return {"String": "text", "Boolean": "true or false", "Integer": "integer", "Float": "number", "Dict": "mapping"}.get(
        name, name
    )


def _called(adapter: ModuleType, code: ast.Module) -> list[ast.FunctionDef]:
    """The functions of step.py that the adapter imports."""
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(adapter))) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports if (node.module or "").endswith(".step") for alias in node.names}
    return [node for node in code.body if isinstance(node, ast.FunctionDef) and node.name in names]


def _config_class(config: ModuleType) -> type[Settings]:
    """The step's own class: the last one in the file that is not a part of another."""
    own = [one for one in vars(config).values() if inspect.isclass(one) and one.__module__ == config.__name__]
    return next(one for one in reversed(own) if issubclass(one, Settings))


def _settings_in(annotation: Any) -> type[Settings] | None:
    """The class of settings that a field holds, by itself or as the values of a mapping."""
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    return annotation if inspect.isclass(annotation) and issubclass(annotation, Settings) else None


def _descriptions(section: type[Settings]) -> dict[str, str]:
    """Field → the string that stands below it in the class, or in the class that it is inherited from, as one line."""
    (body,) = [node for node in ast.parse(inspect.getsource(section)).body if isinstance(node, ast.ClassDef)]
    above = section.__base__
    found: dict[str, str] = _descriptions(above) if inspect.isclass(above) and issubclass(above, Settings) else {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = ast.literal_eval(below.value) if isinstance(below.value, ast.Constant) else ""
            found[field.target.id] = " ".join(str(text).split())
    return found


def _values(field: FieldInfo) -> str:
    limits = _limits(field.metadata)
    return _kind(field.annotation) + (f", {limits}" if limits else "")


def _kind(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = _limits(inside[1].metadata if isinstance(inside[1], FieldInfo) else inside[1:])
        return _kind(inside[0]) + (f", {limits}" if limits else "")
    if origin is Literal:
        return ", ".join(f"`{value}`" if value else "empty" for value in inside)
    if origin in (Union, UnionType):
        return " or ".join(_kind(one) for one in inside)
    if origin is dict:
        return f"a mapping to {_kind(inside[1])}"
    if origin is list:
        return f"a list of {_kind(inside[0])}"
    if inspect.isclass(annotation) and issubclass(annotation, Settings):
        return f"mappings of {', '.join(f'`{name}`' for name in annotation.model_fields)}"
    return WORDS[annotation]


def _limits(metadata: Iterable[Any]) -> str:
    texts = []
    for one in metadata:
        match one:
            case Ge(ge=limit):
                texts.append(f"≥ {limit:g}")
            case Gt(gt=limit):
                texts.append(f"> {limit:g}")
            case Le(le=limit):
                texts.append(f"≤ {limit:g}")
            case Lt(lt=limit):
                texts.append(f"< {limit:.10g}")
            case MinLen():
                texts.append("not empty")
    return ", ".join(texts)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "" if value is PydanticUndefined else json.dumps(value, ensure_ascii=False)


def _table(rows: list[Setting]) -> list[str]:
    lines = ["| setting | values | default | |", "|---|---|---|---|"]
    for row in rows:
        default = f"`{row.default}`" if row.default else "required"
        lines.append(f"| `{row.key}` | {row.values} | {default} | {_cell(row.description)} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _doc(of: Any) -> str:
    return inspect.getdoc(of) or ""


if __name__ == "__main__":
    sys.exit(main())
