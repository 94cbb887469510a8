"""How log records look on stderr."""

import logging
import sys
import time

import guestledger
from guestledger.adapters.cli.error_lines import error_line
from guestledger.adapters.log_format import LogFormat
from guestledger.adapters.telemetry.log_context import JsonLines, LogContext

logger = logging.getLogger("guestledger")


def install(log_format: LogFormat) -> None:
    """Write log records to stderr in this format, from warnings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if log_format is LogFormat.JSON else LogLines())
    handler.addFilter(LogContext())  # first: it needs the exceptions that `Sentences` replaces
    handler.addFilter(Sentences())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def write(text: str, level: int) -> None:
    """Write a line for a person to stderr; where log lines are JSON, as one of `level`."""
    if any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers):
        logger.handle(logger.makeRecord(logger.name, level, "", 0, text, (), None))
    else:
        sys.stderr.write(f"guestledger: {text}\n")


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
