"""The TrainJob as Kubernetes gets it: what it was, what Trainer's own models take, and secrets by name."""

import os
from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
from pydantic import ValidationError

from components.train.trainjob import Pod, Workers, manifest
from tests.components.train.trainer_double import unknown_fields

GOLDEN = Path(__file__).parents[2] / "golden" / "trainjob.yaml"
OWNER = Pod(name="run-7-train-1", uid="8c1d", namespace="team-a", account="calltune-runner", run_id="run-7")
WORKERS = {
    "nodes": 2,
    "image": "registry.example.com/calltune-python-train@sha256:abc",
    "gpus": 8,
    "resources": {"cpu": "32", "memory": "512Gi", "nvidia.com/gpu": "8"},
    "timeout_s": 604_800,
    "shared_memory": "128Gi",
    "scratch": "300Gi",
    "storage_class": "fast",
    "place": "/models",
    "node_selector": {"gpu": "h200"},
    "node_affinity": [{"key": "zone", "operator": "In", "values": ["a", "b"]}],
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "image_pull_secrets": ["mirror"],
    "env": {"CALLTUNE_STORAGE": "s3://models/calltune", "HOME": "/tmp"},
    "secrets": {"store-keys": {"id": "AWS_ACCESS_KEY_ID", "key": "AWS_SECRET_ACCESS_KEY"}},
}


def test_a_job_is_what_it_was():
    text = yaml.safe_dump(manifest(Workers(**WORKERS), "0123456789abcdef0123", OWNER), sort_keys=True, width=130)
    if os.environ.get("REGENERATE"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "REGENERATE=1 writes it again; read the difference"


@pytest.mark.parametrize(
    "changed", [{}, {"storage_class": "", "shared_memory": "", "gpus": 0, "tolerations": [], "node_affinity": []}]
)
def test_trainers_own_models_take_every_field(changed):
    job = manifest(Workers(**{**WORKERS, **changed}), "0123456789abcdef0123", OWNER)
    assert unknown_fields(job, TrainerV1alpha1TrainJob.from_dict(job).to_dict()) == ""


def test_without_gpus_each_node_has_one_process_and_no_shared_memory_of_its_own():
    job = manifest(Workers(**{**WORKERS, "gpus": 0, "shared_memory": "", "storage_class": ""}), "k", OWNER)
    assert job["spec"]["trainer"]["numProcPerNode"] == 1
    (patch,) = job["spec"]["runtimePatches"]
    pod = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "tmp", "emptyDir": {}}, {"name": "models", "emptyDir": {"sizeLimit": "300Gi"}}]


def test_one_node_is_no_job():
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        Workers(**{**WORKERS, "nodes": 1})
