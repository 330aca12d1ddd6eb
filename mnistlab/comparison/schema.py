"""What the files of a run must look like, by the JSON schema that is published with them.

What no schema can say is checked where it is needed: digests in `sealed`, that files belong together in `saved`.
"""

import json
from pathlib import Path
from typing import Any

from mnistlab.analysis import stats

PATH = Path(__file__).parent / "summary.schema.json"


def misfit(value: Any, part: str | None = None) -> str:
    """What of a JSON value is not as the schema, or `part` of it, says, in words on one line; empty where all of it is.

    A number must be one that results can have: no NaN, at most stats.LARGEST, and 8.0 is no whole one.

    Args:
      part: "of an experiment" or "of training", of a summary.json; or "config.json". None: of any summary.json.

    >>> misfit({"run": {"seeds": [0, "x"], "variants": {}}}, "config.json")
    "run.seeds.1 is 'x'"
    """
    import jsonschema  # here, since starting a run needs none of it

    schema = json.loads(PATH.read_text())
    asked = {"$defs": schema["$defs"]} if part == "config.json" else schema
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_whole).redefine("number", _is_number)
    checker = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=types)
    try:
        found = checker(asked if part is None else {**asked, "$ref": f"#/$defs/{part}"}).iter_errors(value)
        wrong = min(found, key=lambda error: [*map(str, error.absolute_path)], default=None)  # they come in any order
        return "" if wrong is None else _words(wrong)
    except RecursionError:
        return "it is nested too deep"


def _words(wrong: Any) -> str:
    where = ".".join(map(str, wrong.absolute_path))
    if "propertyNames" in wrong.absolute_schema_path:
        return f"{where or 'it'} has the name {wrong.instance!r:.40}, which is not up to 200 printable characters"
    if wrong.validator == "required":
        missing = next(name for name in wrong.validator_value if name not in wrong.instance)
        return f"{where}.{missing} is missing".lstrip(".")
    if wrong.validator == "type" and wrong.validator_value in ("object", "array"):
        return f"{where or 'it'} is no {'object' if wrong.validator_value == 'object' else 'list'}"
    if wrong.validator in ("minItems", "maxItems"):
        return f"{where} has {len(wrong.instance)} items"
    return f"{where} is {wrong.instance!r:.40}"


def _is_whole(checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= stats.LARGEST


def _is_number(checker: Any, value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= stats.LARGEST
