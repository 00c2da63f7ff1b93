"""Kubernetes as the train step needs it: TrainJobs, their pods, and what those print.

Not by Kubeflow's SDK, whose `train()` gives a job no owner, and no variables out of secrets (docs/adr/0007).
"""

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any

from calltune.errors import UserError
from components.train.trainjob import GROUP, NODE, PLURAL, VERSION

TIMEOUT_S = 15
NEEDED = (
    "runner.trainJobs: true in the chart's values gives the steps' account the right, and "
    "helm install kubeflow-trainer oci://ghcr.io/kubeflow/charts/kubeflow-trainer --set runtimes.defaultEnabled=true the API"
)


class Away(Exception):
    """Kubernetes does not answer, or not now: asked again, it may."""


class Cluster:
    """A namespace, with the credentials of the step's pod.

    Every method raises :class:`Away`, and a UserError where the account may not do it.
    """

    def __init__(self, namespace: str) -> None:
        from kubernetes import client, config

        try:
            config.load_incluster_config()
        except config.ConfigException:  # outside of a cluster: as kubectl does it
            config.load_kube_config()
        self.namespace, self.core, self.objects = namespace, client.CoreV1Api(), client.CustomObjectsApi()

    def job(self, name: str) -> dict[str, Any] | None:
        """A TrainJob as Kubernetes has it; None where there is none."""
        found: dict[str, Any] | None = self._ask(self.objects.get_namespaced_custom_object, *self._jobs, name)
        return found

    def create(self, manifest: dict[str, Any]) -> bool:
        """Create a TrainJob; false where there is one of that name.

        Raises:
            UserError: Kubernetes has no such API, or not these fields of it.
        """
        from kubernetes.client import ApiException

        try:
            # Strict: an older Trainer would drop the fields that it does not know, and start pods without them.
            made = self._ask(self.objects.create_namespaced_custom_object, *self._jobs, manifest, field_validation="Strict")
        except ApiException as error:
            if error.status == 409:
                return False
            raise UserError(f"Kubernetes refuses the TrainJob ({error.status}): {_message(error)}") from None
        if made is None:
            raise UserError(f"the cluster has no TrainJobs ({GROUP}/{VERSION}): {NEEDED}")
        return True

    def delete(self, name: str) -> None:
        """Delete a TrainJob, which is gone when its pods are; nothing where there is none."""
        self._ask(self.objects.delete_namespaced_custom_object, *self._jobs, name, propagation_policy="Foreground")

    def has_pod(self, name: str, uid: str) -> bool:
        """Whether there is this very pod, ended or not."""
        pod = self._ask(self.core.read_namespaced_pod, name, self.namespace)
        return pod is not None and pod.metadata.uid == uid

    def workers(self, job: str) -> list[Any]:
        """The pods of a job, those of one node from the oldest on, the first node's first."""
        pods = self._ask(self.core.list_namespaced_pod, self.namespace, label_selector=f"jobset.sigs.k8s.io/jobset-name={job}")
        return sorted(pods.items if pods else [], key=lambda pod: (number(pod), pod.metadata.creation_timestamp))

    def log(self, pod: str, since_s: float | None = None, lines: int | None = None, before: bool = False) -> str:
        """What a pod has printed, each line after its time; nothing where it has not begun.

        Args:
            pod: its name.
            since_s: only of the last seconds.
            lines: only the last ones.
            before: of its container before the one that runs now.
        """
        from kubernetes.client import ApiException

        options: dict[str, Any] = {"container": NODE, "timestamps": True, "previous": before}
        if since_s is not None:
            options["since_seconds"] = max(1, math.ceil(since_s))
        if lines is not None:
            options["tail_lines"] = lines
        try:
            return self._ask(self.core.read_namespaced_pod_log, pod, self.namespace, **options) or ""
        except ApiException as error:
            if error.status == 400:  # it waits to start, or there was none before
                return ""
            raise Away(f"Kubernetes says {error.status}") from None

    @property
    def _jobs(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL

    def _ask(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The answer; None where there is no such object.

        Raises:
            ApiException: any other refusal.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return function(*arguments, _request_timeout=TIMEOUT_S, **options)
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status in (401, 403):
                raise UserError(f"the step's account may not do that in {self.namespace} ({_message(error)}): {NEEDED}") from None
            if error.status == 429 or error.status >= 500:
                raise Away(f"Kubernetes says {error.status} {error.reason}") from None
            raise
        except HTTPError as error:
            raise Away(f"Kubernetes does not answer: {type(error).__name__}") from None


def number(pod: Any) -> int:
    """Which of a job's nodes a pod is, from 0, as `PET_NODE_RANK` tells it."""
    known = {**(pod.metadata.labels or {}), **(pod.metadata.annotations or {})}
    return int(known.get("batch.kubernetes.io/job-completion-index", 0))


def _message(error: Any) -> str:
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        return " ".join(str(json.loads(error.body)["message"]).split())[:300]
    return str(error.reason)
