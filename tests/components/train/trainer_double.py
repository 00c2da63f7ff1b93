"""A stand-in for the corner of the Kubernetes API that the train step talks to, and for Kubeflow Trainer behind it.

A TrainJob is read by the models that Kubeflow publishes of Trainer's API (`kubeflow-trainer-api`): a field that they do not
know is a 400, as under strict validation. Its pods are processes of this machine: a container's command with the variables that
the manifest and Trainer give it, secrets looked up by name, and a folder for each volume. One that exits with another code than
0 is started again, as a Job does, until `backoff_limit` have been.
"""

import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from tests import http_double
from tests.components.train.conftest import free_port
from tests.http_double import Refused

REPO = Path(__file__).parents[3]
JOBS = r"/apis/trainer\.kubeflow\.org/v1alpha1/namespaces/team-a/trainjobs(?:/([a-z0-9-]+))?"
POD = r"/api/v1/namespaces/team-a/pods/([a-z0-9-]+)(/log)?"
LABEL = "jobset.sigs.k8s.io/jobset-name"


class Worker:
    """A pod of a job: its container's process, started again when it fails.

    Attributes:
        lines: what it printed, each with its time, of the container before and of this one.
    """

    def __init__(self, job, number, command, environment, folder):
        self.job, self.number, self.command, self.environment, self.folder = job, number, command, environment, folder
        self.name, self.restarts, self.made = f"{job}-node-0-{number}", 0, datetime.now(UTC)
        self.lines, self.process, self.codes = [[], []], None, []
        folder.mkdir(parents=True)

    def start(self):
        command = [sys.executable if word == "python3" else word for word in self.command]
        self.lines = [self.lines[1], []]
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        threading.Thread(target=self.read, args=(self.process.stdout, self.lines[1]), daemon=True).start()

    @staticmethod
    def read(stream, lines):
        for line in stream:
            lines.append((time.time(), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z {line}"))

    def plain(self, phase):
        status = {"phase": phase, "containerStatuses": [{"name": "node", "restartCount": self.restarts, "ready": True}]}
        for container in status["containerStatuses"]:
            container |= {"image": "", "imageID": "", "state": {}}
        labels = {LABEL: self.job, "batch.kubernetes.io/job-completion-index": str(self.number)}
        metadata = {"name": self.name, "labels": labels, "creationTimestamp": self.made.isoformat()}
        return {"metadata": metadata, "status": status, "spec": {"containers": []}}


class TrainerDouble:
    """The namespace team-a.

    Attributes:
        jobs: name → TrainJob, as JSON.
        workers: name → its pods.
        pods: other pods, name → uid; a job whose owner is none of them is deleted.
        secrets: name → key → value.
        refuse: a status with which every request is refused; 0 for none.
        command: what workers run instead of what the job says; None for that.
        older: a Trainer that does not know this field of a job's spec; empty for one that knows all.
        unschedulable: why no pod starts; empty where they do.
        backoff_limit: so many times containers of a job are started again.
        calls: method and path of every request.
    """

    def __init__(self, folder):
        self.folder, self.jobs, self.workers, self.pods, self.secrets, self.calls = folder, {}, {}, {}, {}, []
        self.refuse, self.unschedulable, self.backoff_limit, self.known, self.command, self.older = 0, "", 6, True, None, ""
        self.lock = threading.RLock()

    def handle(self, method, path, query, body):
        with self.lock:
            self.calls.append(f"{method} {path}")
            if self.refuse:
                raise Refused(self.refuse, "not now")
            if match := re.fullmatch(JOBS, path):
                if not self.known:
                    raise Refused(404, "the server could not find the requested resource")
                if method == "POST":
                    return self.create(json.loads(body), query)
                if match[1] not in self.jobs:
                    raise Refused(404, f'trainjobs "{match[1]}" not found')
                if method == "DELETE":
                    return self.delete(match[1])
                self.look()
                if match[1] not in self.jobs:
                    raise Refused(404, f'trainjobs "{match[1]}" not found')
                return self.jobs[match[1]]
            if path == "/api/v1/namespaces/team-a/pods":
                job = query["labelSelector"].removeprefix(f"{LABEL}=")
                phase = "Pending" if self.unschedulable else "Running"
                return {"items": [self.described(worker, phase) for worker in self.workers.get(job, [])]}
            if match := re.fullmatch(POD, path):
                return self.log(match[1], query) if match[2] else self.pod(match[1])
        raise Refused(404, f"no such path: {path}")

    def described(self, worker, phase):
        plain = worker.plain(phase)
        if self.unschedulable:
            del plain["status"]["containerStatuses"]
            condition = {"type": "PodScheduled", "status": "False", "message": self.unschedulable}
            plain["status"]["conditions"] = [condition]
        return plain

    def pod(self, name):
        if name not in self.pods:
            raise Refused(404, f'pods "{name}" not found')
        return {"metadata": {"name": name, "uid": self.pods[name]}, "spec": {"containers": []}}

    def log(self, name, query):
        worker = next(worker for workers in self.workers.values() for worker in workers if worker.name == name)
        assert query["container"] == "node" and query["timestamps"] == "True"
        if worker.process is None or (query.get("previous") == "True" and not worker.restarts):
            raise Refused(400, "the container is waiting to start")
        lines = worker.lines[0 if query.get("previous") == "True" else 1]
        after = time.time() - float(query.get("sinceSeconds", 1e9))
        texts = [text for when, text in list(lines) if when >= after]
        return "".join(texts[-int(query.get("tailLines", 1_000_000)) :])

    def create(self, job, query):
        assert query.get("fieldValidation") == "Strict"
        read = TrainerV1alpha1TrainJob.from_dict(job).to_dict()
        read["spec"].pop(self.older, None)
        if unknown := unknown_fields(job, read):
            raise Refused(400, f"strict decoding error: unknown field {unknown!r}")
        name = job["metadata"]["name"]
        if name in self.jobs:
            raise Refused(409, f'trainjobs "{name}" already exists')
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63
        names = [variable["name"] for variable in job["spec"]["trainer"]["env"]]
        assert len(names) == len(set(names))
        job["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": datetime.now(UTC).isoformat()}
        self.jobs[name] = job
        self.start(job)
        return job

    def start(self, job):
        """As Trainer does: one pod for each node, told who it is as torchrun wants it."""
        trainer, name, port = job["spec"]["trainer"], job["metadata"]["name"], free_port()
        (patch,) = job["spec"]["runtimePatches"]
        (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        (container,) = node["template"]["spec"]["template"]["spec"]["containers"]
        assert node["name"] == container["name"] == "node"
        place = self.folder / f"{name}-{uuid.uuid4().hex[:6]}"
        self.workers[name] = []
        for number in range(trainer["numNodes"]):
            told = {"PET_NNODES": trainer["numNodes"], "PET_NODE_RANK": number, "PET_NPROC_PER_NODE": trainer["numProcPerNode"]}
            told |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
            environment = {variable["name"]: self.value(variable) for variable in trainer["env"]}
            environment |= {key: str(value) for key, value in told.items()}
            for mount in container["volumeMounts"]:  # a folder of this pod's own in its place
                own = str(place / str(number) / mount["name"])
                environment = {k: v if "://" in v else v.replace(mount["mountPath"], own) for k, v in environment.items()}
                Path(own).mkdir(parents=True)
            # What an image brings.
            environment |= {"PYTHONPATH": str(REPO), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
            environment |= {"GLOO_SOCKET_IFNAME": "lo", "PYTHONDONTWRITEBYTECODE": "1"}
            command = [*self.command, trainer["command"][-1]] if self.command else trainer["command"]
            self.workers[name].append(Worker(name, number, command, environment, place / f"work-{number}"))
        if not self.unschedulable:
            self.schedule(name)

    def schedule(self, name):
        """There are nodes for a job's pods."""
        with self.lock:
            self.unschedulable = ""
            for worker in self.workers[name]:
                worker.start()

    def value(self, variable):
        if "value" in variable:
            return variable["value"]
        reference = variable["valueFrom"]["secretKeyRef"]
        return base64.b64decode(self.secrets[reference["name"]][reference["key"]]).decode()

    def look(self):
        """What the controllers do between two looks: start what failed again, end jobs, collect what has no owner."""
        for name, job in list(self.jobs.items()):
            workers = self.workers[name]
            owners = job["metadata"].get("ownerReferences", [])
            if any(self.pods.get(owner["name"]) != owner["uid"] for owner in owners):
                self.delete(name)
            elif "status" not in job and not self.unschedulable:
                for worker in workers:
                    code = worker.process.poll()
                    if code is not None and code != 0 and len(worker.codes) <= worker.restarts:
                        worker.codes.append(code)
                        if sum(other.restarts for other in workers) >= self.backoff_limit:
                            self.end(job, "Failed", "FailedJobs", "jobset failed due to one or more job failures")
                            break
                        worker.restarts += 1
                        worker.start()
                if "status" not in job and all(worker.process.poll() == 0 for worker in workers):
                    self.end(job, "Complete", "AllJobsCompleted", "jobset completed successfully")

    def end(self, job, kind, reason, message):
        for worker in self.workers[job["metadata"]["name"]]:
            worker.process.kill()
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        job["status"] = {"conditions": [condition]}

    def delete(self, name):
        """In the foreground: gone when its pods are."""
        for worker in self.workers[name]:
            if worker.process is not None:
                worker.process.terminate()
                worker.process.wait(60)
        return self.jobs.pop(name)

    def close(self):
        for workers in self.workers.values():
            for worker in workers:
                if worker.process is not None:
                    worker.process.kill()
                    worker.process.wait()


def unknown_fields(given, read):
    """The first field that the model has dropped; empty where it has all of them."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(read, dict) or key not in read:
                return key
            if found := unknown_fields(value, read[key]):
                return found
    if isinstance(given, list):
        for one, other in zip(given, read, strict=True):
            if found := unknown_fields(one, other):
                return found
    return ""


def serve(double):
    """Start the server on a free port; returns it and its address."""
    return http_double.serve(
        lambda request: double.handle(request.method, request.path, request.query, request.body),
        lambda message: {"kind": "Status", "message": message},
    )
