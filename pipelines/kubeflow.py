"""Kubeflow Pipelines' API through its own client, with errors that say what to do."""

import contextlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from calltune.errors import UserError
from pipelines.cluster import ClusterConfig
from pipelines.package import Package

TIMEOUT_S = 15
ANSWER_S = 30
"""Seconds for the answer to a request. The longest, a package that goes up or a run that begins, takes a few; without an end
a gateway that holds the connection and has nobody behind it would hold the command, too."""
RETRIES = 3
"""Of a request whose connection fails, at once: urllib3's own."""
RETRIES_WITHOUT_ANSWER = 1
"""Of a GET, at once and by a new connection: the old one may be dead after hours of uploads."""
GATEWAY = (502, 503, 504)
"""What a gateway says where nobody is behind it."""
GATEWAY_WAITED = 504
"""Of these, what it says where somebody is, who has taken too long."""
CONFLICT = 409
"""What the API says where the same has been made since it was looked for: by another command, or by us, whose answer was lost."""
PAGE = 50
INSIDE = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
"""Where a pod finds the API of an installation with the usual names."""
FORWARD = "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8888:80, then --host http://localhost:8888"
PODS = "kubectl get pods -n kubeflow says how it is"
LOG_IN = "CALLTUNE_KFP_TOKEN, --token-file FILE or, behind Dex, CALLTUNE_KFP_COOKIE (authservice_session=…) say who you are"
CA = "REQUESTS_CA_BUNDLE"
"""The variable that names a file of certificates to trust: `requests` knows it by itself, and KFP's client does not."""
TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"
"""Where KFP's manifests project a pod's token."""


class Missing(UserError):
    """The API has no such object."""


class Away(UserError):
    """Nobody answers, or only a gateway that finds nobody, or it is there already: what was asked for may have been done."""


class Lost(Away):
    """The request went out, and its answer has not come: what was asked for may yet be done."""


@dataclass(frozen=True)
class Place:
    """Where Kubeflow Pipelines is, and as whom to talk to it.

    Attributes:
        host: address of the API, without a slash at the end.
        namespace: in which the steps run.
        token_file: read anew for each request, as a projected token wants it; None without one.
    """

    host: str
    namespace: str
    token_file: Path | None = None


def place_of(cluster: ClusterConfig, host: str | None, namespace: str | None, token_file: Path | None) -> Place:
    """Command line before config before environment.

    Raises:
        UserError: nothing says where the API is, or there is no such token file.
    """
    inside = "KUBERNETES_SERVICE_HOST" in os.environ
    address = host or cluster.host or os.environ.get("KF_PIPELINES_ENDPOINT") or (INSIDE if inside else "")
    if not address:
        raise UserError(f"where is Kubeflow Pipelines? Set cluster.host or --host; without an address of its own: {FORWARD}")
    if not address.startswith(("http://", "https://")):
        raise UserError(f"--host {address}: must begin with http:// or https://")
    try:
        netloc = urlsplit(address).netloc
    except ValueError as error:
        raise UserError(f"--host or cluster.host: is no address: {error}") from None
    if "@" in netloc:
        raise UserError(f"an address of Kubeflow Pipelines with a name or a password in it would be printed: {LOG_IN}")
    if token_file is not None and not token_file.is_file():
        raise UserError(f"--token-file {token_file}: no such file; a pod's token is projected to {TOKEN_FILE}")
    if token_file is None and inside and Path(TOKEN_FILE).is_file():
        token_file = Path(TOKEN_FILE)
    return Place(address.rstrip("/"), namespace or cluster.namespace, token_file)


