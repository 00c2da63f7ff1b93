"""The pipeline as a package for Kubeflow Pipelines: YAML, the same bytes for the same config, and no credential in it."""

import hashlib
import re
from dataclasses import dataclass

import yaml

from calltune.credentials import secrets_in, without_passwords
from calltune.errors import ConfigError
from pipelines.cluster import Resources
from pipelines.config import RunConfig
from pipelines.placement import image_of

MAX_BYTES = 200_000
"""KFP keeps a package in its database and in each workflow, and etcd refuses an object above 1.5 MB."""


@dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Attributes:
        name: of the pipeline in KFP.
        text: its two YAML documents, the pipeline and its Kubernetes part.
    """

    name: str
    text: str

    @property
    def version(self) -> str:
        """Name of the pipeline version: the same for the same bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def pipeline_name(config: RunConfig) -> str:
    """Name of the pipeline in KFP: one for each registered model."""
    return f"calltune-{config.name}"


def package(config: RunConfig) -> Package:
    """Compile the pipeline of a config.

    Raises:
        ConfigError: a credential would get into it, it is too large for KFP, or evaluation with vLLM would have no GPU.
    """
    from google.protobuf.json_format import MessageToDict

    from pipelines.finetune import STEPS, build

    if config.evaluate.engine == "vllm" and not config.resources.get("evaluate", Resources()).gpu:
        raise ConfigError(
            "evaluate.engine: vllm needs a GPU on the cluster: set resources.evaluate.gpu to 1, or the engine to hf"
        )
    # Before the seconds of compiling; and after it, for what came by another way.
    _refuse_credentials(config.model_dump_json())
    code = {step: image_of(config, step) for step in STEPS}
    # What KFP has kept of the base model's evaluation without a GPU compares with no evaluation on one.
    if config.resources.get("evaluate", Resources()).gpu:
        code["evaluate"] += " on a GPU"
    made = build(config, code)
    # What kfp's compiler writes, without its comments, in which the settings have another order in each process; and without
    # the seconds that PyYAML takes to write it and to read it.
    documents = [MessageToDict(made.pipeline_spec), MessageToDict(made.platform_spec)]
    body = yaml.safe_dump_all(documents, sort_keys=True, width=130, allow_unicode=True)
    text = f"# The pipeline that fine-tunes and promotes {config.name}; written by `calltune compile`.\n{body}"
    _refuse_credentials(text)
    if len(text.encode()) > MAX_BYTES:
        raise ConfigError(
            f"the package has {len(text.encode()):,} bytes, and at most {MAX_BYTES:,} are safe in KFP: shorten the config"
        )
    return Package(pipeline_name(config), text)


def _refuse_credentials(text: str) -> None:
    """Whoever may see a run in KFP's UI may read its package."""
    address = re.search(r"[a-z][a-z0-9+.-]*://[^/\s'\"@]+@[^/\s'\"]*", text)
    if address:
        shown = without_passwords(address[0])
        raise ConfigError(
            f"{shown}: an address with credentials would be readable in KFP: name a secret with them in cluster.secrets instead"
        )
    for name, _ in secrets_in(text):
        raise ConfigError(f"the config holds the value of {name}, readable in KFP: name a secret in cluster.secrets instead")
