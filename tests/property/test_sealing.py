"""Boxes, commitments and wrapped keys."""

import hmac
from hashlib import sha256
from uuid import UUID

import pytest
from hypothesis import given, settings, strategies as st

from guestledger.adapters.crypto.hashing import KeyedHash
from guestledger.adapters.crypto.sealing import KEY_BYTES, Aes256Key, commitment
from guestledger.adapters.crypto.wrapping import KeyEncryptionKey, KeyRefused
from guestledger.adapters.postgres.personal.sealed_append import _place
from guestledger.adapters.postgres.personal.vault import place
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.ports.key_vault import SealBroken

KEY = Aes256Key(UUID(int=1), bytes(range(KEY_BYTES)), b"subject", "contact")
PLACE = b"here"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
values = st.dictionaries(texts, texts, min_size=1, max_size=5)
secrets = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)
sixteen = st.binary(min_size=16, max_size=16)


@given(values)
def test_opening_gives_the_sealed_values_back(given_values: dict[str, str]) -> None:
    box, commitments = KEY.seal(given_values, PLACE)

    assert KEY.open(box, PLACE, commitments) == given_values
    assert commitments.keys() == given_values.keys()


@given(values)
def test_two_seals_of_one_value_have_nothing_in_common(given_values: dict[str, str]) -> None:
    first, second = KEY.seal(given_values, PLACE), KEY.seal(given_values, PLACE)

    assert first[0] != second[0]
    assert not set(first[1].values()) & set(second[1].values())


@given(values, st.data())
def test_any_flipped_bit_of_a_box_is_refused(given_values: dict[str, str], data: st.DataObject) -> None:
    box, commitments = KEY.seal(given_values, PLACE)
    bit = data.draw(st.integers(0, 8 * len(box) - 1))
    flipped = bytearray(box)
    flipped[bit // 8] ^= 1 << bit % 8

    with pytest.raises(SealBroken):
        KEY.open(bytes(flipped), PLACE, commitments)


@given(values, st.data())
def test_a_cut_box_is_refused(given_values: dict[str, str], data: st.DataObject) -> None:
    box, commitments = KEY.seal(given_values, PLACE)

    with pytest.raises(SealBroken):
        KEY.open(box[: data.draw(st.integers(0, len(box) - 1))], PLACE, commitments)


@given(values, secrets)
def test_a_box_opens_with_its_own_key_only(given_values: dict[str, str], secret: bytes) -> None:
    box, commitments = KEY.seal(given_values, PLACE)
    other = Aes256Key(KEY.id, secret, KEY.subject, KEY.purpose)

    if secret != KEY.secret:
        with pytest.raises(SealBroken):
            other.open(box, PLACE, commitments)


places = st.tuples(sixteen, sixteen, st.integers(1, 2**31 - 1), st.sampled_from(Purpose))


@given(places, places)
def test_a_box_opens_in_its_own_place_only(here: tuple[object, ...], there: tuple[object, ...]) -> None:
    box, commitments = KEY.seal({"a": "b"}, _bytes(here))

    if here != there:
        with pytest.raises(SealBroken):
            KEY.open(box, _bytes(there), commitments)


@given(places, st.data())
def test_a_place_differs_with_each_of_its_parts(here: tuple[object, ...], data: st.DataObject) -> None:
    part = data.draw(st.integers(0, 3))
    there = list(here)
    there[part] = data.draw(places)[part]

    assert (_bytes(here) == _bytes(tuple(there))) == (here == tuple(there))


def _bytes(at: tuple[object, ...]) -> bytes:
    ledger, stream, version, purpose = at
    return _place(ledger + stream, version, purpose)  # type: ignore[arg-type, operator]


@given(values, st.data())
def test_a_box_with_other_commitments_is_refused(given_values: dict[str, str], data: st.DataObject) -> None:
    box, commitments = KEY.seal(given_values, PLACE)
    path = data.draw(st.sampled_from(sorted(commitments)))
    changed = data.draw(
        st.sampled_from(
            [
                {**commitments, path: commitment(path, given_values[path], bytes(32))},
                {name: value for name, value in commitments.items() if name != path},
                {**commitments, f"{path}x": commitments[path]},
            ]
        )
    )

    with pytest.raises(SealBroken):
        KEY.open(box, PLACE, changed)


@settings(max_examples=300)
@given(st.tuples(texts, texts, secrets), st.tuples(texts, texts, secrets))
def test_a_commitment_does_not_fit_another_value(one: tuple[str, str, bytes], other: tuple[str, str, bytes]) -> None:
    if "\x1f" not in one[0] + other[0]:  # no path has one
        assert (commitment(*one) == commitment(*other)) == (one == other)


@given(texts, texts, secrets, secrets)
def test_a_commitment_hides_its_value_behind_the_blinding(path: str, value: str, one: bytes, other: bytes) -> None:
    assert (commitment(path, value, one) == commitment(path, value, other)) == (one == other)


@given(st.binary(max_size=64), st.binary(max_size=300))
def test_hashes_are_hmac_sha256(key: bytes, text: bytes) -> None:
    expected = hmac.digest(key or b"\0", text, sha256)

    assert KeyedHash(key or b"\0")(text) == expected


@given(secrets, secrets, st.binary(max_size=40), st.binary(max_size=40))
def test_a_wrapped_key_unwraps_with_its_key_in_its_place_only(
    one: bytes, other: bytes, here: bytes, there: bytes
) -> None:
    kek, another = KeyEncryptionKey(one), KeyEncryptionKey(other)
    wrapped = kek.wrap(b"a secret", here)

    assert kek.unwrap(wrapped, here) == b"a secret"
    assert (kek.id == another.id) == (one == other)
    if (one, here) != (other, there):
        with pytest.raises(KeyRefused):
            another.unwrap(wrapped, there)


@given(secrets, st.data())
def test_any_flipped_bit_of_a_wrapped_key_is_refused(secret: bytes, data: st.DataObject) -> None:
    kek = KeyEncryptionKey(secret)
    wrapped = bytearray(kek.wrap(secret, PLACE))
    bit = data.draw(st.integers(0, 8 * len(wrapped) - 1))
    wrapped[bit // 8] ^= 1 << bit % 8

    with pytest.raises(KeyRefused):
        kek.unwrap(bytes(wrapped), PLACE)


owners = st.tuples(sixteen, st.uuids(), st.binary(max_size=20), st.sampled_from([*Purpose, "index"]))


@given(owners, owners)
def test_no_two_keys_have_one_place(one: tuple[bytes, UUID, bytes, str], other: tuple[bytes, UUID, bytes, str]) -> None:
    assert (place(*one) == place(*other)) == (one == other)
