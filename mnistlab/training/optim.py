"""OptimConfig -> optax schedule -> optax transformation, with Keras' formulas and constants."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mnistlab.config import OptimConfig

LAST_STEP = 2**31 - 1  # that an int32 can count to, and no run comes to
EPSILON = 1e-7  # Keras' default everywhere; optax's is 1e-8
INJECTED = ("learning_rate", "momentum", "weight_decay")
"""Settings that live in the optimiser's state, so that runs that differ in them share a program."""


def make_optimizer(config: OptimConfig, num_epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser of `config`; its numeric settings are values in its state (see `with_settings`).

    The learning rate of step t is learning_rate * schedule(t), schedule having a peak of 1.
    """
    shape = make_schedule(config, num_epochs, steps_per_epoch)

    def build(learning_rate: Any, momentum: Any, weight_decay: Any) -> optax.GradientTransformation:
        transforms = [_direction(config.name, momentum)]
        if config.name == "adamw":
            transforms.append(optax.add_decayed_weights(weight_decay))
        if config.schedule != "constant":
            transforms.append(optax.scale_by_schedule(shape))
        transforms.append(optax.scale_by_learning_rate(learning_rate))
        return optax.chain(*transforms)

    return optax.inject_hyperparams(build)(
        learning_rate=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )


def with_settings(opt_state: Any, settings: Mapping[str, jax.Array]) -> Any:
    """`opt_state` of `make_optimizer` with some of INJECTED replaced by float32 scalars."""
    known = {name: jnp.asarray(value, jnp.float32) for name, value in settings.items() if name in INJECTED}
    return opt_state._replace(hyperparams={**opt_state.hyperparams, **known}) if known else opt_state


def make_schedule(config: OptimConfig, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """step -> factor on the learning rate, in [0, 1]; epochs become steps here and nowhere else."""
    total = min(max(num_epochs * steps_per_epoch, 1), LAST_STEP)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    decays = [min(max(round(epochs * steps_per_epoch), 1), LAST_STEP) for epochs in config.decay_epochs]
    if config.schedule == "constant":
        return optax.constant_schedule(1.0)
    if config.schedule == "warmup_cosine":
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else 1.0, 1.0, warmup, total)
    if config.schedule == "exponential":
        return optax.exponential_decay(1.0, decays[0], config.decay_factor)
    if config.schedule == "piecewise":
        return optax.piecewise_constant_schedule(
            1.0, {at: math.prod([config.decay_factor] * decays.count(at)) for at in decays}
        )
    if config.schedule == "one_cycle":
        fraction = warmup / total if warmup else 0.3
        return optax.cosine_onecycle_schedule(total, 1.0, pct_start=fraction)
    raise ValueError(f"unknown schedule {config.schedule}")


def _direction(name: str, momentum: Any) -> optax.GradientTransformation:
    if name in ("adam", "adamw"):
        return scale_by_adam()
    if name == "sgd":
        return optax.trace(decay=momentum)
    if name == "rmsprop":
        return optax.scale_by_rms(decay=0.9, eps=EPSILON, eps_in_sqrt=False)
    if name == "adadelta":
        return optax.scale_by_adadelta(rho=0.95, eps=EPSILON)
    raise ValueError(f"unknown optimizer {name}")


class ScaleByAdamState(NamedTuple):
    """Moments of the gradient."""

    step: jax.Array  # int32 []
    mu: optax.Updates
    nu: optax.Updates


def scale_by_adam(b1: float = 0.9, b2: float = 0.999, epsilon: float = EPSILON) -> optax.GradientTransformation:
    """Adam with epsilon outside the bias correction, as Keras and the end of section 2 of arXiv:1412.6980 have it.

    u_t = sqrt(1 - b2^t) / (1 - b1^t) * m_t / (sqrt(v_t) + epsilon). optax.adam adds epsilon after the correction.
    """

    def init(params: optax.Params) -> ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    def update(
        updates: optax.Updates, state: ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByAdamState]:
        del params
        step = state.step + 1
        time = step.astype(jnp.float32)
        correction = jnp.sqrt(-jnp.expm1(time * math.log(b2))) / -jnp.expm1(time * math.log(b1))
        mu = jax.tree.map(lambda m, g: m + (1 - b1) * (g - m), state.mu, updates)
        nu = jax.tree.map(lambda v, g: v + (1 - b2) * (g * g - v), state.nu, updates)
        scaled = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + epsilon), mu, nu)
        return scaled, ScaleByAdamState(step, mu, nu)

    return optax.GradientTransformation(init, update)
