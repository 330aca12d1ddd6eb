import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats
from run_folders import result_of, write_run

from mnistlab.analysis import claims, history, stats
from mnistlab.comparison import saved
from mnistlab.errors import UserError
from mnistlab.training.result import Run

SEEDS = (3, 4, 5, 6, 7, 8, 9, 10)
RNG = np.random.default_rng(0)
LOW = 0.90 + 0.01 * RNG.standard_normal(8)
HIGH = LOW + 0.02 + 0.005 * RNG.standard_normal(8)


@pytest.fixture
def pair(tmp_path):
    a = write_run(tmp_path / "a", {"dense": result_of(HIGH, SEEDS)})
    b = write_run(tmp_path / "b", {"dense": result_of(LOW, SEEDS)})
    return a, b


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2) + "\n")


# Reading


def test_what_is_read_is_what_was_written(tmp_path):
    curve = np.linspace(0, 1, 24).reshape(8, 3)
    curve[2, 1:] = math.nan
    seconds = np.where(np.isfinite(curve), 0.25, math.nan)
    accuracy = HIGH.copy()
    accuracy[1] = math.nan  # diverged
    result = result_of(accuracy, SEEDS, val_loss=curve)._replace(epoch_seconds=seconds)
    read = saved.read_run(write_run(tmp_path / "run", {"dense": result}))
    assert read.seeds == SEEDS
    got = read.variants["dense"]
    assert got.config == result.config and got.runs == result.runs
    for name in ("test_accuracy", "val_loss@1", "val_loss@2", "overfitting_gap", "train_seconds", "epoch_seconds"):
        np.testing.assert_allclose(history.metric(got, name), history.metric(result, name), rtol=1e-6)


def test_a_sweep_is_read_with_its_settings(tmp_path):
    results = {f"dense learning_rate={rate}": result_of(LOW, SEEDS) for rate in ("0.0001", "0.001")}
    read = saved.read_run(write_run(tmp_path / "run", results))
    assert [variant.runs[0].settings for variant in read.variants.values()] == [
        {"learning_rate": 1e-4},
        {"learning_rate": 1e-3},
    ]


def test_a_folder_of_format_1_is_read(tmp_path):
    """As it was written before digests, departures, augmentation and the like, when `optimizer` was called `optim`."""
    result = result_of(HIGH, SEEDS)
    folder = write_run(tmp_path / "run", {"dense": result}, digests=False)

    def written_by_format_1(content):
        config = content["run"]["variants"]["dense"]["config"]
        config["optim"] = config.pop("optimizer")
        for later in ("augment", "label_smoothing", "average_epochs", "program", "metrics"):
            del config[later]

    edit(folder / "config.json", written_by_format_1)
    edit(folder / "summary.json", lambda content: content.pop("departures"))
    read = saved.read_run(folder)
    assert "format" not in read.summary and "digests" not in read.config
    assert read.seeds == SEEDS and read.variants["dense"].config == result.config
    np.testing.assert_array_equal(read.variants["dense"].metrics["test_accuracy"], HIGH)
    assert read.settings_of("dense")["optimizer"]["name"] == result.config.optimizer.name


def accuracies(summary):
    return summary["variants"]["dense"]["metrics"]["test_accuracy"]


