"""Two decisions side by side: each field in which they differ."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import msgspec

from guestledger.engine.domain import events as e
from guestledger.engine.domain.personal import MASK, Guarded, Sealed, masked
from guestledger.engine.replay.findings import Contrast, Taken


def contrasts(recorded: Taken | None, simulated: Taken | None) -> tuple[Contrast, ...]:
    """The fields in which the commands, then the events differ. Of two kinds only the kinds are shown."""
    commands = (one.command if one else None for one in (recorded, simulated))
    events = (one.events if one else () for one in (recorded, simulated))
    return (*_of_pair("command", *commands), *_of_events(*events))


def _of_events(recorded: tuple[e.Event, ...], simulated: tuple[e.Event, ...]) -> Iterator[Contrast]:
    for number, (left, right) in enumerate(zip_longest(recorded, simulated), 1):
        yield from _of_pair(f"event {number}", left, right)


def _of_pair(name: str, left: msgspec.Struct | None, right: msgspec.Struct | None) -> Iterator[Contrast]:
    if type(left) is not type(right):
        kinds = (None if value is None else type(value).__name__ for value in (left, right))
        yield Contrast(path=name, recorded=next(kinds), simulated=next(kinds))
    elif left != right:
        before, after = (dict(_fields(type(left).__name__, value)) for value in (left, right))
        for path in dict.fromkeys([*before, *after]):
            if before.get(path) != after.get(path):
                yield Contrast(path=path, recorded=before.get(path), simulated=after.get(path))


def _fields(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value in `value` with its path, personal ones masked."""
    match value:
        case Guarded():
            inner = masked(value)
        case msgspec.Struct():
            inner = msgspec.structs.asdict(value)
        case dict():
            inner = value
        case list() | tuple() if any(isinstance(item, msgspec.Struct) for item in value):
            inner = {str(number): item for number, item in enumerate(value)}
        case _:
            yield path, MASK if isinstance(value, Sealed) else value
            return
    for name, item in inner.items():
        yield from _fields(f"{path}.{name}", item)
