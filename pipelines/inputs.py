"""What a run reads from this machine, brought into the store under its content's hash, and the config that names it."""

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from calltune import hub, input_files, models, storage, tools
from calltune.errors import ConfigError, DataError, no_such_file
from calltune.layouts import is_data
from calltune.processes import in_environment
from calltune.records import sha256
from components.format.split import matching
from components.ingest import sources
from pipelines.cluster import Resources
from pipelines.config import RunConfig
from pipelines.placement import WITH_MODELS, scratch_gib


def require_cluster_places(config: RunConfig) -> None:
    """Refuse a store, a tracking or recent questions that no pod can reach.

    Raises:
        ConfigError: one of them is on this machine.
    """
    if not config.storage.uri.startswith("s3://"):
        raise ConfigError(f"storage.uri: {config.storage.uri} is on this machine, where no pod finds it: set s3://bucket/prefix")
    if not config.tracking.uri.startswith(("http://", "https://")):
        raise ConfigError(
            f"tracking.uri: {config.tracking.uri} is on this machine: set an MLflow server such as http://mlflow:5000"
        )
    recent = config.retrain.drift.questions
    if recent and not recent.startswith("s3://"):
        raise ConfigError(
            f"retrain.drift.questions: {recent} is on this machine, where no later run sees what is new: set s3://bucket/prefix"
        )


def left_here(config: RunConfig) -> Iterator[str]:
    """What the config names of this machine, a line each: what `calltune submit` makes of it, and the package alone does not."""
    try:
        require_cluster_places(config)
    except ConfigError as error:
        yield str(error)
    rows = [("ingest.source", config.ingest.source)]
    rows += [(f"ingest.more[{number}].source", part.source) for number, part in enumerate(config.ingest.more)]
    for setting, place in rows:
        if "://" not in place:
            yield _left(setting, place, "uploads it")
    if config.ingest.tools and not config.ingest.tools.startswith("s3://"):
        is_python = config.ingest.tools.endswith(".py")
        yield _left(
            "ingest.tools", config.ingest.tools, "makes JSON Schema of it, and uploads that" if is_python else "uploads it"
        )
    if config.model.base in models.BUNDLED:
        yield _left("model.base", config.model.base, "unpacks and uploads it", "which is in no image")
    elif Path(config.model.base).is_dir():
        yield _left("model.base", config.model.base, "uploads it")
    files: list[str] = []

    def note(setting: str, place: str) -> str:
        if "://" not in place:
            files.append(_left(setting, place, "uploads it"))
        return place

    config.evaluate.with_files(note)
    config.format.with_files(note)
    yield from files


def _left(setting: str, place: str, submit: str, where: str = "which no pod can read") -> str:
    return f"{setting}: {place}, {where}: `calltune submit` {submit}; this package alone does not run with it"


@contextmanager
def store_of(config: RunConfig) -> Iterator[storage.Store]:
    """The store of a config, as this machine reaches it: `AWS_ENDPOINT_URL_S3` comes before the address that pods use."""
    variables = {"CALLTUNE_STORAGE": config.storage.uri}
    if config.storage.endpoint_url:
        variables["AWS_ENDPOINT_URL_S3"] = config.storage.endpoint_from_here
    with in_environment(variables):
        yield storage.open_store(config.storage.uri)


