"""A stand-in for Kubeflow Pipelines' v2beta1 REST API, and for the corner of the Kubernetes API that the preflight reads.

Every request's body is read into the model of `kfp-server-api` that the API's own description names, and every answer is
written from one: a field that a model does not know, or a value that it refuses, is a 400, as with the real server. Packages are
read by KFP's own schema. No run is executed: a test says how it ends.
"""

import base64
import json
import re
import uuid
from datetime import UTC, datetime
from email.parser import BytesParser

import kfp_server_api as api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests import http_double
from tests.http_double import Refused

CRON_FIELDS = 6
MODELS = {
    "experiments": api.V2beta1Experiment,
    "runs": api.V2beta1Run,
    "recurringruns": api.V2beta1RecurringRun,
    "pipelines": api.V2beta1Pipeline,
    "versions": api.V2beta1PipelineVersion,
}
FIELDS = {"recurringruns": "recurringRuns", "versions": "pipeline_versions"}
IDS = {"experiments": "experiment_id", "runs": "run_id", "recurringruns": "recurring_run_id", "pipelines": "pipeline_id"}


class Double:
    """The state of both APIs.

    Attributes:
        objects: kind → id → model.
        token: what a client must bring; empty for none.
        kube: path below /api/v1 → JSON, or a status to refuse with.
        calls: method and path of every request.
    """

    def __init__(self, multi_user=False, token=""):
        self.objects = {kind: {} for kind in MODELS}
        self.multi_user, self.token, self.kube, self.calls = multi_user, token, {}, []
        self.client = api.ApiClient()
        self.page_size = 50

    def read(self, model, data):
        """A body as its model; refuses what the model does not know or does not take."""
        unknown = set(data) - set(model.attribute_map.values())
        if unknown:
            raise Refused(400, f"unknown field {sorted(unknown)[0]!r} in {model.__name__}")
        try:
            read = self.client.deserialize(_Body(json.dumps(data)), model.__name__)
        except (ValueError, TypeError, AttributeError) as error:
            raise Refused(400, str(error)) from None
        for field, kind in model.openapi_types.items():
            nested, value = getattr(api, kind, None), getattr(read, field)
            if value is not None and hasattr(nested, "allowable_values") and value not in nested.allowable_values:
                raise Refused(400, f"{field}: {value!r} is none of {nested.allowable_values}")
        return read

    def handle(self, method, path, query, body):
        """The answer to a request: a model, a dict, or text."""
        match = re.fullmatch(r"/apis/v2beta1/(.*)", path)
        if match is None:
            return self.kubernetes(path)
        rest, _, verb = match[1].partition(":")
        parts = rest.split("/")
        if parts == ["healthz"]:
            return api.V2beta1GetHealthzResponse(multi_user=self.multi_user)
        if parts[0] == "pipelines" and parts[1:2] in (["upload"], ["upload_version"]):
            return self.upload(parts[1], query, body)
        if parts[0] == "pipelines" and parts[2:3] == ["versions"]:
            parts = ["versions", *parts[3:]]
        kind = parts[0]
        if kind not in MODELS:
            raise Refused(404, f"no such path: {path}")
        if len(parts) == 1:
            return self.create(kind, body) if method == "POST" else self.listing(kind, query)
        found = self.objects[kind].get(parts[1])
        if found is None:
            raise Refused(404, f"{kind} {parts[1]} not found")
        if method == "DELETE":
            del self.objects[kind][parts[1]]
            return {}
        if verb == "terminate":
            if found.finished_at is not None:
                raise Refused(400, f"run {parts[1]} has ended already")
            found.state = "CANCELING"  # until Argo has ended the workflow, which then is FAILED
            return {}
        if verb in ("enable", "disable"):
            found.mode = verb.upper()
            found.status = f"{verb.upper()}D"
            return {}
        return found

    def create(self, kind, body):
        """An object from a body."""
        made = self.read(MODELS[kind], json.loads(body))
        if kind == "experiments" and bool(made.namespace) != self.multi_user:
            raise Refused(400, "an experiment has a namespace in multi-user mode, and only there")
        if kind in ("runs", "recurringruns"):
            self.check_runnable(made)
        if kind == "recurringruns":
            cron = made.trigger.cron_schedule.cron
            if len(cron.split()) != CRON_FIELDS:
                raise Refused(400, f"cron {cron!r} has not six fields")
            made.status = "ENABLED" if made.mode == "ENABLE" else "DISABLED"
        if kind == "runs":
            made.state, made.run_details = "RUNNING", api.V2beta1RunDetails(task_details=[])
        setattr(made, IDS[kind], str(uuid.uuid4()))
        made.created_at = datetime.now(UTC)
        self.objects[kind][getattr(made, IDS[kind])] = made
        return made

    def check_runnable(self, run):
        """As the server: experiment and version exist, and every parameter is one of the pipeline's."""
        if run.experiment_id not in self.objects["experiments"]:
            raise Refused(400, f"experiment {run.experiment_id!r} does not exist")
        reference = run.pipeline_version_reference
        if reference is None or reference.pipeline_version_id not in self.objects["versions"]:
            raise Refused(400, "the pipeline version does not exist")
        spec = self.objects["versions"][reference.pipeline_version_id].pipeline_spec["pipeline_spec"]
        known = spec["root"]["inputDefinitions"]["parameters"]
        for name in (run.runtime_config.parameters if run.runtime_config else None) or {}:
            if name not in known:
                raise Refused(400, f"parameter {name!r} is not one of the pipeline's")

    def listing(self, kind, query):
        """One page of the objects that a query asks for."""
        found = list(self.objects[kind].values())
        for predicate in json.loads(query["filter"])["predicates"] if query.get("filter") else []:
            found = [item for item in found if getattr(item, predicate["key"]) == predicate["stringValue"]]
        if query.get("experiment_id"):
            found = [item for item in found if item.experiment_id == query["experiment_id"]]
        if query.get("sort_by") == "created_at desc":
            found = found[::-1]
        start, size = int(query.get("page_token") or 0), min(self.page_size, int(query.get("page_size") or 10))
        more = str(start + size) if start + size < len(found) else ""
        name = FIELDS.get(kind, kind)
        return {name: [self.plain(item) for item in found[start : start + size]], "next_page_token": more}

    def upload(self, what, query, body):
        """A package, read as KFP reads it."""
        pipeline, *_ = yaml.load_all(body, Loader=yaml.CSafeLoader)
        try:
            json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
        except json_format.ParseError as error:
            raise Refused(400, f"not a pipeline: {error}") from None
        if what == "upload":
            if any(item.display_name == query["name"] for item in self.objects["pipelines"].values()):
                raise Refused(409, f"there is a pipeline {query['name']!r} already")
            made = api.V2beta1Pipeline(str(uuid.uuid4()), display_name=query["name"], namespace=query.get("namespace"))
            self.objects["pipelines"][made.pipeline_id] = made
            # The server makes a first version of a new pipeline, with its name.
            self.version(made.pipeline_id, query["name"], pipeline)
            return made
        if query["pipelineid"] not in self.objects["pipelines"]:
            raise Refused(404, "no such pipeline")
        return self.version(query["pipelineid"], query["name"], pipeline)

    def version(self, pipeline_id, name, spec):
        """A version of a pipeline."""
        made = api.V2beta1PipelineVersion(
            pipeline_id, str(uuid.uuid4()), display_name=name, pipeline_spec={"pipeline_spec": spec}
        )
        self.objects["versions"][made.pipeline_version_id] = made
        return made

    def end(self, run_id, state):
        """Let a run end."""
        run = self.objects["runs"][run_id]
        run.state, run.finished_at = state, datetime.now(UTC)

    def kubernetes(self, path):
        """What the namespace has."""
        found = self.kube.get(path.removeprefix("/api/v1/"))
        if found is None:
            raise Refused(404, "not found")
        if isinstance(found, int):
            raise Refused(found, "forbidden")
        return found

    def plain(self, model):
        """A model as JSON."""
        return self.client.sanitize_for_serialization(model)


class _Body:
    def __init__(self, data):
        self.data = data


def secret(*keys):
    """A secret as Kubernetes has it."""
    return {"data": {key: base64.b64encode(b"never printed").decode() for key in keys}}


def serve(double):
    """Start the server on a free port; returns it and its address."""

    def answer(request):
        body = request.body
        if "multipart" in request.headers.get("Content-Type", ""):
            head = f"Content-Type: {request.headers['Content-Type']}\n\n".encode()
            body = BytesParser().parsebytes(head + body).get_payload()[0].get_payload(decode=True)
        double.calls.append(f"{request.method} {request.path}")
        if double.token and request.headers.get("Authorization") != f"Bearer {double.token}" and "/apis/" in request.path:
            raise Refused(401, "Unauthorized")
        made = double.handle(request.method, request.path, request.query, body)
        return made if isinstance(made, str) else double.plain(made)

    return http_double.serve(answer, lambda message: {"error": message, "message": message})
