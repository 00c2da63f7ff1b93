"""The chart as Helm's own code (its Go SDK, inside the PyPI package helm-python-sdk) renders it."""

from pathlib import Path

import helm_python as helm
import pytest
import yaml

from tests.charts.policy import pod_specs

CHART = Path(__file__).parents[2] / "charts" / "calltune"
VALUES = sorted((Path(__file__).parent / "values").glob("*.yaml"))


def rendered(values, namespace="ml"):
    """The manifests, in order of their templates; the values are first held against values.schema.json."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(chart.merge_values(values))
        texts = chart.render(values, name="calltune", namespace=namespace)
    documents = [yaml.load_all(text, Loader=yaml.CSafeLoader) for path, text in sorted(texts.items()) if path.endswith(".yaml")]
    return [document for file in documents for document in file if document]


def of_kind(manifests, kind, component=None):
    found = [document for document in manifests if document["kind"] == kind]
    label = "app.kubernetes.io/component"
    return [document for document in found if component in (None, document["metadata"]["labels"][label])]


def variables(manifests, kind, component):
    (spec,) = pod_specs(of_kind(manifests, kind, component)[0])
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in spec["containers"][0]["env"]}


@pytest.fixture(params=VALUES, ids=lambda path: path.stem, scope="session")
def values(request):
    return yaml.safe_load(request.param.read_text())


@pytest.fixture(scope="session")
def manifests(values):
    return rendered(values)