class Kubeflow:
    """The API. Every method raises a UserError that says what to do where the server refuses.

    Attributes:
        place: where it is.
        namespace: for the API: that of the steps where the installation has many users, else None.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        # Asked by hand first: the client's own look at the API takes 25 s to find out that nobody is there.
        self.namespace = place.namespace if _health(place).get("multi_user") else None
        import kfp
        from kfp.client import ServiceAccountTokenVolumeCredentials
        from urllib3 import Retry, Timeout

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.client = kfp.Client(
                host=place.host,
                # Given, it keeps the client from looking for one by itself, and from writing one into the home folder.
                namespace=self.namespace or "kubeflow",
                existing_token=_token(place) if place.token_file is None else None,
                credentials=ServiceAccountTokenVolumeCredentials(str(place.token_file)) if place.token_file else None,
                cookies=_cookie(),
                ssl_ca_cert=os.environ.get(CA),
                proxy=_proxy(place),
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
            return _denied(self.place, status, text)
        if 300 <= status < 400:
            return _denied(self.place, 401)
        if status == 404:
            return Missing(f"{self.place.host}: not found: {text}; `calltune runs list` and `schedule list` name what there is")
        if status == CONFLICT:
            return Away(f"{self.place.host}: Kubeflow Pipelines refuses (HTTP {status}): {text}")
        if status in GATEWAY:
            kind = Lost if status == GATEWAY_WAITED else Away
            return kind(f"{self.place.host}: Kubeflow Pipelines does not answer (HTTP {status}): {text}")
        return UserError(f"{self.place.host}: Kubeflow Pipelines refuses (HTTP {status}): {text}")


def _token(place: Place) -> str | None:
    if place.token_file is None:
        return _for_a_header("CALLTUNE_KFP_TOKEN", os.environ.get("CALLTUNE_KFP_TOKEN", ""))
    try:
        return _for_a_header(f"--token-file {place.token_file}", place.token_file.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"--token-file {place.token_file}: cannot be read: {reason}") from None


def _cookie() -> str | None:
    return _for_a_header("CALLTUNE_KFP_COOKIE", os.environ.get("CALLTUNE_KFP_COOKIE", ""))


def _for_a_header(name: str, value: str) -> str | None:
    """What says who somebody is; None where it is empty.

    Raises:
        UserError: no header can hold it, which the libraries would take for a server that is away.
    """
    if not re.fullmatch(r"[ -~]*", value.strip()):
        raise UserError(
            f"{name}: has a line's end or a letter beyond ASCII in it, which no token and no cookie has: copy it anew"
        )
    return value.strip() or None


def _proxy(place: Place) -> str | None:
    """The proxy that the environment names for the API, which KFP's client does not look for by itself.

    As in kubectl there is none to this machine, where a port-forward ends.
    """
    from requests.utils import get_environ_proxies, select_proxy

    if re.fullmatch(r"localhost|127(\.\d+){3}|::1", urlsplit(place.host).hostname or ""):
        return None
    found: str | None = select_proxy(place.host, get_environ_proxies(place.host))
    return found


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _denied(place: Place, status: int, text: str = "") -> UserError:
    # Not `system:serviceaccount:…`, as who asks may be called.
    if re.search("service ?account(?!:)", text, re.IGNORECASE):
        return UserError(
            f"{place.host}: Kubeflow Pipelines starts no run under this account ({text}): its list and a right of yours allow "
            "one, as docs/cluster.md says; cluster.service_account names it"
        )
    if status == 403:
        return UserError(
            f"{place.host}: you may not do this in namespace {place.namespace} ({text or 'forbidden'}): "
            "ask for the role kubeflow-edit there"
        )
    return UserError(f"{place.host}: does not know you, or your token or cookie has expired: {LOG_IN}")


def _health(place: Place) -> dict[str, Any]:
    import requests

    token, cookie = _token(place), _cookie()
    headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **({"Cookie": cookie} if cookie else {})}
    proxies = dict.fromkeys(("http", "https"), _proxy(place) or "")
    try:
        answer = requests.get(
            f"{place.host}/apis/v2beta1/healthz", headers=headers, timeout=TIMEOUT_S, allow_redirects=False, proxies=proxies
        )
    except requests.exceptions.SSLError as error:
        why = f"TLS fails: is it http://, not https://? Perhaps {FORWARD}"
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            why = f"its certificate is not trusted: {CA}=FILE names the certificate of whoever has signed it"
        raise UserError(f"{place.host}: {why}") from None
    except requests.RequestException as error:
        raise UserError(
            f"{place.host}: Kubeflow Pipelines does not answer ({type(error).__name__}): is it there? Perhaps {FORWARD}"
        ) from None
    except OSError as error:  # what requests says of a file that is not there
        raise UserError(f"{CA}: {error}") from None
    if answer.status_code in GATEWAY:
        raise Away(f"{place.host}: Kubeflow Pipelines does not answer (HTTP {answer.status_code}): {PODS}")
    # A gateway sends whoever it does not know to its login page, or shows it; an error's page is none.
    login = answer.status_code in (200, 403) and "text/html" in answer.headers.get("Content-Type", "")
    if answer.status_code == 401 or 300 <= answer.status_code < 400 or login:
        raise _denied(place, 401)
    if answer.status_code == 403:
        raise _denied(place, 403)
    try:
        answer.raise_for_status()
        return dict(answer.json())
    except (ValueError, TypeError, requests.RequestException):
        raise UserError(f"{place.host}: is not the API of Kubeflow Pipelines 2 (HTTP {answer.status_code}): {FORWARD}") from None
