"""S3 objects onto this disk, whole or not at all, also when the server goes away for a while in the middle."""

import time
from pathlib import Path
from typing import Any

from calltune import runtime
from calltune.errors import DataError, Unavailable
from calltune.storage import Object

PATIENCE_S = 180.0
"""How long the server may be away at a stretch."""
PAUSE_S = 1.0
CHUNK_BYTES = 1 << 20
_CHANGED = "has changed since it was listed; run again"
_GONE_FOR_NOW = (408, 425, 429)


class _ChangedError(Exception):
    """The object is not the one that was listed."""


class Fetcher:
    """Fetches objects of one bucket, one after the other."""

    def __init__(self, bucket: str) -> None:
        import boto3
        from botocore.config import Config

        self.bucket = bucket
        # No retries of botocore's own: what a server says while it starts (no such key) must not be taken for the truth.
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=60)
        self.client = boto3.session.Session().client("s3", config=config)

    def fetch(self, item: Object, path: Path) -> None:
        """Copy an object, as it was when it was listed, into a file; go on where a broken transfer stopped.

        Raises:
            DataError: it has changed or gone since it was listed.
            Unavailable: the server is away for longer than `PATIENCE_S`.
        """
        where = f"s3://{self.bucket}/{item.key}"
        path.unlink(missing_ok=True)
        last_progress, away = time.monotonic(), False
        while True:
            had = path.stat().st_size if path.exists() else 0
            try:
                self._go_on(item, path, had)
                return
            except Exception as error:
                reason, may_pass = _explained(error)
                # A server that has just come back may not know yet what it holds, nor who may read it.
                if not (may_pass or away) or reason == _CHANGED:
                    raise DataError(f"{where}: {reason}") from None
                if path.exists() and path.stat().st_size > had:
                    last_progress = time.monotonic()
                if time.monotonic() - last_progress > PATIENCE_S:
                    raise Unavailable(f"{where}: {reason}; tried for {PATIENCE_S:.0f} s") from None
                if not away:
                    runtime.note(f"ingest: {where}: {reason}; trying again for {PATIENCE_S:.0f} s")
                away = True
                time.sleep(PAUSE_S)

    def _go_on(self, item: Object, path: Path, had: int) -> None:
        if 0 < item.size == had:
            return
        # The ETag makes a rest of another version an error instead of a mixture.
        rest = {"Range": f"bytes={had}-"} if had else {}
        body = self.client.get_object(Bucket=self.bucket, Key=item.key, IfMatch=item.etag, **rest)["Body"]
        with path.open("ab") as file:
            for chunk in body.iter_chunks(CHUNK_BYTES):
                file.write(chunk)
        if path.stat().st_size != item.size:
            raise _ChangedError


def _explained(error: Exception) -> tuple[str, bool]:
    """What went wrong, in one line, and whether it may pass by itself.

    Raises:
        Exception: the error itself, where it is not the server's or the connection's.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    if isinstance(error, _ChangedError):
        return _CHANGED, False
    if isinstance(error, ClientError):
        response: Any = error.response
        status, code = response["ResponseMetadata"]["HTTPStatusCode"], response["Error"].get("Code")
        if status == 412:
            return _CHANGED, False
        message = f"{code}: {response['Error'].get('Message', '')}".rstrip(": ")
        return message, status >= 500 or status in _GONE_FOR_NOW
    if isinstance(error, BotoCoreError | HTTPError):
        return " ".join(str(error).split()), True
    raise error
