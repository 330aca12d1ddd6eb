"""Trained networks of a comparison: their weights saved and restored, their predictions."""

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
from mnistlab.comparison.spec import Outcome, Variant
from mnistlab.data import batches
from mnistlab.data.datasets import Dataset
from mnistlab.errors import file_errors, one_line
from mnistlab.nets import models
from mnistlab.report import playground
from mnistlab.report.playground import Playground
from mnistlab.training import by_hand, checkpoint, loop
from mnistlab.training.population import EVAL_BATCH_SIZE
from mnistlab.training.result import Result
from mnistlab.training.step import Predict, TrainState
from mnistlab.training.trained import Trained

KINDS = ("last", "best")
PLATFORMS = ("cpu", "cuda", "tpu")  # on which an exported function runs
EXPORTED = "logits.exported"  # the function of a network that no name says


def save_weights(folder: Path, trained: Trained) -> None:
    """Leaves the last and the best weights of all runs in `folder`, <workdir>/checkpoints/<variant>."""
    for kind, state in zip(KINDS, (trained.state, trained.best), strict=True):
        checkpoint.save_once(folder / kind, _weights(state, trained.result), run_of(folder / kind))
    with file_errors(f"cannot remove {folder / EXPORTED}", "let it be removed, or use another --workdir"):
        files.remove(folder / EXPORTED)  # of another run that this one replaced


def restore_weights(folder: Path, like: Trained) -> TrainState:
    """The last state that `save_weights` left in <workdir>/checkpoints/<variant>, every run on the first axis.

    Raises:
      UserError: nothing is there, it is damaged, or another run's than config.json says.
    """
    kept = checkpoint.restore_once(folder / "last", _weights(like.state, like.result), run_of(folder / "last"))
    return like.state._replace(**{name: value for name, value in kept.items() if name != "runs"})


def save_function(folder: Path, predict: Predict, state: TrainState, image: jax.ShapeDtypeStruct) -> str | None:
    """Leaves the function from weights and EVAL_BATCH_SIZE images [H, W, C] to logits in `folder`, or says why not.

    For so many and no other number, since a module may take len(image). Not every function can be kept: none that
    prints or calls Python.

    Raises:
      UserError: the folder cannot be written.
    """
    weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), _weights(state, None))
    named, structure = jax.tree_util.tree_flatten_with_path(weights)
    names = [jax.tree_util.keystr(path, simple=True, separator="\0").split("\0") for path, _ in named]
    kept = sorted(range(len(names)), key=names.__getitem__)  # as they are read back: dicts, whatever they were
    flat = [named[number][1] for number in kept]

    def logits(leaves: list[jax.Array], image: jax.Array) -> jax.Array:
        own = [leaf for _, leaf in sorted(zip(kept, leaves, strict=True), key=lambda pair: pair[0])]
        return predict(TrainState(opt_state=(), **jax.tree.unflatten(structure, own)), image)

    try:
        exported = jax.export.export(jax.jit(logits), platforms=PLATFORMS)
        data = bytes(exported(flat, jax.ShapeDtypeStruct((EVAL_BATCH_SIZE, *image.shape), image.dtype)).serialize())
    except Exception as error:  # of JAX, by what is in the function
        return one_line(error)
    files.write_atomic(folder / EXPORTED, files.sha256(data).encode() + b"\n" + data)
    return None


def predicted_classes(predict: Predict, trained: Trained, dataset: Dataset) -> np.ndarray:
    """What the first run says of its test examples, int [n]."""
    first = jax.tree.map(lambda leaf: leaf[0], trained.state)
    image, _ = test_examples(trained.result, dataset)
    return np.argmax(in_batches(lambda part: predict(first, jnp.asarray(part)), image), axis=-1)


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
        model = loop.make_model(variant.model, variant.model_options)
        if variant.program is by_hand.make_step_functions:
            params = by_hand.as_layers(params)
            model = models.make_model("mlp512", use_bias=False, dropout_at_evaluation=True)
        elif variant.program is not None:
            missing.append(f"{name} is not in the playground: it has a program of its own.")
            continue
        weights = {"params": params, "batch_stats": state.model_state.get("batch_stats", {})}
        seeds = [run.seed for run in trained.result.runs]
        made[name] = playground.Trained(model, weights, variant.pixel_scale, seeds)
    image, label = test_examples(next(iter(outcome.results.values())), outcome.dataset)
    wrong = np.zeros(len(label), bool)
    for predicted in outcome.predictions.values():
        wrong |= predicted != label if len(predicted) == len(label) else False
    chosen = playground.choose_images(wrong)
    found = playground.build(made, outcome.dataset, image[chosen], label[chosen], room)
    return found._replace(notes=[*missing, *found.notes])


def in_batches(function: Callable[[np.ndarray], Any], image: np.ndarray) -> np.ndarray:
    """float32 [N, K] of images [N, H, W, C], at most EVAL_BATCH_SIZE at a time."""
    starts = range(0, len(image), EVAL_BATCH_SIZE)
    return np.concatenate([function(image[start : start + EVAL_BATCH_SIZE]) for start in starts])


def run_of(folder: Path) -> str:
    """What the checkpoint in <workdir>/checkpoints/<variant>/<kind> must belong to."""
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
