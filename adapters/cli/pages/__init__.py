"""Pages for people: one file each, without scripts, and without anything that is loaded from elsewhere."""

from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from guestledger.engine.operations.export import PersonExport

_STYLE = "style.css"


def export_page(found: PersonExport) -> str:
    """Return the page of an export. Every value is escaped: none can become markup."""
    environment = Environment(
        loader=PackageLoader(__name__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"time": _time, "label": _label}
    environment.tests |= {"erased": _is_erased}
    loader = environment.loader
    assert loader is not None
    style = loader.get_source(environment, _STYLE)[0]
    page = environment.get_template("export.html")
    return page.render(export=msgspec.to_builtins(found), style=style, style_hash=_csp_hash(style))


def _csp_hash(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()


def _time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


def _label(name: str) -> str:
    return name.replace("_", " ")


def _is_erased(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"commitment"}
