"""A trained network of a run's folder as a value that one can ask.

net = mnistlab.load_net("results/lenet_vs_dense", "lenet5", seed=0)
net.predict("seven.png").argmax(axis=1)
"""

import dataclasses
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from mnistlab import files
from mnistlab.analysis import history
from mnistlab.comparison import card, nets, saved
from mnistlab.comparison.card import Card
from mnistlab.comparison.saved import RunFolder
from mnistlab.config import TrainConfig
from mnistlab.data import arrays, photographs
from mnistlab.data.datasets import IMAGE_SHAPE
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.training import checkpoint, loop
from mnistlab.training.population import EVAL_BATCH_SIZE
from mnistlab.training.step import TrainState

Images = np.ndarray | str | Path | Sequence[np.ndarray | str | Path]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Net:
    """One trained network; `load_net` makes it."""

    variant: str
    seed: int
    which: str  # "last": the final weights, which were tested; "best": of the best validation epoch
    card: Card
    config: TrainConfig
    weights: Mapping[str, Any]  # params, model_state, rng, step: host arrays, those of a Linen module by their names
    image: jax.ShapeDtypeStruct  # as the network takes one
    exported: jax.export.Exported | None = None  # the function of a network that no name says, of a full batch

    def predict(self, images: Images) -> np.ndarray:
        """Class probabilities float32 [N, K].

        Args:
          images: as the network was trained on them, [N, H, W, C] or [H, W, C] (without C where it is 1); the path of a
            picture of a digit, which data.photographs brings to MNIST's form; or a list of either.

        Raises:
          UserError: no such images, or no picture.
        """
        return np.asarray(jax.nn.softmax(self.logits(images), axis=-1))

    def logits(self, images: Images) -> np.ndarray:
        """What `predict` makes probabilities of, float32 [N, K]."""
        return nets.in_batches(self._function(), self.seen(images))

    def seen(self, images: Images) -> np.ndarray:
        """The images that the network is shown, [N, H, W, C].

        Raises:
          UserError: as `predict`.
        """
        if isinstance(images, Sequence) and not isinstance(images, str):
            if not images:
                raise UserError("no images; expected at least one")
            return np.concatenate([self.seen(each) for each in images])
        like = self.image
        image = self._picture(images) if isinstance(images, str | Path) else np.asarray(images)
        if image.ndim == 2 or image.shape == like.shape:
            image = image[None]
        if image.ndim == 3:
            image = image[..., None]
        if like.dtype == np.float32 and np.issubdtype(image.dtype, np.floating):
            image = image.astype(np.float32)  # as data come in
        arrays.check_images("these", image, may_be_float=like.dtype == np.float32)
        if not len(image):
            raise UserError("no images; expected at least one")
        if (image.shape[1:], image.dtype) != (like.shape, like.dtype):
            expected = f"{like.dtype} [N, {', '.join(map(str, like.shape))}]"
            is_photo = card.of_digits(self.card) and not isinstance(images, str | Path)
            photo = "; a photograph is given by its path, or through mnistlab.to_mnist" if is_photo else ""
            raise UserError(f"images are {image.dtype} {list(image.shape)}; {self.variant} takes {expected}{photo}")
        return image

    def _picture(self, path: str | Path) -> np.ndarray:
        """uint8 [1, 28, 28, 1]; of other data than MNIST only a picture that is of that size already."""
        picture = photographs.read_picture(path)
        if card.of_digits(self.card):
            return photographs.to_mnist(picture)[None, ..., None]
        if picture.shape[:2] == IMAGE_SHAPE[:2] and self.image.shape == IMAGE_SHAPE:
            return photographs.to_shape(picture, IMAGE_SHAPE)[None]
        raise UserError(
            f"{path} is not of the form of {self.card.data['name']}, on which {self.variant} was trained, and only a "
            "digit is brought to its data's form; give an array of images as it was trained on"
        )

    def _function(self) -> Callable[[np.ndarray], Any]:
        """Images -> logits."""
        if self.exported is None:
            predict, state = jax.jit(loop.predict_of(self.config)), TrainState(opt_state=(), **self.weights)
            return lambda image: predict(state, image)
        call, leaves = self.exported.call, jax.tree.leaves(dict(self.weights))

        def function(image: np.ndarray) -> Any:
            missing = EVAL_BATCH_SIZE - len(image)
            return call(leaves, np.pad(image, [(0, missing), *[(0, 0)] * (image.ndim - 1)]))[: len(image)]

        return function

    def __repr__(self) -> str:
        return f"Net({self.variant}, seed {self.seed}, {self.which} weights, {card.line(self.card)})"

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(self.variant)}</b> {html.escape(repr(self)[5 + len(self.variant) : -1])}</p>"