class Inputs:
    """Brings inputs into a store, each once.

    Attributes:
        store: of the run; None only says where they would be.
        uploaded: keys of the files that were not there yet.
    """

    def __init__(self, uri: str, store: storage.Store | None) -> None:
        self.uri, self.store = uri.rstrip("/"), store
        self.uploaded: list[str] = []
        self._copies: dict[str, str] = {}
        """Of each file of rows its path, as a run on this machine has it, and the address of its copy."""

    def bring(self, config: RunConfig) -> RunConfig:
        """Upload source, tools and base model where they are local, and name their copies.

        Raises:
            DataError: a file is not there.
        """
        first = config.ingest.model_copy(update={"source": self._source(config.ingest.source, config.ingest.tools)})
        sections: dict[str, Any] = {"ingest": first, "model": config.model}
        if config.ingest.more:
            more = [
                part.model_copy(update={"source": self._source(part.source, config.ingest.tools)}) for part in config.ingest.more
            ]
            sections["ingest"] = sections["ingest"].model_copy(update={"more": more})
        if config.ingest.tools and not config.ingest.tools.startswith("s3://"):
            sections["ingest"] = sections["ingest"].model_copy(update={"tools": self._tools(config.ingest.tools)})
        if Path(config.model.base).is_dir() or config.model.base in models.BUNDLED:
            sections["model"] = config.model.model_copy(update={"base": self._model(config)})
            # Estimated here, since the copy's name says nothing of its size.
            room = {"scratch_gib": scratch_gib(config)}
            asked = {step: config.resources.get(step, Resources()) for step in WITH_MODELS}  # type: ignore[call-overload]
            estimated = {step: one.model_copy(update=room) for step, one in asked.items() if not one.scratch_gib}
            sections["resources"] = {**config.resources, **estimated}
        sections["evaluate"] = config.evaluate.with_files(self._named)
        form = config.format.with_files(self._named)
        split = form.split.model_copy(update={"test_source": self._test_source(form.split.test_source)})
        sections["format"] = form.model_copy(update={"split": split})
        return config.model_copy(update=sections)

    def _named(self, setting: str, place: str) -> str:
        """A file or folder that a setting names, under its content's hash, which a step then has without reading it."""
        if "://" in place:
            return place
        key, path = f"inputs/{input_files.content(setting, place)}", Path(place)
        if path.is_file():
            return self._file(path, f"{key}/{path.name}")
        there = set(self.store.list(key)) if self.store is not None else set()
        for name, file in input_files.within(path):
            if file.suffix == ".py":
                raise DataError(f"{setting}: {file} is a program, and a pod runs none out of the store: leave it out of {place}")
            self._file(file, f"{key}/{name}", there)
        return f"{self.uri}/{key}"

    def _test_source(self, wanted: str) -> str:
        """What `format.split.test_source` means here, said of the copies, which have other folders.

        Raises:
            ConfigError: no one pattern says it.
        """
        held = {self._copies[path] for path in _meant(self._copies, wanted)}
        if not held or _meant(self._copies.values(), wanted) == held:
            return wanted
        if len(held) == 1:
            return held.pop()
        parts = wanted.split("/")
        patterns = (f"{self.uri}/inputs/*/{'/'.join(parts[start:])}" for start in range(1, len(parts)))
        found = next((pattern for pattern in patterns if _meant(self._copies.values(), pattern) == held), None)
        if found is None:
            raise ConfigError(
                f"format.split.test_source: {wanted!r} means {len(held)} files here, which in the store no pattern tells from "
                "the others: have them in a folder of their own below the source's"
            )
        return found

    def _source(self, source: str, tools: str) -> str:
        """A file or a folder of rows; what is in a store or on the Hub stays where it is."""
        if source.startswith(("s3://", hub.PREFIX)):
            return source
        file = Path(source)
        if file.is_dir():
            return self._folder(file, tools)
        if not file.is_file():
            raise no_such_file(source)
        # In S3 only these names are read; `.json` is read as a file of any other name is.
        name = file.name if is_data(file.name) else f"{file.name}.json"
        copy = self._copies[os.path.abspath(file)] = self._file(file, f"inputs/{models.file_sha256(file)}/{name}")
        return copy

    def _folder(self, folder: Path, tools: str) -> str:
        """The files that ingest would read here, which are those that it reads there."""
        found = sources.find(str(folder), tools).parts
        read = {path.relative_to(folder).as_posix(): path for path in found if isinstance(path, Path)}
        key = f"inputs/{sha256({name: models.file_sha256(path) for name, path in read.items()})}"
        there = set(self.store.list(key)) if self.store is not None else set()
        for name, path in read.items():
            self._copies[os.path.abspath(path)] = self._file(path, f"{key}/{name}", there)
        return f"{self.uri}/{key}"

    def _tools(self, path: str) -> str:
        """Python becomes JSON Schema here: a pod never runs a file out of the store."""
        data = (json.dumps(tools.load(path), indent=1, ensure_ascii=False) + "\n").encode()
        key = f"inputs/{hashlib.sha256(data).hexdigest()}/tools.json"
        if self.store is not None and self.store.get(key) is None:
            self.store.put(key, data)
            self.uploaded.append(key)
        return f"{self.uri}/{key}"

    def _model(self, config: RunConfig) -> str:
        """A folder as it is; of a bundled model, which the images do not have, what it unpacks to."""
        if self.store is None and config.model.base in models.BUNDLED:
            return f"{self.uri}/inputs/{config.model.base.replace(':', '-')}"  # not unpacked only to name it
        folder = models.fetch(config.model).path
        files = models.checksums(folder)  # once: the digest is over these
        key = f"inputs/{models.digest(files)}"
        there = set(self.store.list(key)) if self.store is not None else set()
        for name in files:
            self._file(folder / name, f"{key}/{name}", there)
        return f"{self.uri}/{key}"

    def _file(self, file: Path, key: str, there: set[str] | None = None) -> str:
        """An object is written whole, so that one that is there is right."""
        if self.store is not None and key not in (set(self.store.list(key)) if there is None else there):
            self.store.upload(file, key)
            self.uploaded.append(key)
        return f"{self.uri}/{key}"


def _meant(uris: Collection[str], wanted: str) -> set[str]:
    """Those that `format.split.test_source` means; none where it is not set, or means what is not among them."""
    with suppress(DataError):
        return matching(uris, wanted) if wanted else set()
    return set()
