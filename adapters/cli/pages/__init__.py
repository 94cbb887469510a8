"""Pages for people: one file each, without scripts, and without anything that is loaded from elsewhere."""

from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from guestledger.engine.operations.export import PersonExport


def environment() -> Environment:
    """Return the environment of the templates. Every value is escaped: none can become markup."""
    return Environment(
        loader=PackageLoader(__name__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def rendered(made: Environment, template: str, styles: tuple[str, ...], **values: Any) -> str:
    """Return the page of a template that extends `page.html`, with these style sheets inside."""
    loader = made.loader
    assert loader is not None
    style = "".join(loader.get_source(made, name)[0] for name in styles)
    return made.get_template(template).render(style=style, style_hash=_csp_hash(style), **values)


def export_page(found: PersonExport) -> str:
    """Return the page of an export."""
    made = environment()
    made.filters |= {"time": _time, "label": _label}
    made.tests |= {"erased": _is_erased}
    return rendered(made, "export.html", ("style.css",), export=msgspec.to_builtins(found))


def _csp_hash(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()


def _time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


def _label(name: str) -> str:
    return name.replace("_", " ")


def _is_erased(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"commitment"}
