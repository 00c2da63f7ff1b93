"""The demo's pipeline in real containers: what `make test-containers` runs. Needs a Docker engine, and minutes.

Every step runs in its own image through kfp.local.DockerRunner, as another user than root, with a read-only root, on a private
network without a way out; there it finds a SeaweedFS and an MLflow with users, started the way the chart starts them.

CALLTUNE_BASE_IMAGE names a base image for where none can be pulled: one with Python 3.11 and its venv module.
"""

import json
import os
import shutil
import subprocess
import time
import uuid

import pytest
import yaml

from components import images
from images import build as builder
from tests.charts.conftest import CHART, rendered
from tests.charts.policy import pod_specs

USER = "10001:10001"
ROWS = 60
READY_S = 300
KEYS = {"AWS_ACCESS_KEY_ID": "calltune", "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex, "AWS_DEFAULT_REGION": "us-east-1"}
PASSWORD = uuid.uuid4().hex
HARDENED = ["--read-only", "--user", USER, "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
HARDENED += ["--tmpfs", "/tmp:rw,exec,mode=1777,size=2g"]


def docker(*arguments, check=True):
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="session")
def engine():
    """A Docker engine that answers."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.fail("no Docker engine answers: start one (Debian: apt-get install docker.io), or set DOCKER_HOST")


@pytest.fixture(scope="session")
def built(engine):
    """The images, by the name of their set."""
    base = os.environ.get("CALLTUNE_BASE_IMAGE")
    return {name: builder.build(name, base, network="host") for name in ("cpu", "train", "services")}


@pytest.fixture(scope="session")
def network(engine):
    """A network of the test's own, with no way out of it."""
    name = f"calltune-{uuid.uuid4().hex[:8]}"
    docker("network", "create", "--internal", name)
    yield name
    docker("network", "rm", name, check=False)


def container(network, name, image, command, environment, *options):
    """Start a server on the network under its name; returns the container's id."""
    variables = [part for key, value in environment.items() for part in ("-e", f"{key}={value}")]
    return docker("run", "-d", "--network", network, "--network-alias", name, *HARDENED, *variables, *options, image, *command)


def in_pod(network, image, command, environment, *options):
    """Run a command as a step's container is run; returns its exit code and what it printed."""
    variables = [part for key, value in environment.items() for part in ("-e", f"{key}={value}")]
    whole = ["docker", "run", "--rm", "-i", "--network", network, *HARDENED, *variables, *options, image, *command]
    done = subprocess.run(whole, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def servers(built, network):
    """SeaweedFS and MLflow as the chart starts them; yields the environment by which steps find them."""
    trial = rendered({"seaweedfs": {"enabled": True}})
    weed = next(spec for document in trial if document["kind"] == "StatefulSet" for spec in pod_specs(document))["containers"][0]
    volume = ["--mount", "type=tmpfs,target=/data,tmpfs-mode=1777"]
    started = [container(network, "s3", built["services"], [*weed["command"], *weed["args"]], KEYS, *volume)]
    s3 = {**KEYS, "AWS_ENDPOINT_URL_S3": "http://s3:8333", "MLFLOW_S3_ENDPOINT_URL": "http://s3:8333"}
    database = {"MLFLOW_BACKEND_STORE_URI": "sqlite:////data/mlflow.db", "MLFLOW_AUTH_DATABASE_URI": "sqlite:////data/users.db"}
    admin = {"MLFLOW_AUTH_ADMIN_USERNAME": "admin", "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    rest = {"MLFLOW_ARTIFACTS_DESTINATION": "s3://calltune/mlflow", "MLFLOW_WORKERS": "1", "MLFLOW_AUTH_MODE": "basic"}
    rest |= {"MLFLOW_ALLOWED_HOSTS": "mlflow:5000", "MLFLOW_FLASK_SERVER_SECRET_KEY": uuid.uuid4().hex}
    start = ["-v", f"{CHART / 'files'}:/start:ro", *volume]
    started += [container(network, "mlflow", built["services"], ["sh", "/start/mlflow.sh"], s3 | database | admin | rest, *start)]
    client = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    found = s3 | client | {"CALLTUNE_STORAGE": "s3://calltune", "CALLTUNE_TRACKING": "http://mlflow:5000"}
    job = ["python3", "/init/init_bucket.py", "calltune"]
    until = time.monotonic() + READY_S
    while True:
        code, said = in_pod(network, built["cpu"], job, found, "-v", f"{CHART / 'files'}:/init:ro")
        doctor, words = (1, "") if code else in_pod(network, built["cpu"], ["calltune", "doctor"], found)
        if doctor == 0:
            break
        logs = [docker("logs", "--tail", "5", one, check=False) for one in started]
        assert time.monotonic() < until, f"the servers did not come up: {said} {words} {logs}"
        time.sleep(2)
    yield found
    docker("rm", "-f", *started, check=False)


@pytest.fixture(scope="session")
def job(servers, network, built, tiny_model, tmp_path_factory):
    """A folder that the containers may write, with the tools in it; model and rows are in S3, where a cluster has them."""
    place = tmp_path_factory.mktemp("job")
    data = place / "data"
    shutil.copytree(tiny_model, data / "model")
    rows = (builder.ROOT / "examples" / "helpdesk" / "questions.jsonl").read_text().splitlines()[:ROWS]
    (data / "rows").mkdir()
    (data / "rows" / "questions.jsonl").write_text("\n".join(rows) + "\n")
    upload = "\n".join(
        [
            "import pathlib, boto3",
            "s3, root = boto3.client('s3'), pathlib.Path('/data')",
            "for path in root.rglob('*'):",
            "    if path.is_file(): s3.upload_file(str(path), 'calltune', f'inputs/{path.relative_to(root)}')",
        ]
    )
    code, said = in_pod(network, built["cpu"], ["python3", "-c", upload], servers, "-v", f"{data}:/data:ro")
    assert code == 0, said
    root = place / "kfp"
    root.mkdir()
    shutil.copyfile(builder.ROOT / "examples" / "helpdesk" / "tools.py", root / "tools.py")
    # The containers' user is another than this process's: pytest keeps its folders to itself.
    subprocess.run(["chmod", "-R", "a+rwX", str(place)], check=True)
    for folder in list(place.parents)[:2]:
        folder.chmod(0o755)
    (place / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "contained",
                "model": {"base": "s3://calltune/inputs/model"},
                "ingest": {"source": "s3://calltune/inputs/rows", "tools": str(root / "tools.py")},
                "format": {"max_tokens": 1024},
                "train": {"epochs": 1, "learning_rate": 1.0e-3, "batch_rows": 8},
                "evaluate": {"max_new_tokens": 16},
                "gate": {"min_questions": 10, "thresholds": {"tool_accuracy": 0.0}},
                "storage": {"uri": "s3://calltune", "endpoint_url": servers["AWS_ENDPOINT_URL_S3"]},
                "tracking": {"uri": servers["CALLTUNE_TRACKING"]},
            }
        )
    )
    return place


@pytest.mark.parametrize("image", ["cpu", "train", "services"])
def test_an_image_is_not_roots_and_cannot_install(built, network, image):
    script = "id -u; touch /opt/calltune/x || echo read-only; python3 -m pip --version || echo no pip"
    code, said = in_pod(network, built[image], ["sh", "-c", script], {})
    assert code == 0 and said.startswith("10001\n"), said
    assert "read-only" in said and "no pip" in said


def test_the_cpu_image_is_small(built):
    size = int(docker("image", "inspect", "--format", "{{.Size}}", built["cpu"]))
    assert size <= 700e6, f"{size / 1e6:.0f} MB"


def test_the_pipeline_runs_in_containers(job, servers, built, network):
    from kfp import local

    from pipelines.config import load
    from pipelines.finetune import STEPS, build

    assert {images.CPU, images.TRAIN} == {built["cpu"], built["train"]}
    run_id = uuid.uuid4().hex
    local.init(
        local.DockerRunner(
            network=network,
            user=USER,
            read_only=True,
            tmpfs={"/tmp": "rw,exec,mode=1777,size=4g"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            environment={**servers, "CALLTUNE_RUN_ID": run_id},
        ),
        pipeline_root=str(job / "kfp"),
        enable_caching=False,
    )
    before = os.umask(0)  # what this process makes for a step, the step's user must be able to write
    try:
        build(load(job / "config.yaml"), dict.fromkeys(STEPS, built["train"]), on_cluster=False)()
    finally:
        os.umask(before)
    # Whether it went well is in the store: kfp.local takes a container that is gone for one that did its work.
    show = "import sys, boto3; print(boto3.client('s3').get_object(Bucket='calltune', Key=sys.argv[1])['Body'].read().decode())"
    code, said = in_pod(network, built["cpu"], ["python3", "-c", show, f"runs/{run_id}/summary.json"], servers)
    assert code == 0, said
    summary = json.loads(said)
    assert summary["outcome"] == "promoted", summary["gate"]
    for step in summary["steps"]:
        print(f"{step['name']:20} {step['seconds']:7.1f} s {step['peak_rss_mib']:6} MiB")
    assert {"look", "ingest", "format", "train", "export", "gate", "promote"} <= {step["name"] for step in summary["steps"]}
