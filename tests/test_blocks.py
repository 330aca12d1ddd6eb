import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.nets.blocks import GlobalAvgPool, Residual, SeparableConv
from mnistlab.nets.layers import BatchNorm, Conv, Dense, Dropout
from mnistlab.training import executables

IMAGE = (12, 12, 3)
QUICK = executables.compiler_options("init")  # a program that runs once takes longer to optimise than to run
NET = models.Network(
    (
        Conv(6, 3, padding="SAME", activation="relu"),
        Residual((SeparableConv(6, 3, "relu"), BatchNorm(), Conv(6, 3, padding="SAME"))),
        SeparableConv(8, 5, "tanh"),
        GlobalAvgPool(),
        Dense(10),
    )
)


def image(n=4, shape=IMAGE):
    return jax.random.normal(jax.random.key(1), (n, *shape))


def close(got, expected):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5), got, expected)


class Plain(nn.Module):
    """NET of Flax's own layers, under the same names."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), name="conv_1")(x))
        x = x + PlainResidual(name="residual_1")(x)
        x = jnp.tanh(PlainSeparable(8, 5, name="separableconv_1")(x)).mean((1, 2))
        return nn.Dense(10, name="dense_1")(x)


class PlainResidual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(PlainSeparable(6, 3, name="separableconv_1")(x))
        x = nn.BatchNorm(use_running_average=False, momentum=0.99, epsilon=1e-3, name="batchnorm_2")(x)
        return nn.Conv(6, (3, 3), name="conv_3")(x)


class PlainSeparable(nn.Module):
    features: int
    size: int

    @nn.compact
    def __call__(self, x):
        own = self.param("kernel", nn.initializers.zeros, (self.size, self.size, 1, x.shape[-1]))
        across = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, own, (1, 1), "SAME", dimension_numbers=across, feature_group_count=x.shape[-1]
        )
        return nn.Conv(self.features, (1, 1), name="pointwise")(x)


@pytest.mark.parametrize("form", ["cells", "slices", "lax"])
def test_blocks_are_flaxs_with_their_gradients(form):
    net, x = NET.clone(form=form), image()
    variables = jax.jit(net.init, compiler_options=QUICK)(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])  # biases, too

    def values(apply):
        def loss(params, x):
            logits, state = apply({**variables, "params": params}, x)
            return (logits * jnp.cos(jnp.arange(logits.size).reshape(logits.shape))).sum(), (logits, state)

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), compiler_options=QUICK)(params, x)

    with jax.numpy_rank_promotion("allow"):  # Flax's own batch normalisation broadcasts across ranks
        expected = values(lambda variables, x: Plain().apply(variables, x, mutable=["batch_stats"]))
    close(values(lambda variables, x: net.apply(variables, x, train=True, mutable=["batch_stats"])), expected)


def test_blocks_are_the_same_vmapped_over_seeds():
    x = image()
    keys = jax.random.split(jax.random.key(0), 2)
    variables = jax.jit(jax.vmap(NET.init, (0, None)), compiler_options=QUICK)(keys, x)
    both = jax.jit(jax.vmap(NET.apply, (0, None)), compiler_options=QUICK)(variables, x)
    alone = jax.jit(NET.apply, compiler_options=QUICK)
    for seed in range(2):
        close(both[seed], alone(jax.tree.map(lambda leaf: leaf[seed], variables), x))  # noqa: B023


def test_separable_kernels_begin_as_keras_and_the_table_counts_them():
    rows = models.layer_table(NET, IMAGE)
    assert [row[:4] for row in rows] == [
        ("conv_1", "conv 6 3x3 same relu", (12, 12, 6), 168),
        ("residual_1", "x + (separable conv 6 3x3 same relu, batchnorm, conv 6 3x3 same)", (12, 12, 6), 450),
        ("separableconv_1", "separable conv 8 5x5 same tanh", (12, 12, 8), 25 * 6 + 6 * 8 + 8),
        ("globalavgpool_1", "global avgpool", (8,), 0),
        ("dense_1", "dense 10", (10,), 90),
    ]
    layer = models.Network((SeparableConv(64, 3),))
    kernel = np.asarray(
        jax.jit(layer.init)(jax.random.key(0), image(1, (4, 4, 64)))["params"]["separableconv_1"]["kernel"]
    )
    limit = np.sqrt(6 / (9 * 64 + 9))
    assert abs(kernel).max() <= limit and abs(kernel.std() - limit / np.sqrt(3)) < 0.1 * limit


def test_a_block_drops_units_in_training_alone():
    net = models.Network((Residual((Dropout(0.5),)), GlobalAvgPool()))
    x, variables = image(), net.init(jax.random.key(0), image())
    np.testing.assert_allclose(net.apply(variables, x), 2 * np.asarray(x).mean((1, 2)), rtol=1e-5, atol=1e-6)
    dropped = net.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert not np.allclose(dropped, 2 * np.asarray(x).mean((1, 2)), rtol=1e-3)


def test_a_block_that_changes_the_shape_is_refused():
    net = models.Network((Residual((Conv(4, 3, padding="SAME"),)),))
    with pytest.raises(UserError, match=r"conv 4 3x3 same.*\(12, 12, 4\) of \(12, 12, 3\)"):
        net.init(jax.random.key(0), image())
