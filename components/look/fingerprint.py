"""What the data is, in one value: another source or other tools, another fingerprint."""

from pathlib import Path

from calltune import storage
from calltune.errors import DataError
from calltune.models import file_sha256
from calltune.records import sha256


def fingerprint(source: str, tools: str) -> str:
    """SHA-256 over a source and a tools file, so that a cached ingest never hides new data.

    Args:
        source: a file, whose content counts, not its name; or ``s3://bucket/prefix``, of whose objects key, ETag and
            size count, so that nothing is downloaded.
        tools: path of the tools file; empty where the rows bring their own.

    Raises:
        DataError: one of them does not exist or cannot be read.
    """
    data = _objects(source) if source.startswith("s3://") else _file(source, "data")
    return sha256({"source": data, "tools": _file(tools, "tools") if tools else ""})


def _file(name: str, kind: str) -> str:
    path = Path(name)
    if path.is_dir():
        raise DataError(f"{name}: is a folder; name the {kind} file")
    try:
        return file_sha256(path)
    except FileNotFoundError:
        raise DataError(f"{name}: no such {kind} file") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from None


def _objects(uri: str) -> list[tuple[str, str, int]]:
    from botocore.exceptions import BotoCoreError, ClientError

    store, prefix = storage.at(uri)
    if not isinstance(store, storage.S3):
        raise DataError(f"{uri}: is not an S3 address")
    try:
        pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix=prefix)
        found = sorted((item["Key"], item["ETag"], item["Size"]) for page in pages for item in page.get("Contents", []))
    except (BotoCoreError, ClientError) as error:
        raise DataError(f"{uri}: cannot be listed: {error}") from None
    if not found:
        raise DataError(f"{uri}: there is no object")
    return found
