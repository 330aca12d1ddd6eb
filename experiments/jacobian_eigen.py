"""Jacobians and eigenvectors four ways, and what the Jacobian of a trained network looks like.

python -m experiments.jacobian_eigen [--seeds=8] [--epochs=5]

The source's y = 3x^2 + 2x + 3 at x = (1, 3) and eigenpairs of [[3, 2], [2, 3]]: closed form, forward mode, reverse mode and
finite differences. Ours beyond it: d lambda / dA, and the Jacobian of the logits by the pixels of a dense net trained on
MNIST (for each of --seeds), with its singular vectors. The two protocols do the same.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnistlab.analysis import claims, departures, history
from mnistlab.analysis.claims import Checked, Claim
from mnistlab.comparison import nets
from mnistlab.comparison.spec import Experiment, Findings, Outcome, Variant
from mnistlab.config import OptimConfig
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.report import figures, images, page, text
from mnistlab.report.page import Draw
from mnistlab.training.trained import Trained

from . import common

POINT = np.array([1.0, 3.0])
MATRIX = np.array([[3.0, 2.0], [2.0, 3.0]])
DENSE = Variant(
    "dense", optimizer=OptimConfig("adam", 1e-3), batch_size=256, num_epochs=5, description="dense 128 relu, dense 10"
)
NUM_SINGULAR_IMAGES = 5
NUM_DIFFERENCED = 5  # pixels
TOLERANCE = 1e-12  # float64, automatic differentiation and eigenpairs
DIFFERENCE_TOLERANCE = 1e-8  # float64, finite differences

Function = Callable[[Any], Any]

# ---------------------------------------------------------------------------------------------------------------------
# Derivatives


def polynomial(x: jax.Array) -> jax.Array:
    """y = 3x^2 + 2x + 3, elementwise."""
    return 3 * x**2 + 2 * x + 3


def polynomial_jacobian(x: np.ndarray) -> np.ndarray:
    """diag(6x + 2).

    >>> polynomial_jacobian(np.array([1.0, 3.0])).tolist()
    [[8.0, 0.0], [0.0, 20.0]]
    """
    return np.diag(6 * x + 2)


def central_differences(function: Function, x: np.ndarray, indices: Sequence[int], step: float = 1e-5) -> np.ndarray:
    """Columns `indices` of the Jacobian of `function` at x float64 [m]: (f(x + h e) - f(x - h e)) / 2h, [n, indices]."""
    columns = []
    for index in indices:
        move = np.zeros_like(x)
        move[index] = step
        columns.append((np.asarray(function(x + move)) - np.asarray(function(x - move))) / (2 * step))
    return np.stack(columns, axis=-1)


class Eigenpairs(NamedTuple):
    """Eigenvalues from large to small, and their unit vectors as columns, first component positive."""

    values: np.ndarray  # float64 [n]
    vectors: np.ndarray  # float64 [n, n]


def eigenpairs(matrix: np.ndarray) -> Eigenpairs:
    """Of a symmetric matrix, in float64.

    >>> eigenpairs(MATRIX).values.round(12).tolist()
    [5.0, 1.0]
    """
    with jax.enable_x64(True):
        values, vectors = jax.device_get(jnp.linalg.eigh(jnp.asarray(matrix, jnp.float64)))
    values, vectors = values[::-1], vectors[:, ::-1]
    return Eigenpairs(values, vectors * np.where(vectors[0] < 0, -1.0, 1.0))


def eigenvalue_gradients(matrix: np.ndarray) -> np.ndarray:
    """d lambda_k / dA by reverse mode, eigenvalues from large to small: float64 [n, n, n]; equals v_k v_k'."""
    with jax.enable_x64(True):
        array = jnp.asarray(matrix, jnp.float64)
        return np.asarray(jax.jacrev(lambda a: jnp.linalg.eigvalsh(a)[::-1])(array))


# ---------------------------------------------------------------------------------------------------------------------
# The network's Jacobian


def logits(params: Any, pixels: jax.Array) -> jax.Array:
    """The dense net's logits [10] of one image, pixels [784] in [0, 1]."""
    return models.make_model(DENSE.model).apply({"params": params}, pixels.reshape(1, 28, 28, 1))[0]


