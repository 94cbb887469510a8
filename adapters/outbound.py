"""The provider and the webhook of these settings, and the policy that both follow."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

from msgspec.structs import replace

from guestledger.adapters.absent import NoProvider, NoWebhook
from guestledger.adapters.consent_terms import consent_terms
from guestledger.adapters.cxone.client import CXoneClient
from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.settings import InvalidSettings, Settings, variable
from guestledger.adapters.webhook import HttpWebhook
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.retry import InDoubt
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.provider import Provider
from guestledger.engine.ports.rate_limiter import RateLimiter
from guestledger.engine.ports.telemetry import Telemetry
from guestledger.engine.ports.webhook import WebhookSender
from guestledger.engine.worker.step import Lane


def policy_of(policy: Policy, profile: Profile, settings: Settings) -> Policy:
    """The host's policy, overridden by the profile and the settings."""
    limiter = replace(
        policy.limiter,
        calls=settings.calls or policy.limiter.calls,
        calls_per_process=settings.calls_per_process or policy.limiter.calls_per_process,
    )
    return replace(
        policy,
        creation=replace(policy.creation, in_doubt=profile.in_doubt),
        limiter=limiter,
        consent_terms=consent_terms(settings.consent_terms, policy.consent_terms),
        webhook_enabled=policy.webhook_enabled and settings.webhook_url is not None,
        retention_days=policy.retention_days if settings.retention_days is None else settings.retention_days,
    )


def with_doubt(profile: Profile, wanted: InDoubt | None) -> Profile:
    """Return the profile with this choice about lost answers; `None`: as it is."""
    if wanted is None:
        return profile
    honours = profile.honours_idempotency_key or wanted is InDoubt.RETRY_WITH_KEY
    return replace(profile, in_doubt=wanted, honours_idempotency_key=honours)


async def open_provider(
    settings: Settings,
    profile: Profile,
    limiter: RateLimiter,
    policy: Policy,
    clock: Clock,
    telemetry: Telemetry,
    stack: AsyncExitStack,
) -> Provider:
    """Return the provider of these settings until `stack` ends. Raises `InvalidSettings`."""
    if settings.cxone_url is None:
        return NoProvider()
    profile = replace(profile, throttle_scope=settings.throttle_scope or profile.throttle_scope)
    with _invalid("cxone_url"):
        client = CXoneClient(
            url=settings.cxone_url,
            client_id=settings.cxone_client_id,
            client_secret=settings.cxone_client_secret,
            rate_limiter=limiter,
            profile=profile,
            now=clock.now,
            # One more for a token: a request that waits here in vain would count as failed.
            connections=policy.limiter.calls_per_process + 1,
            max_pause_ms=policy.limiter.max_pause_ms,
            telemetry=telemetry,
        )
    await stack.enter_async_context(client)
    return client


async def open_webhook(settings: Settings, clock: Clock, telemetry: Telemetry, stack: AsyncExitStack) -> WebhookSender:
    """Return the webhook of these settings until `stack` ends. Raises `InvalidSettings`."""
    if settings.webhook_url is None:
        return NoWebhook()
    with _invalid("webhook_url", "webhook_secret"):
        webhook = HttpWebhook(
            url=settings.webhook_url,
            secret=settings.webhook_secret,
            allow_private=settings.webhook_allow_private,
            now=clock.now,
            connections=Lane.WEBHOOK.max_in_flight,
            telemetry=telemetry,
        )
    await stack.enter_async_context(webhook)
    return webhook


@contextmanager
def _invalid(*fields: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InvalidSettings(f"{' or '.join(map(variable, fields))} is invalid: {error}") from None
