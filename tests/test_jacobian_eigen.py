"""Jacobians and eigenvectors against closed forms and NumPy; the trained network's against its own formula."""

import json

import jax
import numpy as np
import published
import pytest
from metrics_doc import unnamed

from experiments import jacobian_eigen
from mnistlab.comparison import run
from mnistlab.comparison.spec import Options
from mnistlab.errors import UserError
from mnistlab.nets import models

pytestmark = pytest.mark.usefixtures("quick_compiling")


@pytest.fixture(scope="module")
def params():
    return models.make_model("dense").init(jax.random.key(3), np.zeros((1, 28, 28, 1), np.float32))["params"]


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).random((3, 784), np.float32)


def test_polynomial_and_its_jacobian():
    assert jacobian_eigen.polynomial(np.array([1.0, 3.0])).tolist() == [8.0, 36.0]
    small = jacobian_eigen._small_checks()
    for name, found in small.jacobians.items():
        np.testing.assert_allclose(found.matrix, [[8, 0], [0, 20]], atol=1e-9, err_msg=name)
        assert found.error <= (1e-9 if "central" in name else 0.0)
    assert small.sums.tolist() == [8.0, 20.0]


def test_central_differences_of_a_rectangular_map():
    matrix = np.arange(6.0).reshape(2, 3)
    found = jacobian_eigen.central_differences(lambda x: matrix @ x, np.array([1.0, -2.0, 0.5]), [2, 0])
    np.testing.assert_allclose(found, matrix[:, [2, 0]], atol=1e-10)


def test_eigenpairs_of_the_source():
    values, vectors = jacobian_eigen.eigenpairs(jacobian_eigen.MATRIX)
    np.testing.assert_allclose(values, [5, 1], atol=1e-14)
    np.testing.assert_allclose(vectors, np.array([[1, 1], [1, -1]]) / np.sqrt(2), atol=1e-14)


def test_eigenvalue_gradients_predict_how_eigenvalues_move():
    rng = np.random.default_rng(0)
    matrix, move = (x + x.T for x in rng.normal(size=(2, 4, 4)))
    gradients = jacobian_eigen.eigenvalue_gradients(matrix)
    assert gradients.dtype == np.float64
    step = 1e-6
    moved = (np.linalg.eigvalsh(matrix + step * move) - np.linalg.eigvalsh(matrix - step * move))[::-1] / (2 * step)
    np.testing.assert_allclose(np.einsum("kij,ij->k", gradients, move), moved, atol=1e-7)
    vectors = jacobian_eigen.eigenpairs(matrix).vectors
    np.testing.assert_allclose(gradients, np.einsum("ik,jk->kij", vectors, vectors), atol=1e-12)


def test_network_jacobian_is_the_product_of_its_weights_where_units_are_on(params, pixels):
    jacobians = jacobian_eigen.network_jacobians(params, pixels)
    first, second = (jax.tree.map(np.asarray, params[name]) for name in ("dense_1", "dense_2"))
    on = pixels @ first["kernel"] + first["bias"] > 0
    assert 0 < on.sum() < on.size
    expected = np.einsum("nh,ph,hk->nkp", on, first["kernel"], second["kernel"])
    np.testing.assert_allclose(jacobians, expected, atol=1e-5)


def test_other_ways_agree(params, pixels):
    errors = jacobian_eigen.network_errors(params, pixels[0])
    assert errors["forward mode, float64"] < 1e-13
    assert errors["central differences, float64, 5 pixels"] < 1e-8
    assert 1e-13 < errors["reverse mode, float32"] < 1e-5


def test_shared_directions_of_one_jacobian_are_its_own():
    jacobian = np.random.default_rng(0).normal(size=(10, 784))
    values, vectors = jacobian_eigen.shared_directions(np.stack([jacobian, jacobian, jacobian]))
    _, expected, own = np.linalg.svd(jacobian, full_matrices=False)
    np.testing.assert_allclose(values[:10], expected, rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(vectors[:10] * own, axis=1)), 1, rtol=1e-10)


def test_run_leaves_the_files_of_the_contract(tmp_path):
    overrides = {"num_epochs": 1, "limit_examples": 500}
    summary = run.run(jacobian_eigen.EXPERIMENT, Options(tmp_path, num_seeds=2, overrides=overrides))
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    verdicts = dict.fromkeys("abcd", "holds") | dict.fromkeys("ef", "changed run: holds")
    assert {claim["id"]: claim["verdict"] for claim in summary["claims"]} == verdicts
    assert not unnamed(summary) and not published.errors(summary)
    assert summary["departures"] == ["epochs 5 -> 1", "trained on the first 500 examples"]
    dense = summary["variants"]["dense"]
    assert dense["params"] == 101_770 and dense["metrics"]["test_accuracy"]["n"] == 2
    first, last = (dense["metrics"][name]["values"] for name in ("leading_singular_value", "last_singular_value"))
    assert all(a > b > 0 for a, b in zip(first, last, strict=True))
    assert summary["data"]["name"] == "mnist" and summary["n_seeds"] == 2
    assert json.loads((tmp_path / "config.json").read_text())["run"]["seeds"] == [0, 1]
    names = ("singular_values", "singular_vectors_image", "singular_vectors_shared")
    kinds = ("svg", "png")
    expected = {f"{name}.{kind}" for name in names for kind in kinds}
    assert {path.name for path in (tmp_path / "figures").iterdir()} >= expected
    assert "trained on the first 500 examples" in (tmp_path / "report.html").read_text().partition("</h1>")[0]


def test_a_network_that_diverged_has_no_jacobian(tmp_path):
    overrides = {"num_epochs": 1, "limit_examples": 500, "optimizer": "sgd", "learning_rate": 1e30}
    with pytest.raises(UserError, match="seed 0 diverged"):
        run.run(jacobian_eigen.EXPERIMENT, Options(tmp_path, overrides=overrides))


def test_impossible_values_end_before_anything_is_written(tmp_path):
    for options in (Options(tmp_path, overrides={"num_epochs": 0}), Options(tmp_path, num_seeds=0)):
        with pytest.raises(UserError):
            run.run(jacobian_eigen.EXPERIMENT, options)
    assert not list(tmp_path.iterdir())
