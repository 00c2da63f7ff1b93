"""What a user can get wrong with submit, runs and schedule: exit 2, and one line that says what to do."""

import re

import kfp_server_api as api
import pytest
from kubernetes.config import kube_config

from tests.http_double import Refused
from tests.pipelines.kfp_double import secret

NAMESPACE = "namespaces/team-a"
BUCKET_RULE = "(SignatureDoesNotMatch|AccessDenied|403)"


def drop(path):
    return lambda cluster, patch: cluster.double.kube.pop(path)


def kube(path, value):
    return lambda cluster, patch: cluster.double.kube.update({path: value})


def env(name, value):
    return lambda cluster, patch: patch.setenv(name, value)


def file(name, text):
    return lambda cluster, patch: (cluster.folder / name).write_text(text)


def answers(status, where="", text="no"):
    def prepare(cluster, patch):
        plain = cluster.double.handle

        def handle(method, path, query, body):
            if where in path and path.startswith("/apis"):
                raise Refused(status, text)
            return plain(method, path, query, body)

        cluster.double.handle = handle

    return prepare


def logged_out(cluster, patch):
    """A gateway that knew who asked when the command began."""
    plain = cluster.double.handle

    def handle(method, path, query, body):
        if path.startswith("/dex"):
            return '<html><form action="/dex/auth?state=x"></form></html>'
        if path.startswith("/apis") and not path.endswith("healthz"):
            raise Refused(302, "Found", "/dex/auth?state=x")
        return plain(method, path, query, body)

    cluster.double.handle = handle


def expired(cluster, patch):
    cluster.double.token = "new"
    patch.setenv("CALLTUNE_KFP_TOKEN", "old")


def by_hand(names):
    def prepare(cluster, patch):
        for number, name in enumerate(names):
            made = api.V2beta1RecurringRun(str(number), display_name=name, description="by hand", mode="ENABLE")
            cluster.double.objects["recurringruns"][str(number)] = made

    return prepare


def ended(cluster, patch):
    cluster.double.objects["runs"]["r1"] = api.V2beta1Run(run_id="r1", display_name="x", state="FAILED")


def one_user(cluster, patch):
    cluster.double.multi_user = False


def nothing(cluster, patch):
    pass


TRAINER = "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/torch-distributed"
REVIEWS = "/apis/authorization.k8s.io/v1/namespaces/team-a/localsubjectaccessreviews"


def trainer(*changes):
    """A cluster with Kubeflow Trainer, in which the steps' account may create jobs; but for these paths and answers."""
    version = {"groupVersion": "trainer.kubeflow.org/v1alpha1", "version": "v1alpha1"}
    group = {"name": "trainer.kubeflow.org", "versions": [version]}
    answers = {"/apis/": {"groups": [group]}, TRAINER: {"metadata": {"name": "torch-distributed"}}}
    allowed = {"spec": {}, "status": {"allowed": True}}
    return lambda cluster, patch: cluster.double.kube.update({**answers, REVIEWS: allowed, **dict(changes)})


