"""One question to a model, greedy and guarded: what `calltune call` prints."""

from pathlib import Path
from typing import Any

from calltune import guard, models, runtime
from calltune import tools as tool_files
from calltune.errors import UserError


def ask(question: str, folder: Path, tools: Path, max_new_tokens: int) -> dict[str, Any]:
    """Ask an exported model.

    Returns:
        ``{"calls": [...]}`` of the calls that pass the guard, `content` where the model also wrote text, and
        `rejected`, each with its reason, where the guard rejected something.

    Raises:
        UserError: the folder is not an exported model, or the tools cannot be read.
    """
    if not (folder / models.SERVING).is_file():
        raise UserError(
            f"{folder}: not an exported model: it has no {models.SERVING}; `calltune run` leaves one in WORKDIR/model"
        )
    schemas = tool_files.load(tools)
    from calltune.parse import PARSERS
    from calltune.render import answer_text, prompt_ids
    from components.evaluate import hf

    tokenizer = models.tokenizer(folder)
    stops = runtime.read_json(folder / "generation_config.json")["eos_token_id"]
    stop_ids = stops if isinstance(stops, list) else [stops]
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": question}], schemas)
    (answer,) = hf.answers(hf.load(folder), [prompt], stop_ids, max_new_tokens)
    syntax = runtime.read_json(folder / models.SERVING)["syntax"]
    parsed = PARSERS[syntax](answer_text(tokenizer, answer.ids, stop_ids))
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
