"""Exported models: known by their digest, brought from the store to this machine once, and checked each time."""

import re
import tempfile
from pathlib import Path
from typing import Any

from calltune import runtime, storage
from calltune.errors import DataError
from calltune.models import MANIFEST, ModelFolder, cache_dir, checksums, digest, file_sha256, making
from calltune.records import sha256


class Damaged(DataError):
    """What the store has of a model is not what was exported: it has answered, so that asking again would find the same."""


def state(model: dict[str, Any]) -> str:
    """What the store has at a model's address, in one value: another one after a file was put there, changed or removed.

    Nothing is downloaded, so that it says nothing of whether the files are whole.
    """
    store, prefix = storage.at(model["uri"])
    return sha256([list(item) for item in store.objects(prefix)])


def fetch(model: dict[str, Any]) -> ModelFolder:
    """Bring an exported model to this machine, once, and check every file against its recorded checksum.

    Args:
        model: what export wrote to `model.json`: `uri`, `digest` and `files`, a checksum for each name.

    Raises:
        Damaged: a file in the store is absent, or is not the one that was exported.
        DataError: this machine's copy was changed.
    """
    return _fetch(model["uri"], model["digest"], model["files"])


def fetch_address(uri: str) -> ModelFolder:
    """Bring an exported model that is known by its address alone to this machine, once, and check it against its digest.

    Args:
        uri: ``…/models/<digest>``, as `uri` in `model.json` and the model registry's source have it.

    Raises:
        DataError: it is not such an address, nothing is there, or what is there is not what was exported; or this
            machine's copy was changed.
    """
    uri = uri.rstrip("/")
    told = uri.rsplit("/", 1)[-1]
    if not re.fullmatch(r"[0-9a-f]{64}", told):
        raise DataError(f"{uri}: not the address of an exported model: it ends in /models/ and the model's digest, 64 hex digits")
    return _fetch(uri, told, {})


def has_adapter(uri: str) -> bool:
    """Whether the store, or this machine, has a whole adapter at this address."""
    store, prefix = storage.at(uri)
    local = cache_dir() / "adapters" / uri.rsplit("/", 1)[-1]
    return (local / MANIFEST).exists() or f"{prefix}/{MANIFEST}" in store.list(prefix)


def fetch_adapter(uri: str) -> Path:
    """Bring an adapter that export stored to this machine, once, and check its files against the manifest beside them.

    Args:
        uri: ``…/adapters/<digest>``, as `adapter` in `model.json` has it; the digest is that of the merged model.

    Raises:
        DataError: it is not such an address, nothing is there, or what is there, or this machine's copy, was changed.
    """
    told = uri.rstrip("/").rsplit("/", 1)[-1]
    if not re.fullmatch(r"[0-9a-f]{64}", told):
        raise DataError(f"{uri}: not the address of an adapter: it ends in /adapters/ and its model's digest, 64 hex digits")
    target = cache_dir() / "adapters" / told
    if not (target / MANIFEST).exists():
        store, prefix = storage.at(uri.rstrip("/"))
        if f"{prefix}/{MANIFEST}" not in store.list(prefix):
            raise DataError(f"{uri}: no whole adapter is there: it has no {MANIFEST}")
        with making(target) as folder:
            store.download(f"{prefix}/{MANIFEST}", folder / MANIFEST)
            for name in runtime.read_json(folder / MANIFEST):
                store.download(f"{prefix}/{name}", folder / name)
            _require_whole(folder, uri)
    else:
        _require_whole(target, str(target))
    return target


def _require_whole(folder: Path, place: str) -> None:
    wrong = _changed(checksums(folder), folder)
    if wrong:
        raise DataError(f"{place}: {', '.join(wrong)} changed since the export")


def _changed(found: dict[str, str], folder: Path) -> list[str]:
    """Names of the files whose checksums in the folder's manifest are not the ones `found`."""
    made = runtime.read_json(folder / MANIFEST)
    return sorted(name for name in {*found, *made} if found.get(name) != made.get(name))