@pytest.mark.parametrize(
    "damage, words",
    [
        pytest.param(lambda run: (run / "config.json").unlink(), "no config.json", id="no config"),
        pytest.param(lambda run: (run / "summary.json").unlink(), "not come to its end", id="not finished"),
        pytest.param(lambda run: (run / "history.csv").unlink(), "history.csv", id="no history"),
        pytest.param(lambda run: (run / "summary.json").write_text('{"variants": '), "damaged", id="cut off"),
        pytest.param(lambda run: (run / "summary.json").write_bytes(b"\xff\xfe"), "damaged", id="no text"),
        pytest.param(lambda run: (run / "summary.json").write_text("[]"), "damaged", id="no object"),
        pytest.param(lambda run: (run / "config.json").write_text("{}"), "no run of training", id="another config"),
        pytest.param(
            lambda run: edit(run / "config.json", lambda content: content["run"]["seeds"].pop()),
            "do not belong together",
            id="fewer seeds than values",
        ),
        pytest.param(
            lambda run: edit(run / "config.json", lambda content: content["run"]["seeds"].reverse()),
            "history.csv has other seeds",
            id="seeds in another order",
        ),
        pytest.param(
            lambda run: edit(run / "config.json", lambda content: content["run"].update(seeds=[])),
            "no seeds",
            id="no seeds",
        ),
        pytest.param(
            lambda run: edit(run / "summary.json", lambda content: content.pop("variants")),
            "variants is missing",
            id="no variants",
        ),
        pytest.param(
            lambda run: edit(run / "summary.json", lambda content: content.update(data=None)),
            "data is no",
            id="no data",
        ),
        pytest.param(
            lambda run: edit(run / "summary.json", lambda content: accuracies(content)["values"].append(1e308)),
            "values.8 is 1e[+]308",
            id="a number that no run has",
        ),
        pytest.param(
            lambda run: edit(run / "summary.json", lambda content: content["variants"].update({"a\nb": {}})),
            "printable",
            id="a name of two lines",
        ),
        pytest.param(
            lambda run: edit(run / "summary.json", lambda content: content["seconds"].update(dense="long")),
            "seconds.dense is 'long'",
            id="seconds in words",
        ),
        pytest.param(
            lambda run: edit(
                run / "summary.json",
                lambda content: content["variants"]["dense"]["metrics"].update(train_loss={**accuracies(content)}),
            ),
            "train_loss of dense is another in history.csv",
            id="another history",
        ),
        pytest.param(
            lambda run: (run / "history.csv").write_text(
                (run / "history.csv").read_text().replace("dense,3,3,", "x,3,1,")
            ),
            "num_epochs of dense is another in history.csv",
            id="an epoch is missing",
        ),
    ],
)
def test_what_is_no_whole_run_is_one_line(tmp_path, damage, words):
    result = result_of(HIGH, SEEDS)
    result = result._replace(metrics=result.metrics | {"num_epochs": np.full(8, 3.0)})
    run = write_run(tmp_path / "run", {"dense": result}, digests=False)
    saved.read_run(run)
    damage(run)
    with pytest.raises(UserError, match=words) as caught:
        saved.read_run(run)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "file, change, words",
    [
        (
            "summary.json",
            lambda text: text.replace("0.92", "0.93"),
            "summary.json is damaged .*repeat its run's command",
        ),
        ("summary.json", lambda text: text.replace('"format": 2', '"format": 3'), "summary.json is damaged"),
        ("summary.json", lambda text: text.replace('"digests"', '"digest"'), "summary.json is damaged"),
        ("summary.json", lambda text: text.replace('"format"', '"former"'), "summary.json is damaged"),
        (
            "config.json",
            lambda text: text.replace('"batch_size": 128', '"batch_size": 64'),
            "config.json is damaged .*copy",
        ),
        ("history.csv", lambda text: text.replace(",0.5,", ",0.6,", 1), "history.csv .*repeat its run's command"),
    ],
)
def test_what_was_changed_after_it_was_written_is_refused(pair, file, change, words):
    path = pair[0] / file
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(UserError, match=words) as caught:
        saved.read_run(pair[0])
    assert len(str(caught.value).splitlines()) == 1 and str(pair[0]) in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "history.csv", "summary.json"])
def test_a_file_of_another_run_is_refused(tmp_path, pair, file):
    result = result_of(HIGH, SEEDS, val_loss=np.ones((8, 3)))
    other = result._replace(config=dataclasses.replace(result.config, batch_size=7))
    (pair[0] / file).write_bytes((write_run(tmp_path / "other", {"dense": other}) / file).read_bytes())
    with pytest.raises(UserError, match="is not what its summary"):
        saved.read_run(pair[0])


def test_a_file_that_is_laid_out_in_another_way_says_the_same(pair):
    for file in ("config.json", "summary.json"):
        (pair[0] / file).write_text(json.dumps(json.loads((pair[0] / file).read_text())))
    assert saved.read_run(pair[0]).seeds == SEEDS


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no config"):
        saved.read_run(tmp_path / "nowhere")


# Comparing


def compared(a, b, metric="test_accuracy", variant_a=None, variant_b=None, direction=">"):
    """The one claim "A > B" on two runs, as the tool compare asks it."""
    left, right = a.variants[saved.choose_variant(a, variant_a)], b.variants[saved.choose_variant(b, variant_b)]
    for result in (left, right):
        saved.check_metric(result, metric)
    return stats.judge([stats.compare(*claims.paired(left, right, metric), direction=direction)])[0]


