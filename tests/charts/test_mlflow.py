"""How the chart's MLflow starts: its database made or brought up to date, by one pod at a time, and its server's options."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from tests.charts.conftest import CHART, VALUES, rendered, variables

SCRIPT = CHART / "files" / "mlflow.sh"
SERVICES = CHART.parents[1] / "images" / "services" / "requirements.txt"
THIS_PYTHON = f'exec "{sys.executable}" "$@"'
PRINTS = 'printf "%s\\n" "$@"'
NOBODY = 65534


def start(folder, python3=":", mlflow=PRINTS, **environment):
    """Start a pod's script; `python3` and `mlflow` are what those commands do here."""
    for name, does in {"python3": python3, "mlflow": mlflow}.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    fixed = {"MLFLOW_WORKERS": "1", "MLFLOW_ALLOWED_HOSTS": "mlflow:5000", "MLFLOW_AUTH_MODE": "mesh", "HOME": str(folder)}
    given = {**fixed, "PATH": f"{folder}:/usr/bin:/bin", **environment}
    return subprocess.Popen(["sh", str(SCRIPT)], env=given, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(pod):
    """What a pod's script has printed."""
    said, wrong = pod.communicate(timeout=300)
    assert pod.returncode == 0, wrong
    return said


@pytest.fixture
def postgres():
    """Address of a Postgres server with the programs of the package pgserver, which runs as nobody where a test is root."""
    there = Path(importlib.util.find_spec("pgserver").origin).parent
    folder = Path(tempfile.mkdtemp())  # its socket's path is short, as it must be
    programs, data = folder / "pgserver" / "pginstall" / "bin", ["-D", folder / "data"]
    # A copy, since nobody may not see into a folder of root's.
    for part in ("pgserver/pginstall", "pgserver.libs"):
        shutil.copytree(there.parent / part, folder / part)
    user = NOBODY if os.getuid() == 0 else None

    def run(program, *words):
        subprocess.run([programs / program, *data, *words], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    if user:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, -1, follow_symlinks=False)
    run("initdb", "--auth=trust", "--username=mlflow")
    run("pg_ctl", "start", "-w", "-l", folder / "log", "-o", f"-c listen_addresses= -c unix_socket_directories={folder}")
    yield f"postgresql://mlflow@/postgres?host={folder}"
    run("pg_ctl", "stop", "-m", "immediate")
    shutil.rmtree(folder)


def test_pods_that_start_at_once_make_one_database(postgres, tmp_path):
    environment = {"MLFLOW_BACKEND_STORE_URI": postgres, "MLFLOW_AUTH_MODE": "basic"}
    homes = [tmp_path / str(number) for number in range(3)]
    for home in homes:
        home.mkdir()
    for said in map(ended, [start(home, THIS_PYTHON, **environment) for home in homes]):
        assert "basic-auth" in said and "postgres" not in said
    from sqlalchemy import create_engine, inspect

    tables = inspect(create_engine(postgres.replace("postgresql:", "postgresql+psycopg2:"))).get_table_names()
    assert {"runs", "registered_models", "users"} <= set(tables), "MLflow's own, and those of its users"


def test_the_database_is_reached_by_the_driver_that_the_image_has(tmp_path):
    assert "psycopg2-binary" in SERVICES.read_text()
    for address in ("postgresql://me:p%40ss@db:5432/mlflow", "postgresql+psycopg2://me:p%40ss@db:5432/mlflow"):
        said = ended(start(tmp_path, mlflow='echo "$MLFLOW_BACKEND_STORE_URI"', MLFLOW_BACKEND_STORE_URI=address))
        assert said == "postgresql+psycopg2://me:p%40ss@db:5432/mlflow\n"


def test_it_makes_its_database_and_no_argument_holds_the_address(tmp_path):
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    said = ended(start(tmp_path, THIS_PYTHON, MLFLOW_BACKEND_STORE_URI=address))
    assert said.splitlines()[:3] == ["server", "--host", "0.0.0.0"] and address not in said
    assert (tmp_path / "mlflow.db").stat().st_size > 0
    # The shell's own words start no process.
    others = SCRIPT.read_text().replace("users=$(printf", "#").replace("case ", "#")
    assert not re.search(r"^\s*\w.*\$MLFLOW_(BACKEND|AUTH_DATABASE)", others, re.MULTILINE)


@pytest.mark.parametrize("address", ["10.1.2.3", "fd00::1"])
def test_prometheus_which_asks_a_pod_by_its_address_is_let_in_and_no_other_address(tmp_path, address):
    from mlflow.server.security_utils import is_allowed_host_header

    given = variables(rendered(yaml.safe_load((VALUES[0].parent / "production.yaml").read_text())), "Deployment", "mlflow")
    assert given["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    plain = {name: value for name, value in given.items() if isinstance(value, str)}
    elsewhere = {"MLFLOW_BACKEND_STORE_URI": "postgresql://me@db/mlflow", "MLFLOW_AUTH_MODE": "mesh", "POD_IP": address}
    said = ended(start(tmp_path, **{**plain, **elsewhere})).splitlines()
    allowed = said[said.index("--allowed-hosts") + 1].split(",")
    for host, lets_in in {"10.1.2.3:5000": True, "[fd00::1]:5000": True, "10.1.2.4:5000": False}.items():
        assert is_allowed_host_header(allowed, host) == (lets_in and address in host)
    assert is_allowed_host_header(allowed, "calltune-mlflow:5000") and "--expose-prometheus" in said
