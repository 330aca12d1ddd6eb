import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnistlab.errors import UserError
from mnistlab.nets import layers, products, winograd
from mnistlab.nets.cells import PIXEL, Cells, Columns, square_cell, to_cells, to_image
from mnistlab.nets.layers import AvgPool, BatchNorm, Context, Conv, Dense, Dropout, LocalResponseNorm, MaxPool
from mnistlab.nets.planes import max_of_planes, mean_of_planes

pytestmark = pytest.mark.usefixtures("quick_compiling")

KEY = jax.random.key(0)


def image(*shape):
    return jax.random.normal(jax.random.key(1), shape)


def close(a, b, tolerance=2e-5):
    """Within rounding, which is of the largest numbers that were summed."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1.0, np.abs(y).max())), a, b
    )


def test_same_padding_by_hand():
    assert layers.same_padding(28, 5) == (2, 2)
    assert layers.same_padding(28, 5, 2) == (1, 2)  # the last window begins at pixel 26 - 1 and ends at 29
    assert layers.same_padding(3, 2) == (0, 1)
    assert layers.same_padding(5, 1) == (0, 0)


def test_cells_keep_the_image():
    x = image(2, 8, 12, 3)
    cell = AvgPool(2).cell_before(square_cell(2))
    cells = to_cells(x, cell)
    assert cells.array.shape == (48, 2, 3, 2) and cells.shape == x.shape
    np.testing.assert_array_equal(cells.pixels[cell.index((3, 1)), :, 1, 2, 0], x[0, 7, 9])
    np.testing.assert_array_equal(to_image(cells), x)


@pytest.mark.parametrize("form", ["cells", "slices", "lax"])
def test_padding_is_read_in_small_letters_and_no_other_word_is_taken(form):
    x = image(1, 6, 6, 1)
    for padding, side in (("valid", 4), ("same", 6)):
        conv = Conv(2, 3, padding=padding)
        variables = conv.init(KEY, x, Context(form=form), PIXEL)
        y = to_image(conv.apply(variables, x, Context(form=form), PIXEL))
        assert y.shape == (1, side, side, 2) and conv.shape_after((6, 6, 1)) == (side, side, 2)
    with pytest.raises(UserError, match="padding is 'full'; expected VALID or SAME"):
        Conv(2, 3, padding="full").init(KEY, x, Context(form=form), PIXEL)


@pytest.mark.parametrize("form", ["cells", "slices", "lax"])
@pytest.mark.parametrize(
    ("size", "stride", "padding", "cell_in", "cell_out"),
    [
        (5, 1, "SAME", 0, 4),
        (5, 1, "VALID", 2, 2),
        (5, 2, "SAME", 0, 2),
        (5, 1, "SAME", 2, 2),
        (2, 1, "SAME", 1, 1),
        (3, 1, "VALID", 1, 1),
        (1, 1, "VALID", 1, 1),
        (5, 2, "SAME", 2, 1),
    ],
)
def test_conv_is_nn_conv_with_its_gradients_also_vmapped(form, size, stride, padding, cell_in, cell_out):
    x = image(3, 12, 12, 2)
    cell = square_cell(cell_out) if form == "cells" else PIXEL
    conv = Conv(4, size, stride=stride, padding=padding, activation="tanh")
    reference = nn.Conv(4, (size, size), strides=stride, padding=padding)
    params = jax.jit(jax.vmap(lambda key: reference.init(key, x)["params"]))(jax.random.split(KEY, 2))
    params["bias"] += 0.3

    def ours(params, x):
        given = to_cells(x, square_cell(cell_in)) if cell_in and form == "cells" else x
        return to_image(conv.apply({"params": params}, given, Context(form=form), cell))

    def theirs(params, x):
        return jnp.tanh(reference.apply({"params": params}, x))

    def values(f):
        weights = jnp.cos(
            jnp.arange(jax.eval_shape(f, jax.tree.map(lambda p: p[0], params), x).size, dtype=jnp.float32)
        )
        loss = lambda params, x: (f(params, x).ravel() * weights).sum()  # noqa: E731
        both = jax.jit(lambda p, x: (jax.vmap(f, (0, None))(p, x), jax.vmap(jax.grad(loss, (0, 1)), (0, None))(p, x)))
        return both(params, x)

    close(values(ours), values(theirs))


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize(("window", "stride", "cell_out"), [(2, None, 1), (2, None, 2), (3, 2, 1), (3, None, 1)])
def test_pools_are_flax_pools_with_gradients(kind, window, stride, cell_out):
    x = image(2, 12, 12, 3)
    pool = {"avg": AvgPool, "max": MaxPool}[kind](window, stride)
    reference = {"avg": nn.avg_pool, "max": nn.max_pool}[kind]
    cell = square_cell(cell_out)

    def ours(x):
        return to_image(pool.apply({}, to_cells(x, pool.cell_before(cell)), Context(), cell))

    def theirs(x):
        return reference(x, (window, window), (stride or window,) * 2)

    def values(f):
        return jax.jit(lambda x: (f(x), jax.grad(lambda x: (f(x) ** 3).sum())(x)))(x)

    close(values(ours), values(theirs))


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("cell", [square_cell(2), ((1, 1), (0, 0), (0, 1), (1, 0))])
def test_winograd_is_the_dense_product_with_its_gradients(kernel_size, cell):
    num_cells = (kernel_size + 1) // 2
    array, length = image(4 * 3, 3 + num_cells, 2 + num_cells, 5), (4, 3)
    kernel = jax.random.normal(KEY, (kernel_size, kernel_size, 3, 4))
    window = products.Window(kernel_size, 1, 0, num_cells, cell, AvgPool(2).cell_before(PIXEL))
    assert winograd.computes(window)
    assert not winograd.computes(window._replace(kernel_size=7, num_cells=4))  # errors of 1e-3 in float32

    def dense(array, kernel):
        return products.dense(products.patches(array, num_cells, length), kernel, window)

    values = [
        jax.jit(lambda *args, f=f: (f(*args), jax.vjp(f, *args)[1](jnp.cos(f(*args)))))(array, kernel)
        for f in (dense, lambda array, kernel: winograd.convolve(array, kernel, window, length))
    ]
    close(*values, tolerance=2e-4)


@pytest.mark.parametrize(("stride", "offset", "num_cells"), [(1, 0, 2), (2, 1, 2)])
def test_the_direct_sum_is_the_dense_product_with_its_gradients(stride, offset, num_cells):
    window = products.Window(3, stride, offset, num_cells, square_cell(4), square_cell(4 // stride))
    seen, kernel = image(num_cells**2 * 16, 10), jax.random.normal(KEY, (3, 3, 1, 5))
    values = [
        jax.jit(
            lambda *args, f=f: (
                f(*args, window),
                jax.vjp(lambda *a: f(*a, window), *args)[1](jnp.cos(f(*args, window))),
            )
        )(seen, kernel)
        for f in (products.dense, products.direct)
    ]
    close(*values)


def test_equal_ones_share_the_gradient_of_their_maximum():
    array = jnp.array([[1.0, 0.0], [3.0, 0.0], [3.0, -1.0]])
    gradient = jax.grad(lambda a: (max_of_planes(a) * jnp.array([8.0, 6.0])).sum())(array)
    np.testing.assert_array_equal(gradient, [[0, 3], [4, 3], [4, 0]])


@pytest.mark.parametrize("first", [2.0, -5.0, 0.0, np.inf, 1e-30])
def test_the_mean_of_planes_has_a_gradient_that_no_value_disturbs(first):
    gradient = jax.grad(lambda a: (mean_of_planes(a) * jnp.array([first, 2.0])).sum())(jnp.ones((4, 2)))
    np.testing.assert_array_equal(gradient, np.tile(np.float32([first, 2.0]) / 4, (4, 1)))


@pytest.mark.parametrize("layer", [Dense(3, "tanh"), Dense(3, use_bias=False), BatchNorm(), Dropout(0.5)])
def test_columns_are_treated_as_rows(layer):
    x, context = image(6, 5), Context(train=True)
    variables = layer.init({"params": KEY, "dropout": KEY}, x, context, PIXEL)
    rows, columns = (
        layer.apply(variables, given, context, PIXEL, rngs={"dropout": KEY}, mutable=["batch_stats"])
        for given in (x, Columns(x.T))
    )
    assert isinstance(columns[0], Columns)
    close((to_image(rows[0]), rows[1]), (to_image(columns[0]), columns[1]))


def test_dropout_of_a_part_is_that_of_the_whole():
    x = jnp.ones((8, 64))
    part = dropout(x[:4], first=jnp.int32(4), train=True)
    np.testing.assert_array_equal(part, dropout(x, train=True)[4:])


def test_pool_drops_what_does_not_fill_a_window():
    x = image(1, 7, 7, 1)
    pooled = to_image(MaxPool(2).apply({}, x, Context(), PIXEL))
    assert pooled.shape == (1, 3, 3, 1)
    assert pooled[0, 2, 2, 0] == x[0, 4:6, 4:6, 0].max()


def test_local_response_normalisation_against_a_loop():
    x = np.asarray(image(2, 2, 2, 7)) * 100
    layer = LocalResponseNorm(depth_radius=2, bias=1.5, alpha=0.01, beta=0.75)
    y = to_image(layer.apply({}, jnp.asarray(x), Context(), square_cell(2)))
    for c in range(7):
        window = x[..., max(c - 2, 0) : c + 3].astype(np.float64)
        np.testing.assert_allclose(y[..., c], x[..., c] / (1.5 + 0.01 * (window**2).sum(-1)) ** 0.75, rtol=2e-5)


@pytest.mark.parametrize("shape", [(6, 4, 4, 3), (6, 5)])
def test_batchnorm_is_flax_batchnorm(shape):
    x, cell = image(*shape) * 3 + 1, square_cell(2)
    reference = nn.BatchNorm(use_running_average=False, momentum=0.99, epsilon=1e-3)
    with jax.numpy_rank_promotion("allow"):  # Flax's own layer broadcasts across ranks
        variables = jax.jit(reference.init)(KEY, x)
        expected, state = jax.jit(lambda v: reference.apply(v, x, mutable=["batch_stats"]))(variables)

    def train(variables):
        y, ours = BatchNorm().apply(variables, x, Context(train=True), cell, mutable=["batch_stats"])
        return to_image(y), ours

    y, ours = jax.jit(train)(variables)
    close((y, ours), (expected, state))
    evaluated = BatchNorm().apply({**variables, **ours}, x, Context(), cell)
    mean, var = (np.asarray(ours["batch_stats"][name]) for name in ("mean", "var"))
    close(to_image(evaluated), (np.asarray(x) - mean) / np.sqrt(var + 1e-3))


def batchnorm(x, weight=None, axis_name=None):
    def apply(x, weight):
        variables = BatchNorm().init(KEY, x, Context(), PIXEL)
        context = Context(train=True, weight=weight, axis_name=axis_name)
        y, state = BatchNorm().apply(variables, x, context, PIXEL, mutable=["batch_stats"])
        return to_image(y), state

    return jax.jit(apply)(x, weight)


def test_batchnorm_does_not_count_padding():
    x = image(6, 4, 4, 3)
    padded = jnp.concatenate([x, jnp.full((2, 4, 4, 3), 1e3)])
    y, state = batchnorm(padded, jnp.array([1.0] * 6 + [0.0] * 2))
    expected, expected_state = batchnorm(x)
    close((y[:6], state), (expected, expected_state))


def test_batchnorm_over_devices_is_batchnorm_of_the_whole_even_if_the_padding_lies_on_one():
    x, weight = image(8, 4, 4, 3), jnp.array([1.0] * 5 + [0.0] * 3)
    split = jax.vmap(lambda x, w: batchnorm(x, w, "batch"), axis_name="batch")
    y, state = split(x.reshape(2, 4, 4, 4, 3), weight.reshape(2, 4))
    expected, expected_state = batchnorm(x, weight)
    close(y.reshape(x.shape), expected)
    close(jax.tree.map(lambda s: s[1], state), expected_state)


def dropout(x, axis_name=None, rate=0.25, **context):
    variables = {"settings": {"rate": jnp.float32(rate)}}
    context = Context(axis_name=axis_name, **context)
    return Dropout(0.5).apply(variables, x, context, PIXEL, rngs={"dropout": KEY})


def trained(x):
    """Units of an image dropped out, in one program."""
    return jax.jit(lambda x: dropout(x, train=True))(x)


def test_dropout_keeps_the_share_and_the_mean_and_heeds_the_variable():
    y = np.asarray(trained(jnp.ones((200, 1000))))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert abs((y > 0).mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / y.size)
    assert not (y[0] == y[1]).all()


def test_dropout_when():
    x = jnp.ones((4, 50))
    np.testing.assert_array_equal(dropout(x), x)
    assert (dropout(x, dropout_at_evaluation=True) == 0).any()


def test_dropout_of_a_batch_on_two_devices_is_that_of_the_whole():
    x = jnp.ones((8, 64))
    split = jax.jit(jax.vmap(lambda x: dropout(x, "batch", train=True), axis_name="batch"))(x.reshape(2, 4, 64))
    np.testing.assert_array_equal(split.reshape(8, 64), trained(x))


def test_dropout_is_the_same_in_cells():
    x = image(2, 4, 4, 3)

    def in_cells(x):
        cells = dropout(to_cells(x, square_cell(2)), train=True)
        assert isinstance(cells, Cells)
        return to_image(cells)

    np.testing.assert_array_equal(jax.jit(in_cells)(x), trained(x))
