"""AWS KMS makes the key-encryption key: against moto's server, over real HTTP."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer
from msgspec.structs import replace

from guestledger.adapters import kms
from guestledger.adapters.cli.error_lines import error_line
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.errors import CredentialsRefused, ServiceUnreachable
from tests.integration.test_key_rotation import guest, rotated, wrapped_by
from tests.integration.test_key_vault import revealed, rows
from tests.keys import KEY
from tests.unit.samples import IP


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the server, with the credentials and the endpoint in the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL_KMS": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "correct-horse",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    with closing(boto3.client("kms")) as client:
        yield client


@pytest.fixture
def settings(aws: Any, database_url: str) -> Settings:
    arn = aws.create_key()["KeyMetadata"]["Arn"]
    return Settings(database_url=database_url, encryption_kms_key=arn)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests to KMS so far."""
    made: list[str] = []
    call = kms._call_now

    def counted(operation: str, arguments: Any) -> Any:
        made.append(operation)
        return call(operation, arguments)

    monkeypatch.setattr(kms, "_call_now", counted)
    return made


async def test_kms_is_called_once_at_the_start_and_never_for_a_session(settings: Settings, calls: list[str]) -> None:
    async with connect(settings) as ledger:
        sessions = [await ledger.accept(guest(number)) for number in range(5)]
    assert calls == ["generate_data_key"]

    async with connect(settings) as ledger:
        for session in sessions:
            assert (await revealed(ledger, session)).guest.ip_address == IP
    assert calls == ["generate_data_key", "decrypt"]
    [(source, wrapped)] = await rows(
        settings.database_url or "", "SELECT source, wrapped FROM guestledger.wrapping_keys"
    )
    assert source == "AWS KMS"
    assert len(wrapped) > 32


async def test_rotation_makes_a_new_key_and_forgets_the_old_one(settings: Settings, calls: list[str]) -> None:
    async with connect(settings) as ledger:
        session = await ledger.accept(guest(1))
        done = await rotated(settings)
        later = await ledger.accept(guest(2))  # a worker that runs learns the new key from the vault

        assert await wrapped_by(settings) == {done.key: done.rewrapped + 2}
        assert await rows(settings.database_url or "", "SELECT id FROM guestledger.wrapping_keys") == [(done.key,)]
        for one in (session, later):
            assert (await revealed(ledger, one)).guest.ip_address == IP
    assert calls == ["generate_data_key", "decrypt", "generate_data_key", "decrypt"]


async def test_rotation_goes_from_a_key_of_the_settings_to_kms_and_to_another_kms_key(
    settings: Settings, aws: Any
) -> None:
    local = replace(settings, encryption_key=KEY, encryption_kms_key=None)
    async with connect(local) as ledger:
        session = await ledger.accept(guest(1))
    await rotated(replace(settings, encryption_key=KEY))

    other = aws.create_key()["KeyMetadata"]["Arn"]
    aws.create_alias(AliasName="alias/guests", TargetKeyId=other)
    await rotated(replace(settings, encryption_kms_key=f"alias/guests {settings.encryption_kms_key}"))

    async with connect(replace(settings, encryption_kms_key="alias/guests")) as ledger:
        assert (await revealed(ledger, session)).guest.ip_address == IP


async def test_a_key_of_kms_that_wrapped_nothing_here_is_refused(settings: Settings, aws: Any) -> None:
    async with connect(settings):
        pass
    other = aws.create_key()["KeyMetadata"]["Arn"]

    # The real one answers IncorrectKeyException, moto AccessDeniedException.
    with pytest.raises(CredentialsRefused, match=r"AWS KMS cannot be used: the .* GUESTLEDGER_ENCRYPTION_KMS_KEY"):
        async with connect(replace(settings, encryption_kms_key=other)):
            pass


async def test_a_key_that_does_not_exist_is_named_in_one_line(settings: Settings) -> None:
    with pytest.raises(CredentialsRefused, match="there is no key as GUESTLEDGER_ENCRYPTION_KMS_KEY names it"):
        async with connect(replace(settings, encryption_kms_key="alias/none")):
            pass


async def test_missing_credentials_are_named_in_one_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")

    with pytest.raises(CredentialsRefused, match="there are no AWS credentials"):
        async with connect(settings):
            pass


async def test_an_alias_without_a_region_is_named_in_one_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")

    with pytest.raises(CredentialsRefused, match="no region is set: set AWS_REGION"):
        async with connect(replace(settings, encryption_kms_key="alias/guests")):
            pass


async def test_an_unreachable_kms_is_named_in_one_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")

    with pytest.raises(
        ServiceUnreachable, match=r"^AWS KMS cannot be used: it cannot be reached \(EndpointConnectionError\)$"
    ):
        async with connect(settings):
            pass


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDeniedException", "grant kms:GenerateDataKey and kms:Decrypt"),
        ("IncorrectKeyException", "did not make the key vault's key-encryption key"),
        ("DisabledException", "the key in GUESTLEDGER_ENCRYPTION_KMS_KEY is disabled: enable it"),
        ("KMSInvalidStateException", "is to be deleted"),
        ("ExpiredTokenException", r"it refused the request \(ExpiredTokenException\)"),
        ("ThrottlingException", r"it fails \(ThrottlingException\)"),
    ],
)
async def test_a_refusal_is_told_in_words(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    async with connect(settings):
        pass

    def refuse(_operation: str, _arguments: Any) -> Any:
        raise ClientError({"Error": {"Code": code, "Message": "user arn:aws:iam::1:user/jane"}}, "GenerateDataKey")

    monkeypatch.setattr(kms, "_call_now", refuse)

    with pytest.raises((CredentialsRefused, ServiceUnreachable), match=words) as raised:
        async with connect(settings):
            pass
    assert error_line(raised.value) == str(raised.value)
    assert "jane" not in str(raised.value)
