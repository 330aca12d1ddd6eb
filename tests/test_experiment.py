"""Options as they reach a variant's config."""

from mnistlab import experiment
from mnistlab.config import TrainConfig


def test_overrides_reach_the_config_its_optimiser_and_the_model():
    before = TrainConfig("mlp512", model_options=(("use_bias", False),))
    after = experiment.override(before, {"convolution": "lax", "optimizer": "sgd", "momentum": 0.5, "num_epochs": 3})
    assert dict(after.model_options) == {"use_bias": False, "form": "lax"}
    assert (after.optim.name, after.optim.learning_rate, after.optim.momentum, after.num_epochs) == (
        "sgd",
        1e-2,
        0.5,
        3,
    )
    assert experiment.override(before, {}) == before
