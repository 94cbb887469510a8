"""The shared rate limiter: what all processes know about one API, by the database's time. Pure.

Four things deny a request:
- a pause: after a 429, a failure with `Retry-After`, or an exhausted quota;
- the rate, learned from the answers: see `Pace`;
- the circuit breaker: failures in a row open it, then single probes are sent;
- the retry budget: retries are a share of all requests.
"""

from datetime import datetime, timedelta
from math import floor

from msgspec.structs import replace

from guestledger.engine.limits import learning, pace as p
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason, Denied
from guestledger.engine.limits.feedback import Feedback, Observation, ThrottleScope
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import QUOTA_BASES
from guestledger.engine.limits.state import LimiterState

# How long a claim reserves the probe, and the wait after a lost one.
_PROBE_RESERVED = timedelta(seconds=1)
# How far ahead a worker reserves.
_AHEAD_S = 0.25
# The share of reservations beyond the rate: some are not used in time.
_SPARE = 0.1
# But none is spare while the admitted ones wait for longer than this.
_QUEUE_S = 0.03
# So many requests may leave together, or as many as the rate gives in this time.
_BURST, _BURST_S = 2, 0.04
# How early a request may be admitted: attempts are recorded in batches, at times that nobody sets. It leaves at its own time.
_EARLY_S = 0.15


def reserve(state: LimiterState, wanted: int, now: datetime) -> tuple[LimiterState, list[datetime], Denied | None]:
    """Reserve up to `wanted` requests; each may ask from its time on.

    Returns the new state, the times, and if they are fewer than `wanted`, what denies the next one.
    """
    denied = state.denial(now)
    if denied is not None or not wanted:
        return state, [], denied
    if state.broken_at is not None:
        # Only for a moment: a claim that sends nothing gives nothing back.
        reserved = replace(state, broken_until=state.broken_until or now, probe_until=now + _PROBE_RESERVED)
        return reserved, [now], reserved.denial(now) if wanted > 1 else None
    admitted = state.rate(now)
    if admitted is None:
        return state, [now] * wanted, None
    # New requests come after those that are admitted and still wait; while these are many, none is spare.
    wait = sending_wait(state, now)
    rate = admitted * (1 if wait.total_seconds() > _QUEUE_S else 1 + _SPARE)
    first = max(state.next_reservation or now, now + wait)
    ahead = (now - first).total_seconds() + _AHEAD_S
    number = min(wanted, floor(ahead * rate) + 1 if ahead >= 0 else 0)
    times = [first + timedelta(seconds=n / rate) for n in range(number + 1)]
    denied = _rate_denial(times[number], admitted) if number < wanted else None
    return replace(state, next_reservation=times[number]), times[:number], denied


def admit(
    state: LimiterState, request: AdmissionRequest, now: datetime, policy: LimiterPolicy
) -> tuple[LimiterState, Denied | None]:
    """Admit a request, or say what denies it; the state is then unchanged."""
    if _has_reservation(state, request, now):
        # Only what was learned since the reservation can deny it. The reserved probe may be its own.
        admitted, denied = state, replace(state, probe_until=None).denial(now)
    else:
        admitted, denied = _admit_unreserved(state, now)
    if denied is not None:
        return state, denied
    if state.broken_at is not None:  # a probe is sent alone
        return replace(admitted, broken_until=None, probe_until=now + timedelta(milliseconds=policy.probe_ms)), None
    admitted, denied = _pass_rate(admitted, request, now, policy)
    return (admitted, None) if denied is None else (state, denied)


def _has_reservation(state: LimiterState, request: AdmissionRequest, now: datetime) -> bool:
    probe_reserved = state.broken_until is not None and state.probe_until is not None and now < state.probe_until
    return request.reserved and (state.broken_at is None or probe_reserved)


def _admit_unreserved(state: LimiterState, now: datetime) -> tuple[LimiterState, Denied | None]:
    reserved, times, denied = reserve(state, 1, now)
    if times and times[0] > now:
        denied = _rate_denial(times[0], state.rate(now) or 0.0)
    if denied is not None and denied.by is DenialReason.CIRCUIT_OPEN and denied.until == state.probe_until:
        # A probe that is not lost shows something soon.
        denied = replace(denied, until=min(denied.until, now + _PROBE_RESERVED))
    return reserved, denied


