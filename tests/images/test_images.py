"""The images as their files describe them: what is in each, who it runs as, and that every version is pinned.

They are built and run by `make test-containers` (containers.py beside this).
"""

import ast
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from images import build
from pipelines.code import reachable

IMAGES = Path(__file__).parents[2] / "images"
DOCKERFILES = sorted(IMAGES.glob("*/Dockerfile"), key=str)
STEPS_OF = {
    "cpu": ("look", "ingest", "format", "gate", "promote", "report", "notify"),
    "train": ("train", "export", "evaluate"),
    "vllm": ("evaluate",),
}
QUANTISING = {"bitsandbytes", "peft", "gguf"}
ELSEWHERE = {"cpu": {"torch", *QUANTISING}, "train": {"vllm"}, "vllm": {"torch", "vllm", *QUANTISING}}
"""What an image has not, or not by its own list. cpu: functions of calltune/models.py and its neighbours load or quantise a
model, which no step of it calls. train: the other engine. vllm: it brings torch, and evaluates whole models."""


def named(path):
    """The distributions that a requirements file names, those of the files that it includes among them."""
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            yield from named(path.parent / line[3:])
        elif line and not line.startswith("#"):
            yield Requirement(line)


def installed_by(path):
    """Names of the distributions that pip would install, by what is installed here."""
    waiting, found = [(canonicalize_name(r.name), extra) for r in named(path) for extra in ("", *r.extras)], set()
    while waiting:
        wanted = waiting.pop()
        if wanted in found:
            continue
        found.add(wanted)
        try:
            texts = requires(wanted[0]) or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, texts):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted[1]}):
                waiting += [(canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)]
    return {name for name, _ in found}


def pins(*paths):
    lines = [line for path in paths for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def imported(step):
    """The top-level names that a step's reachable code imports, Python's own and ours left out."""
    names = set()
    for file in (path for path in reachable(step) if path.suffix == ".py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"calltune", "components"}


@pytest.mark.parametrize(("image", "step"), [(image, step) for image, steps in STEPS_OF.items() for step in steps])
def test_an_image_has_what_its_steps_import(image, step):
    there, distributions = installed_by(IMAGES / image / "requirements.txt"), packages_distributions()
    wanted = imported(step) - ELSEWHERE[image]
    absent = {name for name in wanted if not there & {canonicalize_name(d) for d in distributions[name]}}
    assert absent == set()


def test_the_cpu_image_has_no_torch():
    assert not installed_by(IMAGES / "cpu" / "requirements.txt") & {"torch", "bitsandbytes", "peft", "trl", "mlflow"}


@pytest.mark.parametrize("image", ["cpu", "train", "services"])
def test_every_version_in_an_image_is_pinned(image):
    extra = IMAGES / image / "constraints.txt"
    pinned = pins(IMAGES.parent / "constraints.txt", *([extra] if extra.exists() else []))
    assert {canonicalize_name(r.name) for r in named(IMAGES / image / "requirements.txt")} - set(pinned) == set()


@pytest.mark.parametrize("library", ["llguidance", "lm-eval"])
def test_with_both_engines_the_same_library_measures(library):
    assert pins(IMAGES / "vllm" / "constraints.txt")[library] == pins(IMAGES.parent / "constraints.txt")[library]


def test_what_builds_the_images_has_the_versions_of_the_rest():
    built, rest = pins(IMAGES / "build-constraints.txt"), pins(IMAGES.parent / "constraints.txt")
    assert {name: version for name, version in built.items() if rest.get(name, version) != version} == {}


def test_there_is_a_dockerfile_for_each_set():
    assert [path.parent.name for path in DOCKERFILES] == ["cpu", "services", "train", "vllm"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_a_dockerfile_keeps_to_the_rules(path):
    text = path.read_text()
    build, final = text.split("\nFROM ${BASE_IMAGE}\n")
    assert re.search(r"^ARG BASE_IMAGE=(\S+):(?!latest)\S+$", build, re.MULTILINE)
    assert "FROM ${BASE_IMAGE} AS build" in build
    # Pinned, and nothing of the builder's, pip among it, in what runs.
    installs = re.findall(r"pip.* install .*", build)
    assert len(installs) >= 2 and all("-c " in line or "--no-deps" in line for line in installs)
    assert "venv --without-pip /opt/calltune" in build
    # The user; and a compiler where Triton needs one.
    runs = 2 if path.parent.name in ("train", "vllm") else 1
    assert re.findall(r"^(RUN|COPY) .*", final, re.MULTILINE) == ["RUN"] * runs + ["COPY"] and "pip" not in final
    assert ("gcc" in final) == (runs == 2)
    assert final.rstrip().endswith("USER 10001:10001")
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in final
    assert not re.search(r"(?i)(token|password|secret)=", text.replace("type=secret", ""))


WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Without(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if any(name == one or name.startswith(f"{one}.") for one in sys.argv[1:]):
            raise ModuleNotFoundError(f"{name} is not in the image")

sys.meta_path.insert(0, Without())
import datasketch, matplotlib.backends.backend_agg, matplotlib.figure, scipy.special, scipy.stats
"""


def test_what_is_taken_out_of_the_libraries_is_not_imported():
    text = (IMAGES / "prune.sh").read_text()
    gone = [f"scipy.{part}" for part in re.findall(r'"\$packages"/scipy/(\w+)', text)]
    assert "scipy.signal" in gone
    done = subprocess.run([sys.executable, "-c", WITHOUT, *gone], cwd=IMAGES.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_in_a_container_the_doctor_looks_where_a_step_would(s3, tmp_path, monkeypatch):
    from pipelines.doctor import findings

    monkeypatch.setenv("CALLTUNE_IMAGE", "cpu")
    monkeypatch.setenv("CALLTUNE_TRACKING", "embedded")
    found = {finding.what: finding for finding in findings(None, tmp_path)}
    assert found["store"].fine and found["store"].text == f"{s3.uri} answers"
    assert not found["disk"].needed
    assert "MLflow" not in found and found["libraries"].text.endswith("in the image cpu")
    monkeypatch.delenv("CALLTUNE_IMAGE")
    assert "embedded" in {finding.what: finding for finding in findings(None, tmp_path)}["store"].text


DOCKER = """#!/bin/sh
case "$1 $2 $4" in
    "push "*) echo "$SAYS" >&2; exit "$ENDS" ;;
    "run "*) echo '{"components": []}' ;;
    *RepoDigests*) echo '["elsewhere/calltune-python-cpu@sha256:1", "r.example:5000/ml/calltune-python-cpu@sha256:2"]' ;;
    "image inspect "*) echo 1000000 ;;
esac
"""


def test_a_push_says_the_digest_and_one_that_is_refused_is_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["build", "cpu", "--registry", "r.example:5000/ml", "--push"])
    monkeypatch.setattr(build, "write_sbom", lambda name, image: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.main() == 2
    assert capfd.readouterr().err == "images: docker: not found: the images are built with Docker\n"
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("ENDS", "0")
    assert build.main() == 0
    assert capfd.readouterr().out.endswith("\npushed: r.example:5000/ml/calltune-python-cpu@sha256:2\n")
    monkeypatch.setenv("ENDS", "1")
    monkeypatch.setenv("SAYS", "denied")
    assert build.main() == 1
    assert capfd.readouterr().err == (
        "denied\nimages: docker push r.example:5000/ml/calltune-python-cpu:0.1.0: failed with exit code 1; "
        "docker login r.example:5000 says who you are\n"
    )
