"""Backpropagation by hand: the source's digits, and what other ways to the same derivatives give."""

import json

import forks
import jax.numpy as jnp
import numpy as np
import published
import pytest
from metrics_doc import unnamed
from scipy import optimize

from experiments import backprop_by_hand as backprop
from mnistlab.comparison.spec import Options
from mnistlab.errors import UserError


@pytest.fixture(scope="module")
def drawn():
    return backprop.draw()


def test_draws_are_those_of_the_global_generator(drawn):
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.randn(3, 2), np.random.randn(3), np.random.rand(1000, 2)  # noqa: NPY002
    expected += (np.random.randint(low=0, high=2, size=(1000,)),)  # noqa: NPY002
    weights, points, targets = drawn
    for ours, theirs in zip((weights.W1, weights.W2, points, targets), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not weights.b1.any() and weights.b2 == 0


def test_every_printed_digit(drawn):
    loss, gradient = backprop.loss_by_hand(*drawn), backprop.backward(*drawn)
    assert repr(float(loss)) == "0.1332476222330792"
    assert repr(float(gradient.b2)) == "0.029249230265318685"
    with np.printoptions(precision=8, suppress=True):
        assert str(gradient.W1.T[0]) == "[ 0.00244596 -0.00030765 -0.00034768]"
        assert str(gradient.W1.T[1]) == "[ 0.00262019 -0.00024188 -0.000372  ]"
        assert str(gradient.W2) == "[0.02216011 0.02433097 0.01797174]"
        assert str(gradient.b1) == "[ 0.00492577 -0.00058023 -0.00065977]"
    assert backprop.reproduces(loss, gradient)


@pytest.mark.parametrize("field", backprop.Weights._fields)
def test_one_digit_off_is_seen(drawn, field):
    loss, gradient = backprop.loss_by_hand(*drawn), backprop.backward(*drawn)
    wrong = gradient._replace(**{field: getattr(gradient, field) + 1e-8})
    assert not backprop.reproduces(loss, wrong)
    assert not backprop.reproduces(loss + 1e-15, gradient)


def test_gradient_of_one_point_in_closed_form():
    weights = backprop.Weights(np.array([[1.0, 2.0]]), np.array([0.5]), np.array([3.0]), -1.0)
    hidden = 1 / (1 + np.exp(-(1.0 * 0.2 + 2.0 * 0.4 + 0.5)))
    output = 1 / (1 + np.exp(-(3.0 * hidden - 1.0)))
    slope = (output - 1) * output * (1 - output)
    gradient = backprop.backward(weights, np.array([[0.2, 0.4]]), np.array([1]))
    assert gradient.b2 == pytest.approx(slope, rel=1e-14)
    np.testing.assert_allclose(gradient.W2, [slope * hidden], rtol=1e-14)
    np.testing.assert_allclose(gradient.W1, [[slope * 3 * hidden * (1 - hidden) * x for x in (0.2, 0.4)]], rtol=1e-14)


def test_jax_agrees_in_float64_and_to_seven_digits_in_float32(drawn):
    by_hand = backprop.backward(*drawn)
    _, double = backprop.by_jax(*drawn, jnp.float64)
    _, single = backprop.by_jax(*drawn, jnp.float32)
    assert double.W1.dtype == np.float64 and single.W1.dtype == np.float32
    assert backprop.largest_difference(double, by_hand) < 1e-12
    assert 1e-12 < backprop.largest_difference(single, by_hand) < 1e-7


def test_central_differences_of_a_quadratic_are_exact():
    def quadratic(weights):
        return float(sum(np.sum(np.asarray(w) ** 2) for w in weights))

    weights = backprop.draw(1)[0]
    found = backprop.by_central_differences(quadratic, weights)
    assert found.W1.dtype == np.float64
    for ours, w in zip(found, weights, strict=True):
        np.testing.assert_allclose(ours, 2 * np.asarray(w), atol=1e-9)


def test_training_is_the_same_curve_and_descends(drawn):
    by_hand, by_jax = (train(*drawn, 1.0, 50) for train in (backprop.train_by_hand, backprop.train_by_jax))
    np.testing.assert_allclose(by_hand, by_jax, rtol=0, atol=1e-12)
    assert len(by_hand) == 51 and np.all(np.diff(by_hand) < 0)


def test_a_step_is_a_step_of_gradient_descent(drawn):
    weights, points, targets = drawn
    numeric = optimize.approx_fprime(
        np.zeros(1),
        lambda b2: float(backprop.loss_by_hand(weights._replace(b2=b2[0]), points, targets)),
    )
    one_step = backprop.train_by_hand(weights, points, targets, 1e-4, 1)
    gradient = backprop.backward(*drawn)
    squared_norm = sum(float(np.sum(np.square(g))) for g in gradient)
    assert numeric[0] == pytest.approx(gradient.b2, rel=1e-5)
    assert one_step[1] - one_step[0] == pytest.approx(-1e-4 * squared_norm, rel=1e-3)


def test_main_leaves_the_files_of_the_contract(tmp_path):
    arguments = [f"--workdir={tmp_path}", "--epochs=20", "--limit_examples=2000"]
    done = forks.run("experiments.backprop_by_hand", arguments)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["departures"] == ["num_steps 1000 -> 20"] and not unnamed(summary) and not published.errors(summary)
    assert [claim["verdict"] for claim in summary["claims"]] == ["holds", "holds", "changed run: holds"]
    assert summary["variants"]["mlp_2_3_1"]["params"] == 13
    assert summary["variants"]["mlp_2_3_1"]["metrics"]["loss"]["mean"] == 0.1332476222330792
    assert json.loads((tmp_path / "config.json").read_text())["run"]["num_steps"] == 20
    assert "0.1332476222330792" in (tmp_path / "report.html").read_text() and "0.1332476222330792" in done.stdout
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"training.svg", "training.png"}


def test_other_points_have_nothing_reported(tmp_path):
    summary = backprop.run(Options(tmp_path, first_seed=1, overrides={"num_epochs": 3}))
    assert summary["departures"] == ["seed 0 -> 1", "num_steps 1000 -> 3"]
    assert [claim["verdict"] for claim in summary["claims"]] == ["not measured", *["changed run: holds"] * 2]


@pytest.mark.parametrize(
    "overrides",
    [{"num_epochs": 0}, {"limit_examples": 1}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}],
)
def test_impossible_values(tmp_path, overrides):
    with pytest.raises(UserError):
        backprop.run(Options(tmp_path, overrides=overrides))
    assert not list(tmp_path.iterdir())
