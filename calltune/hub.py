"""Data sets on the Hugging Face Hub: their addresses, and the commit that one means today."""

import re
from dataclasses import dataclass
from datetime import datetime

from calltune.errors import DataError, Unavailable, UserError

PREFIX = "hf://datasets/"
FORM = "hf://datasets/OWNER/NAME, with @REVISION and #CONFIG/SPLIT where they are needed"
_ADDRESS = re.compile(r"hf://datasets/(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^#\s]+))?(?:#(?P<part>[^#\s]+))?")


@dataclass(frozen=True)
class Address:
    """What a data set's address says: ``hf://datasets/acme/calls@v2#en/train``.

    Attributes:
        name: ``acme/calls``.
        revision: a branch, a tag or a commit; `main` where none is given.
        config: one of the set's parts, ``en``; empty for its own default.
        split: ``train`` where none is given.
    """

    name: str
    revision: str
    config: str
    split: str


def parsed(uri: str) -> Address:
    """Take an address apart. After ``#`` one word is the split, two are config and split.

    Raises:
        DataError: it is none.
    """
    match = _ADDRESS.fullmatch(uri)
    if match is None:
        raise DataError(f"{uri}: must be {FORM}")
    config, _, split = (match["part"] or "train").rpartition("/")
    if not split:
        raise DataError(f"{uri}: after # there must be a split, or a config and a split: #default/train")
    return Address(match["name"], match["revision"] or "main", config, split)


def commit_of(uri: str) -> str:
    """The commit that an address means now. Asks the Hub, with the environment's `HF_TOKEN` where there is one.

    Raises:
        DataError: there is no such data set or revision, or its terms have not been accepted.
        Unavailable: the Hub does not answer, or only with errors of its own.
    """
    from huggingface_hub import HfApi

    address = parsed(uri)
    try:
        info = HfApi().dataset_info(address.name, revision=address.revision, timeout=30)
        # What is gated is described to everybody; whether it may be read, only this says.
        HfApi().auth_check(address.name, repo_type="dataset")
    except Exception as error:  # three libraries' worth of exceptions; explained() raises what is none of theirs
        raise explained(uri, error) from None
    return str(info.sha)


def date_of(uri: str) -> datetime:
    """When the commit was made that an address means now. Asks the Hub, as :func:`commit_of` does.

    Raises:
        UserError: as there.
    """
    from huggingface_hub import HfApi

    address = parsed(uri)
    try:
        # The set's own date, which is quicker to ask for, is that of its newest commit, whatever the revision.
        commits = HfApi().list_repo_commits(address.name, repo_type="dataset", revision=address.revision)
    except Exception as error:  # as above
        raise explained(uri, error) from None
    return commits[0].created_at


def is_away(error: Exception) -> bool:
    """Whether an error says that the Hub does not answer, or only with errors of its own: the same again may end better."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return is_away(error.__cause__)  # which is what the Hub said: it may have refused
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    lost = isinstance(error, errors.HTTPError | ConnectionError | TimeoutError | errors.LocalEntryNotFoundError)
    return lost and not constants.HF_HUB_OFFLINE


def explained(uri: str, error: Exception) -> UserError:
    """What went wrong with a data set, in one line.

    Raises:
        Exception: the error itself, where it is not the Hub's, the connection's or the data set's.
    """
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors

    address = parsed(uri)
    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/datasets/{address.name}"
        return DataError(f"{uri}: is gated: accept its terms at {page}, and set HF_TOKEN to a token of that account")
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(f"{uri}: has no revision {address.revision!r}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(f"{uri}: no such data set on the Hub, or a private one: then set HF_TOKEN to a token that may read it")
    if isinstance(error, errors.HFValidationError | ValueError | DatasetsError | FileNotFoundError) and not isinstance(
        error, errors.HfHubHTTPError | errors.LocalEntryNotFoundError
    ):
        return DataError(f"{uri}: {' '.join(str(error).split())[:300]}")
    if isinstance(error, errors.HTTPError | OSError):
        kind = Unavailable if is_away(error) else DataError
        return kind(f"{uri}: the Hub cannot be reached: {' '.join(str(error).split())[:200]}")
    raise error
