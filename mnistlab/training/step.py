"""One step of training and of evaluation: pure, bare functions of (state, batch)."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from flax import linen as nn

from mnistlab.config import AugmentConfig, TrainConfig
from mnistlab.data import arrays
from mnistlab.data.augment import augment, mixup
from mnistlab.data.batches import Batch
from mnistlab.errors import UserError
from mnistlab.nets.models import init_variables, takes
from mnistlab.training import losses, microbatches, optim
from mnistlab.training.losses import Loss, Sums
from mnistlab.training.microbatches import Examples


class TrainState(NamedTuple):
    """All that training carries from step to step; a pytree, so that seeds can be a vmapped axis of it."""

    step: jax.Array  # int32 []
    params: Any
    model_state: dict[str, Any]  # the model's other collections: batch_stats, settings
    opt_state: Any
    rng: jax.Array  # uint32 [2]: data of one key, folded with the step


NO_AUGMENTATION = AugmentConfig()

Metric = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits float32 [N, K], label int32 [N]) -> value float32 [N]; its mean over the examples is reported."""


class InitState(Protocol):
    """The state before the first step."""

    def __call__(
        self, seed: jax.Array, image_shape: tuple[int, ...], settings: Mapping[str, jax.Array], /
    ) -> TrainState: ...


class TrainStep(Protocol):
    """One update; with `axis_name` the batch is one device's part, and sums are taken over all parts."""

    def __call__(self, state: TrainState, batch: Batch, /, axis_name: str | None = None) -> tuple[TrainState, Sums]: ...


class EvalStep(Protocol):
    """The sums of a batch; its number int32 [] keys what is random in evaluation."""

    def __call__(self, state: TrainState, batch: Batch, number: jax.Array, /, axis_name: str | None = None) -> Sums: ...


Predict = Callable[[TrainState, jax.Array], jax.Array]


class StepFunctions(NamedTuple):
    """All that training needs to know of a model, its loss and its optimiser: four pure functions."""

    init: InitState
    train_step: TrainStep
    eval_step: EvalStep
    predict: Predict  # (state, image [N, H, W, C] as the data has it) -> logits float32 [N, K]
    needs_full_batches: bool = False  # a padded batch would be counted wrongly: batch statistics without weights
    splits_batches: bool = True  # whether axis_name may be given
    halves: Callable[[int], bool] = lambda batch_size: False  # whether two cores may share a batch of that size


