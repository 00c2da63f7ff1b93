"""Objects by key in an S3 bucket, through boto3.

What goes there carries a checksum that the server checks: SHA-256, or for a file, which may go up in parts, a CRC-32 over
the whole of it.
"""

import base64
import contextlib
import time
import zlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any

from typing_extensions import override

from calltune.errors import Unavailable, UserError
from calltune.store import AlreadyThere, Object, Store, is_within


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
    "NoCredentialsError": " (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role, say who asks)",
    "NoSuchBucket": " (make the bucket, or correct its name)",
}

PRECONDITION_FAILED, CONFLICT = 412, 409
"""What S3 says to a write of what must be new: that the key is there; or that another write of it goes on, which may yet fail
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html)."""
CONFLICT_PAUSES_S = (0.2, 0.4, 0.8, 1.6)

RETRIES = 8
"""Of a step: after connection errors and 5xx, with back-off, these last about a minute."""
CONNECT_S, ANSWER_S = 10, 60
HURRIED_CONNECT_S, HURRIED_ANSWER_S = 3, 5
_hurried: ContextVar[bool] = ContextVar("hurried", default=False)


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """While the block runs, a store that is opened tries once, for a few seconds, all its life."""
    before = _hurried.set(True)
    try:
        yield
    finally:
        _hurried.reset(before)


class S3(Store):
    """A store in an S3 bucket, below a prefix.

    Every method raises a UserError where the address or the credentials at hand are not right for the bucket, and of these an
    Unavailable where the server does not answer, or only with errors of its own.
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        import boto3
        from botocore.config import Config

        self.bucket, self.prefix = bucket, prefix.strip("/")
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        retries, connect_s, answer_s = RETRIES, CONNECT_S, ANSWER_S
        if _hurried.get():
            retries, connect_s, answer_s = 0, HURRIED_CONNECT_S, HURRIED_ANSWER_S
        again = {"mode": "standard", "max_attempts": retries}
        config = Config(retries=again, connect_timeout=connect_s, read_timeout=answer_s)  # type: ignore[arg-type]
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

    def changed(self, prefix: str) -> dict[str, datetime]:
        """When each of the objects that :meth:`list` names was put there."""
        return {key: item["LastModified"] for key, item in self._listed(prefix)}

    def _listed(self, prefix: str) -> Sequence[tuple[str, Any]]:
        """Key and description of each object that :meth:`list` names."""
        start = len(self.prefix) + 1 if self.prefix else 0
        with self._explained(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix))
            found = [(item["Key"][start:], item) for page in pages for item in page.get("Contents", [])]
        return [(key, item) for key, item in found if is_within(key, prefix) and not key.endswith("/")]

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

        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error) as error:
            if isinstance(error, ClientError):
                name = str(error.response["Error"].get("Code"))
                says = f"{name}: {error.response['Error'].get('Message', '')}".rstrip(": ")
            else:
                name, says = type(error).__name__, " ".join(str(error).split())
            kind = Unavailable if _is_away(error) else UserError
            raise kind(f"s3://{self.bucket}/{self._key(key)}: {says}{_WAYS_OUT.get(name, '')}") from error

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key


def _is_away(error: BaseException | None) -> bool:
    """Whether an exception of boto's says that the server does not answer, or only with errors of its own."""
    from boto3.exceptions import RetriesExceededError, S3UploadFailedError
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, IncompleteReadError, SSLError

    if isinstance(error, S3UploadFailedError):  # which names what it is about in its text alone
        return _is_away(error.__context__)
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        return status >= 500 or status == 429
    lost = isinstance(error, ConnectionError | HTTPClientError | IncompleteReadError | RetriesExceededError)
    return lost and not isinstance(error, SSLError)  # a certificate that is not trusted is not trusted later either
