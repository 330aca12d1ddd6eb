"""Learning rates are chosen by the first six seeds. The oracle trains every seed at every rate."""

import dataclasses
import itertools

import numpy as np
import pytest
import until_run

import mnistlab
from mnistlab import sealed
from mnistlab.analysis.sequential import ALPHA, fewest_sequential_pairs
from mnistlab.comparison import plan, ranges, run, spec
from mnistlab.comparison.spec import Options
from mnistlab.errors import UserError
from mnistlab.training import loop
from mnistlab.training.callbacks import Callback
from mnistlab.training.loop import Resources

pytestmark = pytest.mark.usefixtures("undrawn_pages")
RATES = (0.001, 0.01, 0.1)
OWN = until_run.EXPERIMENT
VARIANT = dataclasses.replace(OWN.controlled["wide"], learning_rates=RATES)
NUM_TUNING_SEEDS = spec.NUM_TUNING_SEEDS
SEARCHED = dataclasses.replace(OWN, controlled={"wide": VARIANT}, claims=())


@pytest.fixture(scope="module", autouse=True)
def three_choose():
    """Three seeds choose a rate, since three times as many runs show no more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spec, "NUM_TUNING_SEEDS", 3)
        yield


def train(folder, num_seeds, log=lambda line: None, **asked):
    options = Options(folder, protocol="controlled", num_seeds=num_seeds, population_size=1, playground=False, **asked)
    return run.run(SEARCHED, options, run.Hooks(log))


def trainings(folder):
    """The names of all runs that were trained."""
    (folder,) = (folder / "checkpoints").glob("*/training")
    return {path.name for path in folder.iterdir() if path.is_dir()}


@pytest.fixture(scope="module")
def everything():
    """Every seed at every rate."""
    return loop.train(
        VARIANT.config,
        OWN.data,
        range(5),
        sweep={"learning_rate": RATES},
        resources=Resources(population_size=1),
    ).result


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """The folder of a run with five seeds, and what it said."""
    folder, said = tmp_path_factory.mktemp("five"), []
    train(folder, 5, said.append)
    return folder, said


class Stop(Callback):
    def on_start(self, runs, snapshot):
        raise MemoryError


def test_a_population_that_could_not_be_trained_binds_nobody(tmp_path):
    fixed = dataclasses.replace(SEARCHED, controlled={"wide": OWN.controlled["wide"]})
    options = Options(tmp_path, protocol="controlled", num_seeds=4, population_size=4, playground=False)
    with pytest.raises(MemoryError):
        run.run(fixed, options, run.Hooks(callbacks=lambda name, variant: [Stop()]))
    run.run(fixed, dataclasses.replace(options, population_size=2))
    (path,) = (tmp_path / "checkpoints").glob("*/training/parts.json")
    assert sealed.read(path, "")["parts"] == [[4, 2]]


def test_fewer_seeds_than_choose_a_rate_answer_no_claim():
    assert fewest_sequential_pairs(ALPHA) == NUM_TUNING_SEEDS


def test_the_first_seeds_choose_the_rate_and_the_others_are_trained_at_it_alone(five, everything):
    folder, said = five
    rates = np.array([one.settings["learning_rate"] for one in everything.runs])
    by_rate = {rate: np.flatnonzero(rates == rate) for rate in RATES}
    means = {rate: everything.metrics["val_accuracy"][numbers[:3]].mean() for rate, numbers in by_rate.items()}
    best = max(means, key=means.get)
    assert len(set(means.values())) == len(RATES)  # else the choice shows nothing
    result = mnistlab.read_run(folder).variants["wide"]
    assert mnistlab.read_run(folder).summary["variants"]["wide"]["learning_rate"] == best
    assert [one.seed for one in result.runs] == list(range(5))
    for metric in ("val_accuracy", "test_accuracy", "test_loss"):
        assert result.metrics[metric].tolist() == everything.metrics[metric][by_rate[best]].tolist()
    assert len(trainings(folder)) == 3 * len(RATES) + 2
    words = "wide: learning rate {:g} chosen from {} by mean validation accuracy, seeds 0 to 2"
    assert words.format(best, RATES) in said
    assert plan.plan(SEARCHED, Options(folder, protocol="controlled", num_seeds=5)).variants["wide"].num_runs == 11


@pytest.mark.parametrize("steps", [(2, 4, 5)])
def test_a_run_that_grew_is_the_run_that_had_them_from_the_beginning(five, tmp_path, steps):
    for number in steps:
        train(tmp_path, number)
    grown, plain = (
        [line.rpartition(",")[0] for line in (folder / "history.csv").read_text().splitlines()]
        for folder in (tmp_path, five[0])
    )
    assert sorted(grown) == sorted(plain)
    assert trainings(tmp_path) == trainings(five[0])


def test_a_run_stopped_between_choosing_and_using_a_rate_goes_on(five, tmp_path):
    """Stopped at the end of the epochs of the seeds that choose, and after one more, of the others."""
    options = Options(tmp_path, protocol="controlled", num_seeds=5, population_size=1, playground=False)
    for num_epochs, num_trained in ((18, 9), (1, 10)):
        epochs = itertools.count(1)

        def stop(epoch, last=num_epochs, epochs=epochs):
            if next(epochs) == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run.run(SEARCHED, options, run.Hooks(callbacks=lambda name, variant: [run.OnEpoch(stop)]))
        assert len(trainings(tmp_path)) == num_trained
    summary = train(tmp_path, 5)
    whole = mnistlab.read_run(five[0]).summary["variants"]
    assert summary["variants"]["wide"]["learning_rate"] == whole["wide"]["learning_rate"]
    assert summary["variants"]["wide"]["metrics"]["test_loss"] == whole["wide"]["metrics"]["test_loss"]


def test_the_rate_that_was_chosen_stands(tmp_path):
    """It is kept with the range that it began, and what validation says later, on another machine say, is not asked."""
    train(tmp_path, 4)
    (path,) = (tmp_path / "checkpoints").glob("*/training/parts.json")
    kept = sealed.read(path, "")["parts"]
    assert kept == [[3, 1], [1, 1, mnistlab.read_run(tmp_path).summary["variants"]["wide"]["learning_rate"]]]
    other = next(rate for rate in RATES if rate != kept[1][2])
    sealed.write(path, {"parts": [kept[0], [1, 1, other]]})
    summary = train(tmp_path, 5)
    assert summary["variants"]["wide"]["learning_rate"] == other
    assert sealed.read(path, "")["parts"] == [kept[0], [1, 1, other], [1, 1, other]]
    for damaged in ([3, 1], [[3, 1], [1, 1, -0.1]], [[3, 1], [1, 1, "x"]], [[3, 1], [1, 1, 0.1, 2]], [[3, 1], [3, 1]]):
        sealed.write(path, {"parts": damaged})
        with pytest.raises(UserError, match="damaged"):
            ranges._kept_ranges(path, 5)


def test_a_run_of_before_trained_all_its_seeds_at_every_rate(everything):
    """Then all of them chose, and still do; a range after those that choose of which no rate was kept has them all."""
    assert {len(one.runs) for one in ranges.tuning(everything).values()} == {5}
    means = {rate: one.metrics["val_accuracy"].mean() for rate, one in ranges.tuning(everything).items()}
    assert ranges.chosen_rate(everything) == max(means, key=means.get)


def test_a_chosen_rate_beside_a_sweep(tmp_path):
    summary = train(tmp_path, 4, sweep={"initial_scale": (0.5, 1.0)})
    rates = {entry["learning_rate"] for entry in summary["variants"].values()}
    assert len(summary["variants"]) == 2 and len(rates) == 1
    assert [entry["metrics"]["test_loss"]["n"] for entry in summary["variants"].values()] == [4, 4]
    assert len(trainings(tmp_path)) == 2 * (3 * len(RATES) + 1)
    rate = rates.pop()
    assert (
        mnistlab.read_run(tmp_path).settings_of(next(iter(summary["variants"])))["optimizer"]["learning_rate"] == rate
    )


def test_without_validation_examples_no_rate_can_be_chosen(tmp_path):
    variant = dataclasses.replace(VARIANT, split="own")
    data = dataclasses.replace(OWN.data, val=None)
    experiment = dataclasses.replace(SEARCHED, controlled={"wide": variant}, data=data)
    with pytest.raises(UserError, match="wide has learning_rates, but no validation examples"):
        run.run(experiment, Options(tmp_path, protocol="controlled"))


def test_a_rate_that_diverges_is_not_chosen(tmp_path):
    variant = dataclasses.replace(VARIANT, learning_rates=(1e30, 0.01))
    experiment = dataclasses.replace(SEARCHED, controlled={"wide": variant})
    options = Options(tmp_path, protocol="controlled", num_seeds=4, playground=False)
    summary = run.run(experiment, options)
    assert summary["variants"]["wide"]["learning_rate"] == 0.01
    assert np.isfinite(mnistlab.read_run(tmp_path).variants["wide"].metrics["test_loss"]).sum() == 4
