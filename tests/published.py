"""The published schema of summary.json, as anybody would use it."""

import json
from pathlib import Path

import jsonschema

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "summary.schema.json").read_text())


def errors(summary, part="of an experiment"):
    """What of a summary is not as the schema says: messages, none where all of it is."""
    asked = SCHEMA if part is None else {**SCHEMA, "$ref": f"#/$defs/{part}"}
    return [error.message for error in jsonschema.Draft202012Validator(asked).iter_errors(summary)]
