"""Errors that a user can fix: one clear line, exit code 2, no traceback."""

import errno
import os
import re
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk that is full, and of a quota that is used up."""


class UserError(Exception):
    """What was wrong, where, and what would be right. Ends a command or a step with `exit_code` and one line.

    Attributes:
        exit_code: 2, an error in usage, config or data: the same again would end the same way.
    """

    exit_code = 2


class ConfigError(UserError):
    """A config file, key or value that cannot be used."""


class DataError(UserError):
    """Input data that cannot be used."""


def no_such_file(path: Path | str, kind: str = "") -> DataError:
    """The error for a file that is not where somebody said; of a relative path also where that was looked for.

    Where something else is in its place, such as a device or a pipe, or where it is an address or a pattern that nobody reads,
    it says so.
    """
    if Path(path).exists():
        what = "a folder" if Path(path).is_dir() else "neither a file nor a folder"
        return DataError(f"{path}: is {what}; name {f'the {kind}' if kind else 'a'} file")
    instead = _instead(str(path), kind)
    if instead:
        return DataError(f"{path}: {instead}")
    from_where = "" if Path(path).is_absolute() else f" in {Path.cwd()}, from where paths count"
    return DataError(f"{path}: no such {f'{kind} file' if kind else 'file'}{from_where}")


def _instead(path: str, kind: str) -> str:
    """What would be right in place of what is not a path, but looks as if it was to be something else; else empty."""
    is_data = kind in ("", "data")
    on_hub = re.fullmatch(r"(?:hf:|https?:/+huggingface\.co)/+(?:datasets/)?([\w.-]+/[\w.-]+)?.*", path)
    if on_hub and is_data:
        return f"is no address that is read: hf://datasets/{on_hub[1] or 'OWNER/NAME'} would be right"
    if re.match(r"[a-z][a-z0-9+.-]+:/", path, re.IGNORECASE) and not path.startswith("s3:/"):
        also = " or have it at s3://bucket/prefix or hf://datasets/OWNER/NAME" if is_data else ""
        return f"nothing is read from such an address: download it, and name the file,{also}".removesuffix(",")
    if path.startswith(("~", "$")):
        # Of the variables only this one is shown: another one may be a secret.
        whole = os.path.expanduser(re.sub(r"\$(HOME|\{HOME\})(?=/)", "~", path))
        return f"~ and $ are not expanded here: write the whole path{f', {whole}' if whole != path else ''}"
    if is_data and re.search(r"[*?\[]", path):
        folder = os.path.dirname(path) or "."
        return f"no such file, and patterns are not read: name a folder, of which every data file is, such as {folder}"
    return ""


class Stopped(UserError):
    """A step was told to stop, and can go on where it was: nobody's mistake, so that the same again may end better."""

    exit_code = 1


class Unavailable(UserError):
    """A service that does not answer, or only with errors of its own: the same again may end better."""

    exit_code = 1
