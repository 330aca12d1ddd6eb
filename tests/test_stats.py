import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistlab.analysis import sequential, stats
from mnistlab.analysis.power import num_pairs_needed, smallest_resolvable_difference
from mnistlab.analysis.sequential import standing, verdict_of
from mnistlab.errors import UserError

NUM_EXPERIMENTS = 2000  # simulated; the standard error of a coverage near 0.95 is 0.005


def normal(n, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1.0, n)


def numbers(min_size=2, max_size=9):
    # Hundredths: exact ties and exact zeros do occur, as they do in accuracies.
    return st.lists(st.integers(-300, 300).map(lambda k: k / 100), min_size=min_size, max_size=max_size)


# Intervals


@pytest.mark.parametrize("n", [2, 6, 33])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_t_intervals_equal_scipys(n, confidence):
    a, b = normal(n, 1), normal(n, 2, 0.5)
    of_mean = scipy.stats.t.interval(confidence, n - 1, loc=a.mean(), scale=scipy.stats.sem(a))
    np.testing.assert_allclose(stats.mean_interval(a, confidence), of_mean, rtol=1e-12)
    of_pairs = scipy.stats.ttest_rel(a, b).confidence_interval(confidence)
    np.testing.assert_allclose(stats.mean_interval(a - b, confidence), (of_pairs.low, of_pairs.high), rtol=1e-10)


@pytest.mark.parametrize("draw", [np.random.Generator.standard_normal, np.random.Generator.standard_exponential])
@pytest.mark.parametrize("n", [7, 30])
def test_plain_bca_equals_scipys_on_the_same_resamples(draw, n):
    values = draw(np.random.default_rng(3), n)
    expected = scipy.stats.bootstrap((values,), np.mean, method="BCa", n_resamples=4000, rng=np.random.default_rng(5))
    got = stats.bca_interval(values, num_resamples=4000, seed=5, expand=False)
    np.testing.assert_allclose(got, expected.confidence_interval, rtol=1e-9)


def test_expanded_bca_is_plain_bca_at_hesterbergs_level():
    values = normal(9, 3)
    tail = scipy.stats.norm.cdf(math.sqrt(9 / 8) * scipy.stats.t.ppf(0.025, 8))
    expected = stats.bca_interval(values, confidence=1 - 2 * tail, expand=False)
    np.testing.assert_allclose(stats.bca_interval(values, confidence=0.95), expected, rtol=1e-9)


def test_the_resamples_of_a_thousand_runs_come_in_parts_and_are_complete():
    values = normal(1000, 4)
    low, high = stats.bca_interval(values, num_resamples=3000)  # three parts
    np.testing.assert_allclose([low, high], stats.mean_interval(values), atol=0.01)
    assert stats._chunks(3000, 1000) == [1048, 1048, 904]


def test_expansion_widens_a_small_sample_and_fades():
    def width(n, expand):
        low, high = stats.bca_interval(normal(n, 5), num_resamples=4000, expand=expand)
        return high - low

    assert 1.15 < width(8, True) / width(8, False) < 1.45  # sqrt(8/7) t_7 / z = 1.29
    assert width(500, True) / width(500, False) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("values", [[0.9], [], [0.9, math.nan, 0.8], [0.9, math.inf, 0.8], [1e308, -1e308]])
@pytest.mark.parametrize(
    "interval", [stats.mean_interval, stats.prediction_interval, stats.bca_interval, stats.sd_interval]
)
def test_an_interval_that_cannot_be_known_is_nan(interval, values):
    assert np.isnan(interval(values)).all()


def test_equal_values_give_an_interval_of_no_width():
    for interval in (stats.mean_interval, stats.bca_interval):
        assert interval([0.25] * 6) == (0.25, 0.25)


@pytest.mark.parametrize("n", [2, 3, 8, 50])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_sd_interval_equals_the_chi_square_formula(n, confidence):
    values = normal(n)
    quantiles = scipy.stats.chi2.ppf([(1 + confidence) / 2, (1 - confidence) / 2], n - 1)
    expected = np.sqrt(np.sum((values - values.mean()) ** 2) / quantiles)
    np.testing.assert_allclose(stats.sd_interval(values, confidence), expected, rtol=1e-10)


