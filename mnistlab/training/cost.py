"""What training costs, before any of it is done: operations and bytes, found by tracing."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnistlab import timing
from mnistlab.config import TrainConfig
from mnistlab.data.batches import Batch
from mnistlab.data.datasets import Dataset
from mnistlab.nets import models
from mnistlab.training import epoch, loop


class Cost(NamedTuple):
    """Of one run."""

    parameters: int  # that are trained
    step_flop: float  # of one training step, as XLA counts
    weight_bytes: int  # of the weights and what else predicting needs
    carry_bytes: int  # of all that is carried from epoch to epoch


def cost_of(config: TrainConfig, dataset: Dataset) -> Cost:
    """What one run of `config` costs; nothing is computed.

    Raises:
      UserError: network, loss and data do not fit together.
    """
    steps = loop.step_functions_of(config, dataset)
    image = dataset.train.image
    seed = jax.ShapeDtypeStruct((), np.uint32)
    carry = jax.eval_shape(lambda seed: epoch.start(steps.init(seed, image.shape[1:], {})), seed)
    size = min(config.batch_size, len(dataset.train.label))
    like = [((size, *image.shape[1:]), image.dtype), ((size,), np.int32), ((size,), np.float32)]
    shapes: Any = [jax.ShapeDtypeStruct(*of_one) for of_one in like]
    batch = Batch(*shapes)
    analysis: Any = jax.jit(steps.train_step).lower(carry.state, batch).cost_analysis()
    weights = (carry.best.params, carry.best.model_state)
    parameters = models.count_parameters(carry.state.params)
    return Cost(parameters, float((analysis or {}).get("flops", 0.0)), _bytes_of(weights), _bytes_of(carry))


def product_rate(size: int = 1024) -> float:
    """FLOP a second of the best of a few products of two float32 matrices [size, size] on the first device."""
    matrix = jnp.ones((size, size), jnp.float32)
    seconds = timing.time_calls(jax.jit(jnp.matmul), matrix, matrix, num_repeats=20).finished_seconds
    return 2 * size**3 / float(seconds.min())


def _bytes_of(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
