"""The policies under which decisions were recorded: a replay makes each decision again under its own."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec

from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import Driver
from guestledger.engine.domain import events as e
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.unreadable import UnknownPolicy
from guestledger.engine.log.appends import Append
from guestledger.engine.log.recorded import RecordedPolicy

_BY_NO_POLICY = (e.LegalHoldPlaced, e.LegalHoldReleased, e.ConsentWithdrawn, e.MarketingWithdrawn, e.GuestErased)
"""Each shows that its decision follows no policy. Commands make them, often in a process without the workers' policy."""

_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Policy)


class PolicyRecord:
    """Records the policy of this process, once, with the first decision that it commits."""

    def __init__(self, schema: str, policy: Policy) -> None:
        self._text = _encoder.encode(policy).decode()
        self._digest = sha256(self._text.encode()).digest()
        self._insert = f"""
            INSERT INTO {quoted(schema)}.policies (digest, after_position, recorded_at, policy)
            VALUES ($1::bytea, $2::bigint, $3::timestamptz, $4::text::json) ON CONFLICT (digest) DO NOTHING"""
        self.done = False
        """Whether it is committed."""

    def wanted(self, appends: Sequence[Append]) -> bool:
        """Whether it has to be recorded with these appends: some follow no policy, such as a look at personal data."""
        return not self.done and any(map(_follows_policy, appends))

    async def write(self, driver: Driver, position: int, now: datetime) -> None:
        """Write it in the transaction of an append: the log ended at `position` before."""
        await driver.execute(self._insert, self._digest, position, now, self._text)


def _follows_policy(append: Append) -> bool:
    return any(isinstance(event, e.SessionEvent) for event in append.events) and not any(
        isinstance(event, _BY_NO_POLICY) for event in append.events
    )


def select_policies(schema: str) -> str:
    """The statement that gives all policies, the latest first."""
    return f"""
        SELECT digest, policy::text, after_position FROM {quoted(schema)}.policies
         ORDER BY after_position DESC, recorded_at DESC"""


def policies_in(rows: Sequence[Any]) -> list[RecordedPolicy]:
    """The policies in these rows. Raises `UnknownPolicy`."""
    return [
        RecordedPolicy(policy=_policy(row["digest"], row["policy"]), after_position=row["after_position"])
        for row in rows
    ]


def _policy(digest: bytes, text: str) -> Policy:
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, ValueError):
        raise UnknownPolicy(digest.hex()) from None
