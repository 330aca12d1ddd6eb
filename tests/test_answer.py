"""The first sentence of a page: true, and an answer, whatever came out."""

import dataclasses
import importlib

import numpy as np
import pytest
from run_folders import result_of

from experiments import common
from mnistlab.analysis import claims, departures, reported, stats
from mnistlab.analysis.claims import Claim
from mnistlab.comparison.spec import PROTOCOLS, Experiment
from mnistlab.report import answer, text

MORE = Claim("a", "LeNet-5 is more accurate", "test_accuracy", "lenet5", ">", "dense")
ABOUT = Claim("a", "about 98 %", "test_accuracy", "lenet5", "about", 0.98, 0.001)
WIGGLE = 0.001 * np.array([0.3, -0.2, 0.1, 0.0, -0.1, 0.4, -0.3, 0.2])


def whole(accuracies, seeds):
    """A Result with all the final metrics that claims speak of."""
    found = result_of(accuracies, seeds)
    rest = dict.fromkeys(("test_loss", "val_accuracy", "val_loss"), 0.5 + found.metrics["test_accuracy"] / 3)
    return found._replace(metrics=found.metrics | rest)


def results(n=8, **means):
    """Variant -> n runs around a mean test accuracy."""
    return {
        name: whole(mean + (i + 1) * WIGGLE[(np.arange(n) * (i + 1)) % 8], range(n))
        for i, (name, mean) in enumerate(means.items())
    }


def said(questions, found, asked=(), verdicts=None, **options):
    checked = claims.check(questions, found)
    if verdicts:
        checked = [item._replace(verdict=word) for item, word in zip(checked, verdicts, strict=True)]
    checked = departures.of_changed_run(checked, options.get("departures", ()))
    return answer.answer(checked, found, asked, **options)


HIGHER, LOWER = results(lenet5=0.987, dense=0.978), results(lenet5=0.970, dense=0.978)
WIDE = {"lenet5": result_of(0.978 + 8 * WIGGLE, range(8)), "dense": result_of(0.978 + 8 * WIGGLE[::-1], range(8))}
CLOSE = {"lenet5": result_of(0.978 + WIGGLE, range(8)), "dense": result_of(0.978 + WIGGLE[::-1], range(8))}


def test_a_claim_that_holds_is_a_yes_and_says_by_how_much_in_how_many_seeds():
    numbers = {"lenet5": {"test_accuracy": 0.987}, "dense": {"test_accuracy": 0.9}}
    sentence, more, _ = said([MORE], HIGHER, reported=numbers)
    assert sentence == (
        "Yes: lenet5 is more accurate than dense by 0.91 points, 98.70 % against 97.80 % (8 of 8 seeds); "
        "the source's 98.70 % for lenet5 is reproduced (our mean: 98.70 %)."
    )
    assert more is None
    numbers["lenet5"]["test_accuracy"] = 0.95
    assert "the source's 95.00 % for lenet5 is not reproduced" in said([MORE], HIGHER, reported=numbers).sentence


def test_the_opposite_is_a_no():
    sentence = said([MORE], LOWER).sentence
    assert sentence.startswith("No: lenet5 is less accurate than dense by 0.80 points") and "(8 of 8 seeds)" in sentence


def test_a_mean_that_a_wild_pair_pulls_to_the_other_side_turns_no_sentence_round():
    gaps = 0.003 + 1e-4 * np.random.default_rng(0).standard_normal(20)
    gaps[7] = -0.88
    found = {"lenet5": result_of(0.95 + gaps, range(20)), "dense": result_of(np.full(20, 0.95), range(20))}
    low, high = (100 * float(ends[-1]) for ends in stats.confidence_sequence(gaps))
    sentence = said([MORE], found).sentence
    assert sentence.startswith("Yes: lenet5 is more accurate than dense, the difference lies between ")
    ends = (f"+{text.format_significant(end, 2)} points" for end in (low, high))
    assert f"between {' and '.join(ends)} (20 seeds); {stats.PULLED}." in sentence
    same = said([dataclasses.replace(MORE, matters=0.05)], found).sentence
    assert same.startswith("No difference that matters: ") and same.endswith(f"{stats.PULLED}.")
    alike = said([dataclasses.replace(ABOUT, right=0.953)], found).sentence
    assert alike.startswith("Yes: the test accuracy of lenet5 is within 0.10 points of 95.30 %, ")


