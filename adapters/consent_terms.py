"""The consent terms of an installation, from a TOML file."""

import logging
import tomllib
from pathlib import Path
from typing import Any

from guestledger.adapters.settings import InvalidSettings, variable
from guestledger.engine.domain.consent_terms import ConsentTerms, checked_terms, not_stated

logger = logging.getLogger("guestledger")

_FILE = variable("consent_terms")


def consent_terms(file: Path | None, given: ConsentTerms) -> ConsentTerms:
    """The terms in `file`, or else `given`. Raises `InvalidSettings`, which names the field."""
    where, plain = (f"{_FILE}: {file}", _read(file)) if file else ("Policy.consent_terms", given)
    try:
        return checked_terms(plain)
    except ValueError as error:
        raise InvalidSettings(f"{where} is invalid: {error}") from None


def warn_if_open(terms: ConsentTerms) -> None:
    """Log what incomplete terms leave out. A ledger without any terms is a trial: its records say so."""
    missing = not_stated(terms)
    if missing and terms != ConsentTerms():
        logger.warning(
            "consent records lack mandatory fields, which the consent terms leave out: %s", ", ".join(missing)
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InvalidSettings(f"{_FILE}: {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidSettings(f"{_FILE}: {file} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(f"{_FILE}: {file} is not TOML: {error}") from None
