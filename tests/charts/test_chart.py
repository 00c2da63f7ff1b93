"""The chart under five value files: what Helm says of it, what Kubernetes takes, and what we ask of its pods."""

import copy
import re
import subprocess
import sys

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from pipelines.cluster import ClusterConfig
from tests.charts.conftest import CHART, VALUES, of_kind, rendered, variables
from tests.charts.policy import pod_specs, violations

VERSIONS = ("1.29", "1.33", kubernetes_validate.latest_version())
OF_OPERATORS = {"ExternalSecret", "ServiceMonitor"}
"""Kinds that Kubernetes itself does not know, so that there is no schema to hold them against."""


def test_helm_lint_finds_nothing(values):
    found = helm.lint(CHART, values, strict=True)
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_manifest_strictly(manifests, version):
    for document in manifests:
        if document["kind"] not in OF_OPERATORS:
            kubernetes_validate.validate(document, version, strict=True)


def test_strict_validation_refuses_a_misspelt_field(manifests):
    broken = copy.deepcopy(of_kind(manifests, "Role")[0])
    broken["rule"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="rule"):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def test_every_pod_keeps_to_the_policy(manifests):
    assert [text for document in manifests for text in violations(document)] == []
    assert sum(len(list(pod_specs(document))) for document in manifests) >= 3


BREAKS = {
    "may run as root": lambda pod, container: pod["securityContext"].update(runAsUser=0),
    "may run as root: runAsNonRoot": lambda pod, container: pod["securityContext"].pop("runAsNonRoot"),
    "no seccomp": lambda pod, container: pod["securityContext"].pop("seccompProfile"),
    "may gain privileges": lambda pod, container: container["securityContext"].pop("allowPrivilegeEscalation"),
    "keeps capabilities": lambda pod, container: container["securityContext"]["capabilities"].update(add=["NET_RAW"]),
    "can write its image": lambda pod, container: container["securityContext"].update(readOnlyRootFilesystem=False),
    "no limits of memory": lambda pod, container: container["resources"]["limits"].pop("memory"),
    "token that it does not use": lambda pod, container: pod.pop("automountServiceAccountToken"),
    "changes under its name": lambda pod, container: container.update(image="registry:5000/calltune-python-cpu"),
    "changes under its name: x:latest": lambda pod, container: container.update(image="registry:5000/x:latest"),
    "may fill the node": lambda pod, container: pod["volumes"].append({"name": "big", "emptyDir": {}}),
    "does not allow": lambda pod, container: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    "uses hostNetwork": lambda pod, container: pod.update(hostNetwork=True),
}


@pytest.mark.parametrize("text", BREAKS)
def test_the_policy_sees(text):
    job = copy.deepcopy(of_kind(rendered({}), "Job")[0])
    (spec,) = pod_specs(job)
    BREAKS[text](spec, spec["containers"][0])
    assert any(text in found for found in violations(job))


WRONG = {
    "an unknown key": ({"mlfow": {}}, "mlfow"),
    "a registry with its scheme": ({"images": {"registry": "https://registry.example.com/calltune"}}, "registry"),
    "the tag latest": ({"images": {"cpu": {"tag": "latest"}}}, "tag"),
    "MLflow without users or mesh": ({"mlflow": {"auth": {"mode": "none"}}}, "mode"),
    "users without a secret": ({"mlflow": {"auth": {"secretName": ""}}}, "secretName"),
    "two writers of one SQLite file": ({"mlflow": {"replicas": 2}}, "replicas"),
    "Postgres without its address": ({"mlflow": {"backend": "postgres"}}, "secretName"),
    "a trial's store beside another": (
        {"seaweedfs": {"enabled": True}, "store": {"endpointUrl": "http://s3:9000"}},
        "endpointUrl",
    ),
    "a bucket that S3 refuses": ({"store": {"bucket": "Models_1"}}, "bucket"),
    "a watch of nothing": ({"watch": {"enabled": True}}, "config"),
    "six fields of cron": ({"watch": {"schedule": "0 0 3 * * 1"}}, "schedule"),
    "words that are no cron": ({"watch": {"schedule": "every half an hour please"}}, "schedule"),
    "a word of no cron's": ({"watch": {"schedule": "@often"}}, "schedule"),
    "KFP without a scheme": ({"watch": {"kfpHost": "ml-pipeline:8888"}}, "kfpHost"),
    "external secrets from nowhere": ({"externalSecrets": {"enabled": True}}, "storeName"),
    "limits left out": ({"jobs": {"resources": {"limits": None}}}, "limits"),
    "every host": ({"mlflow": {"allowedHosts": ["*"]}}, "allowedHosts"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_schema_refuses(wrong):
    values, where = WRONG[wrong]
    with pytest.raises(helm.HelmError, match=where):
        rendered(values)


@pytest.mark.parametrize("schedule", ["*/30 * * * *", "0 3 1,15 * MON-FRI", "5-59/10 0-23 ? jan 0", "@hourly", "@every 1h30m"])
def test_the_schema_takes_what_kubernetes_takes_as_cron(schedule):
    rendered({"watch": {"schedule": schedule}})


def test_passwords_come_from_secrets_only(manifests):
    text = yaml.safe_dump_all(manifests)
    assert not of_kind(manifests, "Secret")
    assert not re.search(r"(?i)(password|secret_access_key|secret_key)\W+value:", text)
    for name, value in variables(manifests, "Deployment", "mlflow").items():
        if re.search("PASSWORD|KEY", name):
            assert set(value) == {"secretKeyRef"}, name


def test_mlflow_is_never_open():
    open_to_all = {"podSelector": {}}
    basic, mesh = (rendered(yaml.safe_load((VALUES[0].parent / f"{name}.yaml").read_text())) for name in ("default", "mesh"))
    assert variables(basic, "Deployment", "mlflow")["MLFLOW_AUTH_MODE"] == "basic"
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in variables(basic, "Deployment", "mlflow")
    (policy,) = [document for document in of_kind(mesh, "NetworkPolicy") if document["metadata"]["name"].endswith("to-mlflow")]
    (rule,) = policy["spec"]["ingress"]
    assert open_to_all not in rule["from"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "istio-system"}}} in rule["from"]