def _pass_rate(
    state: LimiterState, request: AdmissionRequest, now: datetime, policy: LimiterPolicy
) -> tuple[LimiterState, Denied | None]:
    rate = state.rate(now)
    if rate is not None:
        due = max(state.next_admission or now, now)
        earliest = due - _burst(rate) - timedelta(seconds=_EARLY_S if request.early else 0)
        if now < earliest:
            return state, _rate_denial(earliest, rate)
        assert state.pace is not None
        assert state.closed_until is not None
        pace = state.pace.admitted(now, state.closed_until)
        state = replace(state, next_admission=due + timedelta(seconds=1 / rate), pace=pace)
    return _spend_budget(state, request, now, policy)


def sending_wait(state: LimiterState, now: datetime) -> timedelta:
    """How long a request that is admitted at `now` waits before it is sent, so that requests leave evenly."""
    rate = state.rate(now)
    if rate is None or state.next_admission is None or state.broken_at is not None:  # probes are sent alone
        return timedelta(0)
    return max(timedelta(0), state.next_admission - _burst(rate) - now)


def _burst(rate: float) -> timedelta:
    return timedelta(seconds=max(_BURST / rate, _BURST_S))


def _spend_budget(
    state: LimiterState, request: AdmissionRequest, now: datetime, policy: LimiterPolicy
) -> tuple[LimiterState, Denied | None]:
    left = state.retries_left(now, policy)
    if not request.retry:
        if left >= policy.retry_budget:
            return state, None
        return replace(state, retry_budget=left + policy.retries_per_request, retry_budget_at=now), None
    if left < 1:
        until = now + timedelta(seconds=(1 - left) / policy.retries_per_second)
        return state, Denied(by=DenialReason.RETRY_BUDGET, until=until, rate=policy.retries_per_second)
    return replace(state, retry_budget=left - 1, retry_budget_at=now), None


def _rate_denial(until: datetime, rate: float) -> Denied:
    return Denied(by=DenialReason.RATE, until=until, rate=rate)


def observe(state: LimiterState, feedback: Feedback, now: datetime, policy: LimiterPolicy) -> LimiterState:
    """The state after what a request showed."""
    after = _observe(state, feedback, now, policy)
    return after if after.pace is None else replace(after, pace=after.pace.after(state.remembered(now), now))


def _observe(state: LimiterState, feedback: Feedback, now: datetime, policy: LimiterPolicy) -> LimiterState:
    late = state.closed_at is not None and feedback.began_at <= state.closed_at
    closed_ms = feedback.closed_ms
    match feedback.observation:
        case Observation.THROTTLED:
            after, closed_ms = _close_circuit(state, feedback), max(closed_ms or 0, policy.min_closed_ms)
        case Observation.FAILED:
            after = _count_failure(state, feedback, now, policy)
        case Observation.SUCCESS:
            after = _count_answer(_close_circuit(state, feedback), feedback, now, late=late)
        case Observation.NOT_SENT:
            after = _release_probe(state, feedback, policy)
    if closed_ms is None:
        return after
    closed_ms = min(closed_ms, policy.max_pause_ms)
    if _is_auto(feedback):
        pace = _paced_by_evidence(after, closed_ms / 1_000, feedback, now, policy, late=late)
        if pace.by_chance:
            return _opened(after, pace, now)
    else:
        pace = _paced(after, closed_ms / 1_000, feedback, now, policy, late=late)
    return _pause(after, pace, closed_ms, feedback, now, late=late)


def _close_circuit(state: LimiterState, feedback: Feedback) -> LimiterState:
    if _began_before_break(state, feedback):
        return state
    return replace(state, failures=0, breaks=0, broken_at=None, broken_until=None, probe_until=None)


def _began_before_break(state: LimiterState, feedback: Feedback) -> bool:
    """Whether it was in flight when the circuit opened: it shows nothing about the time since."""
    return state.broken_at is not None and feedback.began_at <= state.broken_at


def _release_probe(state: LimiterState, feedback: Feedback, policy: LimiterPolicy) -> LimiterState:
    # Only its own probe: another may be in flight by now.
    own = state.probe_until == feedback.began_at + timedelta(milliseconds=policy.probe_ms)
    return replace(state, probe_until=None) if own else state


def _count_answer(state: LimiterState, feedback: Feedback, now: datetime, *, late: bool) -> LimiterState:
    if state.pace is None or state.closed_until is None or state.remembered(now) is None:
        return state
    if late:
        return _opened(state, _learned_late(state, state.pace, feedback), now)
    return replace(state, pace=learning.answered(state.pace, now, state.closed_until, feedback.began_at))


