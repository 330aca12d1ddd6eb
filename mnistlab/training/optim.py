"""OptimConfig -> optax schedule -> optax transformation, with Keras' formulas and constants.

But for one: momentum sums gradients, and the schedule scales the sum; Keras sums what was scaled.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mnistlab.config import OptimConfig, one_of
from mnistlab.errors import UserError
from mnistlab.registry import Registry

LAST_STEP = 2**31 - 1  # an int32 can count to it, and no run reaches it
EPSILON = 1e-7  # Keras' default everywhere; optax's is 1e-8
INJECTED = ("learning_rate", "momentum", "weight_decay")
"""Settings that live in the optimiser's state, so that runs that differ in them share a program."""


class Optimizer(NamedTuple):
    """An optimiser: its direction is then scaled by the schedule and the learning rate."""

    direction: Callable[[Any], optax.GradientTransformation]  # of the momentum
    defaults: OptimConfig
    uses: tuple[str, ...] = ()  # of momentum and weight_decay, which is decoupled


class Steps(NamedTuple):
    """The times of a schedule in steps."""

    total: int
    warmup: int
    decays: list[int]


def default_config(name: str) -> OptimConfig:
    """The defaults of the optimiser `name`.

    Raises:
      UserError: no such optimiser.
    """
    one_of("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name].defaults


def check(config: OptimConfig) -> None:
    """Checks that the optimiser and the schedule, which OPTIMIZERS and SCHEDULES hold, go with the other settings.

    Raises:
      UserError: the optimiser has no such setting, or the schedule lacks one.
    """
    for name in ("momentum", "weight_decay"):
        if getattr(config, name) and name not in OPTIMIZERS[config.name].uses:
            others = " or ".join(other for other, optimizer in OPTIMIZERS.items() if name in optimizer.uses)
            raise UserError(f"{name} is set, but {config.name} has none; use the optimizer {others}")
    make_schedule(config, num_epochs=1, steps_per_epoch=100)


def make_optimizer(
    config: OptimConfig | optax.GradientTransformation, num_epochs: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The optimiser of `config`; its numeric settings are values in its state (see `with_settings`).

    The learning rate of step t is learning_rate * schedule(t), schedule having a peak of 1. A transformation of the
    user's own is taken as it is.
    """
    if not isinstance(config, OptimConfig):
        return config
    optimizer = OPTIMIZERS[config.name]
    shape = make_schedule(config, num_epochs, steps_per_epoch)

    def build(learning_rate: Any, momentum: Any, weight_decay: Any) -> optax.GradientTransformation:
        transforms = [optimizer.direction(momentum)]
        if "weight_decay" in optimizer.uses:
            transforms.append(optax.add_decayed_weights(weight_decay))
        if config.schedule != "constant":
            transforms.append(optax.scale_by_schedule(shape))
        transforms.append(optax.scale_by_learning_rate(learning_rate))
        return optax.chain(*transforms)

    return optax.inject_hyperparams(build)(
        learning_rate=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )


def with_settings(opt_state: Any, settings: Mapping[str, jax.Array]) -> Any:
    """`opt_state` with some of INJECTED replaced by float32 scalars.

    Raises:
      UserError: a setting that is no value in the state: optax.inject_hyperparams makes it one.
    """
    known = {name: jnp.asarray(value, jnp.float32) for name, value in settings.items() if name in INJECTED}
    for name in known:
        found = optax.tree_utils.tree_get_all_with_path(opt_state, name)
        if not found:
            raise UserError(f"{name} cannot be swept: the optimizer has no such value; see optax.inject_hyperparams")
        if not all(isinstance(value, jax.Array) for _, value in found):
            raise UserError(
                f"{name} cannot be swept: in the optimizer it is a schedule; sweep a number, or leave it out"
            )
    return optax.tree_utils.tree_set(opt_state, **known) if known else opt_state


def make_schedule(config: OptimConfig, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """step -> factor on the learning rate, in [0, 1]; epochs become steps here and nowhere else.

    Raises:
      UserError: the schedule lacks a setting.
    """
    total = min(max(num_epochs * steps_per_epoch, 1), LAST_STEP)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    decays = [min(max(round(epochs * steps_per_epoch), 1), LAST_STEP) for epochs in config.decay_epochs]
    return SCHEDULES[config.schedule](Steps(total, warmup, decays), config.decay_factor)


def _warmup_cosine(steps: Steps, factor: float) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(0.0 if steps.warmup else 1.0, 1.0, steps.warmup, steps.total)


def _exponential(steps: Steps, factor: float) -> optax.Schedule:
    if len(steps.decays) != 1:
        raise UserError(
            "schedule exponential needs one number in decay_epochs: the epochs in which the rate decays once"
        )
    return optax.exponential_decay(1.0, steps.decays[0], factor)


def _piecewise(steps: Steps, factor: float) -> optax.Schedule:
    if not steps.decays:
        raise UserError("schedule piecewise needs decay_epochs: the epochs at which the rate drops")
    return optax.piecewise_constant_schedule(
        1.0, {at: math.prod([factor] * steps.decays.count(at)) for at in steps.decays}
    )


def _one_cycle(steps: Steps, factor: float) -> optax.Schedule:
    fraction = steps.warmup / steps.total if steps.warmup else 0.3
    return optax.cosine_onecycle_schedule(steps.total, 1.0, pct_start=fraction)


SCHEDULES: Registry[Callable[[Steps, float], optax.Schedule]] = Registry(
    {
        "constant": lambda steps, factor: optax.constant_schedule(1.0),
        "warmup_cosine": _warmup_cosine,
        "exponential": _exponential,
        "piecewise": _piecewise,
        "one_cycle": _one_cycle,
    }
)
"""name -> (steps, decay factor) -> schedule with a peak of 1; a script may add its own."""


class ScaleByAdamState(NamedTuple):
    """Moments of the gradient."""

    step: jax.Array  # int32 []
    mu: optax.Updates
    nu: optax.Updates


def scale_by_adam() -> optax.GradientTransformation:
    """Adam with epsilon outside the bias correction, as Keras and the end of section 2 of arXiv:1412.6980 have it.

    u_t = sqrt(1 - b2^t) / (1 - b1^t) * m_t / (sqrt(v_t) + epsilon). optax.adam adds epsilon after the correction.
    """
    b1, b2 = 0.9, 0.999

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
        scaled = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + EPSILON), mu, nu)
        return scaled, ScaleByAdamState(step, mu, nu)

    return optax.GradientTransformation(init, update)


OPTIMIZERS: Registry[Optimizer] = Registry(
    {
        "adam": Optimizer(lambda momentum: scale_by_adam(), OptimConfig("adam", 1e-3)),
        "adamw": Optimizer(
            lambda momentum: scale_by_adam(), OptimConfig("adamw", 1e-3, weight_decay=0.004), uses=("weight_decay",)
        ),
        "sgd": Optimizer(lambda momentum: optax.trace(decay=momentum), OptimConfig("sgd", 1e-2), uses=("momentum",)),
        "rmsprop": Optimizer(
            lambda momentum: optax.scale_by_rms(decay=0.9, eps=EPSILON, eps_in_sqrt=False), OptimConfig("rmsprop", 1e-3)
        ),
        "adadelta": Optimizer(  # the rate as Keras 2.1 had it; later releases say 1e-3
            lambda momentum: optax.scale_by_adadelta(rho=0.95, eps=EPSILON), OptimConfig("adadelta", 1.0)
        ),
    }
)
"""name -> optimiser with Keras' defaults; a script may add its own.

OPTIMIZERS["lion"] = Optimizer(lambda momentum: optax.scale_by_lion(), OptimConfig("lion", 1e-4), ("weight_decay",))
"""