def test_no_pod_gets_a_meshs_proxy_but_where_the_mesh_authenticates():
    """A Profile's namespace has it put into every pod, and a job with one does not end."""

    def without(given):
        pods = [document for document in rendered(given) if list(pod_specs(document))]
        templates = [
            (document, document["spec"].get("jobTemplate", document)["spec"].get("template", document)) for document in pods
        ]
        off = {"sidecar.istio.io/inject": "false"}.items()
        return {
            document["metadata"]["labels"]["app.kubernetes.io/component"]
            for document, template in templates
            if off <= template["metadata"]["labels"].items()
        }

    every = {"init", "mlflow", "seaweedfs", "test", "watch"}
    given = {"watch": {"enabled": True, "config": "name: x"}, "seaweedfs": {"enabled": True}}
    assert without(given) == every
    assert without({**given, "mlflow": {"auth": {"mode": "mesh"}}}) == every - {"mlflow", "test"}


def test_images_come_from_the_mirror_and_a_digest_wins():
    airgapped, production = (
        rendered(yaml.safe_load((VALUES[0].parent / f"{name}.yaml").read_text())) for name in ("airgapped", "production")
    )
    images = {c["image"] for document in airgapped for spec in pod_specs(document) for c in spec["containers"]}
    assert all(image.startswith("registry.example.com:5000/mirror/calltune-python-") for image in images)
    (spec,) = pod_specs(of_kind(production, "Job")[0])
    assert "@sha256:" in spec["containers"][0]["image"] and ":0.1.0" not in spec["containers"][0]["image"]


def test_the_chart_names_the_images_that_the_pipeline_names():
    from components import images

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert f"{values['images']['cpu']['repository']}:{values['images']['cpu']['tag']}" == images.CPU


def test_a_store_on_another_port_is_let_out():
    manifests = rendered({"store": {"endpointUrl": "http://minio.storage:9000"}})
    (policy,) = [document for document in of_kind(manifests, "NetworkPolicy") if document["metadata"]["name"].endswith("-out")]
    assert {"port": 9000, "protocol": "TCP"} in policy["spec"]["egress"][0]["ports"]


def test_s3_and_postgres_are_let_out_to_as_pods_too():
    """By addresses a plug-in such as Cilium knows what is outside of the cluster, and no pod."""

    def to_pods(given, name):
        (policy,) = [one for one in of_kind(rendered(given), "NetworkPolicy") if one["metadata"]["name"].endswith(name)]
        rules = [rule for rule in policy["spec"]["egress"] if {"namespaceSelector": {}} in rule["to"]]
        return [port["port"] for rule in rules for port in rule["ports"]]

    assert to_pods({}, "-out") == []  # AWS's
    behind_a_service = {"store": {"endpointUrl": "http://minio.storage"}, "networkPolicy": {"egressPorts": [9000]}}
    assert to_pods(behind_a_service, "-out") == [9000, 80]
    assert to_pods({"mlflow": {"backend": "postgres", "postgres": {"secretName": "p"}}}, "-to-postgres") == [5432]


def test_the_runner_may_only_what_its_settings_need():
    least, training = (of_kind(rendered({"runner": {"trainJobs": on}}), "Role", "runner")[0] for on in (False, True))
    for role in (least, training):
        assert not any("*" in rule["verbs"] + rule["resources"] + rule["apiGroups"] for rule in role["rules"])
        assert all(rule.get("resourceNames") for rule in role["rules"] if "secrets" in rule["resources"])
    assert not any("trainjobs" in rule["resources"] for rule in least["rules"])
    more = {resource: rule["verbs"] for rule in training["rules"] if rule not in least["rules"] for resource in rule["resources"]}
    assert more == {"trainjobs": ["create", "get", "delete"], "pods": ["get", "list"], "pods/log": ["get"]}


