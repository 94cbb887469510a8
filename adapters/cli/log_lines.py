"""How log records look on stderr."""

import logging
import time

import guestledger
from guestledger.adapters.cli.error_lines import error_line


class LogLines(logging.Formatter):
    """One line a record: time (UTC), level, message."""

    def __init__(self) -> None:
        super().__init__("{asctime}.{msecs:03.0f}Z {levelname} guestledger: {message}", "%Y-%m-%dT%H:%M:%S", "{")
        self.converter = time.gmtime


class Sentences(logging.Filter):
    """Replaces exceptions in log records by their lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record's arguments; keep every record."""
        if isinstance(record.args, tuple) and any(isinstance(value, Exception) for value in record.args):
            record.args = tuple(
                error_line(value) if isinstance(value, guestledger.GuestledgerError) else value for value in record.args
            )
        return True