def test_sd_interval_covers_as_often_as_it_says():
    samples = np.random.default_rng(0).standard_normal((2000, 6))
    covered = [low <= 1 <= high for low, high in map(stats.sd_interval, samples)]
    assert 0.93 < np.mean(covered) < 0.97


@pytest.mark.parametrize("num_claims", [1, 2, 6, 12])
def test_fewest_pairs_is_where_agreement_of_all_passes_holm(num_claims):
    n = stats.fewest_pairs(0.05 / num_claims)
    assert stats.sign_flip_p(np.ones(n)) * num_claims < 0.05 <= stats.sign_flip_p(np.ones(n - 1)) * num_claims


def coverage(interval, experiments, mean):
    intervals = np.array([interval(values) for values in experiments])
    return np.mean((intervals[:, 0] <= mean) & (mean <= intervals[:, 1]))


@pytest.mark.parametrize("n", [8, 16])
def test_t_interval_covers_the_mean_as_often_as_it_says(n):
    experiments = np.random.default_rng(n).normal(3.0, 2.0, (NUM_EXPERIMENTS, n))
    assert 0.93 < coverage(stats.mean_interval, experiments, 3.0) < 0.97


def test_expanded_bca_covers_where_plain_bca_does_not():
    experiments = np.random.default_rng(1).normal(3.0, 2.0, (NUM_EXPERIMENTS, 16))
    assert 0.93 < coverage(lambda v: stats.bca_interval(v, num_resamples=600), experiments, 3.0) < 0.97
    small = np.random.default_rng(1).normal(3.0, 2.0, (NUM_EXPERIMENTS, 8))
    expanded = coverage(lambda v: stats.bca_interval(v, num_resamples=600), small, 3.0)
    plain = coverage(lambda v: stats.bca_interval(v, num_resamples=600, expand=False), small, 3.0)
    assert plain < 0.90 < 0.915 < expanded < 0.96


@pytest.mark.parametrize("n", [3, 12])
def test_prediction_interval_covers_one_more_run(n):
    runs = np.random.default_rng(n).normal(0.98, 0.002, (NUM_EXPERIMENTS, n + 1))
    assert 0.93 < np.mean([stats.inside(run[:-1], run[-1]) for run in runs]) < 0.97


def test_inside_by_hand():
    values = [1.0, 2.0, 3.0]  # mean 2, sd 1, t_{0.975, 2} = 4.302653: 2 ± 4.302653 sqrt(4/3) = 2 ± 4.968275
    np.testing.assert_allclose(stats.prediction_interval(values), (-2.968275, 6.968275), atol=1e-6)
    assert stats.inside(values, 6.96) is True
    assert stats.inside(values, 6.97) is False
    assert stats.inside(values, math.nan) is False
    assert stats.inside([1.0], 1.0) is None
    assert stats.inside([1.0, 2.0, math.nan], 1.0) is None


# Sign flips


def sign_flip_by_enumeration(differences):
    """Integer arithmetic: differences are given in hundredths."""
    cents = [round(100 * difference) for difference in differences]
    sums = [
        abs(sum(s * d for s, d in zip(signs, cents, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(cents))
    ]
    return sum(total >= abs(sum(cents)) for total in sums) / len(sums)


@settings(max_examples=60, deadline=None)
@given(numbers(min_size=1))
def test_exact_sign_flip_equals_enumeration(differences):
    assert stats.sign_flip_p(differences) == sign_flip_by_enumeration(differences)


@settings(max_examples=60, deadline=None)
@given(numbers(min_size=1), st.randoms(use_true_random=False))
def test_sign_flip_cares_for_no_order_sign_scale_or_zero(differences, random):
    p = stats.sign_flip_p(differences)
    shuffled = [-3 * difference for difference in differences] + [0.0]
    random.shuffle(shuffled)
    assert stats.sign_flip_p(shuffled) == p
    num_nonzero = np.count_nonzero(differences)
    assert min(1.0, 2.0 ** (1 - num_nonzero)) <= p <= 1.0


def test_sign_flip_equals_scipys_permutation_test():
    a, b = normal(11, 1), normal(11, 2, 0.7)
    expected = scipy.stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert stats.sign_flip_p(a - b) == pytest.approx(expected.pvalue, abs=1e-12)


def test_twenty_pairs_are_still_exact():
    assert stats.sign_flip_p(np.arange(1.0, 21.0)) == 2 / 2**20
    assert stats.sign_flip_p([*range(1, 7), *[0] * 30]) == 2 / 2**6
    # All but the smallest positive: only it may differ from the observed signs.
    assert stats.sign_flip_p([-1.0, *range(2, 21)]) == 4 / 2**20


def test_drawn_patterns_agree_with_all_patterns():
    differences = normal(18, 6, 0.35)
    exact = stats.sign_flip_p(differences)
    assert 0.01 < exact < 0.5
    drawn = stats.sign_flip_p(differences, max_exact=10)
    assert drawn == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 100_000))
    assert drawn == stats.sign_flip_p(differences, max_exact=10)


