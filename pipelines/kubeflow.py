"""Kubeflow Pipelines' API through its own client, with errors that say what to do."""

import contextlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from calltune.errors import UserError
from pipelines.endpoint import CA, GATEWAY, PODS, TIMEOUT_S, Away, Place, cookie, denied, health, proxy, token
from pipelines.package import Package

ANSWER_S = 30
"""Seconds for the answer to a request. The longest, a package that goes up or a run that begins, takes a few; without an end
a gateway that holds the connection and has nobody behind it would hold the command, too."""
RETRIES = 3
"""Of a request whose connection fails, at once: urllib3's own."""
RETRIES_WITHOUT_ANSWER = 1
"""Of a GET, at once and by a new connection: the old one may be dead after hours of uploads."""
GATEWAY_WAITED = 504
"""Of `GATEWAY`, what it says where somebody is, who has taken too long."""
CONFLICT = 409
"""What the API says where the same has been made since it was looked for: by another command, or by us, whose answer was lost."""
PAGE = 50


class Missing(UserError):
    """The API has no such object."""


class Lost(Away):
    """The request went out, and its answer has not come: what was asked for may yet be done."""


class Kubeflow:
    """The API. Every method raises a UserError that says what to do where the server refuses.

    Attributes:
        place: where it is.
        namespace: for the API: that of the steps where the installation has many users, else None.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        # Asked by hand first: the client's own look at the API takes 25 s to find out that nobody is there.
        self.namespace = place.namespace if health(place).get("multi_user") else None
        import kfp
        from kfp.client import ServiceAccountTokenVolumeCredentials
        from urllib3 import Retry, Timeout

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.client = kfp.Client(
                host=place.host,
                # Given, it keeps the client from looking for one by itself, and from writing one into the home folder.
                namespace=self.namespace or "kubeflow",
                existing_token=token(place) if place.token_file is None else None,
                credentials=ServiceAccountTokenVolumeCredentials(str(place.token_file)) if place.token_file else None,
                cookies=cookie(),
                ssl_ca_cert=os.environ.get(CA),
                proxy=proxy(place),
            )
        # The client would take the login page, to which a gateway sends whoever it does not know any more, for an answer.
        pools = self.client._run_api.api_client.rest_client.pool_manager
        pools.connection_pool_kw["retries"] = Retry(RETRIES, read=RETRIES_WITHOUT_ANSWER, redirect=False)
        # It gives each request a timeout, which is none, and takes no other from its callers.
        request, timeout = pools.request, Timeout(connect=TIMEOUT_S, read=ANSWER_S)
        pools.request = lambda *arguments, **options: request(*arguments, **{**options, "timeout": timeout})

    def link(self, what: str, id_: str) -> str:
        """Address of a run (`runs`) or a schedule (`recurringrun`) in the UI."""
        return f"{self.place.host}/#/{what}/details/{id_}"

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """One call of the client, which prints links of its own: not here."""
        import kfp_server_api
        import urllib3

        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return function(*arguments, **options)
        except kfp_server_api.ApiException as error:
            raise self._explained(error.status, error.body) from None
        except urllib3.exceptions.HTTPError as error:
            cause = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error
            if isinstance(cause, urllib3.exceptions.ReadTimeoutError):
                raise Lost(f"{self.place.host}: Kubeflow Pipelines has not answered within {ANSWER_S} s: {PODS}") from None
            kind = Lost if isinstance(cause, urllib3.exceptions.ProtocolError) else Away
            raise kind(f"{self.place.host}: Kubeflow Pipelines has stopped answering: {error}") from None

    def all(self, listing: Callable[..., Any], field: str, **options: Any) -> Iterator[Any]:
        """Every object of a listing, page by page."""
        token = ""
        while True:
            page = self.call(listing, page_token=token, page_size=PAGE, **options)
            yield from getattr(page, field) or []
            token = page.next_page_token
            if not token:
                return

    def experiment(self, name: str) -> str:
        """Id of an experiment, made if need be."""
        return str(self.call(self.client.create_experiment, name, namespace=self.namespace).experiment_id)

    def pipeline(self, name: str) -> str | None:
        """Id of a pipeline; None where there is none of that name."""
        pipelines = self.all(self.client.list_pipelines, "pipelines", namespace=self.namespace, filter=_named(name))
        return next((str(found.pipeline_id) for found in pipelines), None)

    def version(self, package: Package) -> tuple[str, str, bool]:
        """Upload a package as a pipeline version; returns the ids of pipeline and version, and whether it is new."""
        import tempfile

        pipeline = self.pipeline(package.name)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "package.yaml"
            file.write_text(package.text, encoding="utf-8")
            if pipeline is None:
                made = self.call(self.client.upload_pipeline, str(file), pipeline_name=package.name, namespace=self.namespace)
                pipeline = made.pipeline_id
            versions = self.all(self.client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline)
            same = next((found for found in versions if found.display_name == package.version), None)
            if same is not None:
                return pipeline, same.pipeline_version_id, False
            uploaded = self.call(
                self.client.upload_pipeline_version, str(file), pipeline_version_name=package.version, pipeline_id=pipeline
            )
            return pipeline, uploaded.pipeline_version_id, True

    def run(self, id_: str) -> Any:
        """A run by its id."""
        return self.call(self.client.get_run, id_)

    def run_named(self, name: str, experiment: str) -> Any:
        """The newest run of a name in an experiment, which is given by its id; None where there is none."""
        options = {"namespace": self.namespace, "experiment_id": experiment, "sort_by": "created_at desc"}
        return next(self.all(self.client.list_runs, "runs", filter=_named(name), **options), None)

    def _explained(self, status: int, body: str | bytes | None) -> UserError:
        text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
        with contextlib.suppress(ValueError, AttributeError):
            said = json.loads(text)
            text = str(said.get("message") or said.get("error") or text)
        text = " ".join(text.split())[:300]
        if status in (401, 403):
            return denied(self.place, status, text)
        if 300 <= status < 400:
            return denied(self.place, 401)
        if status == 404:
            return Missing(f"{self.place.host}: not found: {text}; `calltune runs list` and `schedule list` name what there is")
        if status == CONFLICT:
            return Away(f"{self.place.host}: Kubeflow Pipelines refuses (HTTP {status}): {text}")
        if status in GATEWAY:
            kind = Lost if status == GATEWAY_WAITED else Away
            return kind(f"{self.place.host}: Kubeflow Pipelines does not answer (HTTP {status}): {text}")
        return UserError(f"{self.place.host}: Kubeflow Pipelines refuses (HTTP {status}): {text}")


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
