"""The recent questions of those who use the model, beside the ones that the champion has learnt from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from calltune import ledger, runtime, storage, tools
from calltune.dialects import DIALECTS, detect
from calltune.dialects.reading import RowError, strict_json
from calltune.drift import counted, population_stability
from calltune.errors import DataError
from calltune.records import Record, Tool
from components.look.config import LookConfig

MAX_ROWS = 5000
"""The newest rows that are read: with more, an index changes in its third digit."""
MIN_ROWS = 200
"""With fewer, chance alone may bring an index near 0.1."""
MAX_BYTES = 2**26
"""Of one file, which is in memory at once."""


def drifted(config: LookConfig, serving: ledger.Entry) -> str:
    """How recent questions differ from those that the champion has learnt from; empty where they do not, or nobody can say.

    Raises:
        DataError: the recent questions cannot be read.
    """
    before = storage.of_run().get_json(f"profiles/{serving['fingerprint']}.json")
    if before is None:
        runtime.note("drift: not known: the store has no profile of the data that the champion was trained on")
        return ""
    given = tools.load(config.tools) if config.tools else []
    recent = list(_records(config.drift.questions, given))
    if len(recent) < MIN_ROWS:
        runtime.note(f"drift: not known: {len(recent)} recent questions, and {MIN_ROWS} are needed")
        return ""
    now = counted(recent)
    found = {what: population_stability(before[what], now[what]) for what in ("tools", "lengths")}
    told = f"{found['tools']:.2f} for the called tools, {found['lengths']:.2f} for the lengths"
    runtime.note(f"drift: of {len(recent)} recent questions the population stability index is {told}")
    limit = config.drift.max_index
    return f"recent questions have drifted: {told}, and {limit} is allowed" if max(found.values()) > limit else ""


def _records(uri: str, given: list[Tool]) -> Iterator[Record]:
    """The newest rows that can be read, in no order that matters."""
    rows: list[Any] = []
    for name, data in _files(uri):
        lines = [line for line in data.decode("utf-8", "replace").split("\n") if line.strip()][-(MAX_ROWS - len(rows)) :]
        found = [row for row in map(_parsed, lines) if row is not None]
        if lines and not found:
            raise DataError(f"retrain.drift.questions: {name}: not JSON lines")
        rows += found
        if len(rows) >= MAX_ROWS:
            break
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects:
        return
    dialect, _ = detect(objects[:100])
    for row in objects:
        try:
            yield DIALECTS[dialect](row, given)
        except RowError:
            continue  # a question that nobody can learn from says nothing of those that are learnt from


def _parsed(line: str) -> Any:
    """None for what is not JSON: the last line of a log may be half written."""
    try:
        return strict_json(line)
    except ValueError:
        return None


def _files(uri: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the JSON lines files, the last by name first: whoever keeps logs names them by their time."""
    if uri.startswith("s3://"):
        parts = urlsplit(uri)
        store = storage.S3(parts.netloc)
        for item in reversed(_usable(uri, [(item.key, item.size) for item in store.objects(parts.path.lstrip("/"))])):
            yield f"s3://{parts.netloc}/{item}", store.get(item) or b""
        return
    path = Path(uri)
    files = [path] if path.is_file() else list(path.rglob("*"))
    for name in reversed(_usable(uri, [(str(file), file.stat().st_size) for file in files if file.is_file()])):
        yield name, Path(name).read_bytes()


def _usable(uri: str, found: list[tuple[str, int]]) -> list[str]:
    names = sorted(name for name, _ in found if name.endswith(".jsonl"))
    if not names:
        raise DataError(f"retrain.drift.questions: {uri}: there is no .jsonl there")
    large = next((name for name, size in found if name.endswith(".jsonl") and size > MAX_BYTES), None)
    if large:
        raise DataError(
            f"retrain.drift.questions: {large}: is larger than {MAX_BYTES >> 20} MiB: write smaller files, by the day"
        )
    return names
