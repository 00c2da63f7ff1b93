"""Settings of a run on a Kubernetes cluster: what each step asks for, and where Kubeflow Pipelines is. No effect on a laptop."""

from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from calltune.settings import Settings, written_as
from components import images


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone; UTC and Europe/Berlin are") from None
    return name


ObjectName = Annotated[
    str, written_as(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "a Kubernetes name: small letters, digits, - and dots")
]
SecretKey = Annotated[str, written_as(r"[-._a-zA-Z0-9]{1,253}", "a secret's key: letters, digits, -, _ and dots")]
VariableName = Annotated[
    str, written_as(r"[A-Z][A-Z0-9_]{0,99}", "the name of an environment variable, in capitals; its value stays in the secret")
]


class Toleration(Settings):
    """A taint that a pod tolerates, as Kubernetes has it."""

    key: str = ""
    """The taint's key; empty for every taint, with `operator: Exists`."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """`Equal`: the taint's value is `value`. `Exists`: whatever it is."""
    value: str = ""
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute", ""] = ""
    """The taint's effect; empty for every one."""


class NodeLabel(Settings):
    """What a node's label must be like, as Kubernetes' node affinity has it."""

    key: str = Field(min_length=1)
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = "In"
    """How its value is held against `values`."""
    values: list[str] = []
    """Of `In` and `NotIn` one or more; of `Gt` and `Lt` one, a whole number; of the others none."""

    @model_validator(mode="after")
    def _the_operator_takes_such_values(self) -> "NodeLabel":
        if self.operator in ("In", "NotIn"):
            right, wanted = bool(self.values), "one value or more"
        elif self.operator in ("Gt", "Lt"):
            right, wanted = len(self.values) == 1 and self.values[0].isdecimal(), "one value, a whole number in quotes"
        else:
            right, wanted = not self.values, "no values"
        if not right:
            raise ValueError(f"operator {self.operator} takes {wanted}, not {self.values}")
        return self


class Resources(Settings):
    """What a step asks of Kubernetes; without effect on a laptop.

    `<step>` is ingest, format, train, export, evaluate, gate, promote or report; look and notify have the defaults.
    """

    nodes: int = Field(1, ge=1)
    """Of train, nodes that train together, each with what is asked for here; above 1 by a TrainJob. Other steps have one."""
    gpu: int = Field(0, ge=0)
    """GPUs, of each node."""
    gpu_type: Annotated[
        str, written_as(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", "a resource name such as nvidia.com/gpu or nvidia.com/mig-3g.40gb")
    ] = "nvidia.com/gpu"
    """The resource that a GPU is counted as: `nvidia.com/gpu`, or a MIG slice such as `nvidia.com/mig-3g.40gb`."""
    cpu: float = Field(1, gt=0)
    """CPU cores."""
    memory_gib: float = Field(4, gt=0)
    """Memory in GiB; of a step with a GPU, a quarter of it may be shared memory."""
    scratch_gib: int = Field(0, ge=0)
    """Room for models in GiB; 0: estimated from the base model."""
    timeout_s: int = Field(86_400, gt=0)
    """Seconds after which Kubernetes ends the step."""
    node_selector: dict[str, str] = {}
    """Labels that the node must have."""
    node_affinity: list[NodeLabel] = []
    """What the node's labels must be like, all of them, where one value is not enough."""
    tolerations: list[Toleration] = []
    """Taints that the pod tolerates."""


ImageName = Annotated[
    str, written_as(r"[a-z0-9][\w./-]*(:[\w.-]+|@sha256:[0-9a-f]{64})", "an image with its tag or its digest, @sha256:…")
]


class ImagesConfig(Settings):
    """The images that steps run in on a cluster. By digest an image is the same for ever, and KFP's cache knows a new one."""

    registry: Annotated[
        str,
        written_as(r"([\w.-]+(:\d+)?(/[\w./-]*\w)?)?", "what stands before the images' names, without https:// and / at the end"),
    ] = ""
    """Put in front of the names: the `--registry` of `make images`."""
    cpu: ImageName = images.CPU
    """Of the steps that compute nothing with a model."""
    train: ImageName = images.TRAIN
    """Of train, export and evaluate."""
    vllm: ImageName = images.VLLM
    """Of evaluate, where `evaluate.engine` is `vllm`; `make images IMAGES=vllm` builds it."""

    def of(self, name: Literal["cpu", "train", "vllm"]) -> str:
        """An image's whole reference."""
        return f"{self.registry}/" * bool(self.registry) + {"cpu": self.cpu, "train": self.train, "vllm": self.vllm}[name]


class ClusterConfig(Settings):
    """Where runs are submitted to, and what Kubernetes gives them. Only names of secrets are here, never values."""

    host: Annotated[str, written_as(r"(https?://.+)?", "an address that begins with http:// or https://")] = ""
    """Address of Kubeflow Pipelines' API; empty: `--host`, `KF_PIPELINES_ENDPOINT`, or inside the cluster its service."""
    namespace: ObjectName = "kubeflow"
    """Namespace in which the steps run: that of Kubeflow Pipelines, or, where it has many users, your own."""
    experiment: str = Field("", max_length=128)
    """The KFP experiment that runs are listed under; empty: `name`."""
    service_account: ObjectName | Literal[""] = ""
    """The steps' service account; empty: KFP's own. With IRSA or workload identity it replaces keys in `secrets`."""
    secrets: dict[ObjectName, dict[SecretKey, VariableName]] = {}
    """Secrets that the steps get as environment: name of the secret → its key → the variable."""
    image_pull_secrets: list[ObjectName] = []
    """Secrets that the images are pulled with."""
    storage_class: ObjectName | Literal[""] = ""
    """Class of the volumes for models; empty: the node's own disk. The class must let the images' user write."""
    timezone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    """In which KFP reads schedules: `CRON_SCHEDULE_TIMEZONE` of its scheduled-workflow controller."""
