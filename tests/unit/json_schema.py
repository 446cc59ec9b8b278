# SPDX-License-Identifier: Apache-2.0
"""As much of JSON Schema (draft 2020-12) as the schemas of docs/schema/ use."""

import json
import re
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).parents[2] / "docs/schema"
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "null": type(None),
}
_ANNOTATIONS = ("$schema", "$defs", "title", "description")


def load(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((SCHEMAS / name).read_text())
    return schema


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, place: str = "$") -> list[str]:
    """Return what is wrong with a value, each with its place. Raises NotImplementedError for another keyword."""
    root = root or schema
    found: list[str] = []
    for keyword, wanted in schema.items():
        if keyword == "$ref":
            found += faults(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, place)
        elif keyword == "type":
            names = [wanted] if isinstance(wanted, str) else wanted
            if isinstance(value, bool) or not any(isinstance(value, _TYPES[name]) for name in names):
                found.append(f"{place}: {value!r} is not of type {wanted}")
        elif keyword == "enum":
            found += [] if value in wanted else [f"{place}: {value!r} is none of {wanted}"]
        elif keyword == "required":
            found += [f"{place}: {name} is missing" for name in wanted if name not in value]
        elif keyword == "properties":
            for name in wanted.keys() & value.keys():
                found += faults(value[name], wanted[name], root, f"{place}.{name}")
        elif keyword == "additionalProperties":
            assert wanted is False
            found += [f"{place}: {name} is unknown" for name in value.keys() - schema["properties"].keys()]
        elif keyword == "items":
            for number, item in enumerate(value):
                found += faults(item, wanted, root, f"{place}[{number}]")
        elif keyword == "minimum":
            found += (
                [] if not isinstance(value, int) or value >= wanted else [f"{place}: {value} is less than {wanted}"]
            )
        elif keyword == "pattern":
            if isinstance(value, str) and not re.search(wanted, value):
                found.append(f"{place}: {value!r} does not match {wanted}")
        elif keyword not in _ANNOTATIONS:
            raise NotImplementedError(keyword)
    return found