def test_numbers_that_are_the_same_but_for_rounding_are_a_tie():
    found = {"lenet5": result_of([0.9871, 0.9875], range(2)), "dense": result_of([0.9873, 0.9873], range(2))}
    checked = claims.check([MORE], found)
    assert np.mean(found["lenet5"].metrics["test_accuracy"] - 0.9873) != 0 == checked[0].comparison.difference
    assert "on average lenet5 and dense have the same test accuracy, 98.73 % (2 seeds)" in said([MORE], found).sentence
    one = np.float32(0.9873), 0.9873
    assert stats.paired_differences(np.array([one[0]], np.float64), np.array([one[1]])).tolist() == [0.0]


def test_what_is_not_resolved_says_what_the_means_say_and_that_more_seeds_can_tell():
    sentence, more, _ = said([MORE], WIDE)
    assert sentence.startswith(
        "Not resolved: 8 seeds do not tell whether lenet5 is more accurate than dense; on average"
    )
    assert more == 16


def test_no_difference_that_matters():
    sentence, more, _ = said([MORE], CLOSE, verdicts=["no difference that matters"])
    assert sentence.startswith("No difference that matters: lenet5 and dense differ in test accuracy by less than")
    assert more is None


@pytest.mark.parametrize("n", [2, 5])
def test_few_seeds_ask_for_as_many_as_could_tell(n):
    sentence, more, _ = said([MORE], results(n, lenet5=0.987, dense=0.978))
    assert sentence.startswith(f"Not resolved: {n} seeds do not tell") and f"({n} of {n} seeds)" in sentence
    assert more == 8


def test_one_seed_says_what_it_can_and_cannot_say():
    sentence, more, _ = said(
        [MORE], results(1, lenet5=0.987, dense=0.978), reported={"lenet5": {"test_accuracy": 0.98}}
    )
    assert sentence.startswith(
        "One run of each cannot tell luck from difference: here lenet5 is more accurate than dense"
    )
    assert "; the source has 98.00 % for lenet5." in sentence and "Yes" not in sentence
    assert more == 8


def test_a_changed_run_neither_says_yes_nor_judges_the_source():
    numbers = {"lenet5": {"test_accuracy": 0.987}}
    for found, word in ((HIGHER, "more"), (LOWER, "less")):
        sentence = said([MORE], found, departures=("epochs 20 -> 3",), reported=numbers).sentence
        assert (
            sentence.startswith(f"In this changed run, lenet5 is {word} accurate than dense")
            and "source" not in sentence
        )
    one = said([MORE], results(1, lenet5=0.987, dense=0.978), departures=("epochs 20 -> 3",)).sentence
    assert ": in this changed run lenet5 is more accurate" in one


def test_runs_that_all_diverged_answer_nothing():
    found = HIGHER | {"dense": result_of(np.full(8, np.nan), range(8))}
    sentence, more, _ = said([MORE], found)
    assert sentence.startswith("No answer: all seeds of dense diverged") and more is None
    everything = {name: result_of(np.full(8, np.nan), range(8)) for name in HIGHER}
    assert "all seeds of lenet5 and of dense diverged" in said([MORE], everything).sentence
    assert "every network diverged" in said([], everything, ["test_accuracy"]).sentence


def test_a_seed_that_diverged_is_counted():
    values = np.where(np.arange(8) == 2, np.nan, 0.978 + WIGGLE)
    sentence = said([MORE], HIGHER | {"dense": result_of(values, range(8))}).sentence
    assert "(7 of 7 seeds, 1 diverged)" in sentence


