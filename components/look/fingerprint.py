"""What a model is made from, in one value: another source, other tools or other base weights, another fingerprint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from calltune import hub, storage
from calltune.errors import DataError, no_such_file
from calltune.layouts import is_hidden
from calltune.models import checksums, file_sha256
from calltune.records import sha256
from components.look.config import LookConfig


def fingerprint(source: str, tools: str, base: str = "", revision: str = "", more: Sequence[str] = ()) -> str:
    """SHA-256 over source, tools file and base model, so that nothing cached ever hides new data or new weights.

    Args:
        source: a file, whose content counts, not its name; a folder, of whose files both count, without hidden ones; or
            ``s3://bucket/prefix``, of whose objects key, ETag and size count, so that nothing is downloaded; or
            ``hf://datasets/…``, of which the commit counts that it means now.
        tools: path of the tools file, or its address in S3; empty where the rows bring their own.
        base: the base model. The files of a folder count, by their checksums, and the objects of ``s3://bucket/prefix``;
            any other model is what its name and revision say.
        revision: of a base model from the Hub.
        more: further sources.

    Raises:
        DataError: one of them does not exist or cannot be read.
    """
    known: dict[str, Any] = {"source": _data(source), "tools": _tools(tools)}
    if more:
        known["more"] = [_data(one) for one in more]
    if base.startswith("s3://"):
        known["base"] = _objects(f"{base.rstrip('/')}/")
    elif base and Path(base).is_dir():
        known["base"] = checksums(Path(base))
    elif base:
        known["base"] = [base, revision]
    return sha256(known)


def of_run(config: LookConfig) -> str:
    """The fingerprint of what a run is to be trained on: all that its config names."""
    return fingerprint(config.source, config.tools, config.model.base, config.model.revision, config.more)


def _data(source: str) -> Any:
    if source.startswith("s3://"):
        return _objects(source)
    if source.startswith(hub.PREFIX):
        address = hub.parsed(source)
        return [address.name, hub.commit_of(source), address.config, address.split]
    try:
        return _folder(Path(source)) if Path(source).is_dir() else _file(source, "data")
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from None


def _folder(folder: Path) -> dict[str, str]:
    # Not a model's `checksums`, which leave a `manifest.json` out: here that may hold rows.
    names = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {str(name): file_sha256(path) for name, path in names.items() if not is_hidden(name)}  # ingest reads no hidden ones


def _tools(name: str) -> Any:
    if name.startswith("s3://"):
        return _objects(name)
    return _file(name, "tools") if name else ""


def _file(name: str, kind: str) -> str:
    path = Path(name)
    if path.is_dir():
        raise DataError(f"{name}: is a folder; name the {kind} file")
    try:
        return file_sha256(path)
    except FileNotFoundError:
        raise no_such_file(name, kind) from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from None


def _objects(uri: str) -> Sequence[storage.Object]:
    parts = urlsplit(uri)
    found = storage.S3(parts.netloc).objects(parts.path.lstrip("/"))
    if not found:
        raise DataError(f"{uri}: there is no object")
    return found
