"""What the replay has to be told of each command and each step."""

from importlib import import_module
from typing import get_args

from guestledger.engine.domain import commands as c
from guestledger.engine.domain.due import StepName
from guestledger.engine.replay.agenda import TIMERS
from guestledger.engine.replay.decisions import STEPS_OF
from guestledger.engine.worker import steps
from guestledger.engine.worker.step import Lane

BY_REQUEST = {
    c.OpenSession,
    c.NoteClockSetBack,
    c.RequestRedelivery,
    c.Resolve,
    c.WithdrawConsent,
    c.EraseGuest,
    c.PlaceHold,
    c.ReleaseHold,
}
"""They belong to no step, or to any."""


def test_the_replay_knows_the_step_of_every_command() -> None:
    assert STEPS_OF.keys() | BY_REQUEST == set(get_args(c.Command))
    assert not STEPS_OF.keys() & BY_REQUEST
    assert {step for names in STEPS_OF.values() for step in names} == set(StepName)


def test_the_replay_knows_every_step_that_only_records_a_time() -> None:
    lanes = {step: import_module(f"{steps.__name__}.{step}").Step.lane for step in StepName}
    recording = {step for step, lane in lanes.items() if lane is Lane.RECORDING}
    assert recording - {StepName.SETTLE_ATTEMPT} == TIMERS.keys(), "what settles an attempt records its outcome"
