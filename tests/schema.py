"""The JSON Schema of the results file, as the tests hold every results file against it."""

import json
from typing import Any

from jsonschema import Draft202012Validator

from configuration.settings import HERE


def strict(node: Any) -> Any:
    """Return a schema that allows no field but those it describes.

    The published one allows more, because later versions may add some.
    """
    if isinstance(node, list):
        return [strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    known = {name: strict(value) for name, value in node.items()}
    if known.get("type") == "object" and "properties" in known:
        known["additionalProperties"] = False
    return known


PUBLISHED: dict[str, Any] = json.loads((HERE / "docs" / "results.schema.json").read_text("utf-8"))
_validator = Draft202012Validator(strict(PUBLISHED))


def validate(document: Any) -> None:
    """Fail with the first thing that the schema does not allow in a results file."""
    for error in _validator.iter_errors(document):
        raise AssertionError(f"{error.json_path}: {error.message[:300]}")
