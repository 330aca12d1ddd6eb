"""Backpropagation by hand in NumPy against automatic differentiation, digit by digit.

python -m experiments.backprop_by_hand [--epochs=1000] [--learning_rate=1.0]

A network 2-3-1 of sigmoids on 1,000 random points, loss 1/(2N) sum (y - t)^2. A step sees every point, so --epochs is the
number of steps. --seed is NumPy's seed (the source's is 0), --limit_examples keeps the first points; what was reported
is compared only when both are the source's. The two protocols do the same. There is one run: --seeds, --until and the like
change nothing, and there is no --dry_run.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from mnistlab import config
from mnistlab.analysis import claims, departures, history, reported
from mnistlab.analysis.claims import Checked, Claim
from mnistlab.comparison import workdirs
from mnistlab.comparison.run import Log, silent
from mnistlab.comparison.spec import Options
from mnistlab.errors import UserError
from mnistlab.report import answer, figures, page, sections, text

from . import common
from .jacobian_eigen import central_differences

NAME = "backprop_by_hand"
TITLE = "Backpropagation by hand against automatic differentiation"
NUM_POINTS = 1000
NUM_STEPS = 1000
LEARNING_RATE = 1.0
NOTHING_BESIDE = (
    "The reported gradient is of the source's points alone, so nothing reported stands beside other points."
)
TOLERANCE = 1e-12  # by hand against jax.grad, both in float64: gradients, and losses of every step


class Weights(NamedTuple):
    """The network's weights, or the gradient of its loss by them: float [3, 2], [3], [3] and []."""

    W1: Any
    b1: Any
    W2: Any
    b2: Any


REPORTED = Weights(  # the source shows the gradient by W1 transposed, [2, 3]
    W1=np.array([[0.00244596, -0.00030765, -0.00034768], [0.00262019, -0.00024188, -0.000372]]).T,
    b1=np.array([0.00492577, -0.00058023, -0.00065977]),
    W2=np.array([0.02216011, 0.02433097, 0.01797174]),
    b2=0.029249230265318685,
)
PRINTED_DECIMALS = 8  # of arrays; the loss and the gradient by b2 are printed in full

# ---------------------------------------------------------------------------------------------------------------------
# By hand: NumPy alone.


def draw(seed: int = 0) -> tuple[Weights, np.ndarray, np.ndarray]:
    """Weights, points float64 [1000, 2] and targets int [1000], drawn in the source's order.

    >>> draw()[0].W2.round(4).tolist()
    [0.9501, -0.1514, -0.1032]
    """
    stream = np.random.RandomState(seed)  # what np.random draws after np.random.seed(seed)
    weights = Weights(W1=stream.randn(3, 2), b1=np.zeros(3), W2=stream.randn(3), b2=0.0)
    points = stream.rand(NUM_POINTS, 2)
    return weights, points, stream.randint(low=0, high=2, size=(NUM_POINTS,))


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-z)."""
    return 1 / (1 + np.exp(-z))


def forward(weights: Weights, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """h = sigmoid(x W1' + b1) [N, 3] and y = sigmoid(h W2 + b2) [N]."""
    hidden = sigmoid(points @ weights.W1.T + weights.b1)
    return hidden, sigmoid(hidden @ weights.W2 + weights.b2)


def loss_by_hand(weights: Weights, points: np.ndarray, targets: np.ndarray) -> np.floating:
    """L = 1/(2N) sum (y - t)^2."""
    return 1 / (2 * len(points)) * np.sum(np.square(forward(weights, points)[1] - targets))


def backward(weights: Weights, points: np.ndarray, targets: np.ndarray) -> Weights:
    """The gradient of L by every weight: the chain rule from the loss back, with sigmoid' = s (1 - s)."""
    hidden, output = forward(weights, points)
    by_output = (output - targets) / len(points)
    by_z2 = by_output * output * (1 - output)
    by_hidden = np.outer(by_z2, weights.W2)
    by_z1 = by_hidden * hidden * (1 - hidden)
    return Weights(W1=by_z1.T @ points, b1=by_z1.sum(axis=0), W2=hidden.T @ by_z2, b2=by_z2.sum())


def train_by_hand(
    weights: Weights, points: np.ndarray, targets: np.ndarray, learning_rate: float, num_steps: int
) -> np.ndarray:
    """Gradient descent over all points; the loss before the first step and after each, float64 [num_steps + 1]."""
    losses = [loss_by_hand(weights, points, targets)]
    for _ in range(num_steps):
        gradient = backward(weights, points, targets)
        weights = Weights(*(w - learning_rate * g for w, g in zip(weights, gradient, strict=True)))
        losses.append(loss_by_hand(weights, points, targets))
    return np.array(losses)


# ---------------------------------------------------------------------------------------------------------------------
# The same by JAX, and by central differences.


def loss(weights: Weights, points: jax.Array, targets: jax.Array) -> jax.Array:
    """L, for `jax.grad`."""
    hidden = jax.nn.sigmoid(points @ weights.W1.T + weights.b1[None])
    output = jax.nn.sigmoid(hidden @ weights.W2 + weights.b2)
    return jnp.mean(jnp.square(output - targets)) / 2


def by_jax(weights: Weights, points: np.ndarray, targets: np.ndarray, dtype: Any) -> tuple[np.ndarray, Weights]:
    """Loss and gradient by `jax.value_and_grad`, computed in `dtype`."""
    with jax.enable_x64(True):
        arrays = jax.tree.map(lambda array: jnp.asarray(array, dtype), (weights, points, targets))
        return jax.device_get(jax.jit(jax.value_and_grad(loss))(*arrays))


def by_central_differences(function: Callable[[Weights], Any], weights: Weights) -> Weights:
    """(L(w + h) - L(w - h)) / 2h for every weight; h balances truncation h^2 against rounding eps/h."""
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(weights)

        def at(point: np.ndarray) -> Any:
            return function(jax.tree.map(np.asarray, unravel(jnp.asarray(point))))

        step = np.finfo(np.float64).eps ** (1 / 3)
        found = central_differences(at, np.asarray(flat), range(len(flat)), step)
        return jax.tree.map(np.asarray, unravel(jnp.asarray(found)))


def train_by_jax(
    weights: Weights, points: np.ndarray, targets: np.ndarray, learning_rate: float, num_steps: int
) -> np.ndarray:
    """As `train_by_hand`, one compiled `lax.scan` in float64."""

    def train(weights: Weights, points: jax.Array, targets: jax.Array) -> jax.Array:
        def step(weights: Weights, _: None) -> tuple[Weights, jax.Array]:
            value, gradient = jax.value_and_grad(loss)(weights, points, targets)
            return jax.tree.map(lambda w, g: w - learning_rate * g, weights, gradient), value

        last, losses = jax.lax.scan(step, weights, None, length=num_steps)
        return jnp.append(losses, loss(last, points, targets))

    with jax.enable_x64(True):
        arrays = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), (weights, points, targets))
        return np.asarray(jax.jit(train)(*arrays))


