import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.training import executables

IMAGE = (28, 28, 1)
QUICK = executables.compiler_options("init")  # a program that runs once takes longer to optimise than to run


def variables_of(model, seed=0, n=2):
    init = jax.jit(model.init, compiler_options=QUICK)
    return init({"params": jax.random.key(seed)}, jnp.zeros((n, *IMAGE)))


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *IMAGE)))["params"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    {
        "lenet5": 61_706,
        "dense": 101_770,
        "mlp512": 407_050,
        "lenet5_adadelta": 67_470,
        "cnn_a": 83_850,
        "cnn_b": 83_850,
        "cnn_c": 83_850,
        "cnn_d": 120_330,
        "mlp_128_64": 109_386,
        "lenet5_relu": 61_706,
        "lenet5_relu_dropout": 61_706,
        "lenet5_relu_batchnorm": 62_610,
        "small_8k": 7_514,
        "small_20k": 19_318,
        "small_62k": 59_018,
        "small_110k": 97_002,
    }.items(),
)
def test_parameter_counts_of_the_sources(name, parameters):
    assert sum(row.parameters for row in models.layer_table(models.make_model(name), IMAGE)) == parameters


def test_counts_without_moving_averages_and_without_biases():
    assert models.count_parameters(shapes_of(models.make_model("lenet5_relu_batchnorm"))) == 62_158
    rows = models.layer_table(models.make_model("lenet5_relu_batchnorm"), IMAGE)
    assert (sum(row.trainable for row in rows), sum(row.parameters for row in rows)) == (62_158, 62_610)
    assert models.count_parameters(shapes_of(models.make_model("mlp512", use_bias=False))) == 406_528


def test_cnn_a_shapes_by_hand():
    shapes = [row.output_shape for row in models.layer_table(models.make_model("cnn_a"), IMAGE)]
    sides = [shape[0] for shape in shapes if len(shape) == 3]
    assert sides == [14, 7, 7, 3, 3, 1, 1] and shapes[-2:] == [(32,), (10,)]


def test_layer_table_shows_the_users_shapes_and_takes_other_modules():
    rows = models.layer_table(models.make_model("lenet5", form="cells"), IMAGE)
    assert rows[0] == ("conv_1", "conv 6 5x5 same tanh", (28, 28, 6), 156, 156)
    assert rows[1].output_shape == (14, 14, 6) and rows[4].output_shape == (400,)

    class Own(nn.Module):
        @nn.compact
        def __call__(self, image, train=False, weight=None):
            return nn.Dense(10)(image.reshape(image.shape[0], -1))

    assert models.layer_table(Own(), IMAGE) == [("Dense_0", "Dense", (10,), 7850, 7850)]


def test_what_is_called_twice_or_is_the_models_own_is_counted_once():
    class Pair(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x[:, :1], nn.Dense(3)(x)

    class Shared(nn.Module):
        @nn.compact
        def __call__(self, image):
            scale, dense = self.param("scale", nn.initializers.ones, ()), nn.Dense(4)
            return Pair()(dense(dense(scale * image.reshape(len(image), -1)[:, :4])))[1]

    assert models.layer_table(Shared(), IMAGE) == [
        ("Dense_0", "Dense", (4,), 20, 20),
        ("Dense_0", "Dense", (4,), 0, 0),
        ("Pair_0", "Pair", (3,), 15, 15),
        ("scale", "parameters", (), 1, 1),
    ]


def test_unknown_name_is_a_user_error():
    with pytest.raises(UserError, match=r"unknown model 'lenet6'.*lenet5"):
        models.make_model("lenet6")


class PlainLeNet5(nn.Module):
    """Experiment 1's network written with flax's own layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(jnp.tanh(nn.Conv(6, (5, 5), name="conv_1")(x)), (2, 2), (2, 2))
        x = nn.avg_pool(jnp.tanh(nn.Conv(16, (5, 5), padding="VALID", name="conv_2")(x)), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = jnp.tanh(nn.Dense(120, name="dense_1")(x))
        return nn.Dense(10, name="dense_3")(jnp.tanh(nn.Dense(84, name="dense_2")(x)))


@pytest.mark.parametrize("form", ["cells", "slices", "lax"])
def test_lenet5_is_flax_lenet5_with_gradients(form):
    model, plain = models.make_model("lenet5", form=form), PlainLeNet5()
    params = variables_of(model)["params"]
    image = jax.random.uniform(jax.random.key(1), (4, *IMAGE))

    def values(apply):
        loss = lambda params, image: (apply({"params": params}, image) ** 2).sum()  # noqa: E731
        both = lambda p, x: (jax.grad(loss, (0, 1))(p, x), apply({"params": p}, x))  # noqa: E731
        return jax.jit(both, compiler_options=QUICK)(params, image)

    ours, theirs = values(model.apply), values(plain.apply)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("name", ["lenet5_adadelta", "cnn_c", "cnn_d", "cnn_e", "lenet5_relu_batchnorm", "small_8k"])
def test_forms_agree(name):
    image = jax.random.uniform(jax.random.key(1), (2, *IMAGE))
    variables = variables_of(models.make_model(name, form="lax"))
    rngs = {"dropout": jax.random.key(2)}

    def logits(form):
        model = models.make_model(name, form=form)
        apply = lambda v: model.apply(v, image, train=True, rngs=rngs, mutable=["batch_stats"])[0]  # noqa: E731
        return jax.jit(apply, compiler_options=QUICK)(variables)

    np.testing.assert_allclose(logits("cells"), logits("lax"), rtol=1e-4, atol=1e-5)


def test_kernels_are_glorot_uniform_and_biases_zero():
    params = variables_of(models.make_model("lenet5"))["params"]
    limit = np.sqrt(6 / (25 * 6 + 25 * 16))
    kernel = np.asarray(params["conv_2"]["kernel"])
    assert abs(kernel).max() <= limit and abs(kernel.std() - limit / np.sqrt(3)) < 0.03 * limit
    assert not params["conv_2"]["bias"].any()


def test_no_convolution_in_a_vmapped_training_scan():
    model = models.make_model("lenet5", form="cells")

    def init(key):
        return model.init(key, jnp.zeros((1, *IMAGE)))["params"]

    params = jax.eval_shape(jax.vmap(init), jax.random.split(jax.random.key(0), 2))

    def train(params, images):
        def step(params, image):
            grads = jax.vmap(jax.grad(lambda p: (model.apply({"params": p}, image) ** 2).sum()))(params)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads), None

        return jax.lax.scan(step, params, images)[0]

    lowered = jax.jit(train).lower(params, jax.ShapeDtypeStruct((3, 4, *IMAGE), jnp.float32))
    compiled = lowered.compile(QUICK).as_text()
    assert "while" in compiled and not re.search(r"= \S+ convolution\(", compiled)
