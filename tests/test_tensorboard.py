"""Events as TensorBoard's own reader sees them."""

import dataclasses

import jax
import numpy as np
import pytest
import training

from experiments.keras_vs_scratch import SCRATCH
from mnistlab.comparison import nets, run
from mnistlab.comparison.spec import Experiment, Options, Variant
from mnistlab.config import TrainConfig
from mnistlab.training import checkpoint, loop, tensorboard

pytestmark = pytest.mark.usefixtures("undrawn_pages")


@pytest.fixture(scope="module")
def written(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    events = tensorboard.TensorBoard(folder)
    config = TrainConfig("dense", batch_size=50, num_epochs=2)
    result = training.run(config, dataset, [3, 4], callbacks=[events])
    events.image("predictions", np.full((20, 30, 3), 7, np.uint8), 2)
    events.close()
    return folder, result


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"histograms": 0}).Reload()


def test_scalars_of_each_seed_are_the_history(written):
    folder, result = written
    for number, seed in enumerate((3, 4)):
        events = read(folder / f"seed_{seed}")
        for name, values in result.history.items():
            scalars = events.Scalars(name)
            assert [scalar.step for scalar in scalars] == [1, 2]
            np.testing.assert_allclose([scalar.value for scalar in scalars], values[number], rtol=1e-6)


def test_a_histogram_of_every_parameter_each_epoch(written):
    folder, result = written
    events = read(folder / "seed_3")
    leaves = jax.tree.leaves(result.state.params)
    assert len(events.Tags()["histograms"]) == len(leaves)
    for name in events.Tags()["histograms"]:
        layer, parameter = name.split("/")
        first, last = events.Histograms(name)
        assert first.histogram_value.num == result.state.params[layer][parameter][0].size
        np.testing.assert_allclose(last.histogram_value.max, result.state.params[layer][parameter][0].max(), rtol=1e-6)


def test_the_prediction_image(written):
    folder, _ = written
    (image,) = read(folder / "figures").Images("predictions")
    assert (image.height, image.width) == (20, 30)


def test_a_reloaded_model_predicts_the_same(dataset, tmp_path):
    variant = Variant("dense", batch_size=50, num_epochs=1)
    shown = Experiment("lenet_vs_dense", reported={"dense": variant}, data=dataset)
    run.run(shown, Options(tmp_path, num_seeds=2))
    steps = loop.step_functions_of(variant.config, dataset)
    result = training.run(variant.config, dataset, [0, 1])
    reloaded = nets.restore_weights(tmp_path / "checkpoints" / "dense", result.whole)
    ours, theirs = (jax.vmap(steps.predict, (0, None))(state, dataset.test.image) for state in (result.state, reloaded))
    np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(checkpoint.UserError, match="train first"):
        nets.restore_weights(tmp_path / "checkpoints" / "nowhere", result.whole)


def test_weights_that_are_no_dict_have_histograms_too(dataset, tmp_path):
    config = dataclasses.replace(SCRATCH.config, num_epochs=1, batch_size=50)
    events = tensorboard.TensorBoard(tmp_path)
    training.run(config, dataset, callbacks=[events])
    events.close()
    assert set(read(tmp_path / "seed_0").Tags()["histograms"]) == {"hidden", "output"}
