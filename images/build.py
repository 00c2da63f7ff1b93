"""Builds the container images, and writes each one's list of parts: what `make images` runs.

python images/build.py cpu train services [--base IMAGE] [--registry PREFIX] [--push]

The list is CycloneDX JSON, images/build/<name>.cdx.json: the Python packages, as they are in the image. What the base image
has from its distribution is in that image's own list.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETS = ("cpu", "train", "vllm", "services")
USUAL = ("cpu", "train", "services")
SBOM = "/opt/calltune/sbom.cdx.json"


def options(words: list[str] | None = None) -> argparse.Namespace:
    """What is asked for; by default on this process's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"{'|'.join(SETS)}; without: all but vllm")
    parser.add_argument("--base", help="instead of the Dockerfile's BASE_IMAGE: one with python3 3.11 and its venv module")
    parser.add_argument("--registry", default="", help="put in front of the names, as images.registry in the chart's values")
    parser.add_argument("--push", action="store_true", help="push to --registry, too")
    parser.add_argument("--network", help="of the build, as docker build --network")
    asked = parser.parse_args(words)
    # Not by `choices`: argparse would hold an empty list against them.
    unknown = sorted(set(asked.sets) - set(SETS))
    if unknown:
        parser.error(f"{unknown[0]}: there is no such set; there is {', '.join(SETS)}")
    if asked.push and not asked.registry:
        parser.error("--push: where to? Add --registry")
    return asked


def main() -> int:
    """Build what is asked for; returns the exit code."""
    asked = options()
    for name in asked.sets or USUAL:
        image = build(name, asked.base, asked.registry, asked.network)
        parts = write_sbom(name, image)
        size = int(_said(["docker", "image", "inspect", "--format", "{{.Size}}", image]))
        print(f"{image}: {size / 1e6:.0f} MB, {parts} Python packages (images/build/{name}.cdx.json)", flush=True)
        if asked.push:
            subprocess.run(["docker", "push", image], check=True)
    return 0


def build(name: str, base: str | None = None, registry: str = "", network: str | None = None) -> str:
    """Build one image; returns its name.

    pip's own settings and the certificates of this machine go along as secrets, where the usual variables name them
    (PIP_CONFIG_FILE, PIP_CERT): behind a proxy with a certificate of its own nothing else reaches a package index.
    """
    version = _version()
    image = f"{registry.rstrip('/')}/" * bool(registry) + f"calltune-python-{name}:{version}"
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    revision = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    command = ["docker", "build", "-f", str(ROOT / "images" / name / "Dockerfile"), "-t", image]
    command += ["--build-arg", f"VERSION={version}", "--build-arg", f"REVISION={revision}"]
    command += ["--build-arg", f"BASE_IMAGE={base}"] if base else []
    command += ["--network", network] if network else []
    for secret, variable in (("pip", "PIP_CONFIG_FILE"), ("ca", "PIP_CERT")):
        if os.environ.get(variable):
            command += ["--secret", f"id={secret},src={os.environ[variable]}"]
    subprocess.run([*command, str(ROOT)], check=True, env={**os.environ, "DOCKER_BUILDKIT": "1"})
    return image


def write_sbom(name: str, image: str) -> int:
    """Copy the list of parts out of an image; returns how many there are."""
    text = _said(["docker", "run", "--rm", "--network", "none", "--read-only", image, "cat", SBOM])
    target = ROOT / "images" / "build" / f"{name}.cdx.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text + "\n", encoding="utf-8")
    return len(json.loads(text)["components"])


def _version() -> str:
    from calltune import __version__

    return __version__


def _said(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
