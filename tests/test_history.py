import csv
import io
import math

import numpy as np
import pytest
import scipy.stats

from mnistlab.analysis import history
from mnistlab.config import TrainConfig
from mnistlab.errors import UserError
from mnistlab.training.result import Record, Result, Run, select

NAN = math.nan


def make_result(seeds=(0, 1), settings=None, metrics=None, **curves):
    """A Result of made-up numbers; a curve that is not given is that of val_loss, and NaN means not trained."""
    curves = {name: np.array(values, np.float32) for name, values in curves.items()}
    base = curves.get("val_loss", np.ones((len(seeds), 3), np.float32))
    every = {name: curves.get(name, base) for name in Record._fields}
    settings = settings or [{}] * len(seeds)
    seconds = np.where(np.isfinite(base), 0.5, np.nan)
    metrics = {
        name: np.array(values, np.float64) for name, values in (metrics or {"test_accuracy": base[:, 0]}).items()
    }
    runs = tuple(Run(seed, setting) for seed, setting in zip(seeds, settings, strict=True))
    return Result(TrainConfig("dense", num_epochs=base.shape[1]), runs, every, metrics, {}, seconds)


# Files


def two_variants():
    rng = np.random.default_rng(0)
    val_loss = rng.uniform(0, 2, (2, 3)).astype(np.float32)
    val_loss[1, 2] = NAN  # stopped early
    return {
        "dense": make_result((3, 4), val_loss=val_loss, train_loss=val_loss * 1e-5, val_accuracy=1 - val_loss),
        "lenet5, with a comma": make_result((3,), val_loss=rng.uniform(0, 2, (1, 2))),
    }


def test_csv_round_trip(tmp_path):
    path = tmp_path / "history.csv"
    results = two_variants()
    path.write_text(history.to_csv(results))
    read = history.from_csv(path)
    assert list(read) == list(results)
    for variant, result in results.items():
        for name in Record._fields:
            np.testing.assert_allclose(read[variant].values[name], result.history[name].astype(np.float64), rtol=1e-6)
        np.testing.assert_array_equal(read[variant].values["seconds"], result.epoch_seconds)
        assert read[variant].seeds == tuple(run.seed for run in result.runs)


def test_csv_has_a_row_for_every_trained_epoch():
    rows = list(csv.DictReader(io.StringIO(history.to_csv(two_variants()))))
    assert tuple(rows[0]) == (
        "variant", "seed", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds",
    )  # fmt: skip
    keys = [(row["variant"], int(row["seed"]), int(row["epoch"])) for row in rows]
    stopped = [("dense", 4, 1), ("dense", 4, 2)]
    second = [("lenet5, with a comma", 3, 1), ("lenet5, with a comma", 3, 2)]
    assert keys == [("dense", 3, 1), ("dense", 3, 2), ("dense", 3, 3), *stopped, *second]


def test_a_diverged_epoch_is_a_row_of_nan(tmp_path):
    result = make_result((0,), val_loss=[[1.0, 2.0]], train_loss=[[1.0, NAN]])
    path = tmp_path / "history.csv"
    path.write_text(history.to_csv({"dense": result}))
    np.testing.assert_array_equal(history.from_csv(path)["dense"].values["train_loss"], [[1.0, NAN]])


def damaged(text):
    yield "cut_in_a_row", text[: text.rindex(",", 0, -8)]
    yield "no_header", text.split("\n", 1)[1]
    yield "no_number", text.replace("0.5", "half", 1)
    yield "a_column_is_missing", text.replace(",val_loss", "", 1)
    yield "binary", "\0\1\2" + text[40:]
    yield "a_number_that_no_run_has", text.replace(",0.5", ",1e308", 1)
    yield "a_cell_too_many", text.replace("\n", ",0.5\n").replace(",0.5", "", 1)
    yield "an_epoch_on_two_lines", text.replace("dense,3,2,", 'dense,3,"7\n",')


@pytest.mark.parametrize("name, text", list(damaged(history.to_csv(two_variants()))))
def test_a_damaged_csv_is_refused(tmp_path, name, text):
    path = tmp_path / f"{name}.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=f"{name}.csv") as caught:
        history.from_csv(path)
    assert "\n" not in str(caught.value)


def test_a_missing_csv_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent\.csv"):
        history.from_csv(tmp_path / "absent.csv")


def test_an_empty_csv_is_refused(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("")
    with pytest.raises(UserError):
        history.from_csv(path)


# Metrics


CURVE = [[4.0, 1.0, 2.0, 3.0], [1.0, 5.0, 9.0, 2.0]]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("test_accuracy", [0.9, 0.8]),
        ("val_loss@1", [4, 1]),
        ("val_loss@4", [3, 2]),
        ("val_loss@5", [NAN, NAN]),
        ("val_loss@0", [NAN, NAN]),
        ("lowest_epoch:val_loss", [2, 1]),
        ("range_after_1:val_loss", [2, 7]),
        ("range_after_3:val_loss", [0, 0]),
        ("range_after_4:val_loss", [NAN, NAN]),
        ("change_after_1:val_loss", [-1, 1]),
        ("change_after_3:val_loss", [1, -7]),
        ("change_after_4:val_loss", [NAN, NAN]),
        ("change_after_0:val_loss", [NAN, NAN]),
        ("range_after_0:val_loss", [3, 8]),
        ("val_loss@1 - val_loss@2 - val_loss@3", [1, -13]),
        ("train_seconds", [2, 2]),
        ("epoch_seconds", [0.5, 0.5]),
    ],
)
def test_metrics_by_name(name, expected):
    result = make_result(metrics={"test_accuracy": [0.9, 0.8]}, val_loss=CURVE)
    got = history.metric(result, name)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, expected)