def network_jacobians(params: Any, pixels: np.ndarray) -> np.ndarray:
    """d logits / d pixels of every image by reverse mode: pixels [N, 784] -> float32 [N, 10, 784]."""
    jacobian = jax.vmap(jax.jacrev(logits, argnums=1), in_axes=(None, 0))
    return np.asarray(jax.jit(jacobian)(params, jnp.asarray(pixels, jnp.float32)))


def network_errors(params: Any, pixels: np.ndarray) -> dict[str, float]:
    """Largest difference of other ways to reverse mode in float64, over the largest element: one image, pixels [784].

    Forward mode over all elements; central differences over the columns of the steepest pixels.
    """
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        x = np.asarray(pixels, np.float64)
        reverse, forward = (
            np.asarray(jax.jit(mode(logits, argnums=1))(weights, jnp.asarray(x))) for mode in (jax.jacrev, jax.jacfwd)
        )
        steepest = np.argsort(-np.abs(reverse).max(axis=0))[:NUM_DIFFERENCED]
        differences = central_differences(jax.jit(lambda x: logits(weights, x)), x, steepest.tolist())
    scale = np.abs(reverse).max()
    single = network_jacobians(params, x[None])[0]
    return {
        "forward mode, float64": float(np.abs(forward - reverse).max() / scale),
        f"central differences, float64, {NUM_DIFFERENCED} pixels": float(
            np.abs(differences - reverse[:, steepest]).max() / scale
        ),
        "reverse mode, float32": float(np.abs(single - reverse).max() / scale),
    }


# ---------------------------------------------------------------------------------------------------------------------
# The experiment


def derivatives(outcome: Outcome, draw: Draw) -> Findings:
    """Parts 3 and 4 of the source, and the Jacobian of the network that was trained."""
    small = _small_checks()
    checks = _small_claims(small)
    blocks: list[page.Block] = [
        page.Heading("Jacobian of a polynomial"),
        _jacobian_table(small),
        page.Text(
            "The source asks for the gradient of y, which is the gradient of the sum of y: the column sums of the Jacobian. They "
            "are its row sums, and hold all there is to know, only because this Jacobian is diagonal."
        ),
        page.Heading("Eigenvalues and eigenvectors"),
        _eigen_table(small),
        page.Text(
            "An eigenvalue of a symmetric matrix moves as dλ = v′ dA v, so dλ/dA = vv′: here [[½, ½], [½, ½]] and "
            "[[½, −½], [−½, ½]]. Central differences go through NumPy's solver for general matrices."
        ),
    ]
    metrics = {}
    for name, trained in outcome.trained.items():
        if (diverged := history.diverged(trained.result)).any():
            seed = trained.result.runs[int(np.argmax(diverged))].seed
            raise UserError(f"seed {seed} diverged, so that its Jacobian is not finite; take a smaller learning_rate")
        network = _network(trained, outcome)
        blocks += _network_blocks(name, network, draw)
        checks += departures.of_changed_run(_network_claims(network), outcome.departures)
        metrics[name] = {
            "leading_singular_value": network.singular_values[:, :, 0].mean(axis=1),
            "last_singular_value": network.singular_values[:, :, -1].mean(axis=1),
        }
    errors = {name.replace(", ", "_").replace(" ", "_"): row.error for name, row in small.jacobians.items()}
    return Findings(blocks, {"polynomial_errors": errors}, checks, metrics)


class _Jacobian(NamedTuple):
    matrix: np.ndarray
    error: float  # largest, against the closed form


class _Small(NamedTuple):
    """Parts 3 and 4 of the source, checked."""

    jacobians: dict[str, _Jacobian]
    sums: np.ndarray  # float32 [2]: the source's gradient, of the sum of y
    pairs: Eigenpairs
    residuals: np.ndarray  # float64 [2]: |A v - lambda v|
    gradient_errors: np.ndarray  # float64 [2]: of d lambda / dA by autodiff, against v v'
    difference_errors: np.ndarray  # float64 [2]: the same by central differences


