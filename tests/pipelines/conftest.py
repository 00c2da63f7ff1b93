"""What the tests of submit and schedule share: a small config, a stand-in for KFP and Kubernetes, a real S3 server."""

import inspect
import json
import sys

import pytest
import yaml

from pipelines import cli, submit
from tests.pipelines.kfp_double import Double, secret, serve

TOOLS_PY = '''
from pathlib import Path

Path(__file__).with_name("imported").touch()


def lights(on: bool):
    """Switch the lights.

    Args:
        on: or off.
    """
'''
NAMESPACE = "team-a"


def row(number):
    """A question whose answer is a call."""
    call = {"type": "function", "function": {"name": "lights", "arguments": {"on": number % 2 == 0}}}
    return {"messages": [{"role": "user", "content": f"Lights, number {number}"}, {"role": "assistant", "tool_calls": [call]}]}


@pytest.fixture(scope="package", autouse=True)
def shallow_stacks():
    """kfp takes the whole stack to learn its caller's name, at every setting of a task.

    For a frame without a file Python looks through all modules: below pytest-xdist, with torch imported, a package takes eight
    seconds that takes a fifth of one by itself.
    """

    def stack(context=1):
        frames = sys._getframe(1), sys._getframe(2)
        return [inspect.FrameInfo(one, one.f_code.co_filename, one.f_lineno, one.f_code.co_name, None, None) for one in frames]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", stack)
        yield


class Cluster:
    """A config on disk and the two servers that it names.

    Attributes:
        double: KFP's and Kubernetes' state.
        host: where it answers.
        server: that does.
        folder: the working folder.
        config: path of the config.
    """

    def __init__(self, double, server, host, folder, store):
        self.double, self.server, self.host, self.folder = double, server, host, folder
        self.settings = {
            "name": "lights",
            "model": {"base": "Qwen/Qwen3-0.6B", "revision": "0" * 40},
            "ingest": {"source": "rows.jsonl", "tools": "tools.py"},
            "gate": {"min_questions": 1, "thresholds": {"tool_accuracy": 0.8}},
            "storage": {"uri": store},
            "tracking": {"uri": "http://mlflow:5000"},
            "resources": {"train": {"gpu": 1}},
            "cluster": {
                "host": host,
                "namespace": NAMESPACE,
                "service_account": "runner",
                "secrets": {"store": {"id": "AWS_ACCESS_KEY_ID"}},
            },
        }
        self.config = folder / "run.yaml"
        self.config.write_text(yaml.safe_dump(self.settings))
        (folder / "rows.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(60)))
        (folder / "tools.py").write_text(TOOLS_PY)

    def runs(self):
        """KFP's runs, the oldest first."""
        return list(self.double.objects["runs"].values())

    def schedules(self):
        """KFP's recurring runs."""
        return list(self.double.objects["recurringruns"].values())


@pytest.fixture
def kubeconfig(tmp_path, monkeypatch):
    """Write a kubeconfig for a server; without one there is none, as HOME is empty."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    for name in ("KUBERNETES_SERVICE_HOST", "KF_PIPELINES_ENDPOINT", "CALLTUNE_KFP_TOKEN", "CALLTUNE_KFP_COOKIE"):
        monkeypatch.delenv(name, raising=False)
    # kubernetes reads KUBECONFIG once, when it is imported.
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))

    def write(host):
        parts = {"clusters": [{"name": "c", "cluster": {"server": host}}], "users": [{"name": "u", "user": {}}]}
        context = {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **parts, **context}))

    return write


@pytest.fixture
def cluster(tmp_path, monkeypatch, s3, kubeconfig):
    """A working cluster with a namespace of its own, and a config that fits."""
    double = Double(multi_user=True)
    double.kube = {
        f"namespaces/{NAMESPACE}": {"metadata": {"name": NAMESPACE, "labels": {"pipelines.kubeflow.org/enabled": "true"}}},
        f"namespaces/{NAMESPACE}/secrets/store": secret("id", "key"),
        f"namespaces/{NAMESPACE}/serviceaccounts/runner": {"metadata": {"name": "runner"}},
        "nodes": {"items": [{"status": {"allocatable": {"nvidia.com/gpu": "4", "cpu": "63920m", "memory": "263852536Ki"}}}]},
        "namespaces/kubeflow/configmaps/workflow-controller-configmap": {"data": {"workflowDefaults": "retryPolicy: Always"}},
    }
    server, host = serve(double)
    kubeconfig(host)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "POLL_S", 0.01)
    yield Cluster(double, server, host, tmp_path, s3.uri)
    server.shutdown()
    server.server_close()


@pytest.fixture
def command(capsys, monkeypatch):
    """Run `calltune` in this process; returns exit code, standard output and standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["calltune", *map(str, words)])
        capsys.readouterr()
        code = cli._code()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
