"""How pip is set up on this machine, told to a build, in which none of this machine's files is.

The settings may stand in files, in variables, and in the distribution's own places; `pip config list` knows them all. They go
along as secrets, so that nothing of them stays in a layer. A folder of this machine that pip takes packages from (`find-links`,
an index at file://) is served on the loopback interface while the build lasts, which then has this machine's network.
"""

import ast
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

WITH_PLACES = ("index-url", "extra-index-url", "find-links")
TAKEN = (*WITH_PLACES, "no-index", "trusted-host", "proxy", "timeout", "default-timeout", "retries")
"""What a build needs to know; the rest, such as this machine's own constraints, is none of its business."""
CERTIFICATES = "/run/secrets/ca"
"""Where the Dockerfiles mount the secret `ca`."""


@contextmanager
def options() -> Iterator[list[str]]:
    """Yields what `docker build` must be told, for as long as the build lasts."""
    found = settings()
    with TemporaryDirectory() as place, serving() as (served, port):
        lines = ["[global]"]
        for key in (key for key in TAKEN if key in found):
            words = [reachable(word, served, port) for word in found[key].split()] if key in WITH_PLACES else [found[key]]
            lines.append(f"{key} = {' '.join(words)}")
        given = ["--secret", f"id=pip,src={place}/pip.conf"]
        if "cert" in found:
            lines.append(f"cert = {CERTIFICATES}")
            given += ["--secret", f"id=ca,src={found['cert']}"]
        if served:
            given += ["--network", "host"]
        Path(place, "pip.conf").write_text("\n".join([*lines, ""]), encoding="utf-8")
        yield given


def settings() -> dict[str, str]:
    """This machine's settings of `pip install`, by their names in a configuration file."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # A variable counts more than a file, and in a file what is for `install` alone.
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in said.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in sections:
            sections[section][key] = ast.literal_eval(value)
    return {**sections["global"], **sections["install"], **sections[":env:"]}


def reachable(place: str, served: list[Path], port: int) -> str:
    """The address of a place that pip takes packages from; of a folder, which is added to `served`, one on the loopback."""
    if "://" in place and not place.startswith("file://"):
        return place
    folder = Path(unquote(urlsplit(place).path) if place.startswith("file://") else place).expanduser().resolve()
    # The links of an index may lead beside it.
    served.append(folder.parent if place.startswith("file://") else folder)
    return f"http://127.0.0.1:{port}{folder}/"


@contextmanager
def serving() -> Iterator[tuple[list[Path], int]]:
    """Yields a list of folders, whose files can be read on the loopback interface at their own paths, and the port."""
    served: list[Path] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Reader, served=served)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield served, server.server_port
        finally:
            server.shutdown()
            thread.join()


class _Reader(SimpleHTTPRequestHandler):
    def __init__(self, *arguments, served: list[Path], **settings) -> None:  # type: ignore[no-untyped-def]
        self.served = served
        super().__init__(*arguments, directory="/", **settings)

    def translate_path(self, path: str) -> str:
        """The file that an address means; none where it is in none of the folders."""
        found = os.path.realpath(super().translate_path(path))
        return found if any(Path(found).is_relative_to(folder) for folder in self.served) else ""

    def log_message(self, *_: object) -> None:
        """Say nothing: pip says what it takes."""
