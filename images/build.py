"""Builds the container images, and writes each one's list of parts: what `make images` runs.

python -m images.build cpu train services [--base IMAGE] [--registry PREFIX] [--push]

The list is CycloneDX JSON, images/build/<name>.cdx.json: the Python packages, as they are in the image. What the base image
has from its distribution is in that image's own list.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from calltune import __version__
from images import index

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
    """Build what is asked for; returns the exit code: 2 without Docker, 1 where it fails, whose words then stand above."""
    asked = options()
    if shutil.which("docker") is None:
        print("images: docker: not found: the images are built with Docker", file=sys.stderr)
        return 2
    try:
        _make(asked)
    except subprocess.CalledProcessError as error:
        if error.stderr:
            print(error.stderr.strip(), file=sys.stderr)
        login = f"; docker login {asked.registry.split('/')[0]} says who you are" if error.cmd[1] == "push" else ""
        print(f"images: {shlex.join(error.cmd[:6])}: failed with exit code {error.returncode}{login}", file=sys.stderr)
        return 1
    return 0


def _make(asked: argparse.Namespace) -> None:
    for name in asked.sets or USUAL:
        image = build(name, asked.base, asked.registry, asked.network)
        parts = write_sbom(name, image)
        size = int(_said(["docker", "image", "inspect", "--format", "{{.Size}}", image]))
        print(f"{image}: {size / 1e6:.0f} MB, {parts} Python packages (images/build/{name}.cdx.json)", flush=True)
        if asked.push:
            subprocess.run(["docker", "push", image], check=True)
            print(f"pushed: {_by_digest(image)}", flush=True)


def build(name: str, base: str | None = None, registry: str = "", network: str | None = None) -> str:
    """Build one image with pip set up as it is on this machine; returns its name."""
    image = f"{registry.rstrip('/')}/" * bool(registry) + f"calltune-python-{name}:{__version__}"
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    revision = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    command = ["docker", "build", "-f", str(ROOT / "images" / name / "Dockerfile"), "-t", image]
    command += ["--build-arg", f"VERSION={__version__}", "--build-arg", f"REVISION={revision}"]
    command += ["--build-arg", f"BASE_IMAGE={base}"] if base else []
    with index.options() as of_pip:
        command += [*of_pip, *(["--network", network] if network else [])]
        subprocess.run([*command, str(ROOT)], check=True, env={**os.environ, "DOCKER_BUILDKIT": "1"})
    return image


def write_sbom(name: str, image: str) -> int:
    """Copy the list of parts out of an image; returns how many there are."""
    text = _said(["docker", "run", "--rm", "--network", "none", "--read-only", image, "cat", SBOM])
    target = ROOT / "images" / "build" / f"{name}.cdx.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text + "\n", encoding="utf-8")
    return len(json.loads(text)["components"])


def _by_digest(image: str) -> str:
    """A pushed image's name for ever. One that was pushed to several registries has one for each."""
    names = json.loads(_said(["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", image]))
    return next(str(name) for name in names if name.startswith(f"{image.rpartition(':')[0]}@"))


def _said(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