def _small_checks() -> _Small:
    exact = polynomial_jacobian(POINT)
    with jax.enable_x64(True):
        found = {
            "closed form": exact,
            "forward mode, float64": np.asarray(jax.jacfwd(polynomial)(jnp.asarray(POINT))),
            "reverse mode, float64": np.asarray(jax.jacrev(polynomial)(jnp.asarray(POINT))),
            "central differences, float64": central_differences(polynomial, POINT, range(len(POINT))),
        }
    single = jnp.asarray(POINT, jnp.float32)
    found["forward mode, float32"] = np.asarray(jax.jacfwd(polynomial)(single))
    found["reverse mode, float32"] = np.asarray(jax.jacrev(polynomial)(single))
    jacobians = {name: _Jacobian(matrix, float(np.abs(matrix - exact).max())) for name, matrix in found.items()}
    pairs = eigenpairs(MATRIX)
    residuals = np.linalg.norm(MATRIX @ pairs.vectors - pairs.values * pairs.vectors, axis=0)
    outer = np.einsum("ik,jk->kij", pairs.vectors, pairs.vectors)
    by_difference = central_differences(
        # NumPy's general solver on a matrix that is no longer symmetric: another way in every respect
        lambda flat: np.sort(np.linalg.eigvals(flat.reshape(MATRIX.shape)).real)[::-1],
        MATRIX.ravel(),
        range(MATRIX.size),
    ).reshape(outer.shape)
    errors = [np.abs(found - outer).max(axis=(1, 2)) for found in (eigenvalue_gradients(MATRIX), by_difference)]
    return _Small(jacobians, np.asarray(jax.grad(lambda x: polynomial(x).sum())(single)), pairs, residuals, *errors)


class _Network(NamedTuple):
    """Jacobians of the trained nets at one test image of each class."""

    params: Any  # of the first seed
    pixels: np.ndarray  # float32 [10, 784] in [0, 1]
    label: np.ndarray  # int32 [10]
    jacobians: np.ndarray  # float32 [10, 10, 784]: image, logit, pixel; of the first seed
    singular_values: np.ndarray  # float64 [S, 10, 10]: seed, image, from large to small
    errors: dict[str, float]
    ink: np.ndarray  # float64 [784]: share of the training images in which the pixel is not black


def _network(trained: Trained, outcome: Outcome) -> _Network:
    image, label = nets.test_examples(trained.result, outcome.dataset)
    chosen = np.unique(label, return_index=True)[1]  # the first of each class
    pixels = image[chosen].reshape(len(chosen), -1).astype(np.float32) / 255
    params = [jax.tree.map(lambda leaf, k=k: leaf[k], trained.state.params) for k in range(len(trained.result.runs))]
    jacobians = [network_jacobians(one, pixels) for one in params]
    values = np.linalg.svd(np.stack(jacobians).astype(np.float64), compute_uv=False)
    errors = network_errors(params[0], pixels[0])
    ink = np.mean(outcome.dataset.train.image.reshape(-1, pixels.shape[1]) > 0, axis=0)
    return _Network(params[0], pixels, label[chosen], jacobians[0], values, errors, ink)


