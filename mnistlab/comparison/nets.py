"""Trained networks on disk: their weights saved, read back, and asked."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from mnistlab import files
from mnistlab.analysis import history
from mnistlab.comparison import workdirs
from mnistlab.comparison.saved import RunFolder, choose_variant
from mnistlab.comparison.spec import Outcome, Variant
from mnistlab.config import TrainConfig
from mnistlab.data import arrays, batches
from mnistlab.data.datasets import Dataset
from mnistlab.errors import UserError
from mnistlab.report import playground
from mnistlab.report.playground import Playground
from mnistlab.training import by_hand, checkpoint, loop
from mnistlab.training.population import EVAL_BATCH_SIZE
from mnistlab.training.result import Result
from mnistlab.training.step import Predict, TrainState
from mnistlab.training.trained import Trained

KINDS = ("last", "best")
EXPORTED = "logits.exported"  # the function of a network that no name says


def save_weights(folder: Path, trained: Trained) -> None:
    """Leaves the last and the best weights of all runs in `folder`, <workdir>/checkpoints/<variant>."""
    for kind, state in zip(KINDS, (trained.state, trained.best), strict=True):
        checkpoint.save_once(folder / kind, _weights(state, trained.result), _run_of(folder / kind))


def restore_weights(folder: Path, like: Trained, kind: str = "last") -> TrainState:
    """The state that `save_weights` left in <workdir>/checkpoints/<variant>, every run on the first axis.

    Raises:
      UserError: nothing is there, it is damaged, or another run's than config.json says.
    """
    kept = checkpoint.restore_once(folder / kind, _weights(like.state, like.result), _run_of(folder / kind))
    return like.state._replace(**{name: value for name, value in kept.items() if name != "runs"})


def save_function(folder: Path, predict: Predict, state: TrainState, image: jax.ShapeDtypeStruct) -> None:
    """Leaves the function from weights and EVAL_BATCH_SIZE images [H, W, C] to logits in `folder`.

    For so many and no other number, since a module may take len(image).

    Raises:
      UserError: the folder cannot be written.
    """
    weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), _weights(state, None))
    flat, structure = jax.tree.flatten(weights)

    def logits(leaves: list[jax.Array], image: jax.Array) -> jax.Array:
        return predict(TrainState(opt_state=(), **jax.tree.unflatten(structure, leaves)), image)

    exported = jax.export.export(jax.jit(logits), platforms=("cpu", "cuda", "tpu"))
    data = bytes(exported(flat, jax.ShapeDtypeStruct((EVAL_BATCH_SIZE, *image.shape), image.dtype)).serialize())
    files.write_atomic(folder / EXPORTED, files.sha256(data).encode() + b"\n" + data)


def predict(
    run: RunFolder, variant: str | None, image: np.ndarray, *, seed: int | None = None, which: str = "last"
) -> np.ndarray:
    """Class probabilities float32 [N, K] of one trained network for images [N, H, W, C], as they were trained on.

    Args:
      variant: may be None where the run has one.
      seed: of which run; None: the first.
      which: the weights of the "last" epoch (with early stopping: the restored ones), or of the "best" in validation.

    Raises:
      UserError: no such variant, seed or weights, damaged files, or arrays that are no such images.

    >>> run = read_run("results/lenet_vs_dense")  # doctest: +SKIP
    >>> predict(run, "lenet5", image).argmax(axis=1)  # doctest: +SKIP
    array([7, 2, 1])
    """
    label = choose_variant(run, variant)
    seed = run.seeds[0] if seed is None else seed
    if seed not in run.seeds:
        raise UserError(f"seed {seed} is not in {run.path}; expected one of {', '.join(map(str, run.seeds))}")
    if which not in KINDS:
        raise UserError(f"which is {which!r}; expected one of {', '.join(KINDS)}")
    image = np.asarray(image)
    folder = run.path / "checkpoints" / history.variant_of(label, run.config["run"]["variants"])
    kept = checkpoint.restore_once(folder / which, None, _run_of(folder / which))
    number = _number(run, label, seed, kept.pop("runs", None))
    weights = jax.tree.map(lambda leaf: leaf[number], {"model_state": {}, **kept})
    function = _function_of(run, label, folder, weights)
    return np.asarray(jax.nn.softmax(_in_batches(function, image), axis=-1))


def logits(predict: Predict, state: TrainState, image: np.ndarray) -> np.ndarray:
    """float32 [N, K] of one run's `state` for images [N, H, W, C]."""
    return _in_batches(lambda part: predict(state, jnp.asarray(part)), image)


