import numpy as np
import pytest

from mnistlab.analysis import claims
from mnistlab.analysis.claims import Claim
from mnistlab.analysis.sequential import sequential_p
from mnistlab.config import TrainConfig
from mnistlab.training.result import Record, Result, Run

NOISE = np.array([0.001, -0.002, 0.0015, 0.0005, -0.001, 0.002, -0.0005, 0.001, -0.0015, 0.0])
NUM_SEEDS = len(NOISE)


def result_of(accuracy, seeds=None):
    accuracy = np.asarray(accuracy, np.float64)
    seeds = range(len(accuracy)) if seeds is None else seeds
    history = {name: np.stack([accuracy - 0.1, accuracy], axis=1) for name in Record._fields}
    runs = tuple(Run(seed, {}) for seed in seeds)
    seconds = np.ones((len(accuracy), 2))
    return Result(TrainConfig("dense"), runs, history, {"test_accuracy": accuracy}, {}, seconds)


def claim(direction, right="low", left="high", metric="test_accuracy", **keywords):
    return Claim("a", "in words", metric, left, direction, right, **keywords)


RESULTS = {"high": result_of(0.95 + NOISE), "low": result_of(0.90 + NOISE[::-1])}


def outcome(direction, right="low", results=RESULTS, **keywords):
    (checked,) = claims.check([claim(direction, right, **keywords)], results)
    return checked.verdict


@pytest.mark.parametrize(
    "direction, left, right, expected",
    [
        (">", "high", "low", "holds"),
        ("<", "high", "low", "reversed"),
        ("<", "low", "high", "holds"),
        (">", "low", "high", "reversed"),
        (">", "high", 0.93, "holds"),
        ("<", "high", 0.93, "reversed"),
        (">", "high", 0.9515, "not resolved"),
        (">", "high", 0.95, "no difference that matters"),
        (">", "high", "high", "no difference that matters"),
        ("same", "high", "low", "reversed"),
        ("same", "low", "high", "reversed"),
        ("same", "high", "high", "holds"),
    ],
)
def test_each_direction_where_the_answer_is_obvious(direction, left, right, expected):
    assert outcome(direction, right, left=left) == expected


@pytest.mark.parametrize(
    "right, tolerance, expected",
    [
        (0.95, 0.01, "holds"),
        (0.945, 0.01, "holds"),
        (0.955, 0.01, "holds"),
        (0.90, 0.01, "reversed"),  # above the upper bound
        (1.00, 0.01, "reversed"),  # below the lower bound
        (0.94, 0.01, "not resolved"),  # on the bound
        ("low", 0.06, "holds"),
        ("low", 0.04, "reversed"),
    ],
)
def test_about_means_between_both_bounds(right, tolerance, expected):
    assert outcome("about", right, tolerance=tolerance) == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_about_is_asked_of_the_runs_that_did_not_diverge(lost):
    for num_lost in (2, NUM_SEEDS):
        accuracy = 0.95 + NOISE
        accuracy[:num_lost] = lost
        results = {"high": result_of(accuracy), "low": result_of(np.where(np.isfinite(accuracy), 0.9, lost))}
        for right in (0.955, "low"):
            (checked,) = claims.check([claim("about", right, tolerance=0.06)], results)
            assert checked.verdict.startswith("holds" if num_lost == 2 else "not resolved")


@pytest.mark.parametrize("num_seeds, expected", [(1, "not resolved"), (5, "not resolved"), (6, "holds")])
def test_few_seeds_resolve_nothing(num_seeds, expected):
    results = {name: result_of(result.metrics["test_accuracy"][:num_seeds]) for name, result in RESULTS.items()}
    verdict = outcome(">", results=results)
    assert verdict.split(" (")[0] == expected
    assert ("n too small" in verdict) == (num_seeds < 6)


def test_holm_is_over_all_claims_that_were_measured():
    # Six pairs that agree have p = 0.037: enough alone, too little for one of two.
    results = {name: result_of(result.metrics["test_accuracy"][:6]) for name, result in RESULTS.items()}
    one = claim(">")
    absent = claim(">", right="absent")
    assert claims.check([one, absent], results)[0].verdict == "holds"
    first, _ = claims.check([one, claim(">", "high", left="high")], results)
    assert first.verdict.startswith("not resolved")
    assert first.comparison.p_holm == pytest.approx(2 * sequential_p(NOISE[:6] - NOISE[::-1][:6] + 0.05)[-1])


