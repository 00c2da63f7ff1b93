"""Checkpoints in the run's store: uploaded in the background, whole only with their manifest, the newest few kept.

Below ``checkpoints/<key>/``, where the key stands for model, data, settings and code:

    step-00000120-3f9a1c/weights.safetensors …      one checkpoint
    step-00000120-3f9a1c/manifest.json              written last: the step, and each file's key and SHA-256
    best/<sha256>.safetensors                       the best weights, which several checkpoints may name
    finished.json                                   training with this key has ended
"""

import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from calltune import models, runtime
from calltune.errors import UserError
from calltune.storage import Store

ROOT = "checkpoints"
MANIFEST = "manifest.json"
FINISHED = "finished.json"
BEST = "best.safetensors"
"""The one file of a checkpoint that is kept apart: it seldom changes, and is as large as the weights."""
FETCHED = "fetched"
FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 30.0
"""Between two tries to upload, the first and the longest."""


class Damaged(Exception):
    """A checkpoint is not what its manifest says."""


@dataclass(frozen=True)
class Written:
    """A checkpoint on the local disk that waits for its upload: its folder, and the optimiser step that it was taken at."""

    folder: Path
    step: int


@dataclass(frozen=True)
class Manifest:
    """A whole checkpoint in the store: its name, its step, and for each file the key in the store and the SHA-256."""

    name: str
    step: int
    files: dict[str, tuple[str, str]]


