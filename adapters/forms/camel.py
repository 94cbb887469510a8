"""Structs of the engine with camelCase names, as all JSON has them."""

from collections.abc import Mapping
from enum import StrEnum
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from guestledger.engine.domain.personal import Guarded


def camel(value: msgspec.Struct) -> Any:
    """Return `value`, and the structs in it, as structs whose JSON has camelCase names. Keys of mappings stay."""
    return msgspec.convert(value, camel_type(type(value)), from_attributes=True)


@cache
def camel_type(kind: Any) -> Any:
    """Return the type that `camel` makes of this one. JSON has each field, unless the struct leaves its defaults out."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind if kind.__struct_config__.tag_field else _struct(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return Annotated[camel_type(arguments[0]), *arguments[1:]]
    if origin in (Union, UnionType):
        return _union(arguments)
    if origin is not None and arguments:
        inner = tuple(each if each is ... else camel_type(each) for each in arguments)
        return (dict if origin is Mapping else origin)[inner]
    return kind


def _union(options: tuple[Any, ...]) -> Any:
    """Return the union. Of several enums it has one of their values: msgspec can tell only one from other texts."""
    enums = [each for each in options if isinstance(each, type) and issubclass(each, StrEnum)]
    if len(enums) > 1:
        values = Literal[tuple(str(value) for each in enums for value in each)]  # type: ignore[valid-type]
        options = (values, *(each for each in options if each not in enums))
    return reduce(or_, map(camel_type, options))


def _struct(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    hints = get_type_hints(kind, include_extras=True)
    omits = kind.__struct_config__.omit_defaults
    fields = [_field(field, camel_type(hints[field.name]), omits=omits) for field in msgspec.structs.fields(kind)]
    bases = (Guarded,) if issubclass(kind, Guarded) else ()
    made = msgspec.defstruct(
        kind.__name__,
        fields,
        bases=bases,
        rename="camel",
        kw_only=True,
        frozen=True,
        omit_defaults=omits,
        module=kind.__module__,
    )
    made.__doc__ = kind.__doc__
    return made


def _field(field: msgspec.structs.FieldInfo, kind: Any, *, omits: bool) -> tuple[str, Any] | tuple[str, Any, Any]:
    if omits and not field.required and field.default is not msgspec.NODEFAULT:
        return field.name, kind, field.default
    return field.name, kind


def camel_fields(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the names of its fields as `camel` has them."""
    return tuple(camel_type(struct).__struct_encode_fields__)
