"""The champion in a repository on the Hugging Face Hub: what was promoted, file by file as in the store, in one commit."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calltune import hub, ledger, models, runtime, storage
from calltune.credentials import line_without_secrets
from calltune.errors import UserError
from components.promote.config import PUSH_TOKENS, PromoteConfig

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

AGAIN = "`calltune models push -c FILE` tries again"


class NotPushed(UserError):
    """The Hub has not got the model. The promotion stands; another push can be tried at any time.

    Args:
        message: one line.
        away: the Hub does not answer, or only with errors of its own, which is nobody's mistake.
    """

    def __init__(self, message: str, away: bool = False) -> None:
        super().__init__(message)
        self.exit_code = 1 if away else 2


@dataclass(frozen=True)
class Pushed:
    """What became of it.

    Attributes:
        repo: on the Hub.
        commit: that has the model now, 40 hex digits.
        unchanged: whether it was there already.
    """

    repo: str
    commit: str
    unchanged: bool

    def __str__(self) -> str:
        return f"{self.repo} on the Hub {'has it already' if self.unchanged else 'has it now'}, commit {self.commit[:12]}"


def champion(config: PromoteConfig) -> ledger.Entry:
    """The ledger's last entry.

    Raises:
        UserError: nothing has been promoted yet.
    """
    history = ledger.entries(config.name, config.alias)
    if not history:
        raise UserError(f"{config.name}@{config.alias}: nothing has been promoted yet, so that there is nothing to push")
    return history[-1]


def push(entry: ledger.Entry, config: PromoteConfig) -> Pushed:
    """Make the repository have the files of a champion, and none that an earlier push has put there and this model lacks.

    Large files that are there already, by their SHA-256, are neither read nor sent, so that a push that was cut off goes on;
    where nothing differs there is no commit. There must be room for the largest file.

    Args:
        entry: of the promotion ledger.
        config: the promote step's settings.

    Raises:
        NotPushed: no token, one that may not write there, no answer, or the store has another file than was promoted.
    """
    from huggingface_hub import HfApi

    repo, branch = config.push.repo, config.push.revision
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=_token(repo))
    models.cache_dir().mkdir(parents=True, exist_ok=True)
    with _explained(repo), tempfile.TemporaryDirectory(dir=models.cache_dir()) as place, runtime.phase(f"push to {repo}"):
        api.create_repo(repo, private=config.push.private, exist_ok=True)
        if branch != "main":
            api.create_branch(repo, branch=branch, exist_ok=True)
        before = api.repo_info(repo, revision=branch).sha
        operations = [*_removed(api, entry, config, Path(place)), *_added(api, entry, config, Path(place))]
        done = api.create_commit(
            repo,
            operations,
            commit_message=f"{config.name} version {entry['version']}, model {entry['digest'][:12]}",
            commit_description=_description(entry, config),
            revision=branch,
            # On top of what somebody else has pushed meanwhile, `operations` would make a mixture of two models.
            parent_commit=before,
        )
    return Pushed(repo, str(done.oid), done.oid == before)


def _token(repo: str) -> str:
    found = next((os.environ[name] for name in PUSH_TOKENS if os.environ.get(name)), None)
    if found is None:
        names = " nor ".join(PUSH_TOKENS)
        raise NotPushed(
            f"promote.push: neither {names} is set: set one to a token that may write to {repo} "
            f"(https://huggingface.co/settings/tokens); {AGAIN}"
        )
    return found


def _description(entry: ledger.Entry, config: PromoteConfig) -> str:
    lines = {
        "alias": config.alias,
        "promotion": entry["n"],
        "run": entry["run_id"],
        "decision": entry["reason"],
        "model": entry["digest"],
        "data": entry["fingerprint"],
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def _added(api: "HfApi", entry: ledger.Entry, config: PromoteConfig, place: Path) -> "Iterator[CommitOperationAdd]":
    """The files to be committed; the large ones are sent one by one, so that only one of them is on this disk at a time."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.hf_api import RepoFile

    repo, branch = config.push.repo, config.push.revision
    tree = api.list_repo_tree(repo, recursive=True, revision=branch)
    large = {one.path: one.lfs.sha256 for one in tree if isinstance(one, RepoFile) and one.lfs is not None}
    store, prefix = storage.at(entry["uri"])
    needed = [name for name, checksum in entry["files"].items() if large.get(name) != checksum]
    for name in runtime.tracked(needed, f"push to {repo}", len(needed), "files"):
        file = place / "files" / name
        store.download(f"{prefix}/{name}", file)
        if models.file_sha256(file) != entry["files"][name]:
            raise NotPushed(f"{entry['uri']}: {name} is not what was promoted: nothing was pushed")
        one = CommitOperationAdd(name, file)
        api.preupload_lfs_files(repo, [one], revision=branch)
        if one.path_or_fileobj == b"":  # it was large, was sent, and is not needed for the commit
            file.unlink()
        yield one
    manifest = place / models.MANIFEST
    runtime.write_json(manifest, entry["files"])
    yield CommitOperationAdd(models.MANIFEST, manifest)


def _removed(api: "HfApi", entry: ledger.Entry, config: PromoteConfig, place: Path) -> Iterator[Any]:
    """What the manifest of the push before names and this model does not have: a second shard would be loaded, too.

    Whatever else somebody has put into the repository stays, as does all where the manifest is another tool's.
    """
    from huggingface_hub import CommitOperationDelete

    repo, branch = config.push.repo, config.push.revision
    there = set(api.list_repo_files(repo, revision=branch))
    if models.MANIFEST not in there:
        return
    told = runtime.read_json(
        Path(api.hf_hub_download(repo, models.MANIFEST, revision=branch, local_dir=place / "before"))  # not into the cache
    )
    if not (isinstance(told, dict) and all(re.fullmatch("[0-9a-f]{64}", str(checksum)) for checksum in told.values())):
        return
    for name in sorted({*told} & there - {*entry["files"]}):
        yield CommitOperationDelete(name, is_folder=False)


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Whatever the Hub or the way to it refuses, in one line without the token."""
    from huggingface_hub import errors

    names = " or ".join(PUSH_TOKENS)
    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        why = {
            401: f"the Hub does not know the token in {names}: make a new one at https://huggingface.co/settings/tokens",
            403: f"the token in {names} may not write there: it needs write access to {repo.split('/')[0]}'s repositories",
            404: f"there is no such repository, or the token in {names} may not see it",
            412: "somebody else has written to this branch meanwhile",
        }.get(status, f"the Hub says {status}: {_short(error.server_message or '')}")
        raise NotPushed(f"promote.push: {repo}: {why}; {AGAIN}", hub.is_away(error)) from None
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise NotPushed(
            f"promote.push: {repo}: {_short(str(error)) or type(error).__name__}; {AGAIN}", hub.is_away(error)
        ) from None


def _short(said: str) -> str:
    """What somebody else says, without secrets, which are looked for first: of one that is cut a part would be left."""
    return line_without_secrets(said)[:200]
