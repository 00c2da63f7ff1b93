"""What the train step and the workers of its job hand each other, in the run's store below ``exchange/<key>/``:

work.json           what to train: model, settings, code, champion, and the rows' SHA-256
rows/…              the rows to train on and to validate with
result/…            what the first worker made: `adapter/`, `metrics.json`, `loss.csv`
result.json         written after these: the SHA-256 of each
failure.json        a worker's error that the same again would end in
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune import models
from calltune.errors import DataError, UserError
from calltune.records import sha256
from calltune.settings import ModelConfig
from calltune.storage import Store
from components.train.config import TrainConfig

ROOT = "exchange"
ROWS = ("train.parquet", "validation.parquet")
RESULTS = ("metrics.json", "loss.csv")


@dataclass(frozen=True)
class Work:
    """What is to be trained, beside the rows.

    Attributes:
        code: what the step's code is.
        champion: JSON of the champion to go on from; empty to start from the base model.
    """

    model: ModelConfig
    config: TrainConfig
    code: str
    champion: str


def key_of(dataset: Path, work: Work) -> str:
    """Twenty hex digits: the same for the same model, rows, settings that count, code and start."""
    rows = [models.file_sha256(dataset / name) for name in ROWS]
    return sha256([work.model.model_dump(), rows, work.config.result_settings(), work.code, work.champion])[:20]


class Exchange:
    """One training's place in the store. Every method raises a UserError where the store cannot be reached.

    Attributes:
        place: the key of its folder.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.store, self.place = store, f"{ROOT}/{key}"

    def put_work(self, dataset: Path, work: Work) -> None:
        """Bring the rows and what to do with them."""
        rows = self._put("rows", {name: dataset / name for name in ROWS})
        told = {"model": work.model.model_dump(), "config": work.config.model_dump(mode="json"), "rows": rows}
        self.store.put_json(f"{self.place}/work.json", {**told, "code": work.code, "champion": work.champion})

    def fetch_work(self, dataset: Path) -> Work:
        """Fetch the rows into a folder; returns what to do with them.

        Raises:
            UserError: there is none, or a file is not what was put there.
        """
        told = self._told("work.json")
        self._fetch("rows", told["rows"], dataset)
        return Work(ModelConfig(**told["model"]), TrainConfig(**told["config"]), told["code"], told["champion"])

    def put_result(self, adapter: Path, out: Path) -> None:
        """Bring what training made: every file of `adapter`, and of `out` the metrics and the losses."""
        files = {f"adapter/{path.relative_to(adapter)}": path for path in sorted(adapter.rglob("*")) if path.is_file()}
        hashes = self._put("result", files | {name: out / name for name in RESULTS})
        self.store.put_json(f"{self.place}/result.json", hashes)

    def fetch_result(self, adapter: Path, out: Path) -> None:
        """Fetch what training made into these two folders.

        Raises:
            UserError: there is none, or a file is not what was put there.
        """
        hashes = self._told("result.json")
        inside = {name for name in hashes if name.startswith("adapter/")}
        self._fetch("result/adapter", {name.removeprefix("adapter/"): hashes[name] for name in inside}, adapter)
        self._fetch("result", {name: hashes[name] for name in hashes.keys() - inside}, out)

    def put_failure(self, failure: Mapping[str, Any]) -> None:
        """Leave word of an error that trying again does not mend: its `message`."""
        self.store.put_json(f"{self.place}/failure.json", failure)

    def failure(self) -> str | None:
        """The message of a worker's error that trying again does not mend; None where there is none."""
        told = self.store.get_json(f"{self.place}/failure.json")
        return None if told is None else str(told["message"])

    def clear(self) -> None:
        """Remove all of it, what says that it is whole first."""
        for key in sorted(self.store.list(self.place), key=lambda key: not key.endswith(".json")):
            self.store.delete(key)
        self.store.end_uploads(self.place)

    def _put(self, folder: str, files: Mapping[str, Path]) -> dict[str, str]:
        for name, path in files.items():
            self.store.upload(path, f"{self.place}/{folder}/{name}")
        return {name: models.file_sha256(path) for name, path in files.items()}

    def _fetch(self, folder: str, hashes: Mapping[str, str], target: Path) -> None:
        for name, expected in hashes.items():
            key = f"{self.place}/{folder}/{name}"
            self.store.download(key, target / name)
            if models.file_sha256(target / name) != expected:
                raise DataError(f"{self.store.uri}/{key} is not the file that was put there")

    def _told(self, name: str) -> Any:
        told = self.store.get_json(f"{self.place}/{name}")
        if told is None:
            raise UserError(f"{self.store.uri}/{self.place}/{name}: there is none")
        return told
