"""How long a token is used. Pure."""

import re
from datetime import datetime

from guestledger.adapters.http.answers import Fields, read_field
from guestledger.adapters.http.unix_time import unix_time

MAX_LIFETIME_S = 86_400.0
"""A token that is said to live longer is replaced after a day: the number may be in milliseconds."""


def lifetime_s(fields: Fields, name: str, now: datetime) -> float:
    """The lifetime in seconds: at most a day. Without a readable lifetime: until it is refused."""
    number = read_field(fields, name, float)
    text = read_field(fields, name, str)
    if text is not None and re.fullmatch(r"\s*[0-9]{1,15}(\.[0-9]{1,9})?\s*", text):
        number = float(text)
    if number is not None and (expires_at := unix_time(number)) is not None:
        number = (expires_at - now).total_seconds()
    return min(number, MAX_LIFETIME_S) if number is not None and number > 0 else MAX_LIFETIME_S