# ---------------------------------------------------------------------------------------------------------------------
# The experiment.


def largest_difference(a: Weights, b: Weights) -> float:
    """max |a - b| over all weights."""
    return max(float(np.max(np.abs(np.subtract(x, y)))) for x, y in zip(a, b, strict=True))


def reproduces(value: Any, gradient: Weights) -> bool:
    """Whether a loss and a gradient print as the source printed them, every digit."""
    full = value == reported.results(NAME)["mlp_2_3_1"]["loss"] and gradient.b2 == REPORTED.b2
    arrays = zip(gradient[:3], REPORTED[:3], strict=True)
    return bool(full) and all(np.array_equal(np.round(ours, PRINTED_DECIMALS), theirs) for ours, theirs in arrays)


def run(options: Options, log: Log = silent) -> dict:
    """Runs the experiment in options.workdir and returns what summary.json holds.

    Raises:
      UserError: an impossible option, a workdir that holds another run.
    """
    num_steps = options.overrides.get("num_epochs", NUM_STEPS)
    num_points = options.overrides.get("limit_examples", NUM_POINTS)
    learning_rate = options.overrides.get("learning_rate", LEARNING_RATE)
    _check(num_steps, num_points, learning_rate)
    config.check_seeds(options.first_seed, 1)
    identity = {
        "experiment": NAME,
        "protocol": options.protocol,
        "seeds": [options.first_seed],
        "num_steps": num_steps,
        "num_points": min(num_points, NUM_POINTS),
        "learning_rate": learning_rate,
    }
    with workdirs.locked(options.workdir):
        workdirs.prepare(options.workdir, identity, options.resume)
        weights, points, targets = draw(options.first_seed)
        drawn = weights, points[:num_points], targets[:num_points]
        other_points, other_training = _departures(options.first_seed, identity)
        departed = (*other_points, *other_training)
        found = _measure(drawn, learning_rate, num_steps, not other_points)
        checked = _claims(found, num_steps, other_points, departed)
        tables = [
            _gradient_table(found.methods),
            _difference_table(found),
            sections.measured_table(checked, "Claims, each one exact comparison"),
        ]
        for table in tables:
            log(f"\n{table.as_text()}")
        said = answer.answer(checked, {}, departures=departed).sentence
        summary = {"answer": said, **_summary(options, found, checked), "departures": list(departed)}
        summary = workdirs.leave(
            options.workdir,
            identity=identity,
            command=options.command,
            title=departures.title(TITLE, departed),
            blocks=[
                page.Answer(said),
                *sections.notices(departed, {}, NOTHING_BESIDE),
                *_page(options, identity, found, tables),
            ],
            summary=summary,
        )
        log(f"\nreport: {options.workdir / 'report.html'}")
        return summary