def test_drawn_p_is_never_zero():
    assert stats.sign_flip_p(np.ones(40), num_draws=999) == 1 / 1000


def test_sign_flip_of_nothing_shows_nothing():
    assert stats.sign_flip_p([0.0] * 8) == 1.0
    assert stats.sign_flip_p([]) == 1.0
    assert math.isnan(stats.sign_flip_p([0.1, math.nan]))


# Holm


def test_holm_by_hand():
    # m = 4: 4 x .005 = .02; 3 x .01 = .03; 2 x .03 = .06; 1 x .04 = .04, raised to .06
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02], rtol=1e-12)
    assert stats.holm([]).shape == (0,)
    assert stats.holm([0.6, 0.7]).tolist() == [1.0, 1.0]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    adjusted = stats.holm(p_values)
    assert np.all(adjusted >= np.array(p_values)) and np.all(
        adjusted <= np.minimum(1, len(p_values) * np.array(p_values)) + 1e-15
    )
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(adjusted[order]) >= 0)
    rejected = set()
    for k, index in enumerate(order):  # the procedure as Holm wrote it: stop at the first that is kept
        if (len(p_values) - k) * p_values[index] >= 0.05:
            break
        rejected.add(int(index))
    assert rejected == set(np.flatnonzero(adjusted < 0.05).tolist())


# P(A > B)


@settings(deadline=None)
@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_probability_equals_scipys_wilson_interval(wins_of):
    wins, n = wins_of
    a = np.arange(n)
    b = np.where(a < wins, a - 1, a + 1)
    p, interval = stats.probability_better(a, b)
    expected = scipy.stats.binomtest(wins, n).proportion_ci(method="wilson")
    assert p == pytest.approx(wins / n)
    np.testing.assert_allclose(interval, (expected.low, expected.high), atol=1e-12)


@settings(deadline=None)
@given(numbers(), st.integers(0, 100))
def test_probability_better_and_worse_add_up_to_one(a, seed):
    b = np.random.default_rng(seed).permutation(a)
    p, (low, high) = stats.probability_better(a, b)
    q, (mirror_low, mirror_high) = stats.probability_better(b, a)
    np.testing.assert_allclose([p + q, low + mirror_high, high + mirror_low], 1.0)
    assert 0 <= low <= p <= high <= 1


def test_a_tie_counts_one_half():
    assert stats.probability_better([2, 2, 2, 2], [1, 2, 2, 3])[0] == 0.5
    for a in ([], [math.nan, 1.0]):
        p, interval = stats.probability_better(a, np.zeros(len(a)))
        assert np.isnan([p, *interval]).all()


def test_no_scale_changes_what_sign_flips_show():
    differences = np.array([1.0, 2.0, 3.0, 4.0, 5.0, -1.0])
    assert stats.sign_flip_p(differences * 2.0**1020) == stats.sign_flip_p(differences) < 0.1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e308, 1e200, 1e110, 5e-324])
def test_numbers_at_the_ends_of_what_floats_hold_are_compared(size):
    a, b = np.array([1.0, -1.0, 1.0, 0.5, 1.0, 1.0, -0.5, 1.0]) * size, np.array([-1.0, 1.0, -1.0, 1.0] * 2) * size
    (judged,) = stats.judge([stats.compare(a, b)])
    assert judged.n == 8 and judged.probability == 0.625 and judged.outcome == "not resolved"
    assert stats.sentence(judged, "a", "b", "loss").startswith('"a > b" in loss: not resolved')
    assert (judged.to_dict()["t_interval"] == [None, None]) == (size > 1e150)