def test_metrics_of_a_run_that_stopped_early():
    result = make_result(val_loss=[[4.0, 1.0, NAN], [3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(history.metric(result, "val_loss@3"), [NAN, 1])
    np.testing.assert_array_equal(history.metric(result, "lowest_epoch:val_loss"), [2, 3])
    np.testing.assert_array_equal(history.metric(result, "train_seconds"), [1, 1.5])
    np.testing.assert_array_equal(history.metric(result, "change_after_1:val_loss"), [NAN, -2])


def test_a_change_is_up_to_the_last_epoch_that_was_asked_for():
    """Read back, a history is as long as the longest run, and all may have stopped before."""
    result = make_result(val_loss=CURVE)
    stopped = result._replace(config=TrainConfig("dense", num_epochs=9))
    np.testing.assert_array_equal(history.metric(stopped, "change_after_1:val_loss"), [NAN, NAN])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["range_after_1:val_loss", "change_after_2:val_loss", "val_loss@2 - val_loss@3"])
def test_a_diverged_run_has_no_range_and_warns_of_nothing(name):
    result = make_result(val_loss=[[1.0, NAN, NAN], [1.0, math.inf, math.inf], [3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(np.abs(history.metric(result, name)), [NAN, NAN, 1])


def test_a_diverged_run_has_no_lowest_epoch():
    result = make_result(val_loss=[[NAN, NAN], [3.0, 2.0]])
    np.testing.assert_array_equal(history.metric(result, "lowest_epoch:val_loss"), [NAN, 2])


@pytest.mark.parametrize("name", ["lowest_epoch:val_loss", "range_after_1:val_loss"])
def test_what_is_asked_of_a_whole_curve_is_nan_of_a_run_that_diverged_on_the_way(name):
    result = make_result(val_loss=[[3.0, 2.0, 1.0, NAN], [3.0, 2.0, 1.0, 0.5]])
    result = result._replace(epoch_seconds=np.ones((2, 4)))  # the last epoch was trained by both
    np.testing.assert_array_equal(np.isnan(history.metric(result, name)), [True, False])


@pytest.mark.parametrize("name", ["accuracy", "accuracy@1", "lowest_epoch:loss", "range_after_1:loss", "val_loss@-1"])
def test_an_unknown_metric_is_named(name):
    with pytest.raises(UserError, match="unknown metric"):
        history.metric(make_result(), name)


def test_a_swept_result_is_taken_apart_by_settings():
    settings = [{"learning_rate": 0.1}, {"learning_rate": 0.1}, {"learning_rate": 0.01}, {"learning_rate": 0.01}]
    result = make_result((0, 1, 0, 1), settings, {"test_accuracy": [1, 2, 3, 4]}, val_loss=np.arange(8).reshape(4, 2))
    parts = history.by_settings("dense", result.runs)
    assert list(parts) == ["dense learning_rate=0.1", "dense learning_rate=0.01"]
    low = select(result, parts["dense learning_rate=0.01"])
    assert [run.seed for run in low.runs] == [0, 1]
    assert low.metrics["test_accuracy"].tolist() == [3, 4]
    assert low.history["val_loss"].tolist() == [[4, 5], [6, 7]]


def test_a_result_without_a_sweep_keeps_its_name():
    result = make_result()
    assert history.by_settings("dense", result.runs) == {"dense": list(range(len(result.runs)))}


# Summaries


def test_summary_by_hand():
    values = [0.90, 0.92, 0.97]
    summary = history.summarize(np.array([*values, NAN, math.inf]))
    mean = 0.93
    sd = math.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2)
    half = scipy.stats.t.ppf(0.975, 2) * sd / math.sqrt(3)
    assert summary["mean"] == pytest.approx(mean) and summary["sd"] == pytest.approx(sd)
    assert summary["ci95"] == pytest.approx([mean - half, mean + half])
    assert (summary["n"], summary["num_failed"]) == (3, 2)
    assert summary["values"] == [*values, None, None]


@pytest.mark.parametrize("values, mean", [([], None), ([NAN], None), ([2.0], 2.0)])
def test_numbers_that_do_not_exist_are_none(values, mean):
    summary = history.summarize(np.array(values))
    assert (summary["mean"], summary["sd"], summary["ci95"]) == (mean, None, [None, None])


def test_largest_deviation_by_hand():
    result = make_result(val_accuracy=[[0.1, 0.5, 0.6], [0.3, 0.7, 0.6]], val_loss=np.ones((2, 3)))
    reported = {
        "val_accuracy": np.array([0.2, 0.9, 0.55, 5.0])
    }  # means 0.2, 0.6, 0.6; the fourth epoch is theirs alone
    deviation, epoch = history.largest_deviation(result, reported, "val_accuracy")
    assert (deviation, epoch) == (pytest.approx(0.3), 2)