def _check(num_steps: int, num_points: int, learning_rate: float) -> None:
    if num_steps < 1:
        raise UserError(f"epochs is {num_steps}; expected a whole number of steps of at least 1")
    if num_points < 2:
        raise UserError(f"limit_examples is {num_points}; expected at least 2 points")
    if not 0 < learning_rate < np.inf:
        raise UserError(f"learning_rate is {learning_rate}; expected a number of more than 0")


class Found(NamedTuple):
    """What was measured."""

    methods: dict[str, tuple[Any, Weights]]  # method -> loss and gradient
    curves: dict[str, np.ndarray]  # "by hand" and "jax" -> float64 [steps + 1]
    seconds: dict[str, float]
    of_source: bool  # on the source's own points, so that its numbers can be compared

    @property
    def by_hand(self) -> tuple[Any, Weights]:
        """Loss and gradient by hand."""
        return self.methods["by hand, float64"]

    def difference(self, method: str) -> float:
        """Of a method's gradient to the one by hand."""
        return largest_difference(self.methods[method][1], self.by_hand[1])

    @property
    def curve_difference(self) -> float:
        """Of the two training curves, at most."""
        return float(np.max(np.abs(self.curves["by hand"] - self.curves["jax"])))


def _measure(
    drawn: tuple[Weights, np.ndarray, np.ndarray], learning_rate: float, num_steps: int, of_source: bool
) -> Found:
    weights, points, targets = drawn
    start = time.perf_counter()
    loss_here = loss_by_hand(*drawn)
    methods: dict[str, tuple[Any, Weights]] = {"by hand, float64": (loss_here, backward(*drawn))}
    if of_source:
        methods["reported"] = (reported.results(NAME)["mlp_2_3_1"]["loss"], REPORTED)
    methods |= {
        "jax.grad, float64": by_jax(*drawn, jnp.float64),
        "jax.grad, float32": by_jax(*drawn, jnp.float32),
        "central differences, float64": (
            loss_here,
            by_central_differences(lambda w: loss_by_hand(w, points, targets), weights),
        ),
    }
    curves, seconds = {}, {"gradients": time.perf_counter() - start}
    for name, train in (("by hand", train_by_hand), ("jax", train_by_jax)):
        start = time.perf_counter()
        curves[name] = train(*drawn, learning_rate, num_steps)
        seconds[f"{name.replace(' ', '_')}_training"] = time.perf_counter() - start
    return Found(methods, curves, seconds, of_source)


def _summary(options: Options, found: Found, checked: Sequence[Checked]) -> dict[str, Any]:
    metrics = {
        "loss": found.by_hand[0],
        "gradient_difference_float64": found.difference("jax.grad, float64"),
        "gradient_difference_float32": found.difference("jax.grad, float32"),
        "gradient_difference_central": found.difference("central differences, float64"),
        "curve_difference": found.curve_difference,
        "final_train_loss": found.curves["by hand"][-1],
    }
    return {
        "experiment": NAME,
        "protocol": options.protocol,
        "data": None,
        "device": workdirs.device_words(),
        "n_seeds": 1,
        "variants": {
            "mlp_2_3_1": {
                "params": sum(np.size(array) for array in found.by_hand[1]),
                "metrics": {name: history.summarize(np.array([value])) for name, value in metrics.items()},
            }
        },
        "claims": [item.to_dict() for item in checked],
        "seconds": found.seconds,
    }


def _page(
    options: Options, identity: Mapping[str, Any], found: Found, tables: Sequence[page.Table]
) -> list[page.Block]:
    gradient_table, difference_table, claim_table = tables
    return [
        page.Text(
            "Do derivatives worked out by hand with the chain rule, written in NumPy alone, give the numbers of "
            "automatic differentiation? A network 2-3-1 with sigmoids at its hidden units and its output, "
            f"{identity['num_points']:,} points, L = 1/(2N) Σ (y − t)². Source: homework 4 of a course of spring 2022 (document "
            "004), part 1. Both protocols do the same here."
        ),
        page.Heading("Claims"),
        claim_table,
        page.Heading("Gradients"),
        page.Text(
            "Below L stand its derivatives; indices are those of the weights: `W1[unit,input]`. The source prints the gradient "
            f"by W1 transposed, inputs first. Arrays are printed to {PRINTED_DECIMALS} decimals there, the loss and the gradient by b2 in full."
        ),
        gradient_table,
        difference_table,
        page.Text(
            "float32 keeps 24 bits of a number, about 7 digits. Central differences lose a third of float64's 16 digits: a "
            "smaller step would trade truncation for rounding. They share the loss with the derivation by hand and "
            "none of its derivatives, so they check what a mistake in both others would not show."
        ),
        *_training(options, identity, found),
        *page.how_to_repeat(options.command or f"python -m experiments.{NAME}"),
    ]