def test_a_comparison_of_folders_equals_scipy_on_the_arrays(pair):
    a, b = map(saved.read_run, pair)
    comparison = compared(a, b)
    test = scipy.stats.ttest_rel(HIGH, LOW)
    np.testing.assert_allclose(comparison.t_interval, test.confidence_interval(0.95))
    np.testing.assert_allclose(comparison.difference, np.mean(HIGH - LOW))
    assert comparison.verdict == "holds" and comparison.n == 8
    assert comparison == stats.judge([stats.compare(HIGH, LOW)])[0]
    assert compared(a, b, direction="<").verdict == "reversed"
    assert compared(a, b, "overfitting_gap").difference == pytest.approx(np.mean(HIGH - LOW) / 10)


def test_pairs_are_of_one_seed_whatever_their_order(tmp_path, pair):
    turned = write_run(tmp_path / "turned", {"dense": result_of(LOW[::-1], SEEDS[::-1])})
    a, b, c = map(saved.read_run, (*pair, turned))
    assert compared(a, c) == compared(a, b)


def test_a_diverged_seed_is_counted(tmp_path, pair):
    accuracy = LOW.copy()
    accuracy[3] = math.nan
    lost = write_run(tmp_path / "lost", {"dense": result_of(accuracy, SEEDS)})
    comparison = compared(saved.read_run(pair[0]), saved.read_run(lost))
    assert (comparison.n, comparison.num_failed_a, comparison.num_failed_b) == (7, 0, 1)
    assert "B diverged in 1 of 8 seeds" in comparison.verdict


@pytest.mark.parametrize(
    "keywords, words",
    [
        ({"metric": "beauty"}, "beauty"),
        ({"metric": "val_loss@9"}, "trained epochs: 3"),
        ({"variant_a": "lenet5"}, "lenet5"),
        ({"direction": "~"}, "direction"),
    ],
)
def test_what_cannot_be_compared_is_refused(pair, keywords, words):
    a, b = map(saved.read_run, pair)
    with pytest.raises(UserError, match=words):
        compared(a, b, **keywords)


def test_pairs_are_of_the_seeds_that_both_have(tmp_path, pair):
    fewer = write_run(tmp_path / "fewer", {"dense": result_of(LOW[2:7], SEEDS[2:7])})
    comparison = compared(saved.read_run(pair[0]), saved.read_run(fewer))
    assert (comparison.n, comparison.difference) == (5, pytest.approx(np.mean(HIGH[2:7] - LOW[2:7])))
    others = write_run(tmp_path / "others", {"dense": result_of(LOW, range(20, 28))})
    with pytest.raises(UserError, match="do not pair"):
        compared(saved.read_run(pair[0]), saved.read_run(others))


def test_variants_may_have_different_seeds(tmp_path):
    results = {"dense": result_of(LOW, SEEDS), "lenet5": result_of(HIGH[:6], SEEDS[:6])}
    run = saved.read_run(write_run(tmp_path / "run", results))
    assert run.seeds == SEEDS and run.variants["lenet5"].runs == results["lenet5"].runs
    assert compared(run, run, variant_a="lenet5", variant_b="dense").n == 6
    edit(tmp_path / "run" / "config.json", lambda content: content.pop("format") and content.pop("digests"))
    edit(tmp_path / "run" / "config.json", lambda content: content["run"].update(seeds_of={"lenet5": 6}))
    with pytest.raises(UserError, match="lenet5 is no list"):
        saved.read_run(tmp_path / "run")


def test_which_variants_are_compared(tmp_path):
    x, y, z = (result_of(LOW, SEEDS) for _ in range(3))
    one = saved.read_run(write_run(tmp_path / "one", {"x": x}))
    two = saved.read_run(write_run(tmp_path / "two", {"x": x, "y": y}))
    three = saved.read_run(write_run(tmp_path / "three", {"y": y, "z": z, "x": x}))
    only = saved.read_run(write_run(tmp_path / "only", {"w": x}))
    assert saved.pair_variants(two, three) == [("x", "x"), ("y", "y")]
    assert saved.pair_variants(one, only) == [("x", "w")]
    assert saved.pair_variants(one, three, variant_b="z") == [("x", "z")]
    for wrong in ((only, three, None, None), (two, one, None, "y"), (one, two, "x", None)):
        with pytest.raises(UserError):
            saved.pair_variants(*wrong)