def make_step_functions(
    model: nn.Module,
    tx: optax.GradientTransformation,
    loss: Loss,
    config: TrainConfig,
    *,
    is_float: bool = False,
) -> StepFunctions:
    """The step functions of a Linen module: image float32 [N, H, W, C] -> logits [N, K].

    Its __call__ may take train=, weight= and axis_name=; each is given where it does. `config` gives the pixels' scale,
    the smoothing of labels, the reduction of the loss, the augmentation and the metrics. `is_float`: images are
    float32, taken as they are, not uint8.
    """
    pixel_scale, reduction = 1.0 if is_float else config.pixel_scale, config.loss_reduction

    def init(seed: jax.Array, image_shape: tuple[int, ...], settings: Mapping[str, jax.Array], /) -> TrainState:
        return init_state(model, tx, seed, image_shape, settings)

    return StepFunctions(
        init,
        make_train_step(
            model,
            tx,
            losses.smoothed(loss, config.label_smoothing),
            pixel_scale=pixel_scale,
            reduction=reduction,
            augmentation=config.augment,
        ),
        make_eval_step(model, loss, pixel_scale=pixel_scale, metrics=config.metrics),
        make_predict(model, pixel_scale=pixel_scale, is_float=is_float),
        needs_full_batches=not takes(model, "weight"),
        splits_batches=takes(model, "axis_name"),
        # Mixed examples have partners in the other half: two cores would round them differently.
        halves=lambda size: microbatches.halves(model, loss, size) and not config.augment.mixup_alpha,
    )


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    seed: jax.Array,
    image_shape: tuple[int, ...],
    settings: Mapping[str, jax.Array] | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      seed: uint32 [].
      image_shape: of one image, (H, W, C).
      settings: sweepable settings (config.SWEEPABLE) that differ from those the model and `tx` were made with.

    Raises:
      UserError: a dropout rate is set for a model that has no dropout, or a scale where there is no kernel.
    """
    settings = settings or {}
    rng = jax.random.key(seed)
    init_rng, rng = jax.random.split(rng)
    # A parameter's values do not depend on the image, so one image is enough.
    variables = init_variables(model, init_rng, jnp.zeros((1, *image_shape)))
    model_state = {name: value for name, value in variables.items() if name != "params"}
    params = variables["params"]
    if "initial_scale" in settings:
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * settings["initial_scale"] if path[-1].key == "kernel" else leaf, params
        )
        if not any(path[-1].key == "kernel" for path, _ in jax.tree_util.tree_leaves_with_path(params)):
            raise UserError("initial_scale is set, but the model has no parameter called kernel, which it multiplies")
    if "dropout_rate" in settings:
        if not model_state.get("settings"):
            raise UserError(
                "dropout_rate is set, but the model has no dropout; use a model with mnistlab.nets.layers.Dropout"
            )
        rate = jnp.asarray(settings["dropout_rate"], jnp.float32)
        model_state = {**model_state, "settings": jax.tree.map(lambda _: rate, model_state["settings"])}
    opt_state = tx.init(params)
    opt_state = optim.with_settings(opt_state, settings)
    return TrainState(jnp.zeros([], jnp.int32), params, model_state, opt_state, jax.random.key_data(rng))


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    loss: Loss,
    *,
    pixel_scale: float = 1 / 255,
    reduction: str = "mean",
    augmentation: AugmentConfig = NO_AUGMENTATION,
) -> TrainStep:
    """(state, batch) -> (state, sums of the loss and accuracy that the step saw, before its update).

    The images are augmented first, with other random numbers at every step.
    The gradient is of sum_i w_i loss_i, divided by sum_i w_i where the reduction is "mean". Networks that allow it are
    computed on microbatches, one after another.
    """
    apply = _apply(model)
    update = optax.with_extra_args_support(tx).update  # some transformations use the loss

    def train_step(state: TrainState, batch: Batch, /, axis_name: str | None = None) -> tuple[TrainState, Sums]:
        rng = jax.random.fold_in(key_of(state), state.step)
        examples = _examples(batch, pixel_scale, axis_name)
        if augmentation != NO_AUGMENTATION:
            examples = _augmented(examples, jax.random.fold_in(rng, 0), augmentation, axis_name)

        def objective(params: Any, seen: Examples) -> tuple[jax.Array, tuple[Sums, dict[str, Any]]]:
            call = Call(seen.image, rng, train=True, weight=seen.weight, axis_name=axis_name, first=seen.first)
            logits, model_state = apply(params, state.model_state, call)
            target = seen.label
            if seen.share is not None and seen.partner_label is not None:
                target = losses.mixed_target(target, seen.partner_label, seen.share, logits.shape[-1])
            total = losses.sums(loss(logits, target), logits, target, seen.weight)
            return total.loss, (total, model_state)

        params = state.params
        if axis_name is not None and _varies(axis_name):
            # Else shard_map sums the gradients of replicated parameters by itself, and the sum below counts them again.
            params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), params)
        gradient_of = functools.partial(jax.grad(objective, has_aux=True), params)
        if microbatches.halves(model, loss, _whole_size(batch, axis_name)):
            gradient, (total, model_state) = microbatches.summed(gradient_of, examples, axis_name)
        else:
            gradient, (total, model_state) = gradient_of(examples)
        gradient, total = _sum_over((gradient, total), axis_name)
        divisor = total.num_examples if reduction == "mean" else jnp.ones([])
        gradient = jax.tree.map(lambda leaf: leaf / divisor, gradient)
        updates, opt_state = update(gradient, state.opt_state, state.params, value=total.loss / divisor)
        new = TrainState(
            state.step + 1,
            optax.apply_updates(state.params, updates),
            {**state.model_state, **model_state},
            opt_state,
            state.rng,
        )
        return new, total

    return train_step


def make_eval_step(
    model: nn.Module,
    loss: Loss,
    *,
    pixel_scale: float = 1 / 255,
    metrics: Mapping[str, Metric] = MappingProxyType({}),
) -> EvalStep:
    """(state, batch, batch number int32 []) -> sums, with the model in evaluation mode.

    The batch number matters only to a model that drops out in evaluation too: it keys the mask.
    """
    apply = _apply(model)

    def eval_step(state: TrainState, batch: Batch, number: jax.Array, /, axis_name: str | None = None) -> Sums:
        rng = jax.random.fold_in(jax.random.fold_in(key_of(state), state.step), number + 1)

        def of_microbatch(part: Examples) -> Sums:
            call = Call(part.image, rng, weight=part.weight, axis_name=axis_name, first=part.first)
            logits, _ = apply(state.params, state.model_state, call)
            total = losses.sums(loss(logits, part.label), logits, part.label, part.weight)
            own = {name: jnp.sum(part.weight * metric(logits, part.label)) for name, metric in metrics.items()}
            return total._replace(metrics=own)

        examples = _examples(batch, pixel_scale, axis_name)
        halves = microbatches.halves(model, loss, _whole_size(batch, axis_name))
        return _sum_over(
            microbatches.summed(of_microbatch, examples, axis_name, cut=False) if halves else of_microbatch(examples),
            axis_name,
        )

    return eval_step


def make_predict(model: nn.Module, *, pixel_scale: float = 1 / 255, is_float: bool = False) -> Predict:
    """(state, image uint8 [N, H, W, C]) -> logits float32 [N, K], in evaluation mode; `is_float`: image float32."""
    apply = _apply(model)

    def predict(state: TrainState, image: jax.Array) -> jax.Array:
        arrays.check_images("these", image, may_be_float=is_float)
        rng = jax.random.fold_in(key_of(state), state.step)
        return apply(state.params, state.model_state, Call(image.astype(jnp.float32) * pixel_scale, rng))[0]

    return predict


def _whole_size(batch: Batch, axis_name: str | None) -> int:
    """How many examples the batch has on all devices together."""
    return len(batch.label) * (1 if axis_name is None else jax.lax.axis_size(axis_name))


def _examples(batch: Batch, pixel_scale: float, axis_name: str | None) -> Examples:
    image = batch.image.astype(jnp.float32) * pixel_scale
    first = jnp.zeros([], jnp.int32)
    if axis_name is not None:
        first += jax.lax.axis_index(axis_name) * len(image)
    return Examples(image, batch.label, batch.weight, first)


def _augmented(examples: Examples, rng: jax.Array, config: AugmentConfig, axis_name: str | None) -> Examples:
    examples = examples._replace(image=augment(rng, examples.image, config, axis_name))
    if not config.mixup_alpha:
        return examples
    mixed = mixup(rng, examples.image, examples.label, examples.weight, config.mixup_alpha, axis_name)
    return examples._replace(image=mixed.image, partner_label=mixed.partner_label, share=mixed.share)


def key_of(state: TrainState) -> jax.Array:
    """The run's key; the state holds its data, so that it is saved and sent like every other array."""
    return jax.random.wrap_key_data(state.rng)