# Power


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])  # G*Power, paired t test, two tails
def test_pairs_needed_equal_published_numbers(effect, n):
    assert num_pairs_needed(2.0, 2.0 * effect) == n
    assert num_pairs_needed(2.0, -2.0 * effect) == n


@settings(deadline=None, max_examples=30)
@given(st.floats(0.05, 13.0), st.sampled_from([0.01, 0.05]), st.sampled_from([0.1, 0.8, 0.95]))
def test_pairs_needed_is_the_smallest_number_with_the_power(effect, alpha, power):
    def power_of(n):
        critical = scipy.stats.t.ppf(1 - alpha / 2, n - 1)
        return scipy.stats.nct.sf(critical, n - 1, effect * math.sqrt(n)) + scipy.stats.nct.sf(
            critical, n - 1, -effect * math.sqrt(n)
        )

    n = num_pairs_needed(1.0, effect, alpha, power)
    assert power_of(n) >= power - 1e-9
    assert n == 2 or power_of(n - 1) < power + 1e-9


def test_pairs_needed_of_a_difference_that_is_hardly_there():
    normal = (scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)) ** 2
    for effect in (1e-3, 2e-4, 1e-4, 1e-8, 1e-11):
        assert num_pairs_needed(1.0, effect) == pytest.approx(normal / effect**2, rel=1e-5)
    for effect in (1e-13, 1e-200, 5e-324):
        with pytest.raises(UserError, match="nothing beside an sd"):
            num_pairs_needed(1.0, effect)


@pytest.mark.parametrize("n", [2, 3, 9, 100])
def test_smallest_resolvable_difference_is_found_four_times_in_five(n):
    differences = normal(n, 1)
    true = smallest_resolvable_difference(differences) / differences.std(ddof=1)
    assert num_pairs_needed(1.0, true * 1.0001) == n
    simulated = np.random.default_rng(n).normal(true, 1.0, (20_000, n))
    found = scipy.stats.ttest_1samp(simulated, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.012)  # four standard errors


def test_smallest_resolvable_difference_at_the_edges():
    assert math.isnan(smallest_resolvable_difference([0.1]))
    assert smallest_resolvable_difference([0.25, 0.25, 0.25]) == 0.0
    assert num_pairs_needed(0.0, 0.1) == 2
    for sd, difference in ((1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, math.inf)):
        with pytest.raises(UserError, match="difference"):
            num_pairs_needed(sd, difference)


# Claims


def judged(a, b, **settings):
    return stats.judge([stats.compare(a, b, **settings)])[0]


def test_the_numbers_of_a_comparison():
    a, b = normal(12, 1, 0.8), normal(12, 2)
    c = stats.compare(a, b)
    assert (c.n, c.num_failed, c.verdict, c.outcome) == (12, 0, "not judged", "not judged")
    assert (c.mean_a, c.sd_a) == (pytest.approx(a.mean()), pytest.approx(a.std(ddof=1)))
    assert (c.mean_b, c.sd_b) == (pytest.approx(b.mean()), pytest.approx(b.std(ddof=1)))
    assert c.difference == pytest.approx(a.mean() - b.mean())
    assert c.correlation == pytest.approx(scipy.stats.pearsonr(a, b).statistic)
    assert c.p == sign_flip_p_of_floats(a - b)
    assert c.probability == np.mean(a > b)


def sign_flip_p_of_floats(differences):
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    return np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)


def test_verdicts():
    better, worse = normal(16, 1, 2.0), normal(16, 2)
    assert judged(better, worse).verdict == "holds"
    assert judged(worse, better).verdict == "reversed"
    assert judged(worse, better, direction="<").verdict == "holds"
    assert judged(better, worse, direction="<").verdict == "reversed"
    assert judged(normal(16, 3), worse).verdict == "not resolved"
    assert judged(worse, worse).verdict == "not resolved"


@pytest.mark.parametrize("n", range(6))
def test_fewer_than_six_pairs_resolve_nothing(n):
    assert judged(np.arange(n) + 100.0, np.arange(n)).verdict == "not resolved (n too small)"


