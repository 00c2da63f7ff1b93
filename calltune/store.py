"""What a place for objects is: each is written whole or not at all. `storage.py` has one in a folder, `s3.py` one in S3."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class AlreadyThere(Exception):
    """A conditional write found that somebody else had written first."""


class Object(NamedTuple):
    """An object in a store: another content has another ETag; in a folder the time of its last change stands for it."""

    key: str
    etag: str
    size: int


class Store(ABC):
    """A place for objects by key.

    A key is relative to the store: ``models/<digest>/config.json``, with slashes, never with one at its beginning.

    Attributes:
        uri: where it is, without a slash at the end; ``f"{uri}/{key}"`` is an object's address, which :func:`at` reads.
    """

    uri: str

    @abstractmethod
    def put(self, key: str, data: bytes, only_if_new: bool = False) -> None:
        """Write an object, whole or not at all.

        Raises:
            AlreadyThere: `only_if_new`, and the key exists. Of several such writers exactly one wins.
        """

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """The object's bytes; None where there is no such object, a folder of others included."""

    @abstractmethod
    def upload(self, path: Path, key: str) -> None:
        """Copy a file of any size into the store, over what is there, whole or not at all."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Copy an object of any size into a file, making its folder.

        Raises:
            UserError: there is no such object.
        """

    @abstractmethod
    def objects(self, prefix: str) -> Sequence[Object]:
        """What :meth:`list` names, with what tells another content, in order of the keys; nothing is downloaded."""

    @abstractmethod
    def list(self, prefix: str) -> list[str]:
        """The keys in the folder `prefix`, and `prefix` itself where it is an object; sorted.

        With or without a slash at its end a folder is meant: ``data`` has ``data/a`` and never ``data2/a``, although
        S3 itself compares letters. Empty means the whole store. A folder's hidden files, half-written ones, are left out,
        and so are S3's folder markers, whose keys end in a slash.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""

    @abstractmethod
    def end_uploads(self, prefix: str) -> None:
        """Give up uploads that were begun in the folder `prefix` and never ended; what they left takes room, unseen."""

    def put_json(self, key: str, value: Any, only_if_new: bool = False) -> None:
        """Write a value as JSON; NaN and infinities are refused."""
        self.put(key, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode(), only_if_new)

    def get_json(self, key: str) -> Any:
        """The value of a JSON object; None where there is no such object."""
        data = self.get(key)
        return None if data is None else json.loads(data)


def is_within(key: str, prefix: str) -> bool:
    """Whether a key is in the folder `prefix`, or is it."""
    return not prefix or key == prefix or key.startswith(prefix.rstrip("/") + "/")