def test_what_differs_between_two_runs(tmp_path, pair):
    result = result_of(LOW, SEEDS)
    other = result._replace(config=dataclasses.replace(result.config, batch_size=7))
    c = write_run(tmp_path / "c", {"dense": other}, protocol="reported")
    a, b, c = map(saved.read_run, (*pair, c))
    assert saved.differing_settings(a, "dense", b, "dense") == []
    assert saved.differing_settings(a, "dense", c, "dense") == [
        ("protocol", "controlled", "reported"),
        ("batch_size", 128, 7),
    ]


def test_joined_runs_are_one_run_of_all_seeds(tmp_path):
    values = np.arange(5.0)
    curve = np.arange(15.0, dtype=np.float32).reshape(5, 3)
    whole = result_of(values, range(5), val_accuracy=curve)
    parts = [
        saved.read_run(
            write_run(tmp_path / name, {"dense": result_of(values[part], range(5)[part], val_accuracy=curve[part])})
        )
        for name, part in (("second", slice(2, 5)), ("first", slice(0, 2)))
    ]
    joined = saved.join_runs(parts)["dense"]
    assert joined.runs == whole.runs
    np.testing.assert_array_equal(joined.metrics["test_accuracy"], values)
    np.testing.assert_array_equal(joined.history["val_accuracy"], curve)
    np.testing.assert_array_equal(joined.epoch_seconds, whole.epoch_seconds)


def test_runs_that_do_not_belong_together_are_not_joined(tmp_path):
    first = saved.read_run(write_run(tmp_path / "first", {"dense": result_of([0.5], [0])}))
    again = saved.read_run(write_run(tmp_path / "again", {"dense": result_of([0.5], [0])}))
    other = saved.read_run(write_run(tmp_path / "other", {"lenet5": result_of([0.5], [1])}))
    slower = saved.read_run(write_run(tmp_path / "slower", {"dense": result_of([0.5], [1])}))
    slower.summary["variants"]["dense"]["learning_rate"] = 1e-4
    fewer = saved.read_run(write_run(tmp_path / "fewer", {"dense": result_of([0.5], [1])}))
    del fewer.summary["variants"]["dense"]["metrics"]["overfitting_gap"]
    for group, message in (
        ([], "no runs"),
        ([first, again], "seed 0 is in two"),
        ([first, other], "differ in their variants"),
        ([first, slower], "other variants, metrics or chosen rates"),
        ([first, fewer], "other variants, metrics or chosen rates"),
    ):
        with pytest.raises(UserError, match=message):
            saved.join_runs(group)


def test_the_settings_are_those_it_was_trained_with(tmp_path):
    result = result_of([0.5], [0])
    swept = result._replace(runs=(Run(0, {"learning_rate": 0.5, "dropout_rate": 0.25}),))
    run = saved.read_run(write_run(tmp_path / "run", {"dense learning_rate=0.5 dropout_rate=0.25": swept}))
    settings = run.settings_of("dense learning_rate=0.5 dropout_rate=0.25")
    assert settings["optimizer"]["learning_rate"] == 0.5 and settings["dropout_rate"] == 0.25
    chosen = saved.read_run(write_run(tmp_path / "chosen", {"dense": result}))
    assert chosen.settings_of("dense")["optimizer"]["learning_rate"] == 0.001
    chosen.summary["variants"]["dense"]["learning_rate"] = 0.03
    assert chosen.settings_of("dense")["optimizer"]["learning_rate"] == 0.03
    other = saved.read_run(tmp_path / "chosen")
    assert saved.differing_settings(chosen, "dense", other, "dense") == [("optimizer.learning_rate", 0.03, 0.001)]


@pytest.mark.parametrize("name, value", [("data", "another"), ("matmul_precision", "bfloat16")])
def test_runs_on_other_data_or_in_other_precision_are_not_joined(tmp_path, name, value):
    first, second = (saved.read_run(write_run(tmp_path / f"{n}", {"dense": result_of([0.5], [n])})) for n in (0, 1))
    saved.join_runs([first, second])
    second.config["run"][name] = value
    with pytest.raises(UserError, match=f"differ in their {name}"):
        saved.join_runs([first, second])