def test_six_pairs_resolve_one_claim_and_not_two():
    claim = stats.compare(np.arange(6) + 100.0, np.arange(6))
    assert [c.verdict for c in stats.judge([claim])] == ["holds"]
    assert [c.verdict for c in stats.judge([claim, claim])] == ["not resolved (n too small)"] * 2
    strong = stats.compare(np.arange(20) + 100.0, np.arange(20))
    assert [c.verdict for c in stats.judge([claim, strong])] == [
        "holds",
        "holds",
    ]  # Holm: the last claim is not penalised
    expected = [stats.sequential_p(np.ones(6))[-1], 2 * stats.sequential_p(np.ones(20))[-1]]
    assert [c.p_holm for c in stats.judge([claim, strong])] == pytest.approx(expected)


def test_diverged_runs_are_counted_and_named():
    a, b = normal(16, 1, 5.0), normal(16, 2)
    broken_a, broken_b = a.copy(), b.copy()
    broken_a[[0, 3]] = math.nan, math.inf
    broken_b[[3, 5, 6]] = math.nan
    c = judged(broken_a, broken_b)
    assert (c.n, c.num_failed, c.num_failed_a, c.num_failed_b) == (12, 4, 2, 3)
    assert c.verdict == "holds (A diverged in 2 of 16 seeds; B diverged in 3 of 16 seeds)"
    assert c.outcome == "holds"
    kept = np.setdiff1d(np.arange(16), [0, 3, 5, 6])
    alone = judged(a[kept], b[kept])
    counts = {"num_failed": 4, "num_failed_a": 2, "num_failed_b": 3, "verdict": c.verdict}
    assert c == dataclasses.replace(alone, **counts)
    assert "lenet5 diverged in 2 of 16 seeds" in stats.sentence(c, "lenet5", "dense", "accuracy")
    everything_failed = judged([math.nan] * 8, b[:8])
    assert everything_failed.verdict == "not resolved (n too small; A diverged in 8 of 8 seeds)"


def test_one_sample_claims():
    a = normal(10, 1, 3.0)
    above = stats.judge([stats.compare(a, np.full(10, 0.0))])[0]
    assert above.verdict == "holds"
    assert (above.mean_b, above.sd_b) == (0.0, 0.0)
    assert math.isnan(above.correlation)
    np.testing.assert_allclose(above.t_interval, scipy.stats.ttest_1samp(a, 0.0).confidence_interval(), rtol=1e-10)
    assert stats.judge([stats.compare(a, np.full(10, 9.0))])[0].verdict == "reversed"
    assert stats.judge([stats.compare(a, np.full(10, 9.0), direction="<")])[0].verdict == "holds"
    assert stats.judge([]) == []


def test_arrays_that_do_not_pair_and_other_directions_are_refused():
    with pytest.raises(UserError, match="3 runs of A and 2 of B"):
        stats.compare([1, 2, 3], [1, 2])
    with pytest.raises(UserError, match="direction"):
        stats.compare([1, 2], [1, 2], direction="~")
    with pytest.raises(UserError, match=r"shape \(1, 2\)"):
        stats.compare([[1, 2]], [[1, 2]])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(6, 12), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_swapping_the_sides_and_the_direction_is_the_same_claim(seed, n, shift):
    a, b = normal(n, seed, shift), normal(n, seed + 10_001)
    one, other = judged(a, b, num_resamples=200), judged(b, a, direction="<", num_resamples=200)
    assert one.outcome == other.outcome
    assert (one.p, one.probability, one.smallest_resolvable) == pytest.approx(
        (other.p, other.probability, other.smallest_resolvable)
    )
    assert one.difference == pytest.approx(-other.difference)
    np.testing.assert_allclose(one.t_interval, np.negative(other.t_interval[::-1]), atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.0, 3.0), st.floats(0.0, 3.0))
def test_a_larger_difference_is_never_less_significant_on_the_side_it_favours(seed, shift, more):
    a, b = normal(10, seed), normal(10, seed + 10_001)
    a += b.mean() - a.mean() + shift  # from a mean difference of exactly `shift` upwards
    near, far = stats.compare(a, b, num_resamples=100), stats.compare(a + more, b, num_resamples=100)
    assert far.difference >= near.difference - 1e-12
    assert far.probability >= near.probability
    assert far.t_interval.low >= near.t_interval.low - 1e-12
    assert far.smallest_resolvable == pytest.approx(near.smallest_resolvable)