def test_a_claim_about_a_number():
    assert said([ABOUT], {"lenet5": result_of(0.98 + WIGGLE / 4, range(8))}).sentence.startswith(
        "Yes: the test accuracy of lenet5 is within 0.10 points of 98.00 %, at 98.0"
    )
    assert said([ABOUT], {"lenet5": result_of(0.99 + WIGGLE, range(8))}).sentence.startswith(
        "No: the test accuracy of lenet5 is not within 0.10 points of 98.00 %, at 99.0"
    )
    gap = Claim("a", "it overfits", "overfitting_gap", "lenet5", ">", 0.0)
    assert said([gap], HIGHER).sentence.startswith(
        "Yes: the overfitting gap of lenet5 is above 0.00 points, at 9.87 points"
    )


def test_a_claim_that_there_is_no_difference():
    same = Claim("a", "the losses are the same", "test_loss", "lenet5", "same", "dense")
    for word in ("holds", "no difference that matters"):
        sentence = said([same], HIGHER, verdicts=[word]).sentence
        assert sentence.startswith(
            "Yes: lenet5 and dense do not differ in test loss by as much as would matter, on average by"
        )
    sentence = said([same], HIGHER, verdicts=["reversed (they differ)"]).sentence
    assert sentence.startswith("No: lenet5 has a higher test loss than dense by 0.00302") and "(8 seeds)" in sentence


def test_a_claim_that_a_variant_is_at_a_number():
    same = Claim("a", "as published", "test_accuracy", "lenet5", "same", 0.98)
    near = {"lenet5": result_of(0.98 + WIGGLE / 50, range(8))}
    assert said([same], near, verdicts=["holds"]).sentence.startswith(
        "Yes: the test accuracy of lenet5 and 98.00 % do not differ by as much as would matter, on average by"
    )
    assert "whether the test accuracy of lenet5 and 98.00 % differ;" in said([same], near, verdicts=["?"]).sentence
    assert said([same], {"lenet5": result_of(0.99 + WIGGLE, range(8))}, verdicts=["reversed"]).sentence.startswith(
        "No: the test accuracy of lenet5 is above 98.00 %, at 99.0"
    )


def test_of_variants_that_all_but_one_diverged_there_is_no_highest():
    lost = result_of(np.full(8, np.nan), range(8))
    sentence = said([], {"lenet5": HIGHER["lenet5"], "dense": lost}, ["test_accuracy"]).sentence
    assert "; every seed of dense diverged" in sentence and "variants" not in sentence


def test_a_claim_that_two_variants_are_about_the_same():
    about = Claim("a", "as good", "test_accuracy", "lenet5", "about", "dense", 0.002)
    sentence = said([about], CLOSE, verdicts=["holds"]).sentence
    assert sentence.startswith("Yes: lenet5 and dense do not differ in test accuracy by as much as would matter")
    assert "whether lenet5 and dense differ" in said([about], CLOSE, verdicts=["not resolved"]).sentence


def test_a_level_says_of_how_many_seeds_it_is_the_mean():
    few = {"lenet5": whole(0.98 + WIGGLE, range(8)), "dense": whole(0.97 + WIGGLE[:3], range(3))}
    few["lenet5"].metrics["test_accuracy"][0] = np.nan
    sentence = said([], few, ["test_accuracy"]).sentence
    assert sentence.count("(mean of 7 seeds)") == 1 and sentence.count("(mean of 3 seeds)") == 1


def test_seconds_ask_for_no_more_seeds():
    timed = Claim("a", "faster", "epoch_seconds", "lenet5", "<", "dense")
    timings = {"lenet5": np.full((8, 2), 1.0), "dense": np.full((8, 2), 2.0)}
    found = {name: HIGHER[name]._replace(epoch_seconds=seconds) for name, seconds in timings.items()}
    assert said([timed], found).wanted_seeds is None
    sentence = said([timed], found).sentence
    assert "1 timed program does not tell whether" in sentence and "(1 of 1 timed program)" in sentence


def test_a_variant_that_was_not_run():
    alone = {"lenet5": HIGHER["lenet5"]}
    sentence = said([MORE], alone).sentence
    assert said([MORE], alone, departures=("epochs 20 -> 3",)).sentence == f"In this changed run, {sentence}"
    level = "lenet5 has a test accuracy of 98.70 % (mean of 8 seeds)"
    assert sentence == f"{level}; not asked in this run: “LeNet-5 is more accurate” (dense not run)."


