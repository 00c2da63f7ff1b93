"""What a step before wrote, found by the path that somebody names."""

from pathlib import Path

from calltune.errors import UserError

INPUTS = "inputs.json"
"""Beside an adapter: where the rows lie that it was trained on, so that export need not be told."""


def adapter(path: Path) -> Path:
    """The adapter's own folder, of that or of all that train wrote.

    Raises:
        UserError: there is none.
    """
    found = [folder for folder in (path, path / "adapter") if (folder / "method.json").is_file()]
    if not found:
        raise UserError(f"--adapter {path}: no method.json in it or in its adapter/: it must be what `calltune train` wrote")
    return found[0]


def dataset_of(weights: Path) -> Path:
    """The folder with the rows that an adapter was trained on, as train noted it.

    Raises:
        UserError: it has noted none.
    """
    from calltune import runtime

    note = weights.parent / INPUTS
    if not note.is_file():
        raise UserError(f"{note}: no such file, so that the rows are not known: add --dataset DIR, what `calltune format` wrote")
    return Path(runtime.read_json(note)["dataset"])


def require_whole(dataset: Path) -> None:
    """Refuse a data set that format has not written to its end: `stats.json` is the last file of it.

    Raises:
        UserError: it has none.
    """
    if not (dataset / "stats.json").is_file():
        raise UserError(f"--dataset {dataset}: no stats.json in it: it must be what `calltune format` wrote, to its end")


def model_json(path: Path) -> Path:
    """The file that says where the store has a model: of it, its folder, or the folder `model` beside it.

    Raises:
        UserError: there is none.
    """
    from calltune import runtime

    found = [file for file in (path, path / "model.json", path.parent / "model.json") if file.is_file()]
    if not found:
        raise UserError(f"--model {path}: no model.json in it: it must be what `calltune export` wrote")
    told = runtime.read_json(found[0])
    if not isinstance(told, dict) or not {"uri", "digest", "files"} <= told.keys():
        raise UserError(f"--model {found[0]}: no `uri`, `digest` and `files` in it: it must be what `calltune export` wrote")
    return found[0]
