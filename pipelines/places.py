"""Where a run keeps what it makes: the store and MLflow."""

import os
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from calltune.settings import Settings, written_as


def _without_password(variables: str) -> AfterValidator:
    """A check for an address, which goes into logs, the store and MLflow: credentials come from the environment."""

    def check(value: str) -> str:
        if urlsplit(value).password:
            instead = f"set {variables} instead, on a cluster by cluster.secrets"
            raise ValueError(f"has a password in it, which every run would write down: {instead}")
        return value

    return AfterValidator(check)


class StorageConfig(Settings):
    """Where models, results and reports are kept. Credentials come from the environment only."""

    uri: Annotated[
        str,
        written_as(
            r"embedded|s3://[a-z0-9][a-z0-9.-]+(/.*)?|/.*|\./.*",
            "embedded, s3://bucket/prefix, or a folder whose path begins with / or ./",
        ),
    ] = "embedded"
    """`embedded`: a server that the run starts; `s3://bucket/prefix`; or a folder, its path beginning with `/` or `./`."""
    endpoint_url: Annotated[
        str,
        written_as(r"(https?://.+)?", "an address that begins with http:// or https://"),
        _without_password("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ] = ""
    """The S3 server, where it is not AWS. A machine that reaches it by another address has that in `AWS_ENDPOINT_URL_S3`."""

    @property
    def endpoint_from_here(self) -> str:
        """The address of the S3 server for this machine: what the environment says comes before what is right for pods."""
        return self.endpoint_url and (os.environ.get("AWS_ENDPOINT_URL_S3") or self.endpoint_url)


class TrackingConfig(Settings):
    """Where metrics and the model registry are kept."""

    uri: Annotated[
        str,
        written_as(r"embedded|[a-z][a-z0-9+.-]*://.+", "embedded, or an MLflow server's address such as http://mlflow:5000"),
        _without_password("MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    ] = "embedded"
    """`embedded`: SQLite in the workdir; or an MLflow server's address."""
