import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from mnistlab.config import OptimConfig, TrainConfig
from mnistlab.data.batches import Batch
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.nets.layers import AvgPool, BatchNorm, Conv, Dense, Dropout, Flatten
from mnistlab.training import losses, optim, step

pytestmark = pytest.mark.usefixtures("quick_compiling")

LAYERS = {
    "dense": (Flatten(), Dense(8, "relu"), Dense(10)),
    "dropout": (Conv(3, 3, activation="relu"), AvgPool(2), Dropout(0.4), Flatten(), Dropout(0.3), Dense(10)),
    "batchnorm": (Conv(3, 3, activation="relu"), AvgPool(2), BatchNorm(), Flatten(), Dense(8), BatchNorm(), Dense(10)),
}
SHAPE = (8, 8, 1)
SGD = OptimConfig("sgd", 1.0)


class Plain(nn.Module):
    """A user's own module: no train=, no weight=."""

    @nn.compact
    def __call__(self, image):
        return nn.Dense(10)(image.reshape(len(image), -1))


def make_tx(config=SGD):
    return optim.make_optimizer(config, 1, 1)


def make_batch(num_examples=12, weight=None):
    rng = np.random.default_rng(num_examples)
    image = rng.integers(0, 256, (num_examples, *SHAPE)).astype(np.uint8)
    label = rng.integers(0, 10, num_examples).astype(np.int32)
    weight = np.ones(num_examples) if weight is None else weight
    return Batch(jnp.asarray(image), jnp.asarray(label), jnp.asarray(weight, jnp.float32))


def initial(model, tx, **settings):
    return jax.jit(lambda: step.init_state(model, tx, jnp.uint32(0), SHAPE, settings))()


