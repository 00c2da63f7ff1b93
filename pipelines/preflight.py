"""What must be there before a run is submitted, each with the command that would fix it: so that nothing fails after an hour."""

import os
from collections.abc import Iterator

from calltune.errors import UserError
from components.notify.config import variables
from components.promote.config import PUSH_TOKENS
from components.train import trainjob
from pipelines.cluster import Resources
from pipelines.config import RunConfig
from pipelines.endpoint import Place
from pipelines.kube import Kube, Unknown, Unseen
from pipelines.kubeflow import Kubeflow

CONNECT_S = 10
OWN = "kubeflow"
"""The namespace that Kubeflow Pipelines' manifests install it into."""
ENABLED = "pipelines.kubeflow.org/enabled"
"""A namespace that has this label, as each of a Profile has, gets from Kubeflow what KFP's pods need."""
GIB = 2**30
SHOWN = 3
LATER = "--no-preflight if nodes come when they are needed"


def look(config: RunConfig, kubeflow: Kubeflow) -> Iterator[str]:
    """Look at the store, then at the namespace; yields what was found, and what could not be looked at.

    Raises:
        UserError: something is missing.
    """
    yield _store(config)
    try:
        kube = kube_of(kubeflow)
        parts = {
            "the namespace": _namespace(kubeflow, kube),
            "secrets": _secrets(config, kube),
            "the service account": _accounts(config, kube),
            "whether the steps fit on a node": _nodes(config, kube),
            "TrainJobs": _train_jobs(config, kube),
            "whether a step whose node is lost is started again": _lost_nodes(kubeflow, kube),
        }
        for what, lines in parts.items():
            try:
                yield from lines
            except Unseen as error:
                yield f"note: not looked at, or not to the end: {what}: {error}"
    except Unknown as error:
        yield f"note: namespace, secrets, accounts, nodes and TrainJobs were not looked at, or not to the end: {error}"


def kube_of(kubeflow: Kubeflow) -> Kube:
    """Kubernetes, where the steps will run.

    Raises:
        UserError: steps run in another namespace, as far as the addresses say.
        Unknown: Kubernetes cannot be asked.
    """
    place = kubeflow.place
    try:
        return Kube(place.namespace)
    except Unknown:
        if _doubtful(kubeflow) and f"ml-pipeline.{place.namespace}" not in place.host:
            raise _not_here(place) from None
        raise


def require_namespace(kubeflow: Kubeflow, kube: Kube) -> None:
    """Refuse a namespace in which no step would start.

    Raises:
        UserError: there is none, or steps run in another one.
        Unknown: Kubernetes does not say.
    """
    place = kubeflow.place
    if _doubtful(kubeflow) and not kube.has_service("ml-pipeline"):
        raise _not_here(place)
    if kube.labels is None:
        why = (
            "and Kubeflow Pipelines starts steps in its own: set cluster.namespace to that, or have kubectl look at its cluster "
            "(kubectl config get-contexts)"
            if kubeflow.namespace is None
            else "a Profile of this name makes it (docs/cluster.md), or set cluster.namespace"
        )
        raise UserError(f"namespace {place.namespace}: there is none, {why}")


def _doubtful(kubeflow: Kubeflow) -> bool:
    """Whether steps may run in another namespace, since Kubeflow Pipelines has one user, and another one than usual is named."""
    return kubeflow.namespace is None and kubeflow.place.namespace != OWN


def _not_here(place: Place) -> UserError:
    return UserError(
        f"namespace {place.namespace}: no step runs there, since this Kubeflow Pipelines has one user, and starts every pod in "
        f"its own namespace: set cluster.namespace: {OWN}, and have secrets and accounts there (helm install -n {OWN}); "
        f"--no-preflight if {place.namespace} is that, without the usual service ml-pipeline"
    )


def needed_by_notify(config: RunConfig) -> list[str]:
    """Variables that notify needs and that no secret of the config brings."""
    brought = {variable for keys in config.cluster.secrets.values() for variable in keys.values()}
    return [name for name in variables(config.notify) if name not in brought]


def without_push_token(config: RunConfig) -> bool:
    """Whether champions are to be pushed to the Hub, and no secret of the config brings a token for it."""
    brought = {variable for keys in config.cluster.secrets.values() for variable in keys.values()}
    return bool(config.promote.push.repo) and brought.isdisjoint(PUSH_TOKENS)


