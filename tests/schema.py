"""The JSON Schema of the results file, as the tests hold every results file against it."""

import json
from typing import Any

from jsonschema import Draft202012Validator

from configuration.settings import HERE


def _strict(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part of the schema that allows no field but those it describes.

    The published one allows more, because later versions may add some.
    """
    described = part.get("type") == "object" and "properties" in part
    return part | {"additionalProperties": False} if described else part


_TEXT = (HERE / "docs" / "results.schema.json").read_text("utf-8")
PUBLISHED: dict[str, Any] = json.loads(_TEXT)
_validator = Draft202012Validator(json.loads(_TEXT, object_hook=_strict))


def validate(document: Any) -> None:
    """Fail with the first thing that the schema does not allow in a results file."""
    for error in _validator.iter_errors(document):
        raise AssertionError(f"{error.json_path}: {error.message[:300]}")
