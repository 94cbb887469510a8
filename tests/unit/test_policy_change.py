"""A policy with some fields changed, and what is refused at the door."""

from typing import Any

import pytest

from guestledger.engine.domain.consent_terms import ConsentTerms, Party
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.unreadable import InvalidPolicy
from guestledger.engine.limits.retry import InDoubt, RetryPolicy
from guestledger.engine.replay.policy_change import changed_policy

POLICY = Policy(
    creation=RetryPolicy(base_ms=100, in_doubt=InDoubt.PARK),
    webhook=DeliveryPolicy(waits_ms=(1, 2), jitter_percent=3),
    retention_days=4,
)


def test_only_the_given_fields_change() -> None:
    changes = {
        "creation": {"deadline_ms": 600_000, "in_doubt": "retry_with_key"},
        "webhook": {"waits_ms": [5, 6, 7]},
        "retention_days": None,
        "consent_terms": {"version": "2026", "controllers": [{"id": "example", "name": "Example Ltd"}]},
    }
    assert changed_policy(POLICY, changes) == Policy(
        creation=RetryPolicy(base_ms=100, deadline_ms=600_000, in_doubt=InDoubt.RETRY_WITH_KEY),
        webhook=DeliveryPolicy(waits_ms=(5, 6, 7), jitter_percent=3),
        consent_terms=ConsentTerms(version="2026", controllers=(Party(id="example", name="Example Ltd"),)),
    )
    assert changed_policy(POLICY, {}) == POLICY


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([], "the policy must be an object"),
        (3, "the policy must be an object"),
        ({"creation": 3}, "creation must be an object"),
        ({"creations": {}}, "creations is no field of a policy: there are creation, webhook, "),
        ({"creation": {"deadline": 3}}, "creation.deadline is no field of a policy: there are base_ms, "),
        ({"creation": {"deadline_ms": "1h"}}, "creation.deadline_ms: Expected `int`, got `str`"),
        ({"creation": {"deadline_ms": -1}}, "creation.deadline_ms: Expected `int` >= 0"),
        ({"creation": {"max_failures": 0}}, "creation.max_failures: Expected `int` >= 1"),
        ({"creation": {"in_doubt": "hope"}}, "creation.in_doubt: Invalid enum value 'hope'"),
        ({"creation": {"in_doubt": None}}, "creation.in_doubt must be one of retry_with_key, "),
        ({"webhook": {"waits_ms": [1, -2]}}, "webhook.waits_ms[1]: Expected `int` >= 0"),
        ({"webhook": {"waits_ms": [1, "a"]}}, "webhook.waits_ms[1]: Expected `int`, got `str`"),
        ({"webhook_enabled": 1}, "webhook_enabled: Expected `bool`, got `int`"),
        ({"retention_days": 40_000}, "retention_days: Expected `int` <= 36525"),
        ({"retention_days": True}, "retention_days: Expected `int | null`, got `bool`"),
        ({"limiter": {"calls": 3}}, "limiter cannot be asked about: the log does not hold"),
        ({"max_backlog_age_ms": 3}, "max_backlog_age_ms cannot be asked about: it changes no decision"),
        ({"consent_terms": {"version": ""}}, "consent_terms: version must be 1 to 1,000 characters"),
        ({"consent_terms": {"versions": "1"}}, "consent_terms.versions is no field of a policy"),
        (
            {"consent_terms": {"purposes": [{"flag": "fun"}]}},
            "consent_terms.purposes[0].flag: Invalid enum value 'fun'",
        ),
    ],
    ids=str,
)
def test_what_is_no_policy_is_refused_with_its_path(changes: Any, words: str) -> None:
    with pytest.raises(InvalidPolicy) as refused:
        changed_policy(POLICY, changes)
    assert refused.value.reason.startswith(words)
    assert "$" not in refused.value.reason
