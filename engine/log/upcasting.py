"""Upcasting: an event of an old schema version, read as if it had been written today."""

from collections.abc import Callable, Mapping
from typing import Any

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""A pure function from an event's JSON data in one schema version to its data in the next. It may change its argument."""

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""By wire name and old version: `("SessionCreated", 1)` makes version 2 of version 1."""


def upcast(event_type: str, data: dict[str, Any], *, stored: int, wanted: int) -> dict[str, Any]:
    """`data`, stored as schema version `stored`, in version `wanted`. Raises `KeyError` if an upcaster is missing."""
    for version in range(stored, wanted):
        data = UPCASTERS[event_type, version](data)
    return data
