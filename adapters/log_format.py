"""The formats of the command's log lines. It imports nothing slow: `--help` needs it."""

from enum import StrEnum


class LogFormat(StrEnum):
    """How the log lines of the command look."""

    TEXT = "text"
    JSON = "json"
    """One JSON object a line."""