def _store(config: RunConfig) -> str:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = config.storage.uri.removeprefix("s3://").partition("/")
    options = Config(retries={"max_attempts": 1}, connect_timeout=CONNECT_S, read_timeout=CONNECT_S)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3")
    at = f" at {endpoint}" if endpoint else ""
    try:
        # A session of its own: boto3's shared one keeps the credentials that it has once read.
        client = boto3.session.Session().client("s3", config=options)
        client.put_object(Bucket=bucket, Key=f"{prefix}/inputs/preflight".lstrip("/"), Body=b"")
    except ClientError as error:
        code = error.response["Error"].get("Code")
        fix = (
            f"aws s3 mb s3://{bucket}"
            if code == "NoSuchBucket"
            else f"ask for s3:PutObject on {config.storage.uri}/*, or check AWS_*"
        )
        raise UserError(f"{config.storage.uri}{at}: cannot be written ({code}): {fix}") from None
    except (BotoCoreError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{config.storage.uri}{at}: cannot be written ({reason}): AWS_* hold the credentials; where only pods reach the "
            "store, kubectl port-forward it, and set AWS_ENDPOINT_URL_S3 to that address"
        ) from None
    return f"store        {config.storage.uri}{at} can be written"


def _namespace(kubeflow: Kubeflow, kube: Kube) -> Iterator[str]:
    require_namespace(kubeflow, kube)
    if kubeflow.namespace is not None and (kube.labels or {}).get(ENABLED) != "true":
        yield (
            f"note: namespace {kube.namespace} has no label {ENABLED}=true, as that of a Profile has; without what "
            "Kubeflow puts there no step starts (docs/cluster.md)"
        )


def _secrets(config: RunConfig, kube: Kube) -> Iterator[str]:
    absent = next(iter(needed_by_notify(config)), None)
    if absent:
        raise UserError(
            f"notify.via: notify's pod would have no {absent}: name a secret with it in cluster.secrets, "
            f"for example {{calltune-notify: {{key: {absent}}}}}"
        )
    if without_push_token(config):
        raise UserError(
            f"promote.push: promote's pod would have no token: name a secret with it in cluster.secrets, "
            f"for example {{calltune-hub: {{token: {PUSH_TOKENS[0]}}}}}"
        )
    for name, keys in config.cluster.secrets.items():
        found = kube.secret_keys(name)
        if found is None:
            wanted = " ".join(f"--from-literal={key}=…" for key in keys)
            raise UserError(
                f"secret {name}: not in {kube.namespace}: kubectl create secret generic {name} -n {kube.namespace} {wanted}"
            )
        missing = sorted(set(keys) - found)
        if missing:
            raise UserError(
                f"secret {name}: has no key {missing[0]!r}, only {', '.join(sorted(found)) or 'none'}: correct cluster.secrets, "
                f"or kubectl edit secret {name} -n {kube.namespace}"
            )
        yield f"secret       {name} has {', '.join(sorted(keys))}"
    for name in config.cluster.image_pull_secrets:
        if kube.secret_keys(name) is None:
            raise UserError(
                f"image pull secret {name}: not in {kube.namespace}: kubectl create secret docker-registry {name} "
                f"-n {kube.namespace} --docker-server=… --docker-username=… --docker-password=…"
            )


def _accounts(config: RunConfig, kube: Kube) -> Iterator[str]:
    name = config.cluster.service_account
    if name and not kube.has_service_account(name):
        raise UserError(
            f"service account {name}: not in {kube.namespace}: kubectl create serviceaccount {name} -n {kube.namespace}, "
            "or install the chart there"
        )
    if name:
        yield f"account      {name}"


