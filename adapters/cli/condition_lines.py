"""The lines of `guestledger why`: each condition with yes or no, what was found, and what helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.messages import (
    LEARNED,
    STEPS,
    cause_sentence,
    closed_words,
    session_reason,
    wait_sentence,
)

ENDS: Mapping[str, str] = {
    "active": "the session was opened and reported, and its token has no end that is known",
    "expired": "the guest's token ended",
}
"""By `Status`, where no cause says why a session is over."""


def lines(found: guestledger.Explanation) -> Iterator[str]:
    """Yield the explanation line by line."""
    yield f"session {found.id} is {found.status}, at {show.time(found.now)} (all times are UTC)"
    if found.ended_at is not None:
        why = session_reason(found) or ENDS.get(found.status, found.status)
        yield f"it is over since {show.time(found.ended_at)}: {why}"
    if found.erased_at is not None:
        yield f"the guest's personal data was erased at {show.time(found.erased_at)}"
    yield from map(condition_line, found.conditions)
    for step in found.steps:
        yield from _step_lines(step)
    if found.deadline is not None:
        yield f"deadline {show.time(found.deadline)}"
    if not found.steps and not found.unmet:
        yield "nothing more is due, ever"


def _step_lines(step: guestledger.StepExplanation) -> Iterator[str]:
    yield f"{step.step}: {STEPS.get(step.step, step.step.replace('_', ' '))}"
    yield from map(condition_line, step.conditions)
    if any(condition.name == "pause" for condition in step.unmet):
        yield f"  `guestledger limits --reset '{step.limiter}'` ends the pause: only if the server allows requests again"
    if not step.unmet:
        yield "  due now, waits for a worker: `guestledger worker`"
    elif step.moves_at is not None:
        yield f"  moves at {show.time(step.moves_at)}, if a worker runs"


def condition_line(condition: guestledger.Condition) -> str:
    """Return one line for a condition: the mark, its name, what was found, and what meets it."""
    mark = "yes" if condition.met else "NO"
    return f"  {mark:<3}  {condition.name.replace('_', ' '):<12}  {SENTENCES[condition.name](condition)}"


def _person(found: guestledger.Condition) -> str:
    if found.met:
        return "nobody has to decide"
    why = "" if found.cause is None else f": {cause_sentence(found.cause, found.detail)}"
    return f"a person has to decide, with `guestledger resolve`{why}"


def _legal_hold(found: guestledger.Condition) -> str:
    if found.met:
        return "none keeps the contact data"
    return f"keeps the contact data since {show.time(found.at)}: `guestledger hold --release` ends it"


def _lease(found: guestledger.Condition) -> str:
    return (
        "free"
        if found.met
        else f"worker {found.owner} runs it; if it has crashed, its lease ends at {show.time(found.until)}"
    )


def _due_time(found: guestledger.Condition) -> str:
    if found.met:
        return f"since {show.time(found.at)}"
    parts = [f"not before {show.time(found.until)}"]
    if found.cause is not None:
        parts.append(cause_sentence(found.cause, found.detail))
    if found.wait is not None:
        parts.append(wait_sentence(found.wait))
    return "; ".join(parts)


def _settings(found: guestledger.Condition) -> str:
    return (
        "this process can run it" if found.met else "it cannot be run with the settings here: use the workers' settings"
    )


def _pause(found: guestledger.Condition) -> str:
    if found.at is None:
        return "the server asked for none"
    basis = "" if found.closed_by is None else f" ({closed_words(found.closed_by)})"
    return f"the server asked for one until {show.time(found.at)}{basis}{': over by then' if found.met else ''}"


def _circuit(found: guestledger.Condition) -> str:
    failures = f"{found.failures} failures in a row"
    if found.probing:
        return f"open after {failures}: a probe is in flight, until {show.time(found.until)} at the latest"
    if not found.met:
        return f"open after {failures}: a probe is sent at {show.time(found.until)}"
    if found.limit is not None and (found.failures or 0) >= found.limit:
        return f"open after {failures}: a probe may be sent"
    return f"closed: {failures}, it opens at {found.limit:g}"


def _rate(found: guestledger.Condition) -> str:
    from guestledger.engine.ports.due_steps import MAX_AHEAD

    least = "at least " if found.ahead == MAX_AHEAD else ""
    ahead = f"{least}{found.ahead} sessions are ahead"
    if found.rate is None:
        return f"unlimited; {ahead}"
    turn = "" if found.met else f"; its turn comes at about {show.time(found.until)}"
    return f"{found.rate:.3g} a second{LEARNED}; {ahead}{turn}"


def _concurrency(found: guestledger.Condition) -> str:
    if found.in_flight is None:
        return "no limit is set"
    calls = f"{found.in_flight} of {found.limit:g} calls are in flight"
    return calls if found.met else f"{calls}: one of them has to end; asked again at {show.time(found.until)}"


def _retry_budget(found: guestledger.Condition) -> str:
    if found.retries_left is None:
        return "not needed: it is no retry"
    left = f"{found.retries_left:.3g} of {found.limit:g} retries are left"
    return left if found.met else f"{left}, {found.rate:g} a second come back: not before {show.time(found.until)}"


def _deadline(found: guestledger.Condition) -> str:
    assert found.at is not None
    assert found.planned_at is not None
    if found.met:
        return f"{show.time(found.at)}: {_span(found.planned_at, found.at)} are left then"
    return (
        f"{show.time(found.at)}: the request could be sent at {show.time(found.planned_at)}, so the session is given up"
    )


SENTENCES: Mapping[str, Callable[[guestledger.Condition], str]] = {
    "person": _person,
    "legal_hold": _legal_hold,
    "lease": _lease,
    "due_time": _due_time,
    "settings": _settings,
    "pause": _pause,
    "circuit": _circuit,
    "rate": _rate,
    "concurrency": _concurrency,
    "retry_budget": _retry_budget,
    "deadline": _deadline,
}
"""By `ConditionName`."""


def _span(since: datetime, until: datetime) -> str:
    return str(timedelta(seconds=int((until - since).total_seconds())))
