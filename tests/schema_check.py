"""A JSON Schema checker for the keywords that the vendored schemas use; another keyword is an error, not a pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "integer": (int,), "number": (int, float),
}  # fmt: skip
_NOTES = {"$schema", "$defs", "version", "description", "examples", "default", "title"}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, place: str = "$") -> Iterator[str]:
    """Yield one line for each way in which a value breaks a schema of draft 7."""
    root = root or schema
    for keyword, wanted in schema.items():
        if keyword in _NOTES or keyword in ("then", "else"):
            continue
        if keyword == "$ref":
            yield from problems(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, place)
        elif keyword == "if":
            branch = schema.get("else" if any(problems(value, wanted, root, place)) else "then")
            yield from problems(value, branch, root, place) if branch else ()
        elif keyword in ("allOf", "oneOf"):
            failed = [list(problems(value, each, root, place)) for each in wanted]
            if keyword == "allOf":
                yield from (line for lines in failed for line in lines)
            elif sum(not lines for lines in failed) != 1:
                yield f"{place}: fits {sum(not lines for lines in failed)} of oneOf"
        elif keyword == "not":
            if not any(problems(value, wanted, root, place)):
                yield f"{place}: must not fit {wanted}"
        else:
            yield from _plain(value, keyword, wanted, schema, root, place)


def _plain(
    value: Any, keyword: str, wanted: Any, schema: dict[str, Any], root: dict[str, Any], place: str
) -> Iterator[str]:
    if keyword == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        if not any(_is(value, kind) for kind in kinds):
            yield f"{place}: {value!r} is no {wanted}"
    elif keyword in ("enum", "const"):
        if value not in (wanted if keyword == "enum" else [wanted]):
            yield f"{place}: {value!r} is not {wanted}"
    elif keyword in ("required", "properties", "additionalProperties"):
        if isinstance(value, dict):
            yield from _members(value, keyword, wanted, schema, root, place)
    elif keyword == "items":
        for i, item in enumerate(value if isinstance(value, list) else []):
            yield from problems(item, wanted, root, f"{place}[{i}]")
    elif keyword == "minItems":
        if isinstance(value, list) and len(value) < wanted:
            yield f"{place}: fewer than {wanted} items"
    elif keyword in ("minimum", "maximum"):
        if _is(value, "number") and (value < wanted if keyword == "minimum" else value > wanted):
            yield f"{place}: {value} beyond {keyword} {wanted}"
    elif keyword == "pattern":
        if isinstance(value, str) and not re.search(wanted, value):
            yield f"{place}: {value!r} does not match {wanted}"
    else:
        raise NotImplementedError(f"{place}: keyword {keyword}")


def _members(
    value: dict[str, Any], keyword: str, wanted: Any, schema: dict[str, Any], root: dict[str, Any], place: str
) -> Iterator[str]:
    if keyword == "required":
        yield from (f"{place}: {name} is missing" for name in wanted if name not in value)
    elif keyword == "properties":
        for name in wanted.keys() & value.keys():
            yield from problems(value[name], wanted[name], root, f"{place}.{name}")
    else:
        for name in value.keys() - schema.get("properties", {}).keys():
            if wanted is False:
                yield f"{place}: {name} is not allowed"
            elif isinstance(wanted, dict):
                yield from problems(value[name], wanted, root, f"{place}.{name}")


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind]) or (kind == "integer" and isinstance(value, float) and value.is_integer())