def test_plain_json():
    c = judged([math.nan, 1.0, 2.0], [0.0, 0.5, 3.0])
    record = json.loads(json.dumps(c.to_dict(), allow_nan=False))
    assert set(record) == {field.name for field in dataclasses.fields(stats.Comparison)}
    assert record["t_interval"] == list(c.t_interval)
    assert record["verdict"] == c.verdict == "not resolved (n too small; A diverged in 1 of 3 seeds)"
    assert stats.compare([1.0], [2.0]).to_dict()["t_interval"] == [None, None]


def test_a_sentence_says_what_was_not_resolved_and_what_would_not_matter():
    c = judged(normal(16, 3), normal(16, 2), margin=0.1)
    text = stats.sentence(c, "batchnorm", "baseline", "test accuracy")
    assert text.startswith('"batchnorm > baseline" in test accuracy: not resolved; mean difference ')
    assert f"{c.interval.low:+.3g} to {c.interval.high:+.3g}, n = 16 pairs), p = {c.p_holm:.2g} (Holm" in text
    assert "; less than 0.1 would not matter, P(batchnorm > baseline) = " in text


def test_a_difference_within_the_margin_is_an_answer_and_confirms_that_two_are_the_same():
    a, b = 0.001 * normal(12, 1), 0.001 * normal(12, 2)
    assert judged(a, b).outcome == "not resolved"
    assert judged(a, b, margin=0.01).outcome == "no difference that matters"
    assert judged(a, b, margin=0.01, direction="=").outcome == "holds"
    assert judged(a + 0.03, b, margin=0.01, direction="=").outcome == "reversed"
    assert judged(a + 0.01, b, margin=0.01, direction="=").outcome == "not resolved"  # on the bound


@pytest.mark.parametrize("n", range(4))
def test_a_sentence_on_too_few_runs_promises_nothing(n):
    text = stats.sentence(judged(normal(n, 1), normal(n, 2)), "conv", "dense", "loss")
    assert text.startswith('"conv > dense" in loss: not resolved (n too small)')
    assert "nan" not in text and "four times in five" not in text


# Verdicts over many simulated experiments


@pytest.fixture
def verdicts_alone(monkeypatch):
    """Comparisons without their interval at every n, which takes most of the time and of which no verdict knows."""
    monkeypatch.setattr(stats, "confidence_sequence", lambda differences: (np.array([-np.inf]), np.array([np.inf])))


def test_no_verdict_knows_of_the_interval(request):
    pairs = np.random.default_rng(4).normal(size=(30, 2, 12)) + np.linspace(0, 2, 30)[:, None, None] * [[1], [0]]
    whole = [judged(a, b, margin=0.3, num_resamples=10).verdict for a, b in pairs]
    request.getfixturevalue("verdicts_alone")
    assert [judged(a, b, margin=0.3, num_resamples=10).verdict for a, b in pairs] == whole and len(set(whole)) > 1


def evidence_of(differences):
    """p of every row [num, n] and which gambler has it, without the rest of a comparison."""
    up, down = sequential._log_wealths(differences)
    log_e = np.logaddexp(up, down) - math.log(2)
    return np.exp(-np.maximum(log_e.max(-1), 0)), up.max(-1) >= down.max(-1)


def outcomes_of(a, b):
    """What is judged of every row: every verdict, and a sample of those without, by the judge himself."""
    p, is_up = evidence_of(a - b)
    outcomes = np.where(p > stats.ALPHA, "not resolved", np.where(is_up, "holds", "reversed")).tolist()
    for row in {*np.flatnonzero(p <= stats.ALPHA).tolist(), *range(30)}:
        assert judged(a[row], b[row], num_resamples=10).outcome == outcomes[row]
    return outcomes


@pytest.mark.parametrize("draw", ["standard_normal", "standard_exponential", "standard_cauchy"])
def test_without_a_difference_at_most_one_verdict_in_twenty(verdicts_alone, draw):
    # Then every sign pattern of a - b is equally likely: for given magnitudes the rate can be counted.
    signs = np.array(list(itertools.product((1, -1), repeat=8)))
    for magnitudes in getattr(np.random.default_rng(1), draw)((4, 8)):
        outcomes = outcomes_of(signs * magnitudes[None], np.zeros(signs.shape))
        assert outcomes.count("holds") == outcomes.count("reversed")
        assert 0 < 2 * outcomes.count("holds") <= 0.05 * 256


