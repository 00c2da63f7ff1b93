"""What Kubernetes adds to a task, at compile time: resources, placement, retries, caching, volumes, environment.

Nothing of the step itself. Of what differs between two clusters only names are here: a secret's value never is.
"""

import math
import re
from pathlib import Path

from kfp import dsl, kubernetes

from calltune.credentials import STEP_OF
from calltune.models import BUNDLED
from components.train.trainjob import POD, WORKERS, Workers
from pipelines.cluster import Resources
from pipelines.config import RunConfig

RETRIED = ("look", "train", "export", "evaluate", "promote")
"""Steps that talk to services or run for long, and that go on where they were. KFP retries whatever failed, a data error
too, which then fails the same way within seconds; the others would only do so again."""
RETRIES = 2
WITH_MODELS = ("format", "train", "export", "evaluate")
"""Steps that hold models on disk."""
WITH_TORCH = ("train", "export", "evaluate")
"""Steps that run in the image `train`; evaluate with vLLM has one of its own."""
SCRATCH = "/models"
UNKNOWN_MODEL_BYTES = 16e9
"""Where a base model's name says nothing of its size: as if it had eight billion parameters in bf16."""
QUIET = {
    # The images' root is read-only: libraries that write to the home folder write to /tmp.
    "HOME": "/tmp",
    "PYTHONUNBUFFERED": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def placed(task: dsl.PipelineTask, step: str, config: RunConfig, cached: bool, on_cluster: bool) -> dsl.PipelineTask:
    """Put a task where it belongs.

    Args:
        task: the step's task.
        step: its name in the config's `resources`.
        config: of the run.
        cached: whether a run with the same inputs, settings and code may take its earlier outputs.
        on_cluster: false for a run on this machine, where nothing of this but the caching means anything.
    """
    task.set_caching_options(cached)
    if not on_cluster:
        return task
    task.set_container_image(image_of(config, step))
    asked = config.resources.get(step, Resources())  # type: ignore[call-overload]
    if asked.nodes > 1:
        _set_workers(task, config, asked)
        # What was asked for is the workers'; the step itself follows them.
        asked = Resources(timeout_s=asked.timeout_s)
    cpu, memory = _cpu(asked), _memory(asked)
    task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
    if asked.gpu:
        task.set_accelerator_type(asked.gpu_type).set_accelerator_limit(asked.gpu)
    if asked.node_selector:
        kubernetes.add_node_selector_json(task, asked.node_selector)
    if asked.node_affinity:  # in one call: of several Kubernetes would ask for one of them
        kubernetes.add_node_affinity(task, [label.model_dump() for label in asked.node_affinity])
    for one in asked.tolerations:
        kubernetes.add_toleration(task, one.key or None, one.operator, one.value or None, one.effect or None)
    if step in RETRIED:
        task.set_retry(num_retries=RETRIES, backoff_duration="30s", backoff_factor=2, backoff_max_duration="600s")
    kubernetes.set_timeout(task, asked.timeout_s)
    _mount(task, step, asked, config)
    _set_environment(task, step, config)
    return task


def image_of(config: RunConfig, step: str) -> str:
    """The image that a step runs in."""
    if step == "evaluate" and config.evaluate.engine == "vllm":
        return config.images.of("vllm")
    return config.images.of("train" if step in WITH_TORCH else "cpu")


def scratch_gib(config: RunConfig) -> int:
    """Room for models that a step needs, in GiB: base, trained weights in fp32 while they are merged, and the export."""
    return math.ceil(6 * _model_bytes(config.model.base) / 2**30) + 10


def _model_bytes(base: str) -> float:
    """Size of a base model in bf16: of its files, or as its name says it (`Llama-3.1-8B` has eight billion parameters)."""
    if Path(base).is_dir():
        return sum(path.stat().st_size for path in Path(base).rglob("*") if path.is_file())
    named = re.findall(
        r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", (base if base in BUNDLED else base.split("/")[-1]).lower()
    )
    return float(named[-1][0]) * 2 * {"b": 1e9, "m": 1e6}[named[-1][1]] if named else UNKNOWN_MODEL_BYTES


def workers_of(config: RunConfig, asked: Resources) -> Workers:
    """What the train step gives the workers of its job, which is what it would have itself on one node."""
    gpus = {asked.gpu_type: str(asked.gpu)} if asked.gpu else {}
    return Workers(
        nodes=asked.nodes,
        image=image_of(config, "train"),
        gpus=asked.gpu,
        resources={"cpu": _cpu(asked), "memory": _memory(asked), **gpus},
        timeout_s=asked.timeout_s,
        shared_memory=_shared_memory(asked) if asked.gpu else "",
        scratch=_scratch(asked, config),
        storage_class=config.cluster.storage_class,
        place=SCRATCH,
        node_selector=asked.node_selector,
        node_affinity=[label.model_dump() for label in asked.node_affinity],
        tolerations=[one.model_dump(exclude_defaults=True) | {"operator": one.operator} for one in asked.tolerations],
        image_pull_secrets=config.cluster.image_pull_secrets,
        env=_variables(config, "train"),
        secrets=_secrets(config, "train"),
    )


def _set_workers(task: dsl.PipelineTask, config: RunConfig, asked: Resources) -> None:
    task.set_env_variable(WORKERS, workers_of(config, asked).model_dump_json())
    fields = {
        "name": "metadata.name",
        "uid": "metadata.uid",
        "namespace": "metadata.namespace",
        "account": "spec.serviceAccountName",
    }
    for what, path in fields.items():
        kubernetes.use_field_path_as_env(task, env_name=POD[what], field_path=path)


def _cpu(asked: Resources) -> str:
    return f"{asked.cpu:g}"


def _memory(asked: Resources) -> str:
    return f"{asked.memory_gib:g}Gi"


def _shared_memory(asked: Resources) -> str:
    return f"{math.ceil(asked.memory_gib / 4)}Gi"


def _scratch(asked: Resources, config: RunConfig) -> str:
    return f"{asked.scratch_gib or scratch_gib(config)}Gi"


def _mount(task: dsl.PipelineTask, step: str, asked: Resources, config: RunConfig) -> None:
    # Without a limit: one that is too small would evict a pod after hours.
    kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path="/tmp")
    if asked.gpu:
        # Docker's 64 MiB are too few for data loaders and for NCCL between GPUs; what is used here counts as memory.
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=_shared_memory(asked))
    if step not in WITH_MODELS:
        return
    size = _scratch(asked, config)
    if config.cluster.storage_class:
        kubernetes.add_ephemeral_volume(
            task, "models", SCRATCH, ["ReadWriteOnce"], size, storage_class_name=config.cluster.storage_class
        )
    else:
        # The default, because it works for a user that is not root; for a volume KFP's SDK cannot set fsGroup.
        kubernetes.empty_dir_mount(task, "models", SCRATCH, size_limit=size)


