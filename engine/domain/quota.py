"""A quota that is used up, as the server tells of it before it throttles. Pure.

Read from `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4): lists of quoted policy
names with parameters, `r` units left and `t` seconds until there are more, `q` units in each window of `w` seconds.
"""

import re

import msgspec

from engine.domain.retry import LONGEST_RETRY_AFTER_MS

_ITEM = re.compile(r'"(?P<name>(?:[^"\\]|\\.)*)"(?P<parameters>(?:\s*;\s*[a-z*][a-z0-9_.*-]*=(?:"[^"]*"|[^;,\s"]+))*)')
_NUMBER = re.compile(r";\s*(?P<key>[a-z]+)=(?P<number>\d{1,15})(?=\s*(?:;|$))")
_MOST_READ = 2_000


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is left of a quota for `ms`; `per_second` is what it allows on average, if the server says so."""

    ms: int
    per_second: float | None
    why: str


def read_drained(rate_limit: str | None, policy: str | None) -> Drained | None:
    """The used-up quota that takes longest to be filled again; `None` where none is used up, or nothing of it can be read."""
    if rate_limit is None:
        return None
    drained: list[Drained] = []
    policies = _items(policy)
    for name, left in _items(rate_limit).items():
        stated = policies.get(name, {})
        seconds = left.get("t", stated.get("w"))
        if left.get("r") == 0 and seconds:
            quota, window = stated.get("q"), stated.get("w")
            drained.append(
                Drained(
                    ms=min(seconds * 1_000, LONGEST_RETRY_AFTER_MS),
                    per_second=quota / window if quota and window else None,
                    why=f"RateLimit says that nothing is left for {seconds} s",
                )
            )
    return max(drained, key=lambda one: one.ms, default=None)


def _items(field: str | None) -> dict[str, dict[str, int]]:
    found = _ITEM.finditer((field or "")[:_MOST_READ])
    return {
        item["name"]: {number["key"]: int(number["number"]) for number in _NUMBER.finditer(item["parameters"])}
        for item in found
    }
