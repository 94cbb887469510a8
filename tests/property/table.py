"""A model of the table `due_steps`: step changes are applied to it one after another."""

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.log.appends import Lease, StepChanges


class Row(NamedTuple):
    due_at: datetime
    owner: UUID | None = None
    lease_until: datetime | None = None


class Table:
    """The rows by stream and step."""

    def __init__(self) -> None:
        self.rows: dict[tuple[UUID, StepName], Row] = {}

    def of(self, stream_id: UUID) -> dict[StepName, Row]:
        """The rows of one stream."""
        return {step: row for (one, step), row in self.rows.items() if one == stream_id}

    def apply(self, stream_id: UUID, changes: StepChanges, now: datetime) -> None:
        """Apply the changes of one append. Leases begin at `now`."""
        lease = changes.lease
        for due in changes.due:
            key = (stream_id, due.step)
            if due.step in changes.mine:
                owner = lease.owner if lease else None
                until = now + timedelta(milliseconds=lease.ms) if lease else None
                self.rows[key] = Row(due.due_at, owner, until)
            else:
                self.rows[key] = self.rows.get(key, Row(due.due_at))._replace(due_at=due.due_at)
        for step in changes.done:
            self.rows.pop((stream_id, step), None)


@st.composite
def step_changes(draw: st.DrawFn, due_times: SearchStrategy[datetime], leases: SearchStrategy[Lease]) -> StepChanges:
    """Any changes, as an append may have them: no step is both due and done."""
    due = draw(st.dictionaries(st.sampled_from(StepName), due_times, max_size=4))
    return StepChanges(
        due=tuple(DueStep(step, due_at) for step, due_at in due.items()),
        mine=frozenset(draw(st.sets(st.sampled_from(sorted(due))))) if due else frozenset(),
        lease=draw(st.none() | leases),
        done=frozenset(draw(st.sets(st.sampled_from(StepName))) - due.keys()),
    )