class Checkpoints:
    """The checkpoints of one training.

    Attributes:
        place: the key of their folder in the store.
        uploaded: step of the newest one in the store; None where there is none.
    """

    def __init__(self, store: Store, key: str, folder: Path, kept: int) -> None:
        """`folder` is for local copies and belongs to this alone; `kept` is how many stay in the store."""
        self.store, self.place, self.folder, self.kept = store, f"{ROOT}/{key}", folder, kept
        self.uploaded: int | None = None
        self._whole: list[Manifest] = []
        self._waiting: Written | None = None
        self._busy = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        shutil.rmtree(folder, ignore_errors=True)  # what an earlier process left; nothing reads it

    def newest(self) -> Path | None:
        """Fetch the newest whole checkpoint; each one that is not whole is named in a note, and passed over.

        Returns:
            Its folder on the local disk; None where there is no checkpoint.

        Raises:
            UserError: the store cannot be reached. To begin anew for that would lose what was trained.
        """
        keys = set(self.store.list(self.place))
        names = sorted({key.split("/")[2] for key in keys if key.split("/")[2].startswith("step-")}, reverse=True)
        found: Path | None = None
        for name in names:
            target = self.folder / FETCHED / name
            try:
                manifest = self._manifest(name, keys)
                if found is None:
                    self._fetch(manifest, target)
                    found, self.uploaded = target, manifest.step
            except Damaged as damage:
                shutil.rmtree(target, ignore_errors=True)
                runtime.note(f"train: checkpoint {self.store.uri}/{self.place}/{name} is passed over: {damage}")
            else:
                self._whole.insert(0, manifest)
        return found

    def fetch(self, name: str) -> Path:
        """Fetch a checkpoint that :meth:`newest` has found on another machine; returns its folder here.

        Raises:
            UserError: it cannot be fetched.
        """
        target = self.folder / FETCHED / name
        try:
            self._fetch(self._manifest(name, set(self.store.list(self.place))), target)
        except Damaged as damage:
            raise UserError(f"checkpoint {self.store.uri}/{self.place}/{name}: {damage}") from None
        return target

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """Yields an empty folder for a checkpoint's files; when the block has ended they are uploaded in the background.

        A checkpoint that still waits for its upload gives way to this newer one. One that cannot be written, as on a full
        disk, is named in a note, and training goes on.
        """
        shutil.rmtree(self.folder / FETCHED, ignore_errors=True)  # a step has been done: all of it has been read
        name = f"step-{step:08}-{secrets.token_hex(3)}"  # never that of an earlier try, whose manifest may be there
        temporary = self.folder / f".{name}"
        try:
            temporary.mkdir(parents=True)
            yield temporary
        except (OSError, RuntimeError, SafetensorError) as error:  # as torch and safetensors say it, too
            shutil.rmtree(temporary, ignore_errors=True)
            runtime.note(f"train: the checkpoint of step {step} cannot be written to {self.folder}: {error}")
            return
        written = Written(temporary.rename(self.folder / name), step)
        with self._changed:
            if self._waiting is not None:
                shutil.rmtree(self._waiting.folder)
            self._waiting = written
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was written is in the store; False where it is not after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is None and not self._busy, timeout_s)

    def close(self, timeout_s: float = 10) -> None:
        """End the background's work, an upload at its next file, and remove the local copies."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self) -> None:
        """Mark the training as ended. One checkpoint stays, for the case that the step's result is lost on its way."""
        self.close()
        if self._whole or self._thread is not None:  # or else nothing was ever uploaded, not even a part
            self.kept = 1
            with self._tidying():
                self._prune()
                self.store.put_json(f"{self.place}/{FINISHED}", {"step": self.uploaded})

    def remove_finished(self) -> None:
        """Remove the checkpoints of other trainings that have ended."""
        with self._tidying():
            keys = self.store.list(ROOT)
            for mark in (key for key in keys if key.endswith(f"/{FINISHED}")):
                place = mark.removesuffix(FINISHED)
                if place != f"{self.place}/":
                    # The mark last, so that a removal that was cut off is taken up again.
                    for key in [*(key for key in keys if key.startswith(place) and key != mark), mark]:
                        self.store.delete(key)

    @contextmanager
    def _tidying(self) -> Iterator[None]:
        """What is out of date and cannot be removed takes room in the store, and is no reason to lose a training."""
        try:
            yield
        except (UserError, OSError) as error:
            runtime.note(f"train: checkpoints that are out of date could not be removed: {error}")

    def _manifest(self, name: str, keys: set[str]) -> Manifest:
        """Read a checkpoint's manifest.

        Raises:
            Damaged: there is none, it cannot be read, or it names what is not among `keys`.
        """
        if f"{self.place}/{name}/{MANIFEST}" not in keys:
            raise Damaged("it has no manifest, so that its upload was not ended")
        try:
            read = self.store.get_json(f"{self.place}/{name}/{MANIFEST}")
            files = {file: (f"{self.place}/{entry['key']}", entry["sha256"]) for file, entry in read["files"].items()}
            manifest = Manifest(name, int(read["step"]), files)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise Damaged("its manifest cannot be read") from None
        for file, (key, _) in files.items():
            if key not in keys:
                raise Damaged(f"{file} is missing")
        return manifest

    def _fetch(self, manifest: Manifest, target: Path) -> None:
        for file, (key, sha256) in manifest.files.items():
            try:
                self.store.download(key, target / file)
            except UserError as error:
                self.store.list(self.place)  # which raises, too, if it is the store that is away
                raise Damaged(f"{file} cannot be fetched: {error}") from None
            if models.file_sha256(target / file) != sha256:
                raise Damaged(f"{file} is not the file that its manifest names")

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting is not None)
                if self._closed or self._waiting is None:
                    return
                written, self._waiting, self._busy = self._waiting, None, True
            self._upload_with_patience(written)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _upload_with_patience(self, written: Written) -> None:
        """Upload, trying again until it is done, or is of no more use: training goes on meanwhile."""
        delay_s, done = FIRST_DELAY_S, dict[str, tuple[str, str]]()
        while not self._closed:
            try:
                self._upload(written, done)
            except Exception as error:  # whatever it is, the next try or the next checkpoint may do better
                if self._closed:
                    return
                if delay_s == FIRST_DELAY_S:
                    runtime.note(f"train: the checkpoint of step {written.step} is not in the store, trying again: {error}")
                with self._changed:
                    if self._changed.wait_for(lambda: self._closed or self._waiting is not None, delay_s):
                        break
                delay_s = min(2 * delay_s, LONGEST_DELAY_S)
            else:
                break
        shutil.rmtree(written.folder, ignore_errors=True)

    def _upload(self, written: Written, done: dict[str, tuple[str, str]]) -> None:
        """Upload a checkpoint's files, those that are not `done` yet, and then its manifest; remove what is out of date."""
        name = written.folder.name
        for path in sorted(path for path in written.folder.iterdir() if path.name not in done):
            sha256 = models.file_sha256(path)
            key = f"{self.place}/best/{sha256}.safetensors" if path.name == BEST else f"{self.place}/{name}/{path.name}"
            if not (path.name == BEST and self._has(key)):
                self.store.upload(path, key)
            done[path.name] = key, sha256
            if self._closed:
                return
        entries = {file: {"key": key.removeprefix(f"{self.place}/"), "sha256": sha} for file, (key, sha) in done.items()}
        self.store.put_json(f"{self.place}/{name}/{MANIFEST}", {"step": written.step, "files": entries})
        self._whole.append(Manifest(name, written.step, done))
        self.uploaded = written.step
        runtime.note(f"train: the checkpoint of step {written.step} is in the store")
        with self._tidying():  # the checkpoint is there: no reason to upload it again
            self._prune()

    def _has(self, key: str) -> bool:
        """Whether an object is there that a whole checkpoint names: any other may be damaged."""
        return any(key == known for manifest in self._whole for known, _ in manifest.files.values())

    def _prune(self) -> None:
        """Keep the newest whole checkpoints and the best weights that they name; remove all else, damaged ones too."""
        self._whole = self._whole[-self.kept :]
        named = {key for manifest in self._whole for key, _ in manifest.files.values()}
        named |= {f"{self.place}/{manifest.name}/{MANIFEST}" for manifest in self._whole}
        # The manifests first: a checkpoint of which only a part is left must not look whole.
        for key in sorted(set(self.store.list(self.place)) - named, key=lambda key: not key.endswith(MANIFEST)):
            self.store.delete(key)
        self.store.end_uploads(self.place)
