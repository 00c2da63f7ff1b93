"""One question to a model, greedy and guarded: what `calltune call` prints."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from calltune import exports, guard, models, runtime
from calltune import tools as tool_files
from calltune.errors import UserError
from calltune.settings import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def folder_of(path: Path) -> Path | None:
    """The exported model's folder in what `calltune export` wrote, or `path` itself where it is one; None where there is none."""
    return next((folder for folder in (path, path / "model") if (folder / models.SERVING).is_file()), None)


def find(model: str) -> models.ModelFolder:
    """An exported model, brought to this machine if it is elsewhere.

    Args:
        model: its folder, or what `calltune export` wrote, as a path or ``file://…``; or where the store has
            it, ``s3://…/models/<digest>``.

    Raises:
        UserError: it is not an exported model, or not what was exported.
    """
    if model.startswith("s3://"):
        return exports.fetch_address(model)
    path = Path(unquote(urlsplit(model).path) if model.startswith("file://") else model)
    folder = folder_of(path)
    if folder is None:
        raise UserError(f"{path}: not an exported model: it has no {models.SERVING}; `calltune run` leaves one in WORKDIR/model")
    return models.ModelFolder(folder)


def find_adapter(adapter: str) -> Path:
    """The folder of an adapter that export made, brought to this machine if it is elsewhere.

    Args:
        adapter: its folder, or what `calltune export` wrote, as a path or ``file://…``; or where the store has it,
            ``s3://…/adapters/<digest>``.

    Raises:
        UserError: it is not such an adapter, or not what was exported.
    """
    if adapter.startswith("s3://"):
        return exports.fetch_adapter(adapter)
    path = Path(unquote(urlsplit(adapter).path) if adapter.startswith("file://") else adapter)
    for folder in (path, path / "lora"):
        if (folder / models.SERVING).is_file() and (folder / "adapter_config.json").is_file():
            return folder
    raise UserError(
        f"--adapter {adapter}: not an exported adapter: it has no {models.SERVING} or no adapter_config.json; "
        "`calltune export` leaves one in DIR/lora where an adapter was trained"
    )


def ask(question: str, model: str, tools: Path, max_new_tokens: int, is_adapter: bool = False) -> dict[str, Any]:
    """Ask an exported model.

    Args:
        question: what the user says.
        model: as :func:`find` reads it; with `is_adapter` as :func:`find_adapter` does.
        tools: Python or JSON file.
        max_new_tokens: longest answer, in tokens.
        is_adapter: whether it is an adapter by itself: its base is fetched, and it is asked as it was trained, unmerged.

    Returns:
        ``{"calls": [...]}`` of the calls that pass the guard, `content` where the model also wrote text, and
        `rejected`, each with its reason, where the guard rejected something.

    Raises:
        UserError: there is no such model, the tools cannot be read, or the model's chat template does not take the question.
    """
    folder = models.ModelFolder(find_adapter(model)) if is_adapter else find(model)
    schemas = tool_files.load(tools)
    print("calltune: loading the model", file=sys.stderr, flush=True)
    from calltune.parse import PARSERS
    from calltune.render import answer_text
    from components.evaluate.engines import hf
    from components.evaluate.served import of_folder

    served = of_folder(folder, {"which": "model"})
    prompt = served.prompt([{"role": "user", "content": question}], schemas, "the question")
    network = _with_base(folder.path) if is_adapter else hf.load(folder.path)
    print(f"calltune: answering a prompt of {len(prompt)} tokens", file=sys.stderr, flush=True)
    (answer,) = hf.answers(network, [prompt], served.stop_ids, max_new_tokens)
    parsed = PARSERS[served.syntax](answer_text(served.tokenizer, answer.ids, served.stop_ids))
    guarded = guard.check_all(parsed.calls, schemas)
    result: dict[str, Any] = {"calls": [one.call for one in guarded if one.reason is None]}
    rejected: list[dict[str, Any]] = [{"call": one.call, "reason": one.reason} for one in guarded if one.reason is not None]
    if parsed.malformed is not None:
        rejected.append({"call": None, "reason": parsed.malformed})
    if parsed.content:
        result["content"] = parsed.content
    if rejected:
        result["rejected"] = rejected
    return result


def _with_base(adapter: Path) -> "PreTrainedModel":
    from components.evaluate.engines import hf

    told = runtime.read_json(adapter / models.SERVING)
    base = models.fetch(ModelConfig(base=told["base"], revision=told["revision"])).path
    return hf.load(base, adapter, nf4=told["method"] == "qlora")