def shared_directions(jacobians: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right singular vectors of N Jacobians [N, n, m] stacked, and their root mean square gains: [k] and [k, m]."""
    stacked = jacobians.reshape(-1, jacobians.shape[-1]).astype(np.float64)
    _, values, vectors = np.linalg.svd(stacked, full_matrices=False)
    return values / np.sqrt(len(jacobians)), vectors


def _matrix(matrix: np.ndarray) -> str:
    return "[" + ", ".join("[" + ", ".join(f"{value:.6g}" for value in row) + "]" for row in matrix) + "]"


def _jacobian_table(small: _Small) -> page.Table:
    rows = []
    for name, (matrix, error) in small.jacobians.items():
        sums = "[" + ", ".join(f"{value:.6g}" for value in matrix.sum(axis=1)) + "]"
        rows.append((name, _matrix(matrix), sums, text.format_error(error)))
    source = "[" + ", ".join(f"{value:g}" for value in small.sums) + "]"
    error = float(np.abs(small.sums - polynomial_jacobian(POINT).sum(axis=1)).max())
    rows.append(("gradient of the sum, as the source", text.MISSING, source, text.format_error(error)))
    header = ("method", "Jacobian", "row sums", "largest error")
    return page.Table(header, rows, "y = 3x² + 2x + 3 at x = (1, 3); reported: [8, 20]")


def _eigen_table(small: _Small) -> page.Table:
    rows = []
    for k, (value, vector) in enumerate(zip(small.pairs.values, small.pairs.vectors.T, strict=True)):
        direction = "(" + ", ".join(text.minus(f"{component / abs(vector[0]):.6g}") for component in vector) + ")"
        errors = (small.residuals[k], small.gradient_errors[k], small.difference_errors[k])
        rows.append((f"{value:.15g}", direction, *map(text.format_error, errors)))
    header = ("eigenvalue", "eigenvector", "|Av − λv|, v of length 1", "dλ/dA − vv′, autodiff", "central differences")
    return page.Table(header, rows, "A = [[3, 2], [2, 3]], float64; reported: 5 with (1, 1) and 1 with (1, −1)")


def _network_table(network: _Network) -> page.Table:
    rows = [(name, text.format_error(error)) for name, error in network.errors.items()]
    caption = "The network's 10 × 784 Jacobian at one test image against reverse mode in float64"
    return page.Table(("method", "largest difference / largest element"), rows, caption)


def _spectrum_table(network: _Network) -> page.Table:
    left, values, _ = np.linalg.svd(network.jacobians.astype(np.float64), full_matrices=False)
    rows = []
    for k, digit in enumerate(network.label):
        u = left[k, :, 0]
        pair = sorted((int(u.argmax()), int(u.argmin())))
        numbers = [text.format_significant(value) for value in values[k, [0, 1, 8, 9]]]
        share = f"{100 * values[k, 0] ** 2 / (values[k] ** 2).sum():.0f} %"
        rows.append((str(digit), *numbers, share, f"{pair[0]} against {pair[1]}"))
    header = ("digit", "σ₁", "σ₂", "σ₉", "σ₁₀", "σ₁² of all", "what σ₁ moves most")
    return page.Table(header, rows, "Singular values of the Jacobian at the first test image of each digit, first seed")


def _ink_table(network: _Network) -> page.Table:
    _, shared = shared_directions(network.jacobians)
    weight = np.mean(shared[:NUM_SINGULAR_IMAGES] ** 2, axis=0)
    bounds = [-1.0, 0.0, 0.003, 0.03, 0.1, 0.3, 1.0]
    rows = []
    for low, high in itertools.pairwise(bounds):
        within = (network.ink > low) & (network.ink <= high)
        label = "never" if high == 0 else f"{100 * max(low, 0):g} to {100 * high:g} %"
        share = weight[within].mean() / weight.mean() if within.any() else np.nan
        rows.append((label, int(within.sum()), f"{share:.2f}"))
    header = ("training images that ink the pixel", "pixels", "squared weight / mean over all pixels")
    return page.Table(header, rows, f"Where the {NUM_SINGULAR_IMAGES} leading shared directions lie")


def _exact(id: str, what: str, error: float, tolerance: float, *, ours: bool = False) -> Checked:
    claim = Claim(id, what, "largest error", "float64", "about", 0.0, tolerance, ours)
    return claims.exact(
        claim, error, f"the largest error is {text.format_error(error)}; at most {tolerance:g} was asked."
    )


def _small_claims(small: _Small) -> list[Checked]:
    jacobian = max(row.error for name, row in small.jacobians.items() if "central" not in name)
    eigenvalues = float(np.abs(small.pairs.values - [5.0, 1.0]).max())
    gradients = float(small.gradient_errors.max())
    return [
        _exact("a", "the Jacobian of y at (1, 3) is diag(8, 20)", jacobian, TOLERANCE),
        _exact("b", "the eigenvalues of A are 5 and 1", eigenvalues, TOLERANCE),
        _exact("c", "Av = λv", float(small.residuals.max()), TOLERANCE),
        _exact("d", "dλ/dA by autodiff equals vv′", gradients, TOLERANCE, ours=True),
    ]


def _network_claims(network: _Network) -> list[Checked]:
    modes = network.errors["forward mode, float64"]
    differences = next(error for name, error in network.errors.items() if name.startswith("central"))
    return [
        _exact("e", "forward and reverse mode agree on the network's Jacobian", modes, TOLERANCE, ours=True),
        _exact("f", "finite differences agree with it", differences, DIFFERENCE_TOLERANCE, ours=True),
    ]


def _network_blocks(name: str, network: _Network, draw: Draw) -> list[page.Block]:
    values = network.singular_values
    by_image = values.mean(axis=0)  # over the seeds
    lines = {"mean over the ten images": (by_image.mean(axis=0), by_image.min(axis=0), by_image.max(axis=0))}
    spectrum = figures.lines(np.arange(1, 11), lines, "index k", "singular value σₖ", band="lowest to highest image")
    one = int(network.label[0])
    _, single_values, single = np.linalg.svd(network.jacobians[0].astype(np.float64), full_matrices=False)
    all_values, shared = shared_directions(network.jacobians)

    def directions(vectors: np.ndarray, sizes: np.ndarray) -> Any:
        titles = [f"σ{'₁₂₃₄₅'[k]} = {text.format_significant(sizes[k])}" for k in range(NUM_SINGULAR_IMAGES)]
        return images.signed(vectors[:NUM_SINGULAR_IMAGES].reshape(-1, 28, 28), titles)

    return [
        page.Heading(f"Jacobian of the trained network {name}"),
        page.Text(
            "Row i, column j of its Jacobian is what logit i gains for each unit of brightness (0 to 1) of pixel j, at one image. "
            "Reverse mode needs one pass per logit (10), forward mode one per pixel (784)."
        ),
        _network_table(network),
        page.Text(
            "The net is linear between the kinks of its relus, so central differences are exact but for rounding unless a step "
            "crosses one."
        ),
        _spectrum_table(network),
        draw(
            spectrum,
            "singular_values",
            f"Singular values at ten test images, one of each digit (mean over {len(values)} seed(s)).",
            "singular values falling from the first to the tenth",
        ),
        page.Text(
            "A right singular vector is a direction in the space of images, its singular value how fast the logits move along "
            "it: σ₁ is the most that a step of length 1 can change them. The last column of the table names the two logits that "
            "the first direction pulls apart most."
        ),
        draw(
            directions(single, single_values),
            "singular_vectors_image",
            f"Leading right singular vectors at one test image, a {one}, first seed: red pixels push the logits one way, blue "
            "the other (the sign of all together is arbitrary).",
            "five 28 by 28 pictures of signed weights",
        ),
        draw(
            directions(shared, all_values),
            "singular_vectors_shared",
            "The same of all ten images' Jacobians stacked: directions that matter on average (σ is the root mean square).",
            "five 28 by 28 pictures of signed weights",
        ),
        _ink_table(network),
        page.Text(
            "Strokes show faintly in the middle; the heaviest weights sit on the rim, on pixels that few images ink. Adam "
            "divides a gradient by its own size, so a weight that is rarely moved is moved as far as any other: trained with "
            "`--optimizer=sgd --learning_rate=0.3` to nearly the same accuracy, the seldom inked pixels (0.3 to 3 %) fell from 1.8 "
            "to 0.4 and the often inked ones rose from 0.7 to 1.8. Pixels that are never inked keep their random start."
        ),
    ]


EXPERIMENT = Experiment(
    name="jacobian_eigen",
    title="Jacobians and eigenvectors, four ways",
    source="assignment 1 of a deep learning course, parts 3 and 4 (document 001)",
    question=(
        "Do closed form, forward mode, reverse mode and finite differences give the same derivatives, and does Av = λv hold for "
        "the eigenvectors found by hand? Beyond the source: the derivative of an eigenvalue, and the Jacobian of a trained network."
    ),
    quirks="Both protocols do the same here.",
    reported={"dense": DENSE},
    controlled={"dense": DENSE},
    extra=derivatives,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
