"""What if: a session again under another policy, with the answers that the log holds. Nothing is sent or recorded."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from guestledger.adapters.api.exchange import Response
from guestledger.adapters.api.handlers.sessions import SessionPath
from guestledger.adapters.api.route import Context
from guestledger.adapters.console.pages import page
from guestledger.adapters.forms.what_if_words import course_rows, difference_rows, notes, same_sentence
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.unreadable import InvalidPolicy
from guestledger.engine.limits.retry import InDoubt
from guestledger.engine.replay.findings import WhatIf

_Number = Annotated[str, Meta(max_length=200)]


class PolicyForm(SessionPath, frozen=True, kw_only=True):
    """A session, and the fields of another policy. Blank: as recorded."""

    base_ms: _Number | None = None
    cap_ms: _Number | None = None
    max_failures: _Number | None = None
    deadline_ms: _Number | None = None
    in_doubt: _Number | None = None
    waits_ms: _Number | None = None
    webhook_enabled: _Number | None = None
    retention_days: _Number | None = None
    policy: Annotated[str, Meta(max_length=4_000)] | None = None
    """More fields as JSON, such as {"creation": {"max_failures": 3}}."""


FIELDS: Mapping[str, tuple[str, str]] = {
    "max_failures": ("creation", "max_failures"),
    "deadline_ms": ("creation", "deadline_ms"),
    "base_ms": ("creation", "base_ms"),
    "cap_ms": ("creation", "cap_ms"),
    "in_doubt": ("creation", "in_doubt"),
    "waits_ms": ("webhook", "waits_ms"),
    "webhook_enabled": ("", "webhook_enabled"),
    "retention_days": ("", "retention_days"),
}
"""The fields of the form, and where they are in a policy."""


async def ask_what_if(asked: PolicyForm, context: Context) -> Response:
    """Show the first difference and where it leads, or only the form."""
    ledger = context.ledger
    recorded = (await ledger.replay.timeline(asked.id))[-1]
    policy, error, found = recorded.decision.policy, None, None
    try:
        changes = _changes(asked, policy)
        if changes:
            found = await ledger.replay.what_if(recorded.state.id, policy=changes)
    except InvalidPolicy as problem:
        changes, error = {}, problem.reason
    return page(
        context,
        "what_if.html",
        status=200 if error is None else 422,
        session=recorded.state,
        asked=asked,
        given={name: getattr(asked, name) or _shown(policy, *path) for name, path in FIELDS.items()},
        recorded={name: _shown(policy, *path) for name, path in FIELDS.items()},
        doubts=tuple(InDoubt),
        changes=changes and msgspec.json.encode(changes).decode(),
        error=error,
        **_answer(found),
    )


def _answer(found: WhatIf | None) -> dict[str, Any]:
    if found is None:
        return {"found": None}
    difference = found.difference
    return {
        "found": found,
        "same": same_sentence(found),
        "difference": [] if difference is None else list(difference_rows(difference)),
        "courses": list(course_rows(found)),
        "notes": list(notes(found)),
    }


def _changes(asked: PolicyForm, policy: Policy) -> dict[str, Any]:
    """The fields that differ from the policy, nested as in a policy."""
    changes: dict[str, Any] = {}
    for name, (part, field) in FIELDS.items():
        text = getattr(asked, name)
        if text is None or text == _shown(policy, part, field):
            continue
        within = changes.setdefault(part, {}) if part else changes
        within[field] = _value(name, text)
    for name, value in _more(asked.policy).items():
        both = isinstance(value, dict) and isinstance(changes.get(name), dict)
        changes[name] = changes[name] | value if both else value
    return changes


def _more(policy: str | None) -> dict[str, Any]:
    try:
        more = {} if policy is None else msgspec.json.decode(policy)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidPolicy(f"not JSON: {error}") from None
    if not isinstance(more, dict):
        raise InvalidPolicy("the policy must be an object with the fields to change")
    return more


def _value(name: str, text: str) -> Any:
    """What a person wrote, as JSON has it. What fits nothing stays a text, which the policy then refuses."""
    if name == "webhook_enabled":
        return {"yes": True, "no": False}.get(text, text)
    if name == "waits_ms":
        return [int(part) if part.strip().isdecimal() else part for part in text.split(",")]
    if name == "in_doubt":
        return text
    return int(text) if text.isdecimal() else text


def _shown(policy: Policy, part: str, field: str) -> str:
    value = getattr(getattr(policy, part) if part else policy, field)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
