"""A Docker engine for the tests: the one that answers, or one that is started here, with a base image that is made here, too."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from calltune.processes import die_with_parent

DEBIANS = ("docker.io", "debootstrap")
RELEASE = "bookworm"
BASE = f"calltune-base:{RELEASE}"
INSTALLED = "python3,python3-venv,ca-certificates"
PATHS = ("doc", "info", "lintian", "locale", "man")
LEFT_OUT = ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "var/log/*", *(f"usr/share/{path}/*" for path in PATHS))
"""Of the base image: what Debian's slim images leave out, too."""
READY_S, ENDING_S = 60, 120


@contextmanager
def engine():
    """Have this process's environment lead to a Docker engine; yields the base image to build from.

    Where none answers, one is started, whose base image then is Debian with Debian's Python: the images' own cannot be pulled
    everywhere. Of an engine that answers it is the one that CALLTUNE_BASE_IMAGE names, and else None, for the Dockerfiles' own.
    """
    if answers():
        yield os.environ.get("CALLTUNE_BASE_IMAGE")
        return
    with started() as place:
        make_base(place / "base")
        yield BASE


@contextmanager
def started():
    """Install Debian's engine and start it, which needs root; yields its folder. It ends with all that it has made."""
    install()
    # Not in pytest's folder, which keeps what was made for the last three sessions.
    place = Path(tempfile.mkdtemp(prefix="calltune-docker-"))
    with pytest.MonkeyPatch.context() as patch:
        # Debian's client: another one without its buildx cannot build with secrets.
        (place / "bin").mkdir()
        (place / "bin" / "docker").symlink_to("/usr/bin/docker")
        patch.setenv("PATH", f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin")
        patch.setenv("DOCKER_HOST", f"unix://{place / 'socket'}")
        daemon = start(place)
        try:
            yield place
        finally:
            daemon.terminate()
            daemon.wait(ENDING_S)
            subprocess.run(["rm", "-rf", place], check=True)  # of its many files shutil makes minutes


def answers():
    """Whether an engine does."""
    return bool(shutil.which("docker")) and subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def install():
    """Install Debian's engine, and what makes its base image."""
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.fail("no Docker engine answers, and one is only started as root on Debian: start one, or set DOCKER_HOST")
    if Path("/usr/sbin/dockerd").exists() and Path("/usr/sbin/debootstrap").exists():
        return
    # In run level 1 Debian starts no service by itself.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *DEBIANS]):
        subprocess.run(["apt-get", "-qq", *words], env=quiet, check=True, stdout=subprocess.DEVNULL)


def start(place):
    """Start an engine that keeps everything in `place`, and wait for it; returns its process."""
    command = ["dockerd", "--data-root", place / "data", "--exec-root", place / "run", "-H", os.environ["DOCKER_HOST"]]
    command += ["-p", place / "pid", "--default-ulimit", "nofile=20000:20000"]
    with (place / "log").open("wb") as log:
        # In a session of its own: Ctrl-C is for the tests, which then end it.
        daemon = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=ended_with_us
        )
    until = time.monotonic() + READY_S
    while not answers():
        if daemon.poll() is not None or time.monotonic() > until:
            daemon.kill()
            pytest.fail(f"the Docker engine does not come up: {(place / 'log').read_text()[-2000:]}")
        time.sleep(0.5)
    return daemon


def ended_with_us():
    die_with_parent(signal.SIGTERM)


def make_base(root):
    """Make the base image from Debian's packages."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={INSTALLED}", RELEASE, str(root)], check=True, stdout=subprocess.DEVNULL
    )
    without = [f"--exclude=./{pattern}" for pattern in LEFT_OUT]
    with subprocess.Popen(["tar", "-C", root, *without, "-c", "."], stdout=subprocess.PIPE) as packed:
        subprocess.run(["docker", "import", "-", BASE], stdin=packed.stdout, check=True, stdout=subprocess.DEVNULL)
    assert packed.returncode == 0
    shutil.rmtree(root)


def main():
    """Exit with 0 where an engine answers or can be started, else with the reason: CI asks before it tries the images."""
    try:
        if not answers():
            with started():
                pass
    except (pytest.fail.Exception, subprocess.CalledProcessError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