@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_without_a_difference_a_verdict_is_rare(verdicts_alone, draw):
    pairs = getattr(np.random.default_rng(1), draw)(size=(NUM_EXPERIMENTS, 2, 16))
    outcomes = outcomes_of(pairs[:, 0], pairs[:, 1])
    num_verdicts = NUM_EXPERIMENTS - outcomes.count("not resolved")
    assert 0.01 < num_verdicts / NUM_EXPERIMENTS < 0.05  # less than 0.05: it may also be looked at before
    assert outcomes.count("holds") / num_verdicts == pytest.approx(0.5, abs=0.2)


def test_without_a_difference_one_of_five_claims_is_still_rare(verdicts_alone):
    runs = np.random.default_rng(1).normal(size=(NUM_EXPERIMENTS // 2, 6, 12))  # five claims that share one baseline
    p, _ = evidence_of((runs[:, 1:] - runs[:, :1]).reshape(-1, 12))
    is_wrong = 5 * p.reshape(-1, 5).min(axis=1) <= stats.ALPHA  # Holm's first step
    for row in {*np.flatnonzero(is_wrong).tolist(), *range(20)}:
        judged_five = stats.judge([stats.compare(a, runs[row, 0], num_resamples=10) for a in runs[row, 1:]])
        assert any(c.outcome != "not resolved" for c in judged_five) == is_wrong[row]
    assert 0.002 < is_wrong.mean() <= 0.05


def test_three_standard_deviations_show_in_eight_pairs(verdicts_alone):
    pairs = np.random.default_rng(2).normal(size=(200, 2, 8)) / math.sqrt(2)
    outcomes = [judged(a + 3.0, b, num_resamples=300).outcome for a, b in pairs]
    assert outcomes.count("holds") >= 198


@pytest.mark.parametrize("direction", ["<", "=", ">"])
def test_the_verdict_on_one_claim_is_the_sequential_one(verdicts_alone, direction):
    pairs = np.random.default_rng(3).normal(size=(60, 2, 16))
    for a, b in pairs:
        alone = verdict_of(standing(a + 1 - b, 1.0), direction=direction)
        assert judged(a + 1, b, margin=1.0, direction=direction, num_resamples=10).outcome == alone


def test_a_claim_of_equality_leaves_no_room_to_the_others():
    """Its difference from 0 is no question of anybody, so it is not struck out of Holm's list when that is plain."""
    six = stats.compare(np.linspace(1, 1.05, 6), np.zeros(6))
    rng = np.random.default_rng(0)
    about = stats.compare(0.5 + 0.01 * rng.standard_normal(20), np.zeros(20), direction="=", margin=1.0)
    assert stats.judge([six])[0].verdict == "holds"
    beside = stats.judge([six, about])
    assert beside[0].verdict == "not resolved (n too small)" and beside[1].verdict == "holds"
    assert beside[0].p_holm == pytest.approx(2 * six.standing.p_differs)


def test_a_mean_that_a_wild_pair_pulls_out_of_the_interval_is_said():
    values = 0.003 + 1e-4 * np.random.default_rng(0).standard_normal(20)
    values[7] = -0.88
    (wild,) = stats.judge([stats.compare(values, np.zeros(20))])
    low, high = (float(ends[-1]) for ends in stats.confidence_sequence(values))
    assert tuple(wild.interval) == (low, high) and low > 0 > wild.difference
    assert wild.verdict.startswith("holds (a few pairs are far from the others")
    (tame,) = stats.judge([stats.compare(np.full(6, 0.1), np.zeros(6))])
    assert tame.verdict == "holds"


@pytest.mark.parametrize("names", [("B", "A"), ("model B", "model A"), ("wide", "0.9")])
def test_the_side_that_diverged_is_named(names):
    said = stats.named("holds (A diverged in 1 of 8 seeds, B diverged in 2 of 8 seeds)", *names)
    assert said == f"holds ({names[0]} diverged in 1 of 8 seeds, {names[1]} diverged in 2 of 8 seeds)"
