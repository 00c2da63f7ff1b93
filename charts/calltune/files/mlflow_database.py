"""Brings MLflow's database, and that of its users, up to date, or makes their tables.

Their addresses come from the environment: `mlflow db upgrade` takes one as an argument only, which a list of processes shows.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.db import upgrade
from mlflow.store.db.utils import create_sqlalchemy_engine_with_retry as engine_of

LOCK = 3_816_055_297
"""Any number that nobody else locks by in this database."""


@contextmanager
def alone(address: str) -> Iterator[None]:
    """While the block runs, no other pod is in it: of two that make the same table one would fail, and leave a half.

    By a lock of Postgres that ends with its transaction, also that of a pod that dies, and also through a pool of connections.
    SQLite has one pod.
    """
    if not address.startswith("postgres"):
        yield
        return
    from sqlalchemy import text

    with engine_of(address).begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": LOCK})
        yield


def main() -> None:
    """Both, one pod after the other."""
    address = os.environ["MLFLOW_BACKEND_STORE_URI"]
    with alone(address):
        upgrade.callback(address)
        if os.environ["MLFLOW_AUTH_MODE"] == "basic":
            from mlflow.server.auth.db.utils import migrate_if_needed

            # Else each worker of the server would, all at once.
            migrate_if_needed(engine_of(os.environ.get("MLFLOW_AUTH_DATABASE_URI") or address), "head")


if __name__ == "__main__":
    main()