def require_stored(model: dict[str, Any], read: bool = False) -> None:
    """Make sure that the store has an exported model; what it has lost is uploaded from this machine's copy.

    Args:
        model: what export wrote to `model.json`.
        read: also read every file that is there, and hold it against its checksum; one that was changed counts as lost.

    Raises:
        DataError: files are absent in the store, or were changed, and this machine has no whole copy.
    """
    files = model["files"]
    if read and digest(files) != model["digest"]:
        raise DataError(
            f"{model['uri']}: its files' checksums are not those that its digest is made of: export has not written this"
        )
    store, prefix = storage.at(model["uri"])
    there = set(store.list(prefix))
    found = _checksums_of(model, there) if read else files
    absent = [name for name in files if f"{prefix}/{name}" not in there]
    changed = [name for name in files if name not in absent and found[name] != files[name]]
    wrong = [*absent, *changed]
    if not wrong:
        return
    copy = cache_dir() / "models" / model["digest"]
    if checksums(copy) != files:
        said = [f"no {', '.join(absent)}"] if absent else []
        said += [f"another {', '.join(changed)} than was exported"] if changed else []
        raise DataError(
            f"{model['uri']}: the store has {', and '.join(said)}, and {copy} is no whole copy; "
            "a run in another --workdir exports it again"
        )
    for name in runtime.tracked(wrong, "upload model again", len(wrong), "files"):
        store.upload(copy / name, f"{prefix}/{name}")
    lost = "lost or changed" if changed else "lost"
    runtime.note(f"store: it had {lost} {', '.join(wrong)} of model {model['digest'][:12]}; uploaded again")


def require_whole(model: dict[str, Any]) -> None:
    """Make sure that the store has an exported model file by file as it was exported: reads every one, and keeps none.

    Args:
        model: `uri`, `digest` and `files`, as in `model.json` and in the ledger.

    Raises:
        DataError: a file is absent in the store, or is not the one that was exported.
    """
    store, prefix = storage.at(model["uri"])
    found = _checksums_of(model, set(store.list(prefix)))
    if digest(found) != model["digest"]:
        absent = [f"{name} is gone" for name in model["files"] if name not in found]
        changed = [f"{name} is not what was exported" for name in found if found[name] != model["files"][name]]
        raise DataError(f"{model['uri']}: {', '.join([*absent, *changed]) or 'its files have another digest'}")


def _checksums_of(model: dict[str, Any], there: set[str]) -> dict[str, str]:
    """SHA-256 of the model's files, as far as they are among the store's keys: each is read, and none is kept."""
    store, prefix = storage.at(model["uri"])
    found = {}
    cache_dir().mkdir(parents=True, exist_ok=True)
    # One at a time, so that there must be room for the largest alone.
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        for name in runtime.tracked(model["files"], f"check model {model['digest'][:12]}", len(model["files"]), "files"):
            if f"{prefix}/{name}" in there:
                copy = Path(folder) / "file"
                store.download(f"{prefix}/{name}", copy)
                found[name] = file_sha256(copy)
    return found


def _fetch(uri: str, told: str, files: dict[str, str]) -> ModelFolder:
    """Fetch what export stored at `uri`; `files` are its checksums, empty where only the digest over them is known."""
    target = cache_dir() / "models" / told
    if (target / MANIFEST).exists():
        found = checksums(target)
        if digest(found) != told:
            wrong = ", ".join(_changed(found, target)) or MANIFEST
            raise DataError(f"{target}: {wrong} changed since the export; remove the folder, and it is fetched again")
        return ModelFolder(target, told)
    store, prefix = storage.at(uri)
    there = [key.removeprefix(f"{prefix}/") for key in store.list(prefix)]
    if not there:
        raise Damaged(f"{uri}: nothing is there")
    names = list(files) or there
    gone = [name for name in names if name not in there]
    if gone:
        raise Damaged(f"{uri}: {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} gone")
    with making(target) as folder:
        for name in runtime.tracked(names, f"fetch model {told[:12]}", len(names), "files"):
            store.download(f"{prefix}/{name}", folder / name)
        found = checksums(folder)
        if digest(found) != told:
            damaged = [name for name, checksum in files.items() if found.get(name) != checksum]
            raise Damaged(f"{uri}: not what was exported: {', '.join(damaged) or 'its files have another digest'}")
        runtime.write_json(folder / MANIFEST, found)
    return ModelFolder(target, told)
