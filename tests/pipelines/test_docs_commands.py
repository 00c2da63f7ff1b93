"""Every command in docs/cluster.md and docs/cluster-runs.md, as far as it goes without a cluster.

`calltune` runs for real against the stand-in for KFP, what would submit in its `--dry-run` form; `helm` is Helm's own code on the
chart; of `kubectl` it is held against what the chart renders. A command that none of these knows fails.
"""

import itertools
import re
import shlex
import subprocess
from pathlib import Path
from string import Template

import pytest

from images import build
from pipelines.endpoint import FORWARD
from tests.charts.conftest import CHART, rendered
from tests.charts.policy import pod_specs

REPO = Path(__file__).parents[2]
REGISTRY = "registry.example.com/calltune"
NAMESPACE = "kubeflow"
TRACKING = "sqlite:///mlflow.db"
SUBMITTING = (("submit",), ("schedule", "create"), ("watch",))


def commands(page):
    """The commands in a page's shell blocks, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", (REPO / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    # As the shell does, and with the values that the page itself sets.
    variables, found = {}, []
    for line in lines:
        words = shlex.split(Template(line.removesuffix(" &")).safe_substitute(variables), comments=True)
        if len(words) == 1 and re.fullmatch(r"[A-Z]+=\S+", words[0]):
            variables |= [words[0].split("=")]
        elif words:
            found.append(words)
    return found


def test_make_test_runs_every_folder_once_and_the_longest_first():
    said = subprocess.run(["make", "-n", "test"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    named = [Path(word).name for word in said.replace("\\\n", " ").split() if word.startswith("tests/")]
    files = [file.relative_to(REPO / "tests").parts for file in REPO.glob("tests/**/test_*.py")]
    assert named[0] == "e2e" and len(named) == len(set(named))
    assert {parts[0] for parts in files} <= set(named)


def take(values, words):
    """Put what `--set a.b=c` and `--set-file a.b=FILE` say into Helm's values."""
    for option, text in itertools.pairwise(words):
        if option in ("--set", "--set-file"):
            key, _, value = text.partition("=")
            *parents, last = key.split(".")
            place = values
            for parent in parents:
                place = place.setdefault(parent, {})
            plain = {"true": True, "false": False}.get(value, value)
            place[last] = plain if option == "--set" else Path(value).read_text(encoding="utf-8")


class Reader:
    """Goes through a page; knows what the commands before have made.

    Attributes:
        secrets: name → keys.
        values: of the installation.
        manifests: that these render.
    """

    def __init__(self, cluster, command):
        self.cluster, self.command = cluster, command
        self.secrets, self.values, self.manifests = {}, {}, []

    def read(self, words):
        known = {"calltune": self.calltune, "helm": self.helm, "kubectl": self.kubectl, "make": self.make}
        assert words[0] in known, f"no test knows this command: {shlex.join(words)}"
        known[words[0]](words[1:])

    def calltune(self, words):
        would_submit = any(tuple(words[: len(one)]) == one for one in SUBMITTING)
        if would_submit and "--listen" in words:
            words = words[: words.index("--listen")] + words[words.index("--listen") + 2 :]
        # In place of the server that `kubectl` would forward to.
        words = [word.replace("http://localhost:5000", TRACKING) for word in words]
        words = [*words, "--dry-run"] if would_submit and "--dry-run" not in words else words
        code, out, err = self.command(*[self.cluster.runs()[0].run_id if word == "RUN" else word for word in words])
        assert (code, err) == (0, ""), f"calltune {shlex.join(words)}: {err}"
        assert "dry run" in out or not would_submit

    def helm(self, words):
        action, release = words[0], words[1]
        assert action in ("install", "upgrade", "test") and release == "calltune" and words[words.index("-n") + 1] == NAMESPACE
        if action == "test":
            (pod,) = [one for one in self.manifests if one["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
            assert pod["spec"]["containers"][0]["command"] == ["calltune", "doctor"]
            return
        assert REPO / words[2] == CHART
        assert action == "upgrade" or "--wait" in words, "else `helm test` comes before MLflow"
        take(self.values, words)
        self.manifests = rendered(self.values, NAMESPACE)
        containers = [one for document in self.manifests for spec in pod_specs(document) for one in spec["containers"]]
        variables = [variable.get("valueFrom", {}).get("secretKeyRef") for one in containers for variable in one.get("env", [])]
        asked = [reference for reference in variables if reference]
        assert asked and all(one["key"] in self.secrets[one["name"]] for one in asked)
        assert all(one["image"].startswith(f"{REGISTRY}/calltune-python-") for one in containers)

    def kubectl(self, words):
        if words[0] != "port-forward":
            assert words[:2] == ["-n", NAMESPACE]
            words = words[2:]
        match words:
            case ["create", "secret", "generic", name, *literals]:
                assert all(literal.startswith("--from-literal=") for literal in literals)
                self.secrets[name] = {literal.split("=")[1] for literal in literals}
            case ["scale", deployment, ("--replicas=0" | "--replicas=1")]:
                names = [f"deployment/{one['metadata']['name']}" for one in self.manifests if one["kind"] == "Deployment"]
                assert deployment in names
            case ["create", "job", origin, _]:
                names = [one["metadata"]["name"] for one in self.manifests if one["kind"] == "CronJob"]
                assert origin.removeprefix("--from=cronjob/") in names
            case ["port-forward", "-n", place, service, "5000:5000"]:
                services = [one["metadata"]["name"] for one in self.manifests if one["kind"] == "Service"]
                assert place == NAMESPACE and service.removeprefix("svc/") in services
            case ["port-forward", *_]:
                assert FORWARD.startswith(f"kubectl {shlex.join(words)}")
            case _:
                pytest.fail(f"no test knows this command: kubectl {shlex.join(words)}")

    def make(self, words):
        shown = subprocess.run(["make", "-n", *words], cwd=REPO, capture_output=True, text=True, check=True).stdout
        (line,) = [line for line in shown.splitlines() if "images.build" in line]
        asked = build.options(shlex.split(line)[3:])
        assert (asked.sets, asked.registry, asked.push) == ([], REGISTRY, True)


@pytest.mark.parametrize("page", ["cluster.md", "cluster-runs.md"])
def test_every_command_of_the_page_runs(cluster, command, s3, page):
    # What the page takes for granted: MLflow, a run, a schedule, and the pods of the run.
    assert command("models", "list", "-c", cluster.config, "--set", f"tracking.uri={TRACKING}")[0] == 0
    for words in (("submit",), ("schedule", "create", "--cron", "0 3 * * 1", "--name", "helpdesk")):
        assert command(*words, "-c", cluster.config, "--no-preflight")[0] == 0
    pod = {"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {}}}
    pod["metadata"]["annotations"]["workflows.argoproj.io/node-name"] = "wf.root.train.executor"
    cluster.double.kube["namespaces/team-a/pods"] = {"items": [pod]}
    cluster.double.kube["namespaces/team-a/pods/p/log"] = "step 1\n"
    reader, found = Reader(cluster, command), commands(page)
    assert len(found) >= 10
    for words in found:
        reader.read(words)