def load_net(
    run: RunFolder | Path | str, variant: str | None = None, *, seed: int | None = None, which: str = "last"
) -> Net:
    """One trained network of a run.

    Args:
      run: the folder that a comparison left, or what `read_run` made of it.
      variant: may be None where the run has one.
      seed: of which run; None: the first.
      which: the weights of the "last" epoch (with early stopping: the restored ones), of which the test metrics are, or
        of the "best" epoch in validation.

    Raises:
      UserError: no such run, variant, seed or weights, or damaged files.

    >>> load_net("results/lenet_vs_dense", "lenet5", seed=2).predict("seven.png").shape  # doctest: +SKIP
    (1, 10)
    """
    run = run if isinstance(run, RunFolder) else saved.read_run(run)
    label = saved.choose_variant(run, variant)
    seeds = run.seeds_of(label)
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise UserError(f"seed {seed} of {label} is not in {run.path}; expected one of {', '.join(map(str, seeds))}")
    if which not in nets.KINDS:
        raise UserError(f"which is {which!r}; expected one of {', '.join(nets.KINDS)}")
    own = history.variant_of(label, run.config["run"]["variants"])
    folder = run.path / "checkpoints" / own
    kept = checkpoint.restore_once(folder / which, None, nets.run_of(folder / which))
    number = _number(run, label, seed, kept.pop("runs"))
    weights = jax.tree.map(lambda leaf: leaf[number], {"model_state": {}, **kept})
    weights = {name: weights[name] for name in ("params", "model_state", "rng", "step")}
    exported, image = _exported(folder / nets.EXPORTED), jax.ShapeDtypeStruct(IMAGE_SHAPE, np.uint8)
    config, is_named = run.variants[label].config, "program" not in run.config["run"]["variants"][own]
    if exported is not None:
        (_, *shape), dtype = exported.in_avals[-1].shape, exported.in_avals[-1].dtype
        image = jax.ShapeDtypeStruct(tuple(shape), dtype)
        if is_named and dtype == np.uint8:
            exported = None  # a name says the network, for any number of images; what was kept says their shape
    elif not is_named:
        raise UserError(f"{folder / nets.EXPORTED} is missing; repeat the run's command, which writes it again")
    if exported is None and not models.MODELS.ships(config.model):
        raise UserError(f"MODELS[{config.model!r}] is not the network of {run.path} any more; put back mnistlab's own")
    about = card.of_run(run, label, seed, which, models.count_parameters(weights["params"]))
    if image.dtype == np.float32:  # fractions are taken as they are
        about = about._replace(settings={**about.settings, "pixel_scale": 1.0})
    return Net(label, seed, which, about, config, weights, image, exported)


def predict(
    run: RunFolder, variant: str | None, image: Images, *, seed: int | None = None, which: str = "last"
) -> np.ndarray:
    """Class probabilities float32 [N, K] of one trained network: `load_net(run, variant, ...).predict(image)`.

    Args:
      image: as `Net.predict` takes them.
      seed: None: the first.
      which: "last" or "best" weights.

    Raises:
      UserError: as `load_net` and `Net.predict`.

    >>> run = read_run("results/lenet_vs_dense")  # doctest: +SKIP
    >>> predict(run, "lenet5", image).argmax(axis=1)  # doctest: +SKIP
    array([7, 2, 1])
    """
    return load_net(run, variant, seed=seed, which=which).predict(image)


def _exported(path: Path) -> jax.export.Exported | None:
    if not path.exists():
        return None
    digest, _, data = path.read_bytes().partition(b"\n")
    if digest.decode(errors="replace") != files.sha256(data):
        raise UserError(f"{path} is damaged; repeat the run's command, which writes it again")
    return jax.export.deserialize(bytearray(data))


def _number(run: RunFolder, label: str, seed: int, runs: Mapping[str, np.ndarray]) -> int:
    """Which of the kept runs is that of a seed, at the settings of `label`."""
    wanted = {"seed": seed, **run.variants[label].runs[0].settings}
    fits = np.logical_and.reduce([runs[name] == value for name, value in wanted.items()])
    found = np.flatnonzero(fits)
    chosen = run.summary["variants"][label].get("learning_rate")
    if chosen is not None:
        found = found[runs["learning_rate"][found] == chosen]
    if len(found) != 1:
        raise UserError(f"{run.path} keeps no one network of {label}, seed {seed}; repeat its command")
    return int(found[0])
