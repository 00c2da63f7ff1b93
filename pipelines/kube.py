"""The Kubernetes API, as preflight and logs need it: what the namespace has, how large nodes are, what a pod printed."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from calltune.errors import UserError

TIMEOUT_S = 15


class Unknown(Exception):
    """What was asked for cannot be seen from here: no credentials for it, or no answer."""


class Unseen(Unknown):
    """Kubernetes answers, and does not show this: the account may not see it, or there is no such thing."""


class Kube:
    """A namespace of a cluster, with the credentials of the kubeconfig or, in a pod, of its service account."""

    def __init__(self, namespace: str) -> None:
        from kubernetes import client, config
        from yaml import YAMLError

        try:
            try:
                config.load_incluster_config()
            except config.ConfigException:
                config.load_kube_config()
        except config.ConfigException as error:
            raise Unknown(f"no kubeconfig leads to a cluster ({error})") from None
        except (OSError, YAMLError, TypeError, ValueError):
            raise Unknown("the kubeconfig cannot be read") from None
        self.namespace, self.core, self.client = namespace, client.CoreV1Api(), client

    def _ask(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The answer; None where there is no such object.

        Raises:
            Unknown: it may not be seen, or nobody answers.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return function(*arguments, _request_timeout=TIMEOUT_S, **options)
        except ApiException as error:
            if error.status == 404:
                return None
            kind = Unseen if error.status == 403 else Unknown
            raise kind(f"Kubernetes says {error.status} {error.reason}") from None
        except HTTPError as error:
            raise Unknown(f"Kubernetes does not answer: {type(error).__name__}") from None

    def _there(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The answer where every cluster has one: a list, if only an empty one, or a review."""
        found = self._ask(function, *arguments, **options)
        if found is None:
            raise Unseen("Kubernetes says 404: another server answers there")
        return found

    @cached_property
    def labels(self) -> dict[str, str] | None:
        """The namespace's labels; None where there is no such namespace."""
        found = self._ask(self.core.read_namespace, self.namespace)
        return None if found is None else dict(found.metadata.labels or {})

    def secret_keys(self, name: str) -> set[str] | None:
        """The keys of a secret; None where there is no such secret. Its values are not kept."""
        secret = self._ask(self.core.read_namespaced_secret, name, self.namespace)
        return None if secret is None else set(secret.data or {})

    def has_service_account(self, name: str) -> bool:
        """Whether the namespace has it."""
        return self._ask(self.core.read_namespaced_service_account, name, self.namespace) is not None

    def has_service(self, name: str) -> bool:
        """Whether the namespace has it."""
        return self._ask(self.core.read_namespaced_service, name, self.namespace) is not None

    @cached_property
    def nodes(self) -> list[dict[str, float]]:
        """Of each node what its pods may have in all: resource → cores, bytes or pieces."""
        from kubernetes.utils.quantity import parse_quantity

        nodes = (node.status.allocatable or {} for node in self._there(self.core.list_node).items)
        return [{name: float(parse_quantity(amount)) for name, amount in there.items()} for there in nodes]

    def has_api(self, group: str, version: str) -> bool:
        """Whether the cluster has an API group in this version."""
        found = self._there(self.client.ApisApi().get_api_versions)
        return any(one.version == version for known in found.groups if known.name == group for one in known.versions)

    def has_cluster_object(self, group: str, version: str, plural: str, name: str) -> bool:
        """Whether the cluster has a custom object that is in no namespace."""
        return self._ask(self.client.CustomObjectsApi().get_cluster_custom_object, group, version, plural, name) is not None

    def may_create(self, account: str, group: str, plural: str) -> bool:
        """Whether a service account of the namespace may create such objects there."""
        client = self.client
        wanted = client.V1ResourceAttributes(group=group, namespace=self.namespace, resource=plural, verb="create")
        spec = client.V1SubjectAccessReviewSpec(
            resource_attributes=wanted, user=f"system:serviceaccount:{self.namespace}:{account}"
        )
        review = client.V1LocalSubjectAccessReview(metadata=client.V1ObjectMeta(namespace=self.namespace), spec=spec)
        api = client.AuthorizationV1Api()
        return bool(self._there(api.create_namespaced_local_subject_access_review, self.namespace, review).status.allowed)

    def retries_lost_nodes(self, own: str) -> bool:
        """Whether Argo's controller, in KFP's own namespace, starts a step again whose node is gone."""
        settings = self._ask(self.core.read_namespaced_config_map, "workflow-controller-configmap", own)
        text = " ".join((settings.data or {}).values()) if settings else ""
        return "retryPolicy: Always" in text or '"retryPolicy":"Always"' in text.replace(" ", "")

    def logs(self, run_id: str, step: str) -> list[tuple[str, str]]:
        """Task and text of the pods of a run, the oldest first.

        Args:
            run_id: of KFP.
            step: only this task's pods; empty for all.

        Raises:
            UserError: no pod of the run is left.
        """
        pods = self._there(self.core.list_namespaced_pod, self.namespace, label_selector=f"pipeline/runid={run_id}").items
        texts = []
        for pod in sorted(pods, key=lambda pod: pod.metadata.creation_timestamp):
            task = _task(pod)
            if task.endswith("-driver") or step not in ("", task):
                continue
            try:
                text = self._ask(self.core.read_namespaced_pod_log, pod.metadata.name, self.namespace, container="main")
            except Unknown as error:
                text = f"({error})\n"
            texts.append((task, text or ""))
        if not texts:
            raise UserError(
                f"no pod of run {run_id} {f'for the task {step!r} ' if step else ''}is left in namespace {self.namespace}: "
                "Kubernetes removes ended ones; KFP's UI has the archived logs"
            )
        return texts


def _task(pod: Any) -> str:
    """The task that a pod is for: Argo names a node `workflow.root.….train.executor`, and the pod by a number."""
    name = (pod.metadata.annotations or {}).get("workflows.argoproj.io/node-name", pod.metadata.name)
    return str(name.removesuffix(".executor").split(".")[-1])