def _nodes(config: RunConfig, kube: Kube) -> Iterator[str]:
    """Whether each step would fit on some node that had nothing else; labels and taints of nodes are not looked at."""
    nodes = kube.nodes
    # look and notify have the defaults always.
    steps: list[tuple[str, Resources]] = [("", Resources()), *config.resources.items()]
    for name, asked in steps:
        step = f"resources.{name}" if name else "steps that resources does not name"
        if asked.gpu and not _fitting(nodes, {asked.gpu_type: asked.gpu}):
            counted = sorted({kind for node in nodes for kind in node if "/" in kind})
            most = {kind: max(node.get(kind, 0) for node in nodes) for kind in counted}
            others = ", ".join(f"{kind} {amount:g}" for kind, amount in most.items()) or "no GPU on any"
            raise UserError(
                f"{step}: {asked.gpu} × {asked.gpu_type} fit on no node of the cluster (the most on one: {others}): "
                f"kubectl describe nodes shows them; {LATER}"
            )
        if not _fitting(nodes, _wanted(asked)):
            sizes = {
                (node.get("cpu", 0), node.get("memory", 0) / GIB) for node in nodes if node.get(asked.gpu_type, 0) >= asked.gpu
            }
            there = "; ".join(f"{cpu:g} CPU, {gib:.1f} GiB" for cpu, gib in sorted(sizes)[-SHOWN:]) or "no node"
            raise UserError(
                f"{step}: {_text(asked)} fit on no node of the cluster (the largest: {there}): ask for less there, with room for "
                f"what Kubernetes itself runs on each node; {LATER}"
            )
        if asked.gpu:
            yield f"GPU          {name}: {asked.gpu} × {asked.gpu_type}"
    yield f"nodes        {len(nodes)}, of which each step fits on one that is empty"


def _wanted(asked: Resources) -> dict[str, float]:
    """What a step asks of one node, as :meth:`Kube.nodes` counts it."""
    return {"cpu": asked.cpu, "memory": asked.memory_gib * GIB, **({asked.gpu_type: asked.gpu} if asked.gpu else {})}


def _text(asked: Resources) -> str:
    gpus = f" and {asked.gpu} × {asked.gpu_type}" if asked.gpu else ""
    return f"{asked.cpu:g} CPU, {asked.memory_gib:g} GiB{gpus}"


def _fitting(nodes: list[dict[str, float]], wanted: dict[str, float]) -> int:
    """How many nodes have all of it."""
    return sum(all(node.get(kind, 0) >= amount for kind, amount in wanted.items()) for node in nodes)


def _train_jobs(config: RunConfig, kube: Kube) -> Iterator[str]:
    """Whether a train step on several nodes can have its job."""
    if config.nodes == 1:
        return
    asked, account = config.resources["train"], config.cluster.service_account
    install = "helm upgrade --install kubeflow-trainer oci://ghcr.io/kubeflow/charts/kubeflow-trainer -n kubeflow-system"
    install += " --create-namespace --set runtimes.defaultEnabled=true"
    if not kube.has_api(trainjob.GROUP, trainjob.VERSION):
        raise UserError(f"resources.train.nodes: the cluster has no {trainjob.GROUP}/{trainjob.VERSION}: {install}")
    if not kube.has_cluster_object(trainjob.GROUP, trainjob.VERSION, "clustertrainingruntimes", trainjob.RUNTIME):
        raise UserError(f"resources.train.nodes: Kubeflow Trainer has no runtime {trainjob.RUNTIME}: {install}")
    if account and not kube.may_create(account, trainjob.GROUP, trainjob.PLURAL):
        raise UserError(
            f"resources.train.nodes: service account {account} may not create TrainJobs in {kube.namespace}: "
            f"helm upgrade calltune charts/calltune -n {kube.namespace} --reset-then-reuse-values --set runner.trainJobs=true"
        )
    there = _fitting(kube.nodes, _wanted(asked))
    if there < asked.nodes:
        raise UserError(
            f"resources.train.nodes: {asked.nodes} with {_text(asked)} are wanted, and the cluster has {there}: "
            f"kubectl describe nodes shows them; {LATER}"
        )
    yield f"train jobs   {asked.nodes} nodes, by {trainjob.GROUP}/{trainjob.VERSION}"
    if not account:
        yield "note: whether KFP's own account may create TrainJobs was not looked at: cluster.service_account names none"


def _lost_nodes(kubeflow: Kubeflow, kube: Kube) -> Iterator[str]:
    if not kube.retries_lost_nodes(kube.namespace if kubeflow.namespace is None else OWN):
        yield (
            "note: a step whose node is lost is not started again, since Argo's controller has no "
            "templateDefaults.retryStrategy.retryPolicy: Always (docs/cluster-runs.md); --wait --resubmit N submits anew"
        )
