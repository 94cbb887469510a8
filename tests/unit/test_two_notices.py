"""Readers tell the notice of a start from that of a withdrawal: they hold different data, and are delivered apart."""

from collections.abc import Sequence

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.session import WebhookNotice
from guestledger.engine.log.codec import encode
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.export import SENT_TO_WEBHOOK, exported
from guestledger.engine.projections.audit import WebhookState, project
from tests.unit.samples import (
    SESSION,
    START,
    was_attempted,
    was_created,
    was_recorded,
    was_synced,
    was_validated,
    was_withdrawn,
    webhook_abandoned,
    webhook_failed,
)

CREATED = (was_recorded(), was_validated(), was_attempted(), was_created())
OF_WITHDRAWAL = was_synced(notice=WebhookNotice.CONSENT_WITHDRAWN, attempt=2)


def history(*events: e.Event) -> Sequence[RecordedEvent]:
    return [
        RecordedEvent(
            position=number,
            stream_id=SESSION,
            version=number + 1,
            event=event,
            recorded_at=START,
            correlation_id="c",
            causation_id=SESSION,
            actor="a",
            data=encode(event),
            leaf_hash=b"",
        )
        for number, event in enumerate(events)
    ]


@pytest.mark.parametrize(
    ("after", "state"),
    [
        ((was_synced(), was_withdrawn(), OF_WITHDRAWAL), WebhookState.DELIVERED),
        ((webhook_failed(), was_withdrawn(), OF_WITHDRAWAL), WebhookState.FAILED),
        ((was_withdrawn(), webhook_abandoned(notice=WebhookNotice.CONSENT_WITHDRAWN)), WebhookState.FAILED),
        ((), WebhookState.OWED),
    ],
    ids=["taken before", "never taken", "both not taken", "not yet"],
)
def test_the_audit_log_shows_whether_the_notice_of_the_start_was_taken(
    after: tuple[e.Event, ...], state: WebhookState
) -> None:
    [entry] = project({}, history(*CREATED, *after))
    assert entry.webhook is state


def test_an_export_names_the_data_that_each_notice_held() -> None:
    found = exported(history(*CREATED, was_synced(), was_withdrawn(), OF_WITHDRAWAL)).disclosures
    assert [one.data for one in found if one.recipient == "webhook"] == [*SENT_TO_WEBHOOK.values()]


def test_an_export_does_not_show_a_notice_that_an_erasure_stopped() -> None:
    stopped = webhook_abandoned(cause=Cause.GUEST_ERASED, status=None)
    found = exported(history(*CREATED, stopped)).disclosures
    assert [one.recipient for one in found] == ["provider"]
