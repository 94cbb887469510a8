"""Where histories come from: the ledger, or a bundle file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

import guestledger
from guestledger.adapters.cli.running import fail, reading

if TYPE_CHECKING:
    from guestledger.engine.replay.bundle import Bundle, BundledSession

    History = Sequence[guestledger.RecordedEvent]

SUFFIX = ".jsonl"
"""Of a bundle's file."""


async def history_of(
    target: str, reveal: guestledger.Reveal | None = None
) -> tuple[History, Sequence[guestledger.RecordedPolicy]]:
    """Return a session's history, and the policies under which it may have been decided, the latest first.

    `target` is the session's id, or `FILE` or `FILE#SESSION` for a session in a bundle, which needs no database.
    """
    if (place := _place(target)) is not None:
        if reveal is not None:
            raise typer.BadParameter(
                "a replay masks what a bundle has in clear: its file has the values, under `revealed`",
                param_hint="--reveal",
            )
        file, session = place
        bundle = read_file(Path(file))
        return _chosen(bundle, file, session).history, bundle.policies
    async with reading() as ledger:
        return await ledger.history(target, reveal=reveal), await ledger.replay.policies()


def read_file(path: Path) -> Bundle:
    """Read a bundle. A file that cannot be read ends the command; one that is no bundle raises `BundleRefused`."""
    from guestledger.engine.replay.bundle import read_bundle

    try:
        data = path.read_bytes()
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")
    return read_bundle(data, str(path))


def _place(target: str) -> tuple[str, str] | None:
    """The file and the session that `target` names; the session is empty if it names none. `None`: it is no bundle."""
    file, _, session = target.rpartition("#")
    return next(((path, one) for path, one in ((target, ""), (file, session)) if _is_file(path)), None)


def _is_file(path: str) -> bool:
    try:
        return path.endswith(SUFFIX) or Path(path).is_file()
    except OSError:  # such as a name that is too long for a file
        return False


def _chosen(bundle: Bundle, file: str, session: str) -> BundledSession:
    sessions = bundle.sessions
    found = [one for one in sessions if session in _ids(one)] if session else list(sessions)
    if len(found) == 1:
        return found[0]
    if found:
        fail(f"{file} has {len(found)} sessions: name one, such as {file}#{found[0].id}")
    return fail(f"{file} does not have this session. It has {_listed(sessions)}")


def _ids(session: BundledSession) -> set[str]:
    """The engine's id and the provider's."""
    found = {getattr(recorded.event, "session_id", None) for recorded in session.history}
    return {str(session.id), *(one for one in found if one is not None)}


def _listed(sessions: Sequence[BundledSession]) -> str:
    shown = ", ".join(str(one.id) for one in sessions[:3]) or "none"
    return f"{shown} and {len(sessions) - 3} more" if len(sessions) > 3 else shown
