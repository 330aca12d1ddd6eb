"""Augmentation against NumPy's own moves, hand counts and distributions; the same bits however a batch is laid out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import training

from mnistlab import config
from mnistlab.config import AugmentConfig, OptimConfig, TrainConfig
from mnistlab.data import augment
from mnistlab.data.batches import Batch
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.nets.layers import Dense, Flatten
from mnistlab.training import losses, optim, step

pytestmark = pytest.mark.usefixtures("quick_compiling")

KNOBS = {
    "shift": AugmentConfig(shift_pixels=2),
    "rotate": AugmentConfig(rotate_degrees=15.0),
    "scale": AugmentConfig(scale_fraction=0.2),
    "elastic": AugmentConfig(elastic_alpha_pixels=34.0, elastic_sigma_pixels=4.0),
    "cutout": AugmentConfig(cutout_pixels=6),
    "flip": AugmentConfig(flip_fraction=0.5),
}
ALL = AugmentConfig(2, 15.0, 0.2, 34.0, 4.0, 6, 0.4, 0.5)
KEY = jax.random.key(3)


def images(num_examples=8, shape=(12, 12, 1), seed=0):
    """Every pixel is positive, so that a 0 in a result was put there."""
    return np.random.default_rng(seed).integers(1, 256, (num_examples, *shape)).astype(np.uint8)


@functools.cache
def compiled(knobs):
    return jax.jit(lambda key, image: augment.augment(key, image, knobs))


def apply(knobs, image, key=KEY):
    return np.asarray(compiled(knobs)(key, image))


shift = jax.jit(augment.shift, static_argnums=3)
warp, elastic_displacement = jax.jit(augment.warp), jax.jit(augment.elastic_displacement, static_argnums=(1, 2))
cutout, mixup = jax.jit(augment.cutout, static_argnums=3), jax.jit(augment.mixup, static_argnums=(4, 5))


# Each move against an oracle


@pytest.mark.parametrize("rows, columns", [(0, 0), (2, -1), (-3, 3), (3, 0)])
def test_a_shift_is_numpys_roll_without_what_comes_round(rows, columns):
    image = images(1, (7, 9, 2))[0]
    expected = np.roll(np.pad(image, ((3, 3), (3, 3), (0, 0))), (rows, columns), (0, 1))[3:-3, 3:-3]
    np.testing.assert_array_equal(shift(jnp.asarray(image), rows, columns, 3), expected)


def test_shifts_are_uniform_over_all_places():
    image = np.zeros((5000, 5, 5, 1), np.uint8)
    image[:, 2, 2] = 255
    places = apply(AugmentConfig(shift_pixels=2), image).reshape(5000, 25)
    assert (np.sort(places, axis=1)[:, -2:] == [0, 255]).all()
    counts = (places > 0).sum(axis=0)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 9, 3)])
@pytest.mark.parametrize("turns", [1, 2, -1])
def test_a_turn_by_right_angles_is_numpys(turns, shape):
    image = images(1, shape)[0].astype(np.float32)
    got = warp(image, 90.0 * turns, 1.0)
    np.testing.assert_allclose(got, np.rot90(image, turns), atol=2e-3)  # 255 times a rounded cosine


def test_no_turn_at_scale_one_is_the_image_itself():
    image = images(1, (8, 11, 2))[0].astype(np.float32)
    np.testing.assert_array_equal(warp(image, 0.0, 1.0), image)


def test_a_factor_of_two_reads_between_pixels():
    line = np.array([[1.0], [2.0], [4.0], [8.0]], np.float32)[None]  # [1, 4, 1]: columns at -1.5 ... 1.5
    got = warp(line, 0.0, 2.0)[..., 0]
    np.testing.assert_allclose(got, [[1.75, 2.5, 3.5, 5.0]])  # read at -0.75, -0.25, 0.25, 0.75
    half = warp(line, 0.0, 0.5)[..., 0]
    np.testing.assert_allclose(half, [[0.0, 1.5, 6.0, 0.0]])  # at -3, -1, 1, 3


def test_bilinear_reading_equals_scipys():
    rng = np.random.default_rng(1)
    image = rng.random((10, 14, 1), np.float32)
    field = rng.normal(0, 3, (2, 10, 14)).astype(np.float32)
    at = np.indices((10, 14)) + field
    framed = np.pad(image[..., 0], 20)
    expected = scipy.ndimage.map_coordinates(framed, at + 20, order=1)
    np.testing.assert_allclose(warp(image, 0.0, 1.0, field)[..., 0], expected, atol=1e-5)


def test_elastic_smoothing_equals_scipys_within():
    noise = np.random.default_rng(2).uniform(-1, 1, (2, 40, 40)).astype(np.float32)
    got = elastic_displacement(noise, 5.0, 1.5)
    expected = 5.0 * scipy.ndimage.gaussian_filter(noise, (0, 1.5, 1.5), truncate=10)
    np.testing.assert_allclose(got[:, 15:25, 15:25], expected[:, 15:25, 15:25], atol=1e-4)
    np.testing.assert_allclose(elastic_displacement(jnp.ones((2, 6, 9)), 5.0, 2.0), 5.0, rtol=1e-6)


@pytest.mark.parametrize("pixels", [4, 5])
def test_cutout_leaves_a_square_of_zeros(pixels):
    count = []
    for row in range(12):
        gone = np.asarray(cutout(jnp.asarray(images()[0]), row, 6, pixels))[..., 0] == 0
        low, high = max(0, row - pixels // 2), min(12, row - pixels // 2 + pixels)
        expected = np.zeros((12, 12), bool)
        expected[low:high, 6 - pixels // 2 : 6 - pixels // 2 + pixels] = True
        np.testing.assert_array_equal(gone, expected)
        count.append(gone.sum())
    assert max(count) == pixels**2
    gone = (apply(AugmentConfig(cutout_pixels=pixels), images(200)) == 0).sum(axis=(1, 2, 3))
    assert gone.max() == pixels**2 and gone.min() >= max(1, pixels // 2) ** 2


@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_a_flip_is_numpys_for_that_share_of_the_images(fraction):
    image = images(2000, (5, 6, 2))
    out = apply(AugmentConfig(flip_fraction=fraction), image)
    flipped = (out == np.flip(image, 2)).all(axis=(1, 2, 3))
    assert (flipped | (out == image).all(axis=(1, 2, 3))).all()
    assert scipy.stats.binomtest(int(flipped.sum()), 2000, fraction).pvalue > 1e-3


def test_turns_and_factors_stay_within_their_bounds_and_reach_them():
    ramp = np.broadcast_to(np.arange(21.0, dtype=np.float32)[:, None, None], (400, 21, 21, 1))  # value = row
    # About the centre, of value 10, the slope along the columns is sin / factor, along the rows cos / factor.
    for knobs in (KNOBS["rotate"], KNOBS["scale"]):
        out = apply(knobs, ramp)[..., 0]
        down, across = (out[:, 11, 10] - out[:, 9, 10]) / 2, (out[:, 10, 11] - out[:, 10, 9]) / 2
        degrees, factor = np.rad2deg(np.arctan2(-across, down)), 1 / np.hypot(down, across)
        assert np.abs(degrees).max() <= knobs.rotate_degrees + 1e-3
        assert np.abs(factor - 1).max() <= knobs.scale_fraction + 1e-5
        drawn = degrees / 15 if knobs.rotate_degrees else (factor - 1) / 0.2
        assert scipy.stats.kstest(drawn, "uniform", args=(-1, 2)).pvalue > 1e-3


# Randomness


def test_an_example_depends_on_its_position_and_the_key_alone():
    image = images()
    got = apply(ALL, image)
    np.testing.assert_array_equal(apply(ALL, image), got)
    others = images(seed=9)
    others[3] = image[3]
    np.testing.assert_array_equal(apply(ALL, others)[3], got[3])
    np.testing.assert_allclose(apply(ALL, image[:4])[3], got[3], atol=1e-3)  # nor on the size of the batch
    same = np.broadcast_to(image[:1], image.shape)
    assert len({each.tobytes() for each in apply(ALL, same)}) == len(image)
    assert not np.array_equal(apply(ALL, image, jax.random.key(4)), got)


def test_one_knob_does_not_disturb_another():
    image = np.full((8, 30, 30, 1), 200, np.uint8)
    gone = apply(KNOBS["cutout"], image) == 0
    assert (apply(ALL, image)[gone] == 0).all() and gone.any()


def test_seeds_are_a_vmapped_axis():
    image = images()
    keys = jax.random.split(KEY, 2)
    together = jax.jit(jax.vmap(lambda key: augment.augment(key, image, ALL)))(keys)
    for number in range(2):
        np.testing.assert_allclose(together[number], apply(ALL, image, keys[number]), atol=1e-3)


def halves(function, *arrays):
    """`function` over two devices that have half of each array, put together again."""
    split = [leaf.reshape(2, -1, *leaf.shape[1:]) for leaf in arrays]
    out = jax.jit(jax.vmap(function, axis_name="devices"))(*split)
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), out)


def test_a_split_batch_gets_the_same_images():
    image = images()
    got = halves(lambda part: augment.augment(KEY, part, ALL, "devices"), image)
    np.testing.assert_allclose(got, apply(ALL, image), atol=1e-3)


# Mixup


def mix(num_examples=8, alpha=0.4, weight=None):
    image = images(num_examples).astype(np.float32)
    label = np.arange(num_examples, dtype=np.int32) % 10
    weight = np.ones(num_examples, np.float32) if weight is None else weight
    return image, label, weight, mixup(KEY, jnp.asarray(image), jnp.asarray(label), weight, alpha)


def test_mixup_mixes_with_the_next_example_and_never_with_padding():
    image, label, _, mixed = mix(weight=np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32))
    partner = np.array([1, 2, 3, 4, 0])
    share = np.asarray(mixed.share)[:5, None, None, None]
    np.testing.assert_allclose(mixed.image[:5], share * image[:5] + (1 - share) * image[partner], rtol=1e-5)
    np.testing.assert_array_equal(mixed.partner_label[:5], label[partner])


def test_a_split_batch_has_its_partners_in_the_whole_batch():
    weight = np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32)
    image, label, weight, expected = mix(weight=weight)
    got = halves(lambda *part: mixup(KEY, *part, 0.4, "devices"), image, label, weight)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 8.0])
def test_shares_follow_the_beta_distribution(alpha):
    image, ones = jnp.zeros((2000, 1, 1, 1)), jnp.ones(2000)
    share = mixup(KEY, image, jnp.zeros(2000, jnp.int32), ones, alpha).share
    assert scipy.stats.kstest(share, scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_mixed_targets_sum_to_one_and_the_loss_is_linear_in_them():
    _, label, _, mixed = mix()
    target = losses.mixed_target(jnp.asarray(label), mixed.partner_label, mixed.share, 10)
    np.testing.assert_allclose(target.sum(axis=1), 1, rtol=1e-6)
    logits = jnp.asarray(np.random.default_rng(5).normal(0, 3, (8, 10)), jnp.float32)
    for loss in losses.LOSSES.values():
        by_hand = mixed.share * loss(logits, label) + (1 - mixed.share) * loss(logits, mixed.partner_label)
        np.testing.assert_allclose(loss(logits, target), by_hand, rtol=1e-5)
    heavier = np.where(mixed.share >= 0.5, label, mixed.partner_label)
    correct = losses.sums(jnp.zeros(8), jax.nn.one_hot(heavier, 10), target, jnp.ones(8)).correct
    assert float(correct) == 8


# In the program


def make_batch():
    weight = np.array([1.0] * 11 + [0.0], np.float32)
    label = np.random.default_rng(4).integers(0, 10, 12).astype(np.int32)
    return Batch(jnp.asarray(images(12)), jnp.asarray(label), jnp.asarray(weight))


def make_step(augmentation):
    model = models.Network((Flatten(), Dense(10)))
    tx = optim.make_optimizer(OptimConfig("sgd", 0.1), 1, 1)
    state = jax.jit(lambda: step.init_state(model, tx, jnp.uint32(0), (12, 12, 1)))()
    return state, step.make_train_step(model, tx, losses.cross_entropy, augmentation=augmentation)


def test_off_is_the_same_program():
    state, plain = make_step(AugmentConfig())
    batch = make_batch()
    text = jax.jit(plain).lower(state, batch).as_text()
    assert "shift_right" not in text
    by_default = step.make_train_step(
        models.Network((Flatten(), Dense(10))),
        optim.make_optimizer(OptimConfig("sgd", 0.1), 1, 1),
        losses.cross_entropy,
    )
    assert jax.jit(by_default).lower(state, batch).as_text() == text
    assert jax.jit(make_step(ALL)[1]).lower(state, batch).as_text() != text


def test_a_step_on_two_devices_with_half_a_batch_each_equals_one():
    state, one = make_step(ALL)
    parted = functools.partial(one, axis_name="devices")
    batch = make_batch()
    expected, total = jax.jit(one)(state, batch)
    split = jax.tree.map(lambda leaf: leaf.reshape(2, 6, *leaf.shape[1:]), batch)
    got, totals = jax.jit(jax.vmap(parted, in_axes=(None, 0), axis_name="devices"))(state, split)
    for mine, theirs in zip(jax.tree.leaves(got.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(mine[0], theirs, atol=1e-6)
    np.testing.assert_allclose([values[0] for values in totals[:3]], total[:3], rtol=1e-5)


def test_every_step_augments_anew_and_the_model_sees_it():
    state, train_step = make_step(ALL)
    later = state._replace(step=state.step + 1)
    first, second, again = (float(jax.jit(train_step)(each, make_batch())[1].loss) for each in (state, later, state))
    assert first != second and first == again


def test_training_sees_augmented_images_and_evaluation_the_images_themselves(dataset):
    still = OptimConfig("sgd", 1e-30)
    train_config = TrainConfig(
        "net", augment=ALL, batch_size=64, num_epochs=1, optimizer=still, split="test_is_validation"
    )
    result = training.run(train_config, dataset, model=models.Network((Flatten(), Dense(10))))
    (weights,) = result.state.params.values()

    def plain_loss(split):
        logits = split.image.reshape(len(split.image), -1) / 255 @ weights["kernel"][0] + weights["bias"]
        return np.mean(losses.cross_entropy(jnp.asarray(logits), jnp.asarray(split.label)))

    np.testing.assert_allclose(result.metrics["test_loss"][0], plain_loss(dataset.test), rtol=1e-5)
    np.testing.assert_allclose(result.metrics["final_train_loss"][0], plain_loss(dataset.train), rtol=1e-5)
    assert abs(result.metrics["train_loss"][0] - plain_loss(dataset.train)) > 1e-3


# Settings


@pytest.mark.parametrize(
    "values, named",
    [
        ({"shift_pixels": -1}, "shift_pixels"),
        ({"shift_pixels": 1.5}, "shift_pixels"),
        ({"rotate_degrees": -1.0}, "rotate_degrees"),
        ({"scale_fraction": 1.0}, "scale_fraction"),
        ({"elastic_alpha_pixels": 34.0}, "elastic_sigma_pixels"),
        ({"elastic_sigma_pixels": 4.0}, "elastic_alpha_pixels"),
        ({"cutout_pixels": 2.5}, "cutout_pixels"),
        ({"mixup_alpha": float("nan")}, "mixup_alpha"),
    ],
)
def test_the_impossible_is_refused(values, named):
    with pytest.raises(UserError, match=named):
        config.check(TrainConfig("net", augment=AugmentConfig(**values)))