def _set_environment(task: dsl.PipelineTask, step: str, config: RunConfig) -> None:
    for name, value in _variables(config, step).items():
        task.set_env_variable(name, value)
    # Each run's own, which no parameter may be: it would be in the cache key.
    kubernetes.use_field_path_as_env(task, env_name="CALLTUNE_RUN_ID", field_path="metadata.labels['pipeline/runid']")
    for secret, keys in _secrets(config, step).items():
        kubernetes.use_secret_as_env(task, secret, keys)
    if config.cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, config.cluster.image_pull_secrets)


def _variables(config: RunConfig, step: str) -> dict[str, str]:
    """What a step finds in its environment and is no secret, but for its run's id."""
    place = SCRATCH if step in WITH_MODELS else "/tmp/calltune"
    return {**QUIET, **places(config), "CALLTUNE_CACHE": place, "HF_HOME": f"{place}/hub"}


def _secrets(config: RunConfig, step: str) -> dict[str, dict[str, str]]:
    """Name of a secret → its key → the variable, of those that the step gets."""
    of_step = {
        secret: {key: variable for key, variable in keys.items() if STEP_OF.get(variable, step) == step}
        for secret, keys in config.cluster.secrets.items()
    }
    return {secret: keys for secret, keys in of_step.items() if keys}


def places(config: RunConfig) -> dict[str, str]:
    """The variables that steps in a cluster find store and tracking by; without those of an embedded one, which is none there."""
    found = {}
    if config.storage.uri != "embedded":
        found["CALLTUNE_STORAGE"] = config.storage.uri
    if config.tracking.uri != "embedded":
        found["CALLTUNE_TRACKING"] = config.tracking.uri
    if config.storage.endpoint_url:
        found |= dict.fromkeys(("AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL"), config.storage.endpoint_url)
    return found
