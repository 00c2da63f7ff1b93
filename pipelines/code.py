"""What a step's cache key says of its code: a hash of the sources that it can reach, and of the library versions."""

import ast
import functools
import hashlib
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from calltune.models import BUNDLED

ROOT = Path(__file__).parent.parent
OURS = ("calltune", "components")


def code_of(steps: Sequence[str]) -> dict[str, str]:
    """For each step a SHA-256 over its folder, what that imports of Calltune, and the libraries that Calltune needs.

    Only what a step can import counts: a change in the scoring must not train a model again.
    """
    libraries = required()
    return {step: _digest(reachable(step), libraries) for step in steps}


def required() -> list[str]:
    """Name and version of each library that Calltune requires, of what that requires in turn, and of bundled models.

    Other libraries may come and go: `make test` installs pytest beside these, which is no reason to train again.
    """
    installed: dict[str, Distribution] = {}
    for distribution in distributions():
        # The first one with a name is the one that is imported.
        installed.setdefault(canonicalize_name(distribution.metadata["Name"]), distribution)
    waiting = [("calltune", ""), *((canonicalize_name(package), "") for package, _ in BUNDLED.values())]
    found: set[tuple[str, str]] = set()
    while waiting:
        name, extra = wanted = waiting.pop()
        if wanted in found or name not in installed:
            continue
        found.add(wanted)
        for text in installed[name].requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)]
    return sorted(f"{name}=={installed[name].version}" for name in {name for name, _ in found} - {"calltune"})


def reachable(step: str) -> list[Path]:
    """The files that a step's code can reach: its own folder with those in it, and the modules that it imports, in turn."""
    found: set[Path] = set()
    waiting = sorted((ROOT / "components" / step).rglob("*.py"))
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        text = file.read_text(encoding="utf-8")
        found.update(_templates(file, text))
        waiting += [module for name in _imports(text) for module in _files(name)]
    return sorted(found)


def _templates(file: Path, text: str) -> Iterator[Path]:
    """The templates and data that a module reads: those beside it, and those in a folder without code that it names."""
    yield from file.parent.glob("*.jinja")
    for folder in file.parent.iterdir():
        if folder.is_dir() and not (folder / "__init__.py").exists() and f'"{folder.name}"' in text:
            yield from (path for path in sorted(folder.iterdir()) if path.suffix in (".jinja", ".yaml", ".jsonl"))


@functools.cache
def _imports(text: str) -> tuple[str, ...]:
    """The modules that a source imports, and the names that may be some; parsed once, since several steps reach most files."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _files(module: str) -> list[Path]:
    if module.split(".")[0] not in OURS:
        return []
    place = ROOT.joinpath(*module.split("."))
    return [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]


def _digest(files: Sequence[Path], libraries: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(libraries).encode())
    for file in files:
        digest.update(f"\n{file.relative_to(ROOT)}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
