"""Where objects are kept, by address: in S3 (`s3.py`) or in a folder; each is written whole or not at all.

A folder is as good as its disk.

The run's own store comes from the environment: `CALLTUNE_STORAGE` is ``s3://bucket/prefix``, ``file:///folder`` or a
folder's path, `AWS_ENDPOINT_URL_S3` the server, and `AWS_*` the credentials.
"""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from calltune import s3
from calltune.errors import UserError
from calltune.s3 import S3
from calltune.store import AlreadyThere, Object, Store

__all__ = ["S3", "AlreadyThere", "Folder", "Object", "Store", "at", "hurried", "of_run", "open_store"]


class Folder(Store):
    """A store in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = self.root.as_uri()

    @override
    def put(self, key: str, data: bytes, only_if_new: bool = False) -> None:
        with self._explained():
            target = self._prepared(key)
            with _beside(target) as temporary:
                temporary.write_bytes(data)
                self._settle(temporary, target, key, only_if_new)

    @override
    def get(self, key: str) -> bytes | None:
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    @override
    def upload(self, path: Path, key: str) -> None:
        target = self._prepared(key)
        with _beside(target) as temporary:
            shutil.copyfile(path, temporary)
            temporary.replace(target)

    @override
    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (self.root / key).is_file():
            raise UserError(f"{self.root / key}: no such file")
        shutil.copyfile(self.root / key, path)

    @override
    def list(self, prefix: str) -> list[str]:
        place = self.root / prefix
        files = [place] if place.is_file() else place.rglob("*")
        return sorted(str(p.relative_to(self.root)) for p in files if p.is_file() and not p.name.startswith("."))

    @override
    def objects(self, prefix: str) -> Sequence[Object]:
        found = [(key, (self.root / key).stat()) for key in self.list(prefix)]
        return [Object(key, str(status.st_mtime_ns), status.st_size) for key, status in found]

    @override
    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    @override
    def end_uploads(self, prefix: str) -> None:
        for path in (self.root / prefix).rglob(".*"):
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """One line where nothing can be written here; a full disk is the step's to tell."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise UserError(f"{self.uri}: the store cannot be written: {error.strerror}") from None

    def _prepared(self, key: str) -> Path:
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    @staticmethod
    def _settle(temporary: Path, target: Path, key: str, only_if_new: bool) -> None:
        if not only_if_new:
            temporary.replace(target)
            return
        try:
            os.link(temporary, target)  # fails where the target exists, atomically
        except FileExistsError:
            raise AlreadyThere(key) from None


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A name for a file that is to become `target`; gone when the block ends, since half a file on a full disk keeps it full."""
    # Not by process id: two containers that share a folder may have the same.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{32}")
"""A name that :func:`_beside` makes."""


@cache
def open_store(uri: str) -> Store:
    """The store at ``s3://bucket/prefix``, ``file:///folder`` or a folder's path; the same one at each call."""
    if uri.startswith("s3://"):
        parts = urlsplit(uri)
        return S3(parts.netloc, parts.path)
    return Folder(Path(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri))


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """While the block runs, a store in S3 gets one try of a few seconds, and not a minute: somebody waits before a screen."""
    open_store.cache_clear()
    try:
        with s3.hurried():
            yield
    finally:
        open_store.cache_clear()  # whoever comes after has the patience of a step again


def at(uri: str) -> tuple[Store, str]:
    """Where an address leads: a store, and the key in it.

    Of ``s3://bucket/key`` the whole bucket and ``key``; of ``file:///folder/name`` or a path the folder and ``name``.
    """
    if uri.startswith("s3://"):
        parts = urlsplit(uri)
        return open_store(f"s3://{parts.netloc}"), parts.path.lstrip("/")
    path = Path(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri)
    return Folder(path.parent), path.name


def of_run() -> Store:
    """The store of this run, as `CALLTUNE_STORAGE` names it; a step run by itself keeps its files in `./runs/local`."""
    return open_store(os.environ.get("CALLTUNE_STORAGE", "runs/local/store"))
