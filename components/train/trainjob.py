"""A Kubeflow TrainJob as Kubernetes takes it: one pod for each node, which all run :mod:`components.train.worker`.

Written against `trainer.kubeflow.org/v1alpha1` as Kubeflow Trainer 2.2 and 2.3 have it. What the cluster's runtime
`torch-distributed` says of its pods is patched: the image, the account, the volumes and Pod Security's `restricted`.
"""

from typing import Any

from pydantic import Field

from calltune.settings import Settings
from components import images

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
RUNTIME = "torch-distributed"
"""The ClusterTrainingRuntime that Kubeflow Trainer installs for torch, and that its SDK takes where none is named."""
NODE = "node"
"""Name of that runtime's job, and of the container in its pods; Trainer takes these by name."""
COMPONENT = "train-worker"
"""Label of the workers, by which the chart's NetworkPolicy lets them reach each other."""
GRACE_S = 300
"""Seconds between SIGTERM and SIGKILL of a worker: the upload of a large checkpoint. Of a step, KFP's SDK cannot set them."""
WORKERS = "CALLTUNE_TRAIN_WORKERS"
"""JSON of :class:`Workers`; without it the step trains in its own pod."""
POD = {name: f"CALLTUNE_POD_{name.upper()}" for name in ("name", "uid", "namespace", "account")}
"""By which variable the step knows its own pod."""


class Workers(Settings):
    """What Kubernetes gives each worker. The step finds it in its environment, where `pipelines/placement.py` has put it."""

    nodes: int = Field(ge=2)
    """Workers."""
    image: str
    """That of the step."""
    gpus: int = Field(ge=0)
    """GPUs of each, and so processes that train; without one, one process."""
    resources: dict[str, str]
    """What is asked for and granted at most: Kubernetes' quantities by name."""
    timeout_s: int
    """Seconds after which Kubernetes ends the job."""
    shared_memory: str
    """Size of `/dev/shm`; empty: as Docker has it."""
    scratch: str
    """Room for models."""
    storage_class: str
    """Of the volumes for models; empty: the node's own disk."""
    place: str
    """Where the room for models is mounted."""
    node_selector: dict[str, str]
    """Labels that the node must have."""
    node_affinity: list[dict[str, Any]]
    """What its labels must be like, as Kubernetes' `matchExpressions`."""
    tolerations: list[dict[str, str]]
    """Taints that the pod tolerates."""
    image_pull_secrets: list[str]
    """Names of secrets."""
    env: dict[str, str]
    """Variables that are no secret."""
    secrets: dict[str, dict[str, str]]
    """Name of the secret → its key → the variable."""


class Pod(Settings):
    """The step's own pod, by the downward API."""

    name: str
    uid: str
    namespace: str
    account: str
    """Its service account."""
    run_id: str
    """Of the pipeline run."""


def job_name(key: str) -> str:
    """The job's name, by the exchange's key: the same training has the same job."""
    return f"calltune-train-{key}"


def manifest(workers: Workers, key: str, owner: Pod) -> dict[str, Any]:
    """The TrainJob: it trains what lies in the exchange under `key`, and is deleted with the pod `owner`."""
    amounts = {"requests": {**workers.resources}, "limits": {**workers.resources}}
    variables = {**workers.env, "CALLTUNE_RUN_ID": owner.run_id}
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in sorted(variables.items())]
    env += [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": entry}}}
        for secret, entries in sorted(workers.secrets.items())
        for entry, variable in sorted(entries.items())
    ]
    trainer = {
        "image": workers.image,
        "command": ["python3", "-m", "components.train.worker", key],
        "numNodes": workers.nodes,
        "numProcPerNode": max(1, workers.gpus),
        "resourcesPerNode": amounts,
        "env": env,
    }
    labels = {"app.kubernetes.io/name": "calltune", "app.kubernetes.io/component": COMPONENT}
    pods = {"metadata": {"labels": labels}, "spec": _pod(workers, owner)}
    job = {"name": NODE, "template": {"spec": {"template": pods}}}
    patch = {"template": {"spec": {"replicatedJobs": [job]}}}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": job_name(key),
            "namespace": owner.namespace,
            "labels": {**labels, "pipeline/runid": owner.run_id},
            # Without blockOwnerDeletion, which would need a right to the pod's finalizers.
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid}],
        },
        "spec": {
            "runtimeRef": {"name": RUNTIME},
            # A pod that has run into its own deadline stays, and so would what it owns.
            "activeDeadlineSeconds": workers.timeout_s,
            "trainer": trainer,
            "runtimePatches": [{"manager": "calltune/train", "trainingRuntimeSpec": patch}],
        },
    }


def _pod(workers: Workers, owner: Pod) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}, {"name": "models", **_models(workers)}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "models", "mountPath": workers.place}]
    if workers.shared_memory:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": workers.shared_memory}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    affinity: dict[str, Any] = {}
    if workers.node_affinity:
        labels = {"nodeSelectorTerms": [{"matchExpressions": workers.node_affinity}]}
        affinity = {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": labels}}}
    return {
        "serviceAccountName": owner.account,
        "imagePullSecrets": [{"name": name} for name in workers.image_pull_secrets],
        "nodeSelector": workers.node_selector,
        **affinity,
        "tolerations": workers.tolerations,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {"runAsNonRoot": True, "fsGroup": images.USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": volumes,
        "containers": [{"name": NODE, "volumeMounts": mounts, "securityContext": restricted}],
    }


def _models(workers: Workers) -> dict[str, Any]:
    if not workers.storage_class:
        return {"emptyDir": {"sizeLimit": workers.scratch}}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": workers.storage_class,
        "resources": {"requests": {"storage": workers.scratch}},
    }
    return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}
