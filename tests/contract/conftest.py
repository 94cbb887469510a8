"""Client, webhook and simulator against each other, over real HTTP on loopback."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest
from msgspec.structs import replace

from guestledger.adapters.cxone import CXoneClient, Profile
from guestledger.adapters.simulator import Simulator
from guestledger.engine.domain.consent import Consent, Evidence, Guest
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.admission import AdmissionRequest, Admitted, DenialReason, Denied
from guestledger.engine.limits.feedback import Feedback
from tests.unit.samples import HMAC_KEY

FINGERPRINT = "5d41402abc4b2a76b9719d911017c592ae1f0b1d5d41402abc4b2a76b9719d91"
QUICK = Profile(connect_ms=150, total_ms=250, token_backoff_ms=1)
PATIENT = Profile(connect_ms=4_000, total_ms=5_000, token_backoff_ms=1)


def pending_session(**changes) -> Session:
    guest = Guest(
        source="web",
        campaign="organic",
        device_type="desktop",
        fingerprint=FINGERPRINT,
        ip_address="203.0.113.7",
        user_agent="Mozilla/5.0 (X11)",
        timestamp="2024-05-20T14:21:59Z",
        subject_id=None,
        idempotency_key=None,
        hmac_key=HMAC_KEY,
    )
    consent = Consent(
        data_processing=True,
        gdpr_compliant=True,
        marketing=False,
        timestamp=datetime(2024, 5, 20, 14, 22, 0, 987_654, tzinfo=UTC),
        notice=None,
        evidence=Evidence(record_version=1),
    )
    session = Session(
        id=UUID("018f9661-6b8e-7c3a-9d4e-8f1a2b3c4d5e"),
        status=Status.PENDING,
        channel_id="ch_8f3a9b2c",
        guest=guest,
        consent=consent,
        accepted_at=consent.timestamp,
        channel_validated=True,
    )
    return replace(session, **changes)


class FakeRateLimiter:
    """Closes a limiter for as long as the feedback says, and records what it gets."""

    def __init__(self) -> None:
        self.asked: list[AdmissionRequest] = []
        self.observed: list[Feedback] = []
        self.closed: dict[str, Denied] = {}

    async def admit(self, request: AdmissionRequest) -> Admitted | Denied:
        now = datetime.now(UTC)
        self.asked.append(request)
        denied = self.closed.get(request.limiter)
        return denied if denied and now < denied.until else Admitted(at=now, probes=False)

    async def observe(self, feedback: Feedback) -> None:
        self.observed.append(feedback)
        if feedback.closed_ms is not None:
            until = datetime.now(UTC) + timedelta(milliseconds=feedback.closed_ms)
            self.closed[feedback.limiter] = Denied(by=DenialReason.CLOSED, until=until, closed_by=feedback.closed_by)


@pytest.fixture
def session() -> Session:
    return pending_session()


@pytest.fixture
def make_session():
    return pending_session


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.fixture
def limiter() -> FakeRateLimiter:
    return FakeRateLimiter()


@pytest.fixture
def client_of():
    """Make a client of a simulator, or of any server with a `url`. The default profile is patient."""

    def connect(server, profile=PATIENT, **changes) -> CXoneClient:
        given = {
            "url": server.url,
            "client_id": getattr(server, "client_id", "client-of-a-raw-server"),
            "client_secret": getattr(server, "client_secret", "secret-of-a-raw-server"),
            "rate_limiter": FakeRateLimiter(),
        }
        return CXoneClient(**(given | changes), profile=profile)

    return connect


@pytest.fixture
def quick() -> Profile:
    """A profile with short time limits, for servers that never answer."""
    return QUICK


@pytest.fixture
def patient() -> Profile:
    return PATIENT


TLS_HANDSHAKE = b"\x16"
RESET = b"reset the connection"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: close sends RST instead of FIN


class RawServer:
    """Answers each request with the next of `answers`, byte for byte, and closes the connection. The last one repeats.

    `times` are the monotonic times of the requests.
    """

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.times: list[float] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readexactly(1)
            if head != TLS_HANDSHAKE:
                head += await reader.readuntil(b"\r\n\r\n")
            _, _, rest = head.lower().partition(b"content-length: ")
            body = await reader.readexactly(int(rest.split(b"\r\n")[0])) if rest else b""
            self.requests.append(head + body)
            self.times.append(time.monotonic())
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if answer == RESET:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                return
            writer.write(answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def http_answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


TOKEN = http_answer(200, b'{"access_token":"raw-token","token_type":"Bearer","expires_in":3600}')


@pytest.fixture
def raw():
    """`raw.server(answer, …)` is a scripted server; `raw.http(…)`, `raw.token` and `raw.reset` are answers."""

    @asynccontextmanager
    async def server(*answers: bytes) -> AsyncIterator[RawServer]:
        scripted = RawServer(*answers)
        listening = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
        scripted.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        try:
            yield scripted
        finally:
            listening.close()

    return SimpleNamespace(server=server, http=http_answer, token=TOKEN, reset=RESET)


@pytest.fixture
async def nobody() -> SimpleNamespace:
    """A closed port, which refuses connections."""
    listening = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
    return SimpleNamespace(url=f"http://127.0.0.1:{port}")


@pytest.fixture
def with_token(monkeypatch):
    """Give a client a token without a request for one."""

    def give(client: CXoneClient) -> None:
        async def token() -> str:
            return "given-token"

        monkeypatch.setattr(client._tokens, "token", token)

    return give
