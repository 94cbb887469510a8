"""Media types: what a request says of its body, and which formats it accepts."""

from collections.abc import Sequence

from guestledger.adapters.api.problems import Refused


def check_body(wanted: str, content_type: str | None, content_encoding: str | None) -> None:
    """Raise `Refused` unless the body is of the wanted type (JSON or a form), in UTF-8, without a content coding."""
    if content_encoding not in (None, "", "identity"):
        raise Refused(
            "media-type-not-supported", "Send the body without Content-Encoding.", {"accept-encoding": "identity"}
        )
    kind, _, parameters = (content_type or "").partition(";")
    charset = parameters.partition("charset=")[2].strip(' "').lower()
    if kind.strip().lower() != wanted or charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise Refused("media-type-not-supported", f"Send Content-Type: {wanted}", {"accept": wanted})


def chosen(accept: str | None, produced: Sequence[str]) -> str:
    """Return the produced format that is wanted most; of equal ones, the first. Raises `Refused`."""
    if not accept:
        return produced[0]
    wanted = [_range(part) for part in accept.split(",")]
    best, quality = produced[0], 0.0
    for media in produced:
        found = _quality(media, wanted)
        if found > quality:
            best, quality = media, found
    if not quality:
        raise Refused("not-acceptable", f"The answer can be {' or '.join(produced)}: send one of them as Accept.")
    return best


def _quality(media: str, wanted: Sequence[tuple[str, float]]) -> float:
    """The quality by the most specific range that matches (RFC 9110, section 12.5.1)."""
    for pattern in (media, f"{media.partition('/')[0]}/*", "*/*"):
        for name, quality in wanted:
            if name == pattern:
                return quality
    return 0.0


def _range(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip() for piece in part.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            try:
                return name.lower(), float(value)
            except ValueError:
                return name.lower(), 0.0
    return name.lower(), 1.0