@pytest.mark.parametrize("left, right", [("high", "absent"), ("absent", "low"), ("absent", 0.9)])
def test_a_missing_variant_is_not_measured(left, right):
    (checked,) = claims.check([claim(">", right, left=left)], RESULTS)
    assert (checked.verdict, checked.comparison) == ("not measured", None)
    row = checked.to_dict()
    assert (row["n"], row["p"], row["delta"], row["ci95"], row["verdict"]) == (0, None, None, None, "not measured")


def test_an_epoch_that_was_not_trained_is_not_measured():
    assert outcome(">", 0.5, metric="val_accuracy@2") == "holds"
    assert outcome(">", 0.5, metric="val_accuracy@3") == "not measured"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("keywords", [{}, {"tolerance": 0.1}])
def test_a_claim_on_epochs_of_runs_that_all_diverged_says_so(keywords):
    results = {"low": result_of(np.full(4, np.nan))}
    direction = "about" if keywords else ">"
    (checked,) = claims.check([claim(direction, 0.5, "low", "val_accuracy@1", **keywords)], results)
    assert checked.verdict == "not resolved (n too small; A diverged in 4 of 4 seeds)"


def test_a_diverged_seed_is_said():
    accuracy = 0.95 + NOISE
    accuracy[3] = np.nan
    verdict = outcome(">", results={**RESULTS, "high": result_of(accuracy)})
    assert verdict == f"holds (A diverged in 1 of {NUM_SEEDS} seeds)"


def test_runs_are_paired_by_seed():
    # Seeds differ much, the variants little but always: only the right pairing shows it.
    base = np.linspace(0.5, 0.9, NUM_SEEDS)
    high = result_of(base + 0.01 + NOISE)
    paired = {"high": high, "low": result_of(base)}
    assert outcome(">", results=paired) == "holds"
    turned = {"high": high, "low": result_of(base[::-1], range(NUM_SEEDS)[::-1])}
    assert outcome(">", results=turned) == "holds"


def test_the_row_for_the_summary():
    (checked,) = claims.check([claim(">", 0.93, ours=True)], RESULTS)
    row = checked.to_dict()
    assert row["delta"] == pytest.approx(0.02, abs=1e-3)
    low, high = row["ci95"]
    assert low < row["delta"] < high and low > 0
    assert (row["n"], row["id"], row["ours"], row["right"]) == (NUM_SEEDS, "a", True, 0.93)
    assert row["p"] == pytest.approx(sequential_p(0.02 + NOISE)[-1])
    assert "high > 0.93" in row["sentence"] and "test accuracy" in row["sentence"]


@pytest.mark.parametrize(("error", "verdict"), [(1e-12, "holds"), (1.1e-12, "reversed"), (float("nan"), "reversed")])
def test_an_exact_claim_holds_up_to_its_tolerance(error, verdict):
    claim = Claim("b", "they agree", "largest difference", "by hand", "about", "jax", 1e-12)
    checked = claims.exact(claim, error, "the largest difference is small.")
    assert (checked.verdict, checked.sentence) == (verdict, f"{verdict}: the largest difference is small.")
    said = checked.to_dict()
    assert (said["n"], said["ci95"], said["comparison"]) == (1, None, {})
    np.testing.assert_equal(said["delta"], error)
    unmeasured = claims.Checked(claim, None, "not measured", "").to_dict()
    assert (unmeasured["n"], unmeasured["delta"]) == (0, None)


@pytest.mark.parametrize("per_population, num_pairs", [(1, 8), (4, 2), (8, 1)])
def test_seconds_that_a_population_shares_are_one_pair(per_population, num_pairs):
    shared = np.arange(8) // per_population
    sides = [result_of(np.full(8, 0.9))._replace(epoch_seconds=np.outer(x + 0.01 * shared, [1, 1])) for x in (1, 2)]
    asked = claim("<", "right", "left", "epoch_seconds")
    (checked,) = claims.check([asked], {"left": sides[0], "right": sides[1]})
    assert checked.comparison.n == num_pairs
    assert checked.verdict == ("holds" if num_pairs == 8 else "not resolved (n too small)")
    (number,) = claims.check([claim("<", 5.0, "left", "epoch_seconds")], {"left": sides[0]})
    assert number.comparison.n == num_pairs
    # One that stopped after an epoch has other seconds in all, and was timed by the same program.
    stopped = sides[0].epoch_seconds.copy()
    stopped[1, 1] = np.nan
    early = {"left": sides[0]._replace(epoch_seconds=stopped), "right": sides[1]}
    (checked,) = claims.check([claim("<", "right", "left", "train_seconds")], early)
    assert checked.comparison.n == num_pairs


def test_what_matters_in_an_accuracy_is_known_however_it_is_spelt():
    assert claim(">", metric="Accuracy").margin == claim(">").margin == claims.ACCURACY_THAT_MATTERS
