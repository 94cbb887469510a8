"""A policy with some of its fields changed, as people write them down: only what differs."""

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from guestledger.engine.domain.consent_terms import ConsentTerms, checked_terms
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.unreadable import InvalidPolicy
from guestledger.engine.limits.retry import InDoubt

_WITHOUT_EFFECT = {
    "limiter": "the log does not hold what another limiter would have admitted",
    "max_backlog_age_ms": "it changes no decision",
}


def changed_policy(policy: Policy, changes: Mapping[str, Any]) -> Policy:
    """`policy` with these fields, nested as in `Policy`: `{"creation": {"deadline_ms": 600000}}`. A list is replaced whole.

    Raises `InvalidPolicy`, which names the field and what is allowed.
    """
    for name, reason in _WITHOUT_EFFECT.items():
        if isinstance(changes, Mapping) and name in changes:
            raise InvalidPolicy(f"{name} cannot be asked about: {reason}")
    return cast("Policy", _changed(policy, changes, ""))


def _changed(current: Any, changes: Any, path: str) -> Any:
    if not isinstance(changes, Mapping):
        raise InvalidPolicy(f"{path or 'the policy'} must be an object with the fields to change")
    fields: dict[str, Any] = {}
    for name, value in changes.items():
        below = f"{path}.{name}" if path else str(name)
        if name not in current.__struct_fields__:
            raise InvalidPolicy(f"{below} is no field of a policy: there are {', '.join(_changeable(current))}")
        part = getattr(current, name)
        nested = isinstance(part, msgspec.Struct)
        fields[name] = _changed(part, value, below) if nested else _converted(type(current), name, value, below)
        if below == "creation.in_doubt" and fields[name] is None:
            raise InvalidPolicy(f"{below} must be one of {', '.join(InDoubt)}")
    changed = msgspec.structs.replace(current, **fields)
    return _checked(changed, path) if isinstance(changed, ConsentTerms) else changed


def _changeable(part: msgspec.Struct) -> list[str]:
    return [name for name in part.__struct_fields__ if name not in _WITHOUT_EFFECT]


def _converted(kind: type[msgspec.Struct], name: str, value: Any, path: str) -> Any:
    [field] = [field for field in msgspec.structs.fields(kind) if field.name == name]
    try:
        return msgspec.convert(msgspec.to_builtins(value), field.type)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        raise InvalidPolicy(f"{path}{where.rstrip('`')}: {text}") from None


def _checked(terms: ConsentTerms, path: str) -> ConsentTerms:
    try:
        return checked_terms(terms)
    except ValueError as error:
        raise InvalidPolicy(f"{path}: {error}") from None
