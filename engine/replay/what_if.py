"""What if: the recorded outcomes of a session, under another policy or by other code."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import PlaceHold
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.log.recorded import RecordedEvent, RecordedPolicy
from guestledger.engine.replay.agenda import agenda
from guestledger.engine.replay.contrast import contrasts
from guestledger.engine.replay.decisions import Lifecycle, decisions
from guestledger.engine.replay.findings import Course, Ending, FirstDifference, WhatIf
from guestledger.engine.replay.policy_change import changed_policy
from guestledger.engine.replay.simulation import Simulation

PolicyChange = Policy | Mapping[str, Any] | None
"""A whole policy; or the fields that differ from the recorded one, by name (`changed_policy`); or `None`: the recorded one."""

TODAY = Lifecycle()


def what_if(
    history: Sequence[RecordedEvent],
    policies: Sequence[RecordedPolicy],
    *,
    policy: PolicyChange = None,
    lifecycle: Lifecycle = TODAY,
    now: datetime | None = None,
    hold: PlaceHold | None = None,
) -> WhatIf:
    """Run a session's history again with the outcomes that it holds: on a virtual clock, without I/O.

    `policies`: those under which its decisions may have been recorded (`ledger.replay.policies()`), at least one. `policy`: the
    one to use instead. `lifecycle`: the code to use instead of today's. `now` (UTC): the time up to which deadlines and
    retention run; by default the last event's. `hold`: a legal hold on the session's subject that the history does not have; it is
    placed where the contact data would be erased. Under the recorded policy the result is the history, event by event.

    Raises `InvalidPolicy` for a change that is no policy, and `ValueError` for a history without events.
    """
    if not history:
        raise ValueError("a history without events has no decisions")
    recorded = agenda(decisions(history, policies), TODAY)
    reached_at = recorded.entries[-1].reached_at
    simulation = Simulation(
        history[0].stream_id,
        recorded,
        {id(one.policy): _used(one.policy, policy) for one in policies},
        lifecycle,
        max(now or reached_at, reached_at),
        hold,
    )
    simulation.run()
    difference = None
    if simulation.diverged:
        fields = contrasts(simulation.recorded, simulation.simulated)
        difference = FirstDifference(recorded=simulation.recorded, simulated=simulation.simulated, fields=fields)
    return WhatIf(
        id=history[0].stream_id,
        difference=difference,
        recorded=_course(recorded.entries[-1].decision.after, [one.event for one in history]),
        simulated=_course(simulation.state, simulation.events),
        ending=_ending(simulation),
        events=tuple(simulation.events),
        assumed=tuple(simulation.assumed),
        unanswered=tuple(simulation.unanswered),
        left_out=tuple(simulation.left_out),
        not_reproduced=tuple(
            one.before.version + 1
            for one in (entry.decision for entry in recorded.entries)
            if one.decided != one.recorded
        ),
    )


def _used(recorded: Policy, change: PolicyChange) -> Policy:
    if change is None:
        return recorded
    if not isinstance(change, Policy):
        return changed_policy(recorded, change)
    # In a ledger without a choice the provider's profile decides, and the recorded policy has that.
    in_doubt = change.creation.in_doubt or recorded.creation.in_doubt
    return replace(change, creation=replace(change.creation, in_doubt=in_doubt))


def _course(state: Session, events: Iterable[e.Event]) -> Course:
    return Course(
        status=state.status,
        channel_id=state.channel_id,
        cause=state.cause,
        detail=state.detail,
        attempts=state.attempts,
        latency_ms=state.latency_ms,
        webhook_attempts=state.webhook_attempts,
        version=state.version,
        at=max(event.at for event in events),
    )


def _ending(simulation: Simulation) -> Ending:
    if simulation.state.status is Status.PARKED:
        return Ending.PERSON
    if not simulation.waits:
        return Ending.DONE
    return Ending.UNANSWERED if simulation.unanswered else Ending.WAITING