def test_of_many_things_that_were_not_asked_the_sentence_has_the_number_alone():
    others = [Claim(id_, f"claim {id_}", "test_accuracy", "lenet5", ">", f"variant_{id_}") for id_ in "bcde"]
    few, many = (said([MORE, *others[:n]], HIGHER, ["a", *"bcde"[:n]]).sentence for n in (3, 4))
    assert "claim d" in few and many.endswith("; not asked in this run: 4 other claims.")


def test_several_things_asked_are_one_sentence_without_a_yes():
    other = Claim("b", "the dense net overfits less", "overfitting_gap", "dense", "<", "lenet5")
    third = Claim("c", "true logits win", "test_accuracy", "lenet5", ">", "logits")
    sentence = said([MORE, other, third], HIGHER, ["test_accuracy", "a", "b", "c"]).sentence
    assert sentence.startswith(
        "Of 2 variants lenet5 has the highest test accuracy, 98.70 %, and dense the lowest, 97.80 %"
    )
    assert "; lenet5 is more accurate than dense by" in sentence and "; dense has a lower overfitting gap" in sentence
    assert sentence.endswith("; not asked in this run: “true logits win” (logits not run).") and "Yes" not in sentence


def test_exact_comparisons():
    claim = Claim("a", "the gradients agree", "largest difference", "by hand", "about", "jax", 1e-12)
    right, wrong = (claims.exact(claim, error, f"the largest is {error:.1e}.") for error in (1e-15, 1e-3))
    assert answer.answer([right, right], {}).sentence == (
        "Yes: all 2 exact comparisons agree within their tolerances, the largest error 1.0e−15."
    )
    assert answer.answer([right, wrong], {}).sentence == (
        "No: of 2 exact comparisons 1 found no agreement: the gradients agree."
    )
    assert answer.of_measured([wrong]) == "The gradients agree: reversed (the largest is 1.0e-03)."


def experiments():
    modules = [importlib.import_module(f"experiments.{name}") for name in common.names()]
    return {m.EXPERIMENT.name: m.EXPERIMENT for m in modules if isinstance(getattr(m, "EXPERIMENT", None), Experiment)}


@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize(
    "name, protocol",
    [
        (name, protocol)
        for name, one in experiments().items()
        for protocol in PROTOCOLS
        if one.claims and getattr(one, protocol)
    ],
)
def test_every_experiment_has_an_answer(name, protocol, n):
    experiment = experiments()[name]
    variants = [label for label, one in getattr(experiment, protocol).items() if one.by_default]
    means = dict(zip(variants, 0.98 + 0.002 * np.cos(np.arange(len(variants)) * 2.4), strict=True))
    found = results(n, **means)
    theirs = reported.results(name) if protocol == "reported" else {}
    sentence, more, _ = said(experiment.claims, found, experiment.answered_by, reported=theirs)
    print(f"\n{name}, {protocol}, {n}: {experiment.question}\n    {sentence} [{more}]")  # to be read with -s
    assert sentence.endswith(".") and len(sentence) < 900 and "nan" not in sentence
    assert sentence.startswith("One run") == (n == 1)
    known = {claim.id for claim in experiment.claims} | {"test_accuracy"}
    assert set(experiment.answered_by) <= known


def test_more_seeds_are_asked_for_in_the_command_that_was_given():
    assert answer.going_on("mnistlab run x", 8, until=False) == "mnistlab run x --seeds=8"
    assert answer.going_on("mnistlab run x --seeds 3 --seed=1", 9, until=False) == "mnistlab run x --seeds=9 --seed=1"
    assert answer.going_on("mnistlab run x --max_seeds=9", 20, until=True) == "mnistlab run x --until=resolved"


def test_a_swept_run_says_where_it_is_best():
    swept = results(8, **{"lenet5 learning_rate=0.1": 0.97, "lenet5 learning_rate=0.01": 0.98})
    sentence = said([MORE], swept).sentence
    assert sentence.startswith("Of 2 variants lenet5 learning_rate=0.01 has the highest test accuracy, 98.")
    assert "not asked in this run: “" in sentence