class Call(NamedTuple):
    """One call of a model."""

    image: jax.Array  # float32 [N, H, W, C]
    rng: jax.Array  # key of its dropout
    train: bool = False
    weight: jax.Array | None = None  # float32 [N]
    axis_name: str | None = None
    first: jax.Array | None = None  # int32 []: the place of its first example in the whole batch


def _apply(model: nn.Module) -> Callable[[Any, dict[str, Any], Call], tuple[jax.Array, dict[str, Any]]]:
    """(params, model state, call) -> (logits, new model state) of any Linen module."""
    given = [name for name in ("train", "weight", "axis_name", "first") if takes(model, name)]

    def apply(params: Any, model_state: dict[str, Any], call: Call) -> tuple[jax.Array, dict[str, Any]]:
        keywords = {name: getattr(call, name) for name in given}
        mutable = ["batch_stats"] if call.train else []
        variables = {"params": params, **model_state}
        return model.apply(variables, call.image, rngs={"dropout": call.rng}, mutable=mutable, **keywords)  # type: ignore[return-value]

    return apply


def _varies(axis_name: str) -> bool:
    """Whether shard_map checks what varies over `axis_name`; under vmap and pmap nothing is checked."""
    return axis_name in jax.typeof(jax.lax.axis_index(axis_name)).manual_axis_type.varying


def _sum_over(tree: Any, axis_name: str | None) -> Any:
    """The sum over the devices, as one vector: on a CPU every sum of its own makes the cores wait for each other."""
    if axis_name is None:
        return tree
    vector, unravel = jax.flatten_util.ravel_pytree(tree)
    return unravel(jax.lax.psum(vector, axis_name))
