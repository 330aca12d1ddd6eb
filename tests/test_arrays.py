"""A user's arrays at the door: one line for what would train on something else than was meant."""

import dataclasses

import jax
import numpy as np
import pytest
import training
from flax import linen as nn

from mnistlab.config import TrainConfig
from mnistlab.data.datasets import Split
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.training import loop

CONFIG = TrainConfig("dense", num_epochs=1)


def changed(dataset, part, change):
    image, label = change(*getattr(dataset, part))
    return dataclasses.replace(dataset, **{part: Split(image, label)})


BAD = {
    "floats": (lambda x, y: (x / 255, y), r"images are float64; expected uint8, .* give \(255 \* image\).round"),
    "not_finite": (lambda x, y: (np.full(x.shape, np.nan, np.float32), y), "images hold NaN or infinity"),
    "wide_integers": (lambda x, y: (x.astype(np.int64), y), "images are int64; expected uint8"),
    "no_array": (lambda x, y: (x.tolist(), y), "images are a list; expected an array"),
    "no_channels": (lambda x, y: (x[..., 0], y), r"have the shape \[\d+, 28, 28\]; expected \[N, H, W, C\]; image"),
    "lengths": (lambda x, y: (x, y[:-1]), r"images have [\d,]+ labels; expected one label per image"),
    "none": (lambda x, y: (x[:0], y[:0]), "expected at least one image"),
    "no_pixels": (lambda x, y: (x[:, :0], y), "expected at least one image and pixel"),
    "one_hot": (lambda x, y: (x, np.eye(10)[y]), r"labels are float64 \[\d+, 10\]; expected whole numbers \[N\]"),
    "float_labels": (lambda x, y: (x, y.astype(np.float32)), "labels are float32"),
    "beyond": (lambda x, y: (x, y + 1), "labels go from 1 to 10, but the model has 10 logits"),
    "negative": (lambda x, y: (x, y - 1), "labels go from -1 to 8"),
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("change, words", BAD.values(), ids=BAD)
def test_arrays_that_are_no_images_with_labels_are_one_line(dataset, part, change, words):
    with pytest.raises(UserError, match=f"{part} .*{words}") as raised:
        training.run(CONFIG, changed(dataset, part, change))
    assert "\n" not in str(raised.value)


def test_images_of_two_sizes_are_one_line(dataset):
    with pytest.raises(UserError, match=r"train images are \(28, 28, 1, .*\), test images \(14, 28, 1"):
        training.run(CONFIG, changed(dataset, "test", lambda x, y: (x[:, :14], y)))


def test_every_door_asks(dataset):
    floats = changed(dataset, "train", BAD["floats"][0])
    with pytest.raises(UserError, match="images are float64"):
        loop.prepare(CONFIG, floats)
    with pytest.raises(UserError, match="10 logits"):
        loop.prepare(CONFIG, changed(dataset, "train", BAD["beyond"][0]))
    program = loop.step_functions_of(CONFIG, dataset)
    state = jax.eval_shape(lambda: program.init(np.uint32(0), (28, 28, 1), {}))
    with pytest.raises(UserError, match="images are float32"):
        jax.eval_shape(program.predict, state, jax.ShapeDtypeStruct((2, 28, 28, 1), np.float32))


def test_fractions_are_taken_as_they_are(dataset):
    def scaled(split):
        return Split((split.image / np.float32(255)).astype(np.float32), split.label)

    fractions = dataclasses.replace(dataset, train=scaled(dataset.train), test=scaled(dataset.test))
    ours, whole = (training.run(CONFIG, data) for data in (fractions, dataset))
    np.testing.assert_allclose(ours.history["train_loss"], whole.history["train_loss"], rtol=1e-4)
    with pytest.raises(UserError, match="expected one shape"):
        training.run(CONFIG, dataclasses.replace(dataset, train=fractions.train))


def test_one_test_example_cannot_be_halved(dataset):
    with pytest.raises(UserError, match="test_halves of 1 test example"):
        training.run(CONFIG, changed(dataset, "test", lambda x, y: (x[:1], y[:1])))


class NoLogits(nn.Module):
    """Gives its image back."""

    @nn.compact
    def __call__(self, image):
        return image * self.param("scale", nn.initializers.ones, ())


def test_a_model_that_gives_no_logits_is_one_line(dataset):
    with pytest.raises(UserError, match=r"gives \[2, 28, 28, 1\] for 2 images; expected logits"):
        training.run(CONFIG, dataset, model=NoLogits())


def test_the_logits_are_counted_of_what_is_trained(dataset):
    wide = changed(dataset, "train", lambda x, y: (x, np.where(y == 9, 19, y)))
    model = models.Network((*models.MODELS["dense"][:-1], models.Dense(20)))
    result = training.run(CONFIG, wide, model=model)
    assert np.isfinite(result.metrics["test_loss"]).all()
