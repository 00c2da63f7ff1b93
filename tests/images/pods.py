"""Containers as a cluster's pods are: of another user than root, with a read-only root, on a network without a way out."""

import subprocess
import time
import uuid

from tests.charts.conftest import CHART, rendered
from tests.charts.policy import pod_specs

USER = "10001:10001"
RESTRICTED = {
    "user": USER,
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    # The writable folders that pipelines/placement.py mounts.
    "tmpfs": {"/tmp": "rw,exec,mode=1777,size=4g", "/models": "rw,mode=1777,size=4g"},
}
"""As kfp.local.DockerRunner takes it."""
FLAGS = ["--user", USER, "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
FLAGS += ["--tmpfs", "/tmp:rw,exec,mode=1777,size=2g"]
"""The same for `docker run`."""
BUCKET = "calltune"
READY_S = 300
STOPPING_S = 40
"""SeaweedFS takes up to 25 s to end at SIGTERM."""


def docker(*arguments):
    """What a docker command prints."""
    done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"docker {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout.strip()


def variables(environment):
    return [part for key, value in environment.items() for part in ("-e", f"{key}={value}")]


def in_pod(network, image, command, environment, *flags):
    """Run a command as a step's container is run; returns the ended process."""
    whole = ["docker", "run", "--rm", "--network", network, *FLAGS, *variables(environment), *flags, image, *command]
    return subprocess.run(whole, capture_output=True, text=True)


def address(container, port):
    """Where this machine reaches a server on the tests' network."""
    return f"http://{docker('inspect', '--format', '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}', container)}:{port}"


class Servers:
    """SeaweedFS and MLflow, started as the chart starts them.

    Attributes:
        s3, mlflow: ids of the containers.
        variables: by which a step on the network finds them.
    """

    def __init__(self, network, images, place):
        self.network, self.images = network, images
        keys = {"AWS_ACCESS_KEY_ID": "calltune", "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex, "AWS_DEFAULT_REGION": "us-east-1"}
        endpoints = dict.fromkeys(("AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL"), "http://s3:8333")
        login = {"USERNAME": "admin", "PASSWORD": uuid.uuid4().hex}
        self.variables = {**keys, **endpoints, **{f"MLFLOW_TRACKING_{name}": value for name, value in login.items()}}
        self.variables |= {"CALLTUNE_STORAGE": f"s3://{BUCKET}", "CALLTUNE_TRACKING": "http://mlflow:5000"}
        trial = rendered({"seaweedfs": {"enabled": True}})
        weed = next(spec for document in trial if document["kind"] == "StatefulSet" for spec in pod_specs(document))[
            "containers"
        ][0]
        self.s3 = self._start("s3", [*weed["command"], *weed["args"]], keys, place)
        settings = {
            "MLFLOW_BACKEND_STORE_URI": "sqlite:////data/mlflow.db",
            "MLFLOW_AUTH_DATABASE_URI": "sqlite:////data/users.db",
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
            "MLFLOW_WORKERS": "1",
            "MLFLOW_AUTH_MODE": "basic",
            # By its address, too: the same steps as plain processes are not on the network.
            "MLFLOW_ALLOWED_HOSTS": "mlflow:5000,*.*.*.*:5000",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": uuid.uuid4().hex,
            **{f"MLFLOW_AUTH_ADMIN_{name}": value for name, value in login.items()},
        }
        command, start = ["sh", "/start/mlflow.sh"], ["-v", f"{CHART / 'files'}:/start:ro"]
        self.mlflow = self._start("mlflow", command, {**keys, **endpoints, **settings}, place, *start)

    def _start(self, name, command, environment, place, *flags):
        # Not in memory: it stays when the container is stopped.
        data = place / name
        data.mkdir()
        data.chmod(0o777)
        options = ["--network", self.network, "--network-alias", name, *FLAGS, "-v", f"{data}:/data", *flags]
        return docker("run", "-d", *options, *variables(environment), self.images["services"], *command)

    def wait(self):
        """Make the bucket, and wait until `calltune doctor` finds nothing wrong."""
        job = ["python3", "/init/init_bucket.py", BUCKET], ["-v", f"{CHART / 'files'}:/init:ro"]
        until = time.monotonic() + READY_S
        while True:
            for command, flags in (job, (["calltune", "doctor"], [])):
                done = in_pod(self.network, self.images["cpu"], command, self.variables, *flags)
                if done.returncode:
                    break
            else:
                return
            logs = [docker("logs", "--tail", "5", one) for one in (self.s3, self.mlflow)]
            assert time.monotonic() < until, f"the servers did not come up: {done.stdout} {done.stderr} {logs}"
            time.sleep(2)

    def seen_from_here(self):
        """The variables for a process that is not on the network."""
        s3 = dict.fromkeys(("AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL"), address(self.s3, 8333))
        return {**self.variables, **s3, "CALLTUNE_TRACKING": address(self.mlflow, 5000)}

    def away(self, server, seconds):
        """Stop a server for a time."""
        docker("stop", "-t", STOPPING_S, server)
        time.sleep(seconds)
        docker("start", server)

    def read(self, key):
        """A text in the store."""
        script = (
            "import sys, boto3; print(boto3.client('s3').get_object(Bucket=sys.argv[1], Key=sys.argv[2])['Body'].read().decode())"
        )
        done = in_pod(self.network, self.images["cpu"], ["python3", "-c", script, BUCKET, key], self.variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def upload(self, folder, prefix):
        """Bring a folder into the store."""
        script = "\n".join(
            [
                "import pathlib, sys, boto3",
                "s3, root = boto3.client('s3'), pathlib.Path('/data')",
                "for path in root.rglob('*'):",
                "    if path.is_file(): s3.upload_file(str(path), sys.argv[1], f'{sys.argv[2]}/{path.relative_to(root)}')",
            ]
        )
        command = ["python3", "-c", script, BUCKET, prefix]
        done = in_pod(self.network, self.images["cpu"], command, self.variables, "-v", f"{folder}:/data:ro")
        assert done.returncode == 0, done.stderr

    def end(self):
        """Remove the containers."""
        docker("rm", "-f", self.s3, self.mlflow)
