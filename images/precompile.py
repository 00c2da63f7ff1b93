"""Compiles the modules that Calltune's own code imports, at the head of a file or in a function, and those that they import.

Half of what the libraries come to, compiled, is never imported by a step, and would be the tenth part of the image `cpu`.
"""

import ast
import importlib
import py_compile
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OURS = ("calltune", "components", "pipelines")
BESIDE = (("kfp.dsl.executor_main", ""), ("matplotlib.backends.backend_agg", ""), ("mlflow.store.tracking.rest_store", ""))
"""What the libraries themselves import only when they are used."""


def wanted(packages: Path) -> Iterator[tuple[str, str]]:
    """The modules that our code names, each with what it takes from it, if anything."""
    for package in OURS:
        for file in sorted((packages / package).rglob("*.py")):
            yield ".".join(file.relative_to(packages).with_suffix("").parts).removesuffix(".__init__"), ""
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    yield from ((name.name, "") for name in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield from ((node.module, name.name) for name in node.names)


def main() -> None:
    """Compile below the site-packages of the Python that runs this."""
    sys.dont_write_bytecode = True
    packages = Path(importlib.import_module("calltune").__file__ or "").parents[1]
    for module, name in (*wanted(packages), *BESIDE):
        # Whatever it is: an image has the libraries of its own steps only.
        with suppress(Exception):
            getattr(importlib.import_module(module), name or "__name__")
    files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    for file in sorted(file for file in files if file.endswith(".py") and file.startswith(str(packages))):
        py_compile.compile(file, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    main()