def test_the_workers_of_a_job_reach_each_other_and_no_policy_of_the_release_shuts_them_in():
    from components.train.trainjob import Pod, Workers, manifest
    from tests.components.train.test_trainjob import WORKERS

    owner = Pod(name="p", uid="u", namespace="ml", account="calltune-runner", run_id="r")
    (patch,) = manifest(Workers(**WORKERS), "k", owner)["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    labels = job["template"]["spec"]["template"]["metadata"]["labels"]

    def selects(selector):
        return selector.get("matchLabels", {}).items() <= labels.items() and not selector.get("matchExpressions")

    policies = of_kind(rendered({"runner": {"trainJobs": True}}), "NetworkPolicy")
    (policy,) = [policy for policy in policies if selects(policy["spec"]["podSelector"])]
    ((peer,),) = [rule["from"] for rule in policy["spec"]["ingress"]]
    assert selects(peer["podSelector"]) and policy["spec"]["policyTypes"] == ["Ingress"]
    assert not [policy for policy in of_kind(rendered({}), "NetworkPolicy") if selects(policy["spec"]["podSelector"])]


def test_the_watch_looks_once_with_a_token_for_kfp_alone_and_reaches_it():
    from pipelines.cli import app
    from pipelines.config import RunConfig
    from pipelines.endpoint import TOKEN_FILE

    manifests = rendered(yaml.safe_load((VALUES[0].parent / "mesh.yaml").read_text()))
    (job,) = of_kind(manifests, "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    (spec,) = pod_specs(job)
    (container,) = spec["containers"]
    known = {option for one in get_command(app).commands["watch"].params for option in one.opts}
    calltune, command, *options = container["command"]
    assert (calltune, command) == ("calltune", "watch") and {"--once", "--namespace=ml"} <= set(options)
    assert {option.split("=")[0] for option in options} <= known
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "token"]
    (source,) = volume["projected"]["sources"]
    (mount,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "token"]
    assert f"{mount}/{source['serviceAccountToken']['path']}" == TOKEN_FILE
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
    (config,) = of_kind(manifests, "ConfigMap", "watch")
    assert RunConfig.model_validate(yaml.safe_load(config["data"]["config.yaml"])).ingest.source == "s3://calltune/rows"
    (role,) = of_kind(manifests, "Role", "watch")
    (account,) = [rule for rule in role["rules"] if rule["apiGroups"] != ["pipelines.kubeflow.org"]]
    submitted = RunConfig.model_validate(yaml.safe_load(config["data"]["config.yaml"])).cluster.service_account
    assert (account["resources"], account["resourceNames"], account["verbs"]) == (["serviceaccounts"], [submitted], ["use"])
    (policy,) = [one for one in of_kind(manifests, "NetworkPolicy") if one["metadata"]["name"].endswith("watch-to-kfp")]
    assert all({"port": 8888, "protocol": "TCP"} in rule["ports"] for rule in policy["spec"]["egress"])
    assert not of_kind(rendered({}), "CronJob"), "nobody has asked for it"


def init_bucket(environment, bucket):
    script = [sys.executable, str(CHART / "files" / "init_bucket.py"), bucket]
    return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120)


def test_the_init_job_makes_the_bucket_once(server):
    first, second = (init_bucket({**server, "PATH": ""}, "made-by-the-job") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stdout + first.stderr
    assert "bucket made-by-the-job: made" in first.stdout
    assert "is there" in second.stdout and "conditional writes work" in second.stdout


def test_the_init_job_says_which_values_are_wrong(server):
    refused = init_bucket({**server, "PATH": "", "AWS_SECRET_ACCESS_KEY": "wrong"}, "made-by-the-job")
    assert refused.returncode == 1
    assert "store.secretName" in refused.stdout and refused.stderr == ""


@pytest.mark.parametrize("given", [{}, {"store": {"secretName": ""}, "mlflow": {"auth": {"mode": "mesh"}}}])
def test_the_config_in_the_notes_is_one_that_a_run_takes(given):
    with helm.Chart.load(CHART) as chart:
        notes = chart.render(given, name="calltune", namespace="ml")["calltune/templates/NOTES.txt"]
    shown = yaml.safe_load(notes.split("In a run's config:\n\n")[1].split("\n\n")[0])
    assert ("secrets" in shown["cluster"]) == (given == {})
    # The policy of a mesh's MLflow lets no step in that comes straight: KFP starts steps without a proxy.
    assert shown["tracking"]["uri"] == ("http://calltune-mlflow:5000" if given == {} else "https://mlflow.example.com")
    ClusterConfig.model_validate(shown["cluster"])


def test_the_notes_name_the_image_by_the_digest_that_the_chart_has():
    from pipelines.cluster import ImagesConfig

    given = yaml.safe_load((VALUES[0].parent / "production.yaml").read_text())
    with helm.Chart.load(CHART) as chart:
        notes = chart.render(given, name="calltune", namespace="ml")["calltune/templates/NOTES.txt"]
    shown = ImagesConfig.model_validate(yaml.safe_load(notes.split("In a run's config:\n\n")[1].split("\n\n")[0])["images"])
    (spec,) = pod_specs(of_kind(rendered(given), "Job")[0])
    assert shown.of("cpu") == spec["containers"][0]["image"]