def _training(options: Options, identity: Mapping[str, Any], found: Found) -> list[page.Block]:
    num_steps, curve = identity["num_steps"], found.curves["by hand"]
    names = {"by hand": "by hand, NumPy", "jax": "jax.grad in lax.scan"}
    lines = {names[name]: (losses[1:],) * 3 for name, losses in found.curves.items()}
    return [
        page.Heading("Training"),
        page.Text(
            f"Gradient descent from the same weights, every step over all points, learning rate {identity['learning_rate']:g}: the "
            f"loss goes from {curve[0]:.6f} to {curve[-1]:.6f} in {num_steps:,} steps. The targets are coin tosses, so there is little to "
            f"learn: L = 1/8 is what the constant output 1/2 costs. The two curves differ by {found.curve_difference:.1e} at "
            f"most. By hand it took {found.seconds['by_hand_training']:.2f} s; by JAX {found.seconds['jax_training']:.2f} s, "
            "compilation included."
        ),
        page.draw_into(options.workdir / "figures")(
            figures.lines(np.arange(1, num_steps + 1), lines, "gradient steps", "loss L", log="x"),
            "training",
            "The loss by step, by hand and by JAX: one curve.",
            "two falling curves that lie on each other",
        ),
    ]


def _departures(seed: int, identity: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """In what a run departs from the source's points, and in what from its steps and learning rate."""
    points = [f"seed 0 -> {seed}"] if seed else []
    if identity["num_points"] < NUM_POINTS:
        points.append(f"the first {identity['num_points']:,} points")
    own = {"num_steps": NUM_STEPS, "learning_rate": LEARNING_RATE}
    return points, [f"{name} {own[name]:g} -> {identity[name]:g}" for name in own if identity[name] != own[name]]


def _claims(found: Found, num_steps: int, other_points: Sequence[str], departed: Sequence[str]) -> list[Checked]:
    """Each claim is one exact comparison."""
    claim = Claim("a", "float64 by hand reproduces every printed digit", "loss", "by hand", "same", "reported")
    if not found.of_source:
        checked = [Checked(claim, None, "not measured", "Not measured: other points than the source's.")]
    else:
        largest = f"{found.difference('reported'):.1e}"
        if reproduces(*found.by_hand):
            verdict, measured = (
                "holds",
                f"the arrays, printed to 1e-8, differ by {largest} at most; L and the gradient by b2 by 0.",
            )
        else:
            verdict, measured = "reversed", f"the largest difference of a gradient is {largest}."
        of_loss = float(found.by_hand[0]) - found.methods["reported"][0]
        checked = [Checked(claim, None, verdict, f"{verdict}: {measured}", of_loss)]
    agrees = "by hand and jax.grad agree within 1e-12 in float64"
    same = f"trained for {num_steps:,} steps, both give the same curve within 1e-12"
    for id, asked, error, changes in (
        ("b", agrees, found.difference("jax.grad, float64"), other_points),
        ("c", same, found.curve_difference, departed),
    ):
        claim = Claim(id, asked, "largest difference", "by hand", "about", "jax", TOLERANCE, ours=True)
        item = claims.exact(claim, error, f"the largest difference is {error:.1e}.")
        checked += departures.of_changed_run([item], changes)
    return checked


def _gradient_table(methods: dict[str, tuple[Any, Weights]]) -> page.Table:
    rows: list[tuple[str, ...]] = [("L", *(_digits(value) for value, _ in methods.values()))]
    for field in Weights._fields:
        arrays = [np.asarray(getattr(gradient, field)) for _, gradient in methods.values()]
        for index in np.ndindex(arrays[0].shape):
            label = field + (f"[{','.join(map(str, index))}]" if index else "")
            rows.append((label, *(_digits(array[index]) for array in arrays)))
    return page.Table(("quantity", *methods), rows, "The loss and its gradient, by method")


def _digits(value: Any) -> str:
    """All digits that tell `value` from its neighbours in its own precision."""
    return text.minus(str(np.asarray(value)[()]))


def _difference_table(found: Found) -> page.Table:
    loss_here = float(found.by_hand[0])
    rows = [
        (name, text.format_error(abs(float(value) - loss_here)), text.format_error(found.difference(name)))
        for name, (value, _) in found.methods.items()
        if not name.startswith("by hand")
    ]
    return page.Table(("method", "of the loss", "of the gradient"), rows, "Largest absolute difference to by hand")


def define_flags() -> None:
    """Flags of this entry point: the common ones."""
    common.define_run_flags()
    common.define_training_flags()


if __name__ == "__main__":
    define_flags()
    common.enter(lambda: run(common.options(NAME), common.log))
