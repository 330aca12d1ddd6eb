"""The published schema is a schema, is the one that is read by, and says what it is there to say."""

import copy
import json
import re

import jsonschema
import numpy as np
import pytest
from published import SCHEMA, errors
from run_folders import result_of, write_run

from mnistlab.analysis.claims import Claim
from mnistlab.comparison import saved, schema


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    results = {name: result_of(values, range(8)) for name, values in (("a", np.linspace(0, 1, 8)), ("b", np.ones(8)))}
    questions = [
        Claim("1", "a is better", "test_accuracy", "a", ">", "b"),
        Claim("2", "x", "test_accuracy", "c", ">", "b"),
    ]
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", results, questions=questions)
    return json.loads((folder / "summary.json").read_text())


def test_it_is_a_schema_and_the_one_that_is_read_by(summary):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(schema.PATH.read_text()) == SCHEMA
    assert errors(summary, "of training") == [] and schema.misfit(summary, "of training") == ""


def test_names_of_its_own_are_allowed(summary):
    more = copy.deepcopy(summary) | {"until": "answered"}
    more["claims"][0] |= {"looks": [1, 2]}
    more["claims"][0]["comparison"] |= {"e_value": 3.0}
    assert errors(more, "of training") == [] and schema.misfit(more, "of training") == ""


@pytest.mark.parametrize(
    "path, value, words",
    [
        (("format",), 3, "format is 3"),
        (("n_seeds",), "8", "n_seeds is '8'"),
        (("n_seeds",), True, "n_seeds is True"),
        (("device",), None, "device is None"),
        (("variants",), [], "variants is no object"),
        (
            ("variants", "a", "metrics", "test_accuracy", "values", 3),
            "high",
            "variants.a.metrics.test_accuracy.values.3 is",
        ),
        (("variants", "a", "metrics", "test_accuracy", "ci95"), [0.1], "has 1 items"),
        (("claims", 0, "delta"), [], r"claims.0.delta is \[\]"),
        (("claims", 0, "text"), "two\nlines", "claims.0.text is 'two"),
        (("claims", 0, "right"), None, "claims.0.right is None"),
        (("seconds",), {"a": {"b": "long"}}, "seconds.a is {'b': 'long'}"),
        (("data", "limit_examples"), 1.5, "data.limit_examples is 1.5"),
    ],
)
def test_what_is_of_another_type_is_named(summary, path, value, words):
    damaged = copy.deepcopy(summary)
    place = damaged
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert errors(damaged, "of training")
    assert re.search(words, schema.misfit(damaged, "of training"))


@pytest.mark.parametrize("name", SCHEMA["required"])
def test_what_is_missing_is_named(summary, name):
    less = {key: value for key, value in summary.items() if key != name}
    assert errors(less) and schema.misfit(less, "of an experiment") == f"{name} is missing"


def test_a_number_that_no_run_has_and_too_deep_a_nesting(summary):
    for value in (float("nan"), 1e308):
        assert "seconds.a is" in schema.misfit({**summary, "seconds": {"a": value}}, "of training")
    deep = {}
    for _ in range(500):
        deep = {"a": deep}
    assert schema.misfit({**summary, "seconds": deep}, "of training") == "it is nested too deep"


def test_a_folder_of_format_1_is_read(tmp_path):
    folder = write_run(tmp_path / "run", {"a": result_of(np.ones(8), range(8))}, digests=False)
    assert "format" not in json.loads((folder / "summary.json").read_text())
    assert saved.read_run(folder).seeds == tuple(range(8))