def _learned_late(state: LimiterState, pace: p.Pace, feedback: Feedback) -> p.Pace:
    """The pace after an answer to a request that was admitted before the last throttle."""
    assert state.closed_at is not None
    into_pause = state.closed_at < feedback.began_at + feedback.wait
    throttled = feedback.observation is Observation.THROTTLED
    return learning.late(pace, feedback.began_at, throttled=throttled, into_pause=into_pause)


def _is_auto(feedback: Feedback) -> bool:
    # A used-up quota speaks of all, whatever the scope.
    return (
        feedback.observation is Observation.THROTTLED
        and feedback.scope is ThrottleScope.AUTO
        and feedback.closed_by not in QUOTA_BASES
    )


def _opened(state: LimiterState, pace: p.Pace, now: datetime) -> LimiterState:
    """The state with this pace; open, if a trial has shown that the throttles which closed it came by chance."""
    shown = pace.by_chance and state.pace is not None and state.pace.trial is not None
    if not shown or state.closed_until is None:
        return replace(state, pace=pace)
    until = min(now, state.closed_until)
    return replace(state, pace=pace, closed_until=until, next_reservation=None, next_admission=None)


def _pause(
    state: LimiterState, pace: p.Pace, closed_ms: int, feedback: Feedback, now: datetime, *, late: bool
) -> LimiterState:
    until, closed_by = now + timedelta(milliseconds=closed_ms), feedback.closed_by
    if state.closed_until is not None and state.closed_until > until:
        until, closed_by = state.closed_until, state.closed_by
    return replace(
        state,
        # The requests in flight at the first throttle say more about the same excess.
        closed_at=state.closed_at if late else now,
        closed_until=until,
        closed_by=closed_by,
        pace=pace,
        next_reservation=until,
        # No burst at the reopening: the first requests come one by one.
        next_admission=until + _burst(pace.rate),
    )


def _paced(
    state: LimiterState, pause_s: float, feedback: Feedback, now: datetime, policy: LimiterPolicy, *, late: bool
) -> p.Pace:
    known = state.remembered(now)
    if known is None or state.closed_until is None:
        known = p.begun(policy.initial_rate, now)
    else:
        # No trial lifts this pause.
        known = replace(known, trial=None)
        if feedback.observation is Observation.THROTTLED and late:
            known = _learned_late(state, known, feedback)
        elif feedback.observation is Observation.THROTTLED:
            known = learning.throttled(known, pause_s, now, state.closed_until, feedback.began_at)
    # An outage says nothing about the rate.
    return known if feedback.quota is None else learning.with_quota(known, feedback.quota)


def _paced_by_evidence(
    state: LimiterState, pause_s: float, feedback: Feedback, now: datetime, policy: LimiterPolicy, *, late: bool
) -> p.Pace:
    """The pace after a 429 of the scope `auto`; `by_chance`: it stops only its own session."""
    pace = _judged(state, pause_s, feedback, now, policy, late=late)
    asked_of_all = state.closed_until is not None and state.closed_until > now
    if asked_of_all and state.pace is not None and state.pace.trial is None:
        return replace(pace, trial=None)  # no trial lifts that pause
    return pace


def _judged(
    state: LimiterState, pause_s: float, feedback: Feedback, now: datetime, policy: LimiterPolicy, *, late: bool
) -> p.Pace:
    known, sent_at = state.remembered(now), feedback.began_at
    if known is None or state.closed_until is None:
        return learning.tried(p.begun(policy.initial_rate, now), sent_at)
    if late:
        return _learned_late(state, known, feedback)
    if known.by_chance:
        return learning.throttled_by_chance(known, pause_s, now, state.closed_until, sent_at)
    if known.trial is not None and known.is_unlimited and not known.curve:
        return learning.tried(known, sent_at)
    pace = learning.throttled(known, pause_s, now, state.closed_until, sent_at)
    if pace.by_chance:
        return replace(pace, rate=p.MAX_RATE)
    return learning.tried(pace, sent_at) if known.is_unlimited else pace


def _count_failure(state: LimiterState, feedback: Feedback, now: datetime, policy: LimiterPolicy) -> LimiterState:
    if _began_before_break(state, feedback):
        return state
    failures = state.failures + 1
    if state.broken_at is None and failures < policy.failures_in_a_row:
        return replace(state, failures=failures)
    pause_ms = min(policy.max_break_ms, policy.break_ms * 2 ** min(state.breaks, 32))
    return replace(
        state,
        failures=failures,
        breaks=state.breaks + 1,
        broken_at=now,
        broken_until=now + timedelta(milliseconds=pause_ms),
        probe_until=None,
    )
