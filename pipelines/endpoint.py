"""Where the API of Kubeflow Pipelines is, as whom to talk to it, and whether it is there."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from calltune.errors import UserError
from pipelines.cluster import ClusterConfig

TIMEOUT_S = 15
"""Seconds in which a connection must come about, and the API say that it is there."""
GATEWAY = (502, 503, 504)
"""What a gateway says where nobody is behind it."""
INSIDE = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
"""Where a pod finds the API of an installation with the usual names."""
FORWARD = "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8888:80, then --host http://localhost:8888"
PODS = "kubectl get pods -n kubeflow says how it is"
LOG_IN = "CALLTUNE_KFP_TOKEN, --token-file FILE or, behind Dex, CALLTUNE_KFP_COOKIE (authservice_session=…) say who you are"
CA = "REQUESTS_CA_BUNDLE"
"""The variable that names a file of certificates to trust: `requests` knows it by itself, and KFP's client does not."""
TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"
"""Where KFP's manifests project a pod's token."""


class Away(UserError):
    """Nobody answers, or only a gateway that finds nobody, or it is there already: what was asked for may have been done."""


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


def token(place: Place) -> str | None:
    """The token to go with; None without one.

    Raises:
        UserError: its file cannot be read, or no header can hold it.
    """
    if place.token_file is None:
        return _for_a_header("CALLTUNE_KFP_TOKEN", os.environ.get("CALLTUNE_KFP_TOKEN", ""))
    try:
        return _for_a_header(f"--token-file {place.token_file}", place.token_file.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"--token-file {place.token_file}: cannot be read: {reason}") from None


def cookie() -> str | None:
    """The cookie to go with, where a login like Dex's is in front; None without one.

    Raises:
        UserError: no header can hold it.
    """
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


def proxy(place: Place) -> str | None:
    """The proxy that the environment names for the API, which KFP's client does not look for by itself.

    As in kubectl there is none to this machine, where a port-forward ends.
    """
    from requests.utils import get_environ_proxies, select_proxy

    if re.fullmatch(r"localhost|127(\.\d+){3}|::1", urlsplit(place.host).hostname or ""):
        return None
    found: str | None = select_proxy(place.host, get_environ_proxies(place.host))
    return found


def denied(place: Place, status: int, text: str = "") -> UserError:
    """What to tell somebody whom the API does not let in: 401, or 403 with what it said."""
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


def health(place: Place) -> dict[str, Any]:
    """What the API says of itself, such as `multi_user`.

    Raises:
        UserError: it is not there, is something else, or does not let us in.
    """
    import requests

    bearer, login_cookie = token(place), cookie()
    headers = {**({"Authorization": f"Bearer {bearer}"} if bearer else {}), **({"Cookie": login_cookie} if login_cookie else {})}
    proxies = dict.fromkeys(("http", "https"), proxy(place) or "")
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
        raise denied(place, 401)
    if answer.status_code == 403:
        raise denied(place, 403)
    try:
        answer.raise_for_status()
        return dict(answer.json())
    except (ValueError, TypeError, requests.RequestException):
        raise UserError(f"{place.host}: is not the API of Kubeflow Pipelines 2 (HTTP {answer.status_code}): {FORWARD}") from None