GONE = """
{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}], users: [{name: u, user: {}}],
clusters: [{name: c, cluster: {server: "https://kube", certificate-authority: ca.crt}}]}"""
"""A kubeconfig as some clouds write it, with a file beside it that is not there."""
SUBMIT = ("submit", "-c", "run.yaml")
TWO_NODES = (*SUBMIT, "--set", "resources.train={nodes: 2, gpu: 4}")
CRON = ("schedule", "create", "-c", "run.yaml", "--cron")
WATCH = ("watch", "-c", "run.yaml")
LISTEN = (*WATCH, "--set", "ingest.source=s3://bucket/rows", "--listen")
MISTAKES = {
    "no config": (nothing, ("submit", "-c", "other.yaml"), "other.yaml: no such config file"),
    "unknown key": (nothing, (*SUBMIT, "--set", "cluster.hots=http://kfp"), "host"),
    "embedded store": (nothing, (*SUBMIT, "--set", "storage.uri=embedded"), "storage.uri: .*set s3://bucket/prefix"),
    "store in a folder": (nothing, (*SUBMIT, "--set", "storage.uri=./store"), "storage.uri: .*set s3://bucket/prefix"),
    "embedded tracking": (nothing, (*SUBMIT, "--set", "tracking.uri=embedded"), "set an MLflow server such as"),
    "no host": (nothing, (*SUBMIT, "--set", "cluster.host=''"), "where is Kubeflow Pipelines.*port-forward"),
    "host without scheme": (nothing, (*SUBMIT, "--host", "kfp.example"), "must begin with http"),
    "API down": (nothing, (*SUBMIT, "--host", "http://127.0.0.1:9"), "does not answer.*port-forward"),
    "another server": (answers(404, "healthz"), SUBMIT, "is not the API of Kubeflow Pipelines 2"),
    "expired token": (expired, SUBMIT, "your token or cookie has expired: CALLTUNE_KFP_TOKEN"),
    "login page": (answers(302), SUBMIT, "CALLTUNE_KFP_COOKIE"),
    "login page later": (logged_out, ("runs", "show", "r1", "-c", "run.yaml"), "cookie has expired: .*CALLTUNE_KFP_COOKIE"),
    "a gateway's page": (answers(502, text="<html>Bad Gateway</html>"), SUBMIT, "does not answer .HTTP 502"),
    "another server's page": (answers(404, text="<html>Not Found</html>"), SUBMIT, "is not the API of Kubeflow Pipelines 2"),
    "another server's list": (
        lambda cluster, patch: patch.setattr(cluster.double, "handle", lambda *_: "[1]"),
        SUBMIT,
        "is not the API of Kubeflow Pipelines 2",
    ),
    "an error in an object": (
        answers(400, "/experiments", '{"error": {"code": 400, "message": "no such thing"}}'),
        (*SUBMIT, "--no-preflight"),
        "refuses .HTTP 400.: .*no such thing",
    ),
    "no address": (nothing, (*SUBMIT, "--host", "http://[::1"), "is no address"),
    "a cookie as the docs have it": (env("CALLTUNE_KFP_COOKIE", "authservice_session=…"), SUBMIT, "CALLTUNE_KFP_COOKIE: has a"),
    "a token on two lines": (env("CALLTUNE_KFP_TOKEN", "a\nb"), SUBMIT, "CALLTUNE_KFP_TOKEN: has a line's end"),
    "no token file": (nothing, (*SUBMIT, "--token-file", "none"), "--token-file none: no such file"),
    "no text of a token": (
        lambda cluster, patch: (cluster.folder / "token").write_bytes(b"\xff"),
        (*SUBMIT, "--token-file", "token"),
        "--token-file token: cannot be read",
    ),
    "password in the host": (nothing, (*SUBMIT, "--host", "http://me:s3cr3t@kfp"), "would be printed: CALLTUNE_KFP_TOKEN"),
    "folder without rows": (
        lambda cluster, patch: (cluster.folder / "empty").mkdir(),
        (*SUBMIT, "--set", "ingest.source=empty"),
        "empty: no .* file in this folder",
    ),
    "forbidden": (
        answers(403, "/experiments", "User 'system:serviceaccount:team-a:me' is not authorized"),
        (*SUBMIT, "--no-preflight"),
        "you may not do this in namespace team-a",
    ),
    "an account that KFP does not take": (
        answers(403, "/runs", "service account runner is not allowed"),
        (*SUBMIT, "--no-preflight"),
        "starts no run under this account .service account runner is not allowed.: .*docs/cluster.md",
    ),
    "unknown namespace": (nothing, (*SUBMIT, "--namespace", "team-b"), "a Profile of this name makes it"),
    "another namespace than the one user's": (
        one_user,
        SUBMIT,
        "namespace team-a: no step runs there.*set cluster.namespace: kubeflow, and have secrets and accounts there",
    ),
    "another namespace, as far as KFP alone can say": (
        lambda cluster, patch: (one_user(cluster, patch), patch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", "none")),
        SUBMIT,
        "namespace team-a: no step runs there.*set cluster.namespace: kubeflow",
    ),
    "the one user's namespace is away": (
        one_user,
        (*SUBMIT, "--namespace", "kubeflow"),
        "namespace kubeflow: there is none, and Kubeflow Pipelines starts steps in its own: set cluster.namespace to that",
    ),
    "no secret": (
        drop(f"{NAMESPACE}/secrets/store"),
        SUBMIT,
        "kubectl create secret generic store -n team-a --from-literal=id=…",
    ),
    "no key": (kube(f"{NAMESPACE}/secrets/store", secret("key")), SUBMIT, "has no key 'id', only key"),
    "no token for a push": (
        nothing,
        (*SUBMIT, "--set", "promote.push.repo=acme/helpdesk"),
        "promote's pod would have no token: name a secret with it in cluster.secrets",
    ),
    "no address for notify": (
        nothing,
        (*SUBMIT, "--set", "notify.via=[slack]"),
        "notify's pod would have no CALLTUNE_SLACK_URL: name a secret with it in cluster.secrets",
    ),
    "no pull secret": (
        nothing,
        (*SUBMIT, "--set", "cluster.image_pull_secrets=[mirror]"),
        "docker-registry mirror -n team-a",
    ),
    "no account": (drop(f"{NAMESPACE}/serviceaccounts/runner"), SUBMIT, "kubectl create serviceaccount runner -n team-a"),
    "no TrainJobs": (
        trainer(("/apis/", {"groups": []})),
        TWO_NODES,
        "the cluster has no trainer.kubeflow.org/v1alpha1: helm upgrade --install kubeflow-trainer",
    ),
    "no runtime": (trainer((TRAINER, None)), TWO_NODES, "has no runtime torch-distributed: helm .*runtimes.defaultEnabled=true"),
    "no right to TrainJobs": (
        trainer((REVIEWS, {"spec": {}, "status": {"allowed": False}})),
        TWO_NODES,
        "account runner may not create TrainJobs in team-a: helm upgrade calltune .*runner.trainJobs=true",
    ),
    "one node with so many GPUs": (trainer(), TWO_NODES, "2 with .* 4 × nvidia.com/gpu are wanted, and the cluster has 1"),
    "nodes of another step": (nothing, (*SUBMIT, "--set", "resources.gate={nodes: 2}"), "train is the only step"),
    "no such GPU": (nothing, (*SUBMIT, "--set", "resources.train.gpu_type=amd.com/gpu"), "fit on no node.*nvidia.com/gpu 4"),
    "more memory than a node has": (
        nothing,
        (*SUBMIT, "--set", "resources.train.memory_gib=256"),
        "resources.train: 1 CPU, 256 GiB and 1 × nvidia.com/gpu fit on no node .*the largest: 63.92 CPU, 251.6 GiB",
    ),
    "more cores than a node has": (
        nothing,
        (*SUBMIT, "--set", "resources.gate={cpu: 64}"),
        "resources.gate: 64 CPU, 4 GiB fit on no node.*--no-preflight",
    ),
    "a small cluster": (
        kube("nodes", {"items": [{"status": {"allocatable": {"nvidia.com/gpu": "1", "cpu": "2", "memory": "3Gi"}}}]}),
        SUBMIT,
        "steps that resources does not name: 1 CPU, 4 GiB fit on no node",
    ),
    "too many GPUs": (nothing, (*SUBMIT, "--set", "resources.train.gpu=8"), "8 × nvidia.com/gpu fit on no node"),
    "wrong keys": (env("AWS_SECRET_ACCESS_KEY", "wrong"), SUBMIT, f"cannot be written \\({BUCKET_RULE}\\).*check AWS_"),
    "store down": (env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9"), SUBMIT, "cannot be written.*kubectl port-forward"),
    "no rows": (nothing, (*SUBMIT, "--set", "ingest.source=none.jsonl"), "none.jsonl: no such file"),
    "broken tools": (file("tools.py", "import nothing_of_the_sort"), SUBMIT, "tools.py, line 1: cannot be imported"),
    "no revision": (nothing, (*SUBMIT, "--set", "model.revision=main"), "needs the commit to use"),
    "a value": (nothing, (*SUBMIT, "--set", "cluster.secrets={store: {id: s3cr3t}}"), "its value stays in the secret"),
    "an address with it": (
        nothing,
        (*SUBMIT, "--set", "tracking.uri=http://a:b@mlflow"),
        "cluster.secrets, not 'http://…@mlflow'",
    ),
    "resubmit alone": (nothing, (*SUBMIT, "--resubmit", "2"), "--resubmit: needs --wait"),
    "six fields": (nothing, (*CRON, "0 0 3 * * 1"), "six fields; five are wanted"),
    "four fields": (nothing, (*CRON, "3 * * 1"), "has 4 of five fields"),
    "a word": (nothing, (*CRON, "@weekly"), "write five fields"),
    "no minute": (nothing, (*CRON, "61 3 * * 1"), "bad minute"),
    "no weekday": (nothing, (*CRON, "0 3 * * L"), "'L' is no day of the week"),
    "Sunday as 7": (nothing, (*CRON, "0 3 * * 7"), "Sunday is 0 in KFP"),
    "a step to Sunday": (nothing, (*CRON, "0 3 * * 0,1/2"), "'1/2' does not say where it ends: 1-6/2 does"),
    "no such day": (nothing, (*CRON, "0 3 30 2 *"), "day"),
    "no time zone": (nothing, (*CRON, "0 3 * * 1", "--set", "cluster.timezone=Berlin"), "'Berlin' is no time zone"),
    "empty name": (nothing, (*CRON, "0 3 * * 1", "--name", " "), "--name: is empty"),
    "made by hand": (by_hand(["lights"]), (*CRON, "0 3 * * 1"), "has not made.*delete it there, or use --name"),
    "two of a name": (by_hand(["x", "x"]), ("schedule", "pause", "x", "-c", "run.yaml"), "there are 2 of that name"),
    "no schedule": (by_hand(["x"]), ("schedule", "pause", "y", "-c", "run.yaml"), "none of that name in team-a; there is x"),
    "no run": (nothing, ("runs", "show", "r0", "-c", "run.yaml"), "not found.*calltune runs list"),
    "ended run": (ended, ("runs", "stop", "r1", "-c", "run.yaml"), "has ended already: failed"),
    "no pods": (kube(f"{NAMESPACE}/pods", {"items": []}), ("runs", "logs", "r1", "-c", "run.yaml"), "no pod of run r1 is left"),
    "no Kubernetes": (nothing, ("runs", "logs", "r1", "-c", "run.yaml"), "another server answers there: kubectl get pods"),
    "no kubeconfig": (file("kubeconfig", "- a"), ("runs", "logs", "r1", "-c", "run.yaml"), "the kubeconfig cannot be read"),
    "a kubeconfig whose certificate is gone": (
        file("kubeconfig", GONE),
        ("runs", "logs", "r1", "-c", "run.yaml"),
        "no kubeconfig leads to a cluster \\(File does not exist: .*ca.crt\\)",
    ),
    "no GPU, and no sight of the secrets": (
        lambda cluster, patch: cluster.double.kube.update({f"{NAMESPACE}/secrets/store": 403}),
        (*SUBMIT, "--set", "resources.train.gpu=8"),
        "8 × nvidia.com/gpu fit on no node",
    ),
    "no store": (nothing, ("runs", "show", "r1", "--json"), "-c FILE says which"),
    "questions on this machine": (
        nothing,
        (*SUBMIT, "--set", "retrain.drift.questions=asked.jsonl"),
        "asked.jsonl is on this machine.*set s3://bucket/prefix",
    ),
    "a watch of an embedded store": (nothing, (*WATCH, "--once", "--set", "storage.uri=embedded"), "set s3://bucket/prefix"),
    "a watch of nothing": (nothing, (*WATCH, "--once", "--set", "ingest.source=s3://nowhere/rows"), "make the bucket"),
    "a watch without an API": (nothing, (*WATCH, "--once", "--host", "http://127.0.0.1:9"), "does not answer.*port-forward"),
    "one look that listens": (nothing, (*WATCH, "--once", "--listen", "127.0.0.1:0"), "--listen: --once ends after one look"),
    "no bucket to hear of": (nothing, (*WATCH, "--listen", "127.0.0.1:0"), "no bucket tells of rows.jsonl.*put the data into S3"),
    "no port": (nothing, (*LISTEN, "8080"), "--listen 8080: must be HOST:PORT, for example 0.0.0.0:8080"),
    "another machine's address": (nothing, (*LISTEN, "203.0.113.1:8080"), "203.0.113.1:8080: cannot be listened on"),
    "no experiment": (nothing, ("runs", "list", "-c", "run.yaml", "--experiment", "x"), "--experiment x: there is none"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_do(cluster, command, monkeypatch, mistake):
    prepare, words, says = MISTAKES[mistake]
    prepare(cluster, monkeypatch)
    code, _, err = command(*words)
    assert code == 2, err
    (line,) = err.strip().splitlines()
    assert line.startswith("calltune: ")
    assert re.search(says, line), line
    assert "never printed" not in err and "s3cr3t@" not in err


def test_nodes_that_train_together_are_looked_for(cluster, command):
    trainer()(cluster, None)
    cluster.double.kube["nodes"]["items"] *= 2
    code, out, err = command(*TWO_NODES)
    assert (code, err) == (0, "") and "train jobs   2 nodes, by trainer.kubeflow.org/v1alpha1" in out
    cluster.double.kube[REVIEWS] = 403
    code, out, _ = command(*TWO_NODES)
    assert code == 0 and "not looked at, or not to the end: TrainJobs: Kubernetes says 403" in out


def test_a_namespace_is_a_profiles_or_that_of_kubeflow_pipelines_itself(cluster, command):
    cluster.double.kube[NAMESPACE] = {"metadata": {"name": "team-a"}}
    code, out, _ = command(*SUBMIT)
    assert code == 0 and "note: namespace team-a has no label pipelines.kubeflow.org/enabled=true" in out
    one_user(cluster, None)
    cluster.double.kube[f"{NAMESPACE}/services/ml-pipeline"] = {"metadata": {"name": "ml-pipeline"}}
    code, out, _ = command(*SUBMIT)
    assert code == 0 and "label" not in out and "a step whose node is lost is not started again" in out
    argo = cluster.double.kube.pop("namespaces/kubeflow/configmaps/workflow-controller-configmap")
    cluster.double.kube |= {
        f"{NAMESPACE}/configmaps/workflow-controller-configmap": argo,
        f"{NAMESPACE}/services/ml-pipeline": 403,
    }
    code, out, _ = command(*SUBMIT)
    assert code == 0 and "not looked at, or not to the end: the namespace: Kubernetes says 403" in out
    assert "account      runner" in out and "whose node is lost" not in out


def test_what_may_not_be_seen_is_said_and_no_obstacle(cluster, command):
    cluster.double.kube["nodes"] = 403
    cluster.double.kube["namespaces/kubeflow/configmaps/workflow-controller-configmap"] = {"data": {}}
    code, out, _ = command("submit", "-c", "run.yaml")
    assert code == 0
    assert "note: " in out and "403" in out
    cluster.double.kube["nodes"] = {"items": [{"status": {"allocatable": {"nvidia.com/gpu": "1", "cpu": "8", "memory": "32Gi"}}}]}
    assert "a step whose node is lost is not started again" in command("submit", "-c", "run.yaml")[1]
