"""What-ifs of many sessions, summed up."""

from uuid import UUID

from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.session import Status
from guestledger.engine.replay.findings import Assumption, Course, Ending, FirstDifference, Unanswered, WhatIf
from guestledger.engine.replay.what_if_summary import LatencySpread, StatusChange, Tally
from tests.unit.samples import CHANNEL, START

NO_DIFFERENCE = FirstDifference(recorded=None, simulated=None, fields=())


def course(status: Status, latency_ms: int | None) -> Course:
    return Course(
        status=status,
        channel_id=CHANNEL,
        cause=None,
        detail=None,
        attempts=1,
        latency_ms=latency_ms,
        webhook_attempts=0,
        version=4,
        at=START,
    )


def found(
    number: int,
    recorded: Course,
    simulated: Course,
    *,
    unanswered: StepName | None = None,
    assumed: bool = False,
) -> WhatIf:
    assumption = Assumption(command="RecordAttempt", number=1, recorded_at=START, at=START, in_part=False)
    return WhatIf(
        id=UUID(int=number),
        difference=None if recorded == simulated else NO_DIFFERENCE,
        recorded=recorded,
        simulated=simulated,
        ending=Ending.DONE,
        events=(),
        assumed=(assumption,) if assumed else (),
        unanswered=(Unanswered(step=unanswered, number=2, at=START),) if unanswered else (),
        left_out=(),
        not_reproduced=(),
    )


def test_sessions_are_counted_by_status_with_a_few_examples() -> None:
    tally = Tally()
    active, abandoned = course(Status.ACTIVE, 100), course(Status.ABANDONED, None)
    for number in range(5):
        tally.add(found(number, active, abandoned, assumed=number == 0))
    tally.add(found(5, active, active))
    tally.add(found(6, abandoned, course(Status.THROTTLED, None), unanswered=StepName.CREATE_SESSION))
    tally.add(found(7, active, course(Status.ACTIVE, 200), unanswered=StepName.DELIVER_WEBHOOK))

    summary = tally.summary()

    assert (summary.sessions, summary.identical, summary.assumed) == (8, 1, 1)
    assert (summary.ended_otherwise, summary.unanswered) == (5, 1)
    assert summary.statuses == (
        _change(Status.ACTIVE, Status.ABANDONED, 5, 0, 1, 2),
        _change(Status.ACTIVE, Status.ACTIVE, 2, 5, 7),
        _change(Status.ABANDONED, None, 1, 6),
    )


def _change(recorded: Status, simulated: Status | None, sessions: int, *examples: int) -> StatusChange:
    ids = tuple(str(UUID(int=number)) for number in examples)
    return StatusChange(recorded=recorded, simulated=simulated, sessions=sessions, examples=ids)


def test_latencies_then_and_now_are_percentiles_to_three_digits() -> None:
    tally = Tally()
    for ms in range(1, 101):
        tally.add(found(ms, course(Status.ACTIVE, ms), course(Status.ACTIVE, ms * 1_234)))

    summary = tally.summary()

    assert summary.recorded_latency == LatencySpread(sessions=100, p50=50, p95=95, p99=99)
    assert summary.simulated_latency == LatencySpread(sessions=100, p50=61_700, p95=117_000, p99=122_000)


def test_without_sessions_there_are_no_latencies() -> None:
    summary = Tally().summary()
    assert (summary.sessions, summary.recorded_latency, summary.simulated_latency) == (0, None, None)
    assert summary.statuses == ()
