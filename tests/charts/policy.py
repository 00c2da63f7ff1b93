"""What every pod of the chart must keep to: Pod Security's level `restricted`, and a few rules of our own beyond it."""

from collections.abc import Iterator
from typing import Any


def pod_specs(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pod spec in a manifest, wherever its kind keeps it."""
    spec = document.get("spec", {})
    match document["kind"]:
        case "Pod":
            yield spec
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            yield spec["template"]["spec"]
        case "CronJob":
            yield spec["jobTemplate"]["spec"]["template"]["spec"]


def violations(document: dict[str, Any]) -> list[str]:
    """What is wrong with the pods of a manifest, one sentence each; empty where nothing is."""
    return [f"{document['kind']} {document['metadata']['name']}: {text}" for spec in pod_specs(document) for text in _of(spec)]


def _of(spec: dict[str, Any]) -> Iterator[str]:
    of_pod = spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"uses {key}"
    if spec.get("automountServiceAccountToken") is not False:
        yield "mounts a service-account token that it does not use"
    for volume in spec.get("volumes", []):
        if not volume.keys() & {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}:
            yield f"volume {volume['name']} is of a kind that restricted does not allow"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']} may fill the node's disk"
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for text in _of_container(container, of_pod):
            yield f"container {container['name']} {text}"


def _of_container(container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    both = of_pod | own
    if both.get("runAsNonRoot") is not True or not both.get("runAsUser"):
        yield "may run as root: runAsNonRoot and a numeric runAsUser are needed"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if "ALL" not in own.get("capabilities", {}).get("drop", []) or own.get("capabilities", {}).get("add"):
        yield "keeps capabilities"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "can write its image's files"
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory", "ephemeral-storage"):
            if resource not in container.get("resources", {}).get(kind, {}):
                yield f"has no {kind} of {resource}"
    image = container["image"]
    name, _, tag = image.rpartition("/")[2].partition(":")
    if "@sha256:" not in image and (not tag or tag == "latest"):
        yield f"has an image that changes under its name: {name}:{tag or 'latest'}"
