"""The package for Kubeflow Pipelines: what every task gets from Kubernetes, the same bytes each time, no credential in it."""

import hashlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.compiler import Compiler
from kfp.pipeline_spec import pipeline_spec_pb2

from calltune.credentials import NOTIFY_VARIABLES, SECRET_VARIABLES
from calltune.errors import ConfigError
from components.train.trainjob import POD, WORKERS, Workers
from pipelines.config import load
from pipelines.finetune import STEPS, build
from pipelines.package import MAX_BYTES, package
from pipelines.placement import scratch_gib

REPO = Path(__file__).parents[2]
RECIPES = sorted((REPO / "pipelines" / "recipes").rglob("*.yaml"))
RECIPE = REPO / "pipelines" / "recipes" / "helpdesk.yaml"
GOLDEN = REPO / "tests" / "golden" / "package"
CLUSTER = (
    "storage={uri: 's3://models/calltune', endpoint_url: 'http://seaweedfs:8333'}",
    "tracking.uri=http://mlflow:5000",
    "cluster={namespace: team-a, image_pull_secrets: [mirror]}",
    "cluster.secrets={store-keys: {id: AWS_ACCESS_KEY_ID, key: AWS_SECRET_ACCESS_KEY}}",
)
PLACES = {
    "0gpu": ("resources={}",),
    "1gpu": (
        "resources={train: {gpu: 1, memory_gib: 16}, evaluate: {gpu: 1, gpu_type: nvidia.com/mig-3g.40gb, memory_gib: 16}}",
    ),
    "8gpu": (
        "resources={train: {gpu: 8, cpu: 32, memory_gib: 512, scratch_gib: 300, timeout_s: 604800, node_selector: {gpu: h200}, "
        "node_affinity: [{key: zone, values: [a, b]}, {key: spot, operator: DoesNotExist}], "
        "tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]}, evaluate: {gpu: 1, memory_gib: 64}}",
        "cluster.storage_class=fast",
    ),
    "2nodes": (
        "resources={train: {nodes: 2, gpu: 8, cpu: 32, memory_gib: 512, scratch_gib: 300, node_selector: {gpu: h200}, "
        "node_affinity: [{key: zone, values: [a, b]}, {key: spot, operator: DoesNotExist}], "
        "tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]}, evaluate: {gpu: 1, memory_gib: 64}}",
        "cluster.service_account=runner",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def canaries():
    """Every compilation here happens where the variables that steps get from secrets have values."""
    with pytest.MonkeyPatch.context() as patch:
        for number, name in enumerate(SECRET_VARIABLES):
            patch.setenv(name, f"canary-{number:03}")
        yield


@cache
def _compiled(recipe, overrides):
    return package(load(recipe, [*CLUSTER, *overrides]))


def compiled(*overrides, recipe=RECIPE):
    return _compiled(recipe, overrides)


def documents(text):
    pipeline, platform = yaml.load_all(text, Loader=yaml.CSafeLoader)
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_here_the_evaluations_wait_for_export_and_on_a_cluster_they_do_not(tmp_path):
    config = load(RECIPE, CLUSTER)
    waiting = {}
    for on_cluster in (True, False):
        Compiler().compile(build(config, dict.fromkeys(STEPS, "code"), on_cluster), str(tmp_path / "pipeline.yaml"))
        pipeline, *_ = yaml.load_all((tmp_path / "pipeline.yaml").read_text(), Loader=yaml.CSafeLoader)
        dags = [part["dag"]["tasks"] for part in pipeline["components"].values() if "dag" in part]
        (tasks,) = (dag for dag in dags if "evaluate" in dag)
        waiting[on_cluster] = {
            task["inputs"]["parameters"]["which"]["runtimeValue"]["constant"]
            for name, task in tasks.items()
            if name.startswith("evaluate") and "export" in task["dependentTasks"]
        }
    assert waiting == {True: {"candidate"}, False: {"base", "candidate", "champion"}}


def shape(text):
    """The package without what is a recipe's own (its name, the steps' settings), each executor's embedded source, and the
    library's version."""
    pipeline, executors = documents(text)
    for parameter in pipeline["root"]["inputDefinitions"]["parameters"].values():
        assert parameter.pop("defaultValue")
    for executor in pipeline["deploymentSpec"]["executors"].values():
        del executor["container"]["command"], executor["container"]["args"]
    del pipeline["sdkVersion"], pipeline["pipelineInfo"]["description"]
    return yaml.dump_all([pipeline, executors], Dumper=yaml.CSafeDumper, sort_keys=True, width=130)


def unsized(text):
    """The shape without the room for models, which is larger where the base model is."""
    return re.sub(r"(size(Limit)?): '?\d+Gi'?", r"\1: …", shape(text))


@pytest.mark.parametrize("place", PLACES)
def test_a_package_is_what_it_was(place):
    golden, text = GOLDEN / f"helpdesk-{place}.yaml", shape(compiled(*PLACES[place]).text)
    if os.environ.get("REGENERATE"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), "REGENERATE=1 writes it again; read the difference"


@pytest.mark.parametrize("place", PLACES)
def test_every_recipe_is_that_package_with_its_own_settings_and_kfp_takes_it(place):
    expected = unsized(compiled(*PLACES[place]).text)
    for recipe in RECIPES:
        made = compiled(*PLACES[place], recipe=recipe)
        assert len(made.text.encode()) < MAX_BYTES
        assert unsized(made.text) == expected, recipe.stem
        pipeline, platform = yaml.load_all(made.text, Loader=yaml.CSafeLoader)
        spec = json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
        parameters = spec.root.input_definitions.parameters
        assert parameters["look_config"].default_value.struct_value["name"] == load(recipe).name


AGAIN = """
import hashlib, json, sys
from pipelines.config import load
from pipelines.finetune import STEPS, build
from pipelines.package import package
for recipe, overrides in json.load(sys.stdin):
    print(hashlib.sha256(package(load(recipe, overrides)).text.encode()).hexdigest())
"""


def test_the_bytes_are_the_same_in_every_process():
    cases = [*((recipe, "0gpu") for recipe in RECIPES), *((RECIPE, place) for place in PLACES)]
    asked = json.dumps([[str(recipe), [*CLUSTER, *PLACES[place]]] for recipe, place in cases])
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", AGAIN], input=asked, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    here = [compiled(*PLACES[place], recipe=recipe) for recipe, place in cases]
    assert done.stdout.split() == [hashlib.sha256(made.text.encode()).hexdigest() for made in here]


def test_every_step_gets_its_place():
    pipeline, executors = documents(compiled(*PLACES["8gpu"]).text)
    train = pipeline["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert train["resources"]["accelerator"]["resourceCount"] == "8"
    assert {row["name"]: row["value"] for row in train["env"]}.items() >= {
        "CALLTUNE_STORAGE": "s3://models/calltune",
        "CALLTUNE_TRACKING": "http://mlflow:5000",
        "AWS_ENDPOINT_URL_S3": "http://seaweedfs:8333",
        "CALLTUNE_CACHE": "/models",
    }.items()
    mounted = {row["mountPath"]: row for row in executors["exec-train"]["emptyDirMounts"]}
    assert mounted["/dev/shm"] == {"mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "128Gi", "volumeName": "shm"}
    assert executors["exec-train"]["genericEphemeralVolume"][0]["size"] == "300Gi"
    for name, executor in executors.items():
        assert executor["fieldPathAsEnv"] == [{"fieldPath": "metadata.labels['pipeline/runid']", "name": "CALLTUNE_RUN_ID"}]
        assert any(mount["mountPath"] == "/tmp" for mount in executor["emptyDirMounts"]), name
        assert executor["secretAsEnv"][0]["secretName"] == "store-keys"
        assert executor["imagePullSecret"][0]["secretName"] == "mirror"


def test_on_several_nodes_the_workers_get_what_the_step_would_have_and_the_step_follows():
    two, one = PLACES["2nodes"], (PLACES["2nodes"][0].replace("nodes: 2", "nodes: 1"), PLACES["2nodes"][1])
    (several, followed), (alone, there) = (documents(compiled(*overrides).text) for overrides in (two, one))
    step, by_itself = (pipeline["deploymentSpec"]["executors"]["exec-train"]["container"] for pipeline in (several, alone))
    assert "accelerator" not in step["resources"] and step["resources"]["resourceMemoryLimit"] == "4Gi"
    assert not {"nodeSelector", "nodeAffinity", "tolerations"} & set(followed["exec-train"])
    env = {row["name"]: row["value"] for row in step["env"]}
    workers = Workers.model_validate_json(env.pop(WORKERS))
    assert workers.env == env == {row["name"]: row["value"] for row in by_itself["env"]}
    assert workers.secrets == {"store-keys": {"id": "AWS_ACCESS_KEY_ID", "key": "AWS_SECRET_ACCESS_KEY"}}
    assert (workers.nodes, workers.gpus, workers.image) == (2, 8, by_itself["image"])
    assert workers.resources == {"cpu": "32", "memory": "512Gi", "nvidia.com/gpu": "8"}
    assert workers.node_selector == there["exec-train"]["nodeSelector"]["nodeSelectorJson"]["runtimeValue"]["constant"]
    (together,) = there["exec-train"]["nodeAffinity"]  # of several terms Kubernetes would take one
    assert together["matchExpressions"] == [
        {"key": "zone", "operator": "In", "values": ["a", "b"]},
        {"key": "spot", "operator": "DoesNotExist"},
    ]
    assert workers.node_affinity == [{"values": []} | label for label in together["matchExpressions"]]
    (tolerated,) = workers.tolerations
    assert tolerated == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    mounted = {row["mountPath"]: row for row in there["exec-train"]["emptyDirMounts"]}
    assert (workers.shared_memory, workers.scratch) == (mounted["/dev/shm"]["sizeLimit"], mounted["/models"]["sizeLimit"])
    told = {row["name"]: row["fieldPath"] for row in followed["exec-train"]["fieldPathAsEnv"]}
    assert told.items() >= {POD["uid"]: "metadata.uid", POD["account"]: "spec.serviceAccountName"}.items()
    others = {name for name, executor in followed.items() if len(executor["fieldPathAsEnv"]) > 1}
    assert others == {"exec-train"}


def test_only_steps_that_can_go_on_are_retried_and_only_what_may_be_cached_is():
    pipeline, _ = documents(compiled(*PLACES["0gpu"]).text)
    tasks = {**pipeline["root"]["dag"]["tasks"]}
    for component in pipeline["components"].values():
        tasks |= component.get("dag", {}).get("tasks", {})
    steps = {name: task for name, task in tasks.items() if "exit-handler" not in name and not name.startswith("condition")}
    retried = {name for name, task in steps.items() if "retryPolicy" in task}
    assert retried == {"look", "train", "export", "evaluate", "evaluate-2", "evaluate-3", "promote"}
    cached = {name for name, task in steps.items() if task["cachingOptions"].get("enableCache")}
    assert steps.keys() - cached == {"look", "due", "promote", "report", "notify"}


def test_no_value_of_a_secret_gets_into_a_package():
    assert "canary" not in compiled(*PLACES["8gpu"]).text
    assert "AWS_SECRET_ACCESS_KEY" in compiled(*PLACES["8gpu"]).text
    with pytest.raises(ConfigError, match="the value of AWS_SECRET_ACCESS_KEY, readable in KFP: name a secret"):
        compiled("ingest.source=s3://bucket/canary-001/rows.jsonl")
    with pytest.raises(ConfigError, match=r"set MLFLOW_TRACKING_USERNAME .* by cluster\.secrets, not 'http://…@mlflow:5000'$"):
        compiled("tracking.uri=http://admin:pass@mlflow:5000")


def test_who_one_is_may_be_called_as_a_word_of_the_package(monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "AWS_ACCESS_KEY_ID"):
        monkeypatch.setenv(name, "calltune")
    assert package(load(RECIPE, [*CLUSTER, *PLACES["0gpu"]])).text == compiled(*PLACES["0gpu"]).text


def test_only_notify_gets_what_notify_alone_needs():
    keys = ", ".join(f"key-{number}: {name}" for number, name in enumerate(NOTIFY_VARIABLES))
    both = "store-keys: {id: AWS_ACCESS_KEY_ID, key: AWS_SECRET_ACCESS_KEY, hook: CALLTUNE_WEBHOOK_URL}"
    _, executors = documents(compiled(f"cluster.secrets={{calltune-notify: {{{keys}}}, {both}}}", *PLACES["0gpu"]).text)
    got = {
        name: {key["envVar"] for secret in executor["secretAsEnv"] for key in secret["keyToEnv"]}
        for name, executor in executors.items()
    }
    store = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert got.pop("exec-notify") == {*store, *NOTIFY_VARIABLES}
    assert set(map(frozenset, got.values())) == {frozenset(store)}


def test_only_promote_gets_the_token_that_writes_to_the_hub():
    secrets = "cluster.secrets={hub: {write: CALLTUNE_HUB_TOKEN, read: HF_TOKEN}}"
    text = compiled(secrets, "promote.push.repo=acme/helpdesk", *PLACES["0gpu"]).text
    _, executors = documents(text)
    got = {
        name: {key["envVar"] for secret in executor["secretAsEnv"] for key in secret["keyToEnv"]}
        for name, executor in executors.items()
    }
    assert got.pop("exec-promote") == {"CALLTUNE_HUB_TOKEN", "HF_TOKEN"}
    assert set(map(frozenset, got.values())) == {frozenset({"HF_TOKEN"})}
    assert "acme/helpdesk" in text


def test_only_evaluate_gets_the_judges_token():
    _, executors = documents(compiled("cluster.secrets={judge: {key: CALLTUNE_JUDGE_TOKEN}}", *PLACES["0gpu"]).text)
    with_token = {name for name, executor in executors.items() if "CALLTUNE_JUDGE_TOKEN" in json.dumps(executor)}
    assert with_token == {"exec-evaluate", "exec-evaluate-2", "exec-evaluate-3"}


def test_images_come_from_the_registry_and_by_digest_the_cache_knows_a_new_one():
    digest = f"calltune-python-train@sha256:{'0' * 64}"
    pipeline, _ = documents(compiled(f"images={{registry: 'registry.example.com:5000/ml', train: '{digest}'}}").text)
    cpu, train = "registry.example.com:5000/ml/calltune-python-cpu:0.1.0", f"registry.example.com:5000/ml/{digest}"
    executors = pipeline["deploymentSpec"]["executors"]
    of_torch = {name for name, executor in executors.items() if executor["container"]["image"] == train}
    assert {name.split("-")[1] for name in of_torch} == {"train", "export", "evaluate"}
    assert {executor["container"]["image"] for executor in executors.values()} == {cpu, train}
    code = codes(pipeline)
    assert code["train"] == {"runtimeValue": {"constant": train}} and code["gate"] == {"runtimeValue": {"constant": cpu}}


def codes(pipeline):
    """What the cache keys say of each step's code."""
    condition = next(part for name, part in pipeline["components"].items() if name.startswith("comp-condition"))
    return {name: task["inputs"]["parameters"]["code"] for name, task in condition["dag"]["tasks"].items()}


def test_the_cache_keeps_what_was_measured_on_a_gpu_apart():
    without, with_one = (codes(documents(compiled(*PLACES[place]).text)[0]) for place in ("0gpu", "1gpu"))
    assert {name for name in without if without[name] != with_one[name]} == {"evaluate", "evaluate-2", "evaluate-3"}
    assert with_one["evaluate"]["runtimeValue"]["constant"].endswith(" on a GPU")


def test_with_vllm_evaluate_has_an_image_of_its_own_and_must_have_a_gpu():
    engine = "evaluate.engine=vllm"
    with pytest.raises(
        ConfigError, match=r"evaluate\.engine: vllm needs a GPU on the cluster: set resources\.evaluate\.gpu to 1"
    ):
        compiled(engine, *PLACES["0gpu"])
    pipeline, _ = documents(compiled(engine, *PLACES["1gpu"]).text)
    executors = pipeline["deploymentSpec"]["executors"]
    image = {name.split("-")[1]: executor["container"]["image"] for name, executor in executors.items()}
    assert (
        image["evaluate"] == "calltune-python-vllm:0.1.0" and image["train"] == image["export"] == "calltune-python-train:0.1.0"
    )
    assert [name for name, used in image.items() if used == image["evaluate"]] == ["evaluate"]
    of_base = [executor for name, executor in executors.items() if name.startswith("exec-evaluate")]
    assert len(of_base) == 3 and {one["container"]["image"] for one in of_base} == {image["evaluate"]}, "asked by the same engine"
    other = documents(compiled("evaluate.engine=auto", *PLACES["1gpu"]).text)[0]["deploymentSpec"]["executors"]
    assert "calltune-python-vllm:0.1.0" not in {one["container"]["image"] for one in other.values()}


@pytest.mark.parametrize(
    ("base", "gib"),
    [("bundled:smollm2-135m", 12), ("meta-llama/Llama-3.1-8B", 100), ("Qwen/Qwen3-0.6B", 17), ("some/model", 100)],
)
def test_scratch_is_as_large_as_the_models_name_says(base, gib):
    assert scratch_gib(load(RECIPE, [f"model={{base: '{base}'}}"])) == gib


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resources.train={tolerations: [{keyy: a}]}", "tolerations"),
        ("resources.train={node_affinity: [{key: zone}]}", r"node_affinity\.0: operator In takes one value or more, not \[\]"),
        ("resources.train={node_affinity: [{key: gpus, operator: Gt, values: [four]}]}", "a whole number in quotes"),
        ("resources.train={node_affinity: [{key: spot, operator: DoesNotExist, values: [a]}]}", "takes no values"),
        ("resources.evaluate={nodes: 2}", r"resources.evaluate.nodes is 2: train is the only step"),
        ("resources.train={nodes: 0}", "nodes: must be at least 1"),
        ("resources.train={gpu_type: gpu}", "resource name such as nvidia.com/gpu"),
        ("cluster.secrets={store: {key: my-key}}", "environment variable, in capitals"),
        ("cluster.timezone=Berlin", "no time zone"),
        ("cluster.host=kfp.example", "begins with http"),
        ("images.cpu=calltune-python-cpu", "its tag or its digest"),
        ("images.registry=https://registry.example.com", "without https://"),
    ],
)
def test_a_wrong_cluster_setting_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load(RECIPE, [override])
