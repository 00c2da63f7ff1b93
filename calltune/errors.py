"""Errors that a user can fix: one clear line, exit code 2, no traceback."""


class UserError(Exception):
    """What was wrong, where, and what would be right. Ends a command or a step with exit code 2."""


class ConfigError(UserError):
    """A config file, key or value that cannot be used."""


class DataError(UserError):
    """Input data that cannot be used."""


class Stopped(UserError):
    """A step was told to stop, and can go on where it was."""
