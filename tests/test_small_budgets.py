"""Our own two comparisons: what they may spend, what they may look at, and what a best epoch flatters."""

import itertools

import numpy as np
import pytest
from run_folders import result_of

from experiments import lenet5_at_its_best, small_budgets, small_budgets_fashion
from mnistlab.analysis import history
from mnistlab.comparison.spec import Outcome
from mnistlab.config import AugmentConfig
from mnistlab.nets import models

OURS = (lenet5_at_its_best, small_budgets, small_budgets_fashion)


@pytest.mark.parametrize("module", [small_budgets, small_budgets_fashion])
def test_every_net_is_below_its_budget_with_the_moving_averages_counted(module):
    for name, variant in module.CONTROLLED.items():
        rows = models.layer_table(models.make_model(variant.model), (28, 28, 1))
        assert sum(row.parameters for row in rows) < int(name.removeprefix("under_"))


def test_lenet5_is_untouched_and_every_variant_adds_one_thing():
    variants = list(lenet5_at_its_best.CONTROLLED.values())
    assert {(each.model, each.model_options, each.num_epochs, each.batch_size) for each in variants} == {
        ("lenet5", (), 40, 128)
    }
    names = ("optimizer", "augment", "average_epochs", "label_smoothing")
    changed = [
        [name for name in names if getattr(one, name) != getattr(other, name)]
        for one, other in itertools.pairwise(variants)
    ]
    assert changed == [["optimizer"], ["optimizer"], ["augment"], ["average_epochs"], ["label_smoothing"]]
    assert (variants[1].optimizer.name, variants[2].optimizer.schedule) == ("adam", "warmup_cosine")
    assert variants[2].augment == AugmentConfig()


def test_nothing_is_chosen_on_the_test_set():
    for module in OURS:
        for variant in module.CONTROLLED.values():
            assert (variant.split, variant.patience_epochs, variant.learning_rates) == ("random_55_5", None, ())
        assert not module.EXPERIMENT.reported and all(claim.ours for claim in module.CLAIMS)


def test_the_best_epoch_is_set_against_the_last():
    result = result_of([0.99, 0.98, np.nan], range(3))
    curves = np.array([[0.5, 0.9, 0.8], [0.6, 0.7, 0.7], [0.6, np.nan, np.nan]])
    last = np.array([0.8, 0.7, np.nan])
    result = result._replace(
        history=dict.fromkeys(result.history, curves), epoch_seconds=np.ones((3, 3)),
        metrics=result.metrics | {"val_accuracy": last},
    )  # fmt: skip
    np.testing.assert_array_equal(history.metric(result, "highest:val_accuracy"), [0.9, 0.7, np.nan])
    outcome = Outcome({"under_8000": result}, {}, {}, {}, None, {}, {}, "controlled")
    found = small_budgets.best_epoch_table(outcome, None)
    assert found.summary["best_minus_last_epoch"]["under_8000"]["mean"] == pytest.approx(0.05)
    assert found.blocks[-1].rows[0][:4] == ("under_8000", "0.9850", "0.7500", "0.8000")
    assert found.blocks[-1].rows[0][-1] == "0.9000"
