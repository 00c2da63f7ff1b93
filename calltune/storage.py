"""Objects by key, in S3 (boto3) or in a folder: each is written whole or not at all.

What goes to S3 carries a checksum that the server checks: SHA-256, or for a file, which may go up in parts, a CRC-32 over
the whole of it. A folder is as good as its disk.

The run's own store comes from the environment: `CALLTUNE_STORAGE` is ``s3://bucket/prefix``, ``file:///folder`` or a
folder's path, `AWS_ENDPOINT_URL_S3` the server, and `AWS_*` the credentials.
"""

import base64
import contextlib
import errno
import json
import os
import re
import shutil
import time
import uuid
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from calltune.errors import UserError


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


class Folder(Store):
    """A store in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = self.root.as_uri()

    @override
    def put(self, key: str, data: bytes, only_if_new: bool = False) -> None:
        with self._explained():
            target = self._prepared(key)
            temporary = _beside(target)
            temporary.write_bytes(data)
            self._settle(temporary, target, key, only_if_new)

    @override
    def get(self, key: str) -> bytes | None:
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    @override
    def upload(self, path: Path, key: str) -> None:
        target = self._prepared(key)
        temporary = _beside(target)
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
        keys = (str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file() and not p.name.startswith("."))
        return sorted(key for key in keys if _is_within(key, prefix))

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
        finally:
            temporary.unlink()


def _is_within(key: str, prefix: str) -> bool:
    return not prefix or key == prefix or key.startswith(prefix.rstrip("/") + "/")


def _beside(target: Path) -> Path:
    # Not by process id: two containers that share a folder may have the same.
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}")


_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{32}")
"""A name that :func:`_beside` makes."""


def _crc32(path: Path) -> str:
    """CRC-32 of a file, as S3 writes it."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            found = zlib.crc32(block, found)
    return base64.b64encode(found.to_bytes(4, "big")).decode()


_WAYS_OUT = {
    "InvalidAccessKeyId": " (AWS_ACCESS_KEY_ID is set wrong, or AWS_ENDPOINT_URL_S3 names another server)",
    "SignatureDoesNotMatch": " (AWS_SECRET_ACCESS_KEY is set wrong)",
    "AccessDenied": " (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be of someone who may do this)",
    "NoSuchBucket": " (make the bucket, or correct its name)",
}

PRECONDITION_FAILED, CONFLICT = 412, 409
"""What S3 says to a write of what must be new: that the key is there; or that another write of it goes on, which may yet fail
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html)."""
CONFLICT_PAUSES_S = (0.2, 0.4, 0.8, 1.6)


class S3(Store):
    """A store in an S3 bucket, below a prefix.

    Every method raises a UserError where the bucket cannot be reached with the address and the credentials at hand.
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        import boto3
        from botocore.config import Config

        self.bucket, self.prefix = bucket, prefix.strip("/")
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        # Standard mode retries connection errors and 5xx with back-off; eight tries last about a minute.
        config = Config(retries={"mode": "standard", "max_attempts": 8}, connect_timeout=10)
        # A session of its own: boto3's shared one keeps the credentials that it has once read.
        self.client = boto3.session.Session().client("s3", config=config)

    @override
    def put(self, key: str, data: bytes, only_if_new: bool = False) -> None:
        condition = {"IfNoneMatch": "*"} if only_if_new else {}
        with self._explained(key):
            for pause_s in (*CONFLICT_PAUSES_S, None):
                try:
                    self.client.put_object(
                        Bucket=self.bucket, Key=self._key(key), Body=data, ChecksumAlgorithm="SHA256", **condition
                    )
                    return
                except self.client.exceptions.ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"] if only_if_new else None
                    if status == PRECONDITION_FAILED:
                        raise AlreadyThere(key) from None
                    if status != CONFLICT or pause_s is None:
                        raise
                    time.sleep(pause_s)

    @override
    def get(self, key: str) -> bytes | None:
        with self._explained(key):
            try:
                return bytes(self.client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read())
            except self.client.exceptions.NoSuchKey:
                return None

    @override
    def upload(self, path: Path, key: str) -> None:
        # Not SHA-256: of an object in parts S3 then keeps a checksum of the parts' checksums, which says nothing of the whole.
        with self._explained(key):
            self.client.upload_file(str(path), self.bucket, self._key(key), ExtraArgs={"ChecksumCRC32": _crc32(path)})

    @override
    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained(key):
            self.client.download_file(self.bucket, self._key(key), str(path))

    @override
    def delete(self, key: str) -> None:
        with self._explained(key):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    @override
    def list(self, prefix: str) -> list[str]:
        return [item.key for item in self.objects(prefix)]

    @override
    def objects(self, prefix: str) -> Sequence[Object]:
        return sorted(Object(key, item["ETag"], item["Size"]) for key, item in self._listed(prefix))

    def changed(self, prefix: str) -> datetime | None:
        """When the newest of the objects that :meth:`list` names was put there; None where there is none."""
        return max((item["LastModified"] for _, item in self._listed(prefix)), default=None)

    def _listed(self, prefix: str) -> Sequence[tuple[str, Any]]:
        """Key and description of each object that :meth:`list` names."""
        start = len(self.prefix) + 1 if self.prefix else 0
        with self._explained(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix))
            found = [(item["Key"][start:], item) for page in pages for item in page.get("Contents", [])]
        return [(key, item) for key, item in found if _is_within(key, prefix) and not key.endswith("/")]

    @override
    def end_uploads(self, prefix: str) -> None:
        folder = f"{self._key(prefix).rstrip('/')}/"
        with self._explained(prefix):
            begun = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=folder).get("Uploads", [])
            for upload in begun:
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """One line that says which object, instead of boto's exceptions, whose texts do not."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"s3://{self.bucket}/{self._key(key)}"
        try:
            yield
        except ClientError as error:
            details = error.response["Error"]
            says = f"{details.get('Code')}: {details.get('Message', '')}".rstrip(": ")
            raise UserError(f"{where}: {says}{_WAYS_OUT.get(str(details.get('Code')), '')}") from error
        except (BotoCoreError, Boto3Error) as error:
            raise UserError(f"{where}: {' '.join(str(error).split())}") from error

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key


@cache
def open_store(uri: str) -> Store:
    """The store at ``s3://bucket/prefix``, ``file:///folder`` or a folder's path; the same one at each call."""
    if uri.startswith("s3://"):
        parts = urlsplit(uri)
        return S3(parts.netloc, parts.path)
    return Folder(Path(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri))


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
