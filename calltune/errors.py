"""Errors that a user can fix: one clear line, exit code 2, no traceback."""

import errno
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

    Where something else is in its place, such as a device or a pipe, it says so.
    """
    if Path(path).exists():
        what = "a folder" if Path(path).is_dir() else "neither a file nor a folder"
        return DataError(f"{path}: is {what}; name {f'the {kind}' if kind else 'a'} file")
    from_where = "" if Path(path).is_absolute() else f" in {Path.cwd()}, from where paths count"
    return DataError(f"{path}: no such {f'{kind} file' if kind else 'file'}{from_where}")


class Stopped(UserError):
    """A step was told to stop, and can go on where it was: nobody's mistake, so that the same again may end better."""

    exit_code = 1


class Unavailable(UserError):
    """A service that does not answer, or only with errors of its own: the same again may end better."""

    exit_code = 1
