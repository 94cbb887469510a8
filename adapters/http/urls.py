"""Checks of configured URLs. No error shows the URL: it may hold a password."""

from yarl import URL


def checked_url(url: str) -> URL:
    """An http or https URL with a host. Raise `ValueError` for any other."""
    try:
        parsed = URL(url)
        host = (parsed.raw_host or "").encode("idna")  # as its look-up does: a label may be empty, or too long
        fits = parsed.scheme in {"http", "https"} and bool(host) and parsed.port is not None
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("the URL must be an http or https URL with a host")
    return parsed


def api_root(url: str) -> URL:
    """The root of an API: host and path only. Raise `ValueError` for any other."""
    root = checked_url(url)
    if root.user is not None or root.password is not None or root.query_string or root.fragment:
        raise ValueError(
            "the URL must be the root of an API, such as https://api.example.com, "
            "without user, password, query or fragment"
        )
    return root


def under(root: URL, path: str) -> URL:
    """`path` (percent-encoded, with its slash) under an API's root."""
    return URL(str(root).rstrip("/") + path, encoded=True)