def predicted_classes(predict: Predict, trained: Trained, dataset: Dataset) -> np.ndarray:
    """What the first run says of its test examples, int [n]."""
    first = jax.tree.map(lambda leaf: leaf[0], trained.state)
    return np.argmax(logits(predict, first, test_examples(trained.result, dataset)[0]), axis=-1)


def test_examples(result: Result, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(image, label) of the test examples of the first run."""
    part = batches.split_parts(result.config, dataset, result.runs[0].seed).test - len(dataset.train.label)
    return dataset.test.image[part], dataset.test.label[part]


def playground_of(variants: Mapping[str, Variant], outcome: Outcome, room: int) -> Playground:
    """The final weights of all networks, and test images of the first, half of them such as one of them gets wrong."""
    made, missing = {}, []
    for name, trained in outcome.trained.items():
        variant = variants[history.variant_of(name, variants)]
        state, params = trained.state, trained.state.params
        if variant.program is by_hand.make_step_functions:
            params = by_hand.as_layers(params)
        elif variant.program is not None:
            missing.append(f"{name} is not in the playground: it has a program of its own.")
            continue
        weights = {"params": params, "batch_stats": state.model_state.get("batch_stats", {})}
        model = loop.make_model(variant.model, variant.model_options)
        seeds = [run.seed for run in trained.result.runs]
        made[name] = playground.Trained(model, weights, variant.pixel_scale, seeds)
    image, label = test_examples(next(iter(outcome.results.values())), outcome.dataset)
    wrong = np.zeros(len(label), bool)
    for predicted in outcome.predictions.values():
        wrong |= predicted != label if len(predicted) == len(label) else False
    chosen = playground.choose_images(wrong)
    found = playground.build(made, outcome.dataset, image[chosen], label[chosen], room)
    return found._replace(notes=[*missing, *found.notes])


def _in_batches(function: Callable[[np.ndarray], Any], image: np.ndarray) -> np.ndarray:
    starts = range(0, len(image), EVAL_BATCH_SIZE)
    return np.concatenate([function(image[start : start + EVAL_BATCH_SIZE]) for start in starts])


def _function_of(run: RunFolder, label: str, folder: Path, weights: Mapping[str, Any]) -> Any:
    """image -> logits of one network: as it was exported, or from its name."""
    path = folder / EXPORTED
    if path.exists():
        digest, _, data = path.read_bytes().partition(b"\n")
        if digest.decode(errors="replace") != files.sha256(data):
            raise UserError(f"{path} is damaged; repeat the run's command, which writes it again")
        call = jax.export.deserialize(bytearray(data)).call
        leaves = jax.tree.leaves({name: weights[name] for name in ("params", "model_state", "rng", "step")})

        def exported(image: np.ndarray) -> np.ndarray:
            missing = EVAL_BATCH_SIZE - len(image)
            return call(leaves, np.pad(image, [(0, missing), *[(0, 0)] * (image.ndim - 1)]))[: len(image)]

        return exported
    config: TrainConfig = run.variants[label].config
    predict = jax.jit(loop.predict_of(config))
    state = TrainState(opt_state=(), **weights)

    def named(image: np.ndarray) -> np.ndarray:
        arrays.check_images("these", image)
        return predict(state, image)

    return named


def _number(run: RunFolder, label: str, seed: int, runs: Mapping[str, np.ndarray] | None) -> int:
    """Which of the kept runs is that of a seed, at the settings of `label`."""
    wanted = {"seed": seed, **run.variants[label].runs[0].settings}
    if runs is None:  # of a release before this: one population, nothing swept
        return run.seeds.index(seed)
    fits = np.logical_and.reduce([np.isclose(runs[name], value) for name, value in wanted.items() if name in runs])
    found = np.flatnonzero(fits)
    chosen = run.summary["variants"][label].get("learning_rate")
    if chosen is not None and "learning_rate" in runs:
        found = found[np.isclose(runs["learning_rate"][found], chosen)]
    if len(found) != 1:
        raise UserError(f"{run.path} keeps no one network of {label}, seed {seed}; repeat its command")
    return int(found[0])


def _run_of(folder: Path) -> str:
    folder = folder.absolute()
    return workdirs.belonging(folder.parents[2], folder.parent.name, folder.name)


def _weights(state: TrainState, result: Result | None) -> dict[str, Any]:
    weights = {"params": state.params, "model_state": state.model_state, "rng": state.rng, "step": state.step}
    if result is None:
        return weights
    runs = {"seed": np.array([run.seed for run in result.runs], np.uint32)}
    for name in result.runs[0].settings:
        runs[name] = np.array([run.settings[name] for run in result.runs], np.float64)
    return {**weights, "runs": runs}