def close(got, expected, tolerance=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def moved(before, after):
    return max(
        float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    )


@pytest.fixture(scope="module", params=LAYERS)
def net(request):
    """A small net of each kind, with one compiled program a step."""
    model, tx = models.Network(LAYERS[request.param]), make_tx()
    state = initial(model, tx)
    train_step = jax.jit(step.make_train_step(model, tx, losses.cross_entropy))
    return SimpleNamespace(name=request.param, layers=model.layers, tx=tx, state=state, train_step=train_step)


def test_padding_changes_nothing(net):
    batch = make_batch()
    padding = make_batch(5)
    padded = Batch(*(jnp.concatenate(parts) for parts in zip(batch, padding, strict=True)))
    padded = padded._replace(weight=padded.weight.at[12:].set(0.0))
    state, total = net.train_step(net.state, batch)
    padded_state, padded_total = net.train_step(net.state, padded)
    close(padded_state, state)
    close(padded_total, total)
    assert float(total.num_examples) == 12
    assert moved(net.state.params, state.params) > 1e-3


def test_two_devices_with_half_a_batch_each_equal_one(net):
    weight = np.ones(12)
    weight[-2:] = 0  # so that the halves do not weigh the same
    batch = make_batch(12, weight)
    expected_state, expected_total = net.train_step(net.state, batch)
    model = models.Network(net.layers)
    train_step = functools.partial(step.make_train_step(model, net.tx, losses.cross_entropy), axis_name="devices")
    halves = jax.tree.map(lambda leaf: leaf.reshape(2, 6, *leaf.shape[1:]), batch)
    states, totals = jax.jit(jax.vmap(train_step, in_axes=(None, 0), axis_name="devices"))(net.state, halves)
    for device in (0, 1):
        close(jax.tree.map(lambda leaf: leaf[device], states), expected_state)  # noqa: B023
        close(jax.tree.map(lambda leaf: leaf[device], totals), expected_total)  # noqa: B023


def test_the_gradient_is_the_weighted_mean_of_softmax_regression():
    model, tx = Plain(), make_tx()
    weight = np.array([1.0, 0.5, 2.0, 0.0, 1.0, 1.0])
    batch = make_batch(6, weight)
    state = initial(model, tx)
    new, total = jax.jit(step.make_train_step(model, tx, losses.cross_entropy))(state, batch)

    kernel, bias = (np.asarray(state.params["Dense_0"][name], np.float64) for name in ("kernel", "bias"))
    x = np.asarray(batch.image, np.float64).reshape(6, -1) / 255
    power = np.exp(x @ kernel + bias)
    probability = power / power.sum(axis=1, keepdims=True)
    error = (probability - np.eye(10)[batch.label]) * weight[:, None] / weight.sum()
    np.testing.assert_allclose(new.params["Dense_0"]["kernel"], kernel - x.T @ error, atol=1e-6)
    np.testing.assert_allclose(new.params["Dense_0"]["bias"], bias - error.sum(axis=0), atol=1e-6)
    each = -np.log(probability[np.arange(6), batch.label])
    correct = probability.argmax(axis=1) == np.asarray(batch.label)
    np.testing.assert_allclose(total[:3], [weight @ each, weight @ correct, weight.sum()], rtol=1e-5)
    assert int(new.step) == 1


def test_the_sum_reduction_is_batch_size_times_the_mean():
    model, tx = Plain(), make_tx()
    state, batch = initial(model, tx), make_batch(6)
    by_mean, by_sum = (
        jax.jit(step.make_train_step(model, tx, losses.cross_entropy, reduction=reduction))(state, batch)[0].params
        for reduction in ("mean", "sum")
    )
    expected = jax.tree.map(lambda before, after: before + 6 * (after - before), state.params, by_mean)
    close(by_sum, expected, 1e-5)
    assert moved(state.params, by_mean) > 1e-3


def test_pixels_are_scaled_once_for_training_and_evaluation():
    model, tx = Plain(), make_tx()
    state, batch = initial(model, tx), make_batch(6)
    keywords = {"pixel_scale": 0.01}
    scaled = state._replace(
        params={"Dense_0": {**state.params["Dense_0"], "kernel": state.params["Dense_0"]["kernel"] * 2.55}}
    )
    train = jax.jit(step.make_train_step(model, tx, losses.cross_entropy, **keywords))(state, batch)[1]
    close(train, jax.jit(step.make_train_step(model, tx, losses.cross_entropy))(scaled, batch)[1], 1e-5)
    evaluated = step.make_eval_step(model, losses.cross_entropy, **keywords)(state, batch, jnp.zeros([], jnp.int32))
    close(evaluated, train, 1e-5)  # no dropout: the sums before the update are those of an evaluation
    logits = step.make_predict(model, **keywords)(state, batch.image)
    np.testing.assert_allclose(jnp.sum(losses.cross_entropy(logits, batch.label)), train.loss, rtol=1e-5)


def test_every_step_drops_other_units():
    model = models.Network((Flatten(), Dropout(0.5), Dense(10)))
    tx = make_tx(OptimConfig("sgd", 1e-30))  # the weights stay
    train_step = jax.jit(step.make_train_step(model, tx, losses.cross_entropy))
    state, first = train_step(initial(model, tx), make_batch())
    _, second = train_step(state, make_batch())
    assert float(first.loss) != float(second.loss)
    assert float(train_step(initial(model, tx), make_batch())[1].loss) == float(first.loss)


def test_evaluation_drops_only_where_the_model_says_so():
    batch, tx = make_batch(), make_tx()
    by_model = {}
    for dropped in (False, True):
        model = models.Network((Flatten(), Dropout(0.5), Dense(10)), dropout_at_evaluation=dropped)
        eval_step = jax.jit(step.make_eval_step(model, losses.cross_entropy))
        state = initial(model, tx)
        by_model[dropped] = {float(eval_step(state, batch, jnp.int32(number)).loss) for number in range(3)}
    assert len(by_model[False]) == 1
    assert len(by_model[True]) == 3


@pytest.mark.parametrize("name, expected", [("initial_scale", 3.0), ("nothing", 1.0)])
def test_initial_scale_multiplies_kernels_alone(name, expected):
    model = models.Network((Flatten(), Dense(8, "relu"), BatchNorm(), Dense(10)))
    plain, scaled = initial(model, make_tx()), initial(model, make_tx(), **{name: 3.0})

    def check(path, before, after):
        factor = expected if path[-1].key == "kernel" else 1.0
        np.testing.assert_allclose(after, factor * before, rtol=1e-6)

    jax.tree_util.tree_map_with_path(check, plain.params, scaled.params)


def test_the_dropout_rate_replaces_every_rate_of_the_model():
    state = initial(models.Network(LAYERS["dropout"]), make_tx(), dropout_rate=0.125)
    rates = jax.tree.leaves(state.model_state["settings"])
    assert [float(rate) for rate in rates] == [0.125, 0.125]
    assert sorted(map(float, jax.tree.leaves(initial(models.Network(LAYERS["dropout"]), make_tx()).model_state))) == (
        pytest.approx([0.3, 0.4])
    )


def test_a_dropout_rate_without_dropout_is_refused():
    with pytest.raises(UserError, match="dropout"):
        initial(Plain(), make_tx(), dropout_rate=0.5)


class Unnamed(nn.Module):
    """Parameters by names of one's own."""

    @nn.compact
    def __call__(self, image):
        x = image.reshape(len(image), -1)
        return x @ self.param("w", nn.initializers.lecun_normal(), (x.shape[1], 10))


def test_a_scale_without_a_kernel_is_refused():
    with pytest.raises(UserError, match="no parameter called kernel"):
        initial(Unnamed(), make_tx(), initial_scale=0.5)


def test_settings_reach_the_optimizer():
    tx = make_tx(OptimConfig("sgd", 0.1))
    state, batch = initial(Plain(), tx), make_batch(6)
    train_step = jax.jit(step.make_train_step(Plain(), tx, losses.cross_entropy))
    slow = train_step(state, batch)[0].params
    fast = train_step(initial(Plain(), tx, learning_rate=0.4), batch)[0].params
    assert math.isclose(moved(state.params, fast), 4 * moved(state.params, slow), rel_tol=1e-3)


def test_what_a_model_takes_is_read_off_its_call():
    tx = make_tx()
    named = step.make_step_functions(models.make_model("dense"), tx, losses.cross_entropy, TrainConfig("dense"))
    plain = step.make_step_functions(Plain(), tx, losses.cross_entropy, TrainConfig("plain"))
    assert (named.needs_full_batches, named.splits_batches) == (False, True)
    assert (plain.needs_full_batches, plain.splits_batches) == (True, False)


def test_any_optax_transformation_trains():
    tx = optax.lion(1e-3)
    state = initial(Plain(), tx)
    new, _ = jax.jit(step.make_train_step(Plain(), tx, losses.cross_entropy))(state, make_batch())
    np.testing.assert_allclose(moved(state.params, new.params), 1e-3, rtol=1e-2)  # lion's step is the sign
