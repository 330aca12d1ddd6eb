"""What the benchmark trains: the networks with their sources' optimisers and batches, and the job that peers get."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistlab.config import TrainConfig
from mnistlab.data.datasets import Dataset

from ..cli.process import num_cores
from .peers import job as jobs

NUM_EXAMPLES, NUM_VALIDATED = 60_000, 10_000
WHOLE_EPOCHS = "whole_epochs_"  # what the name of such a workload begins with: it ends in its batch size, as all do


class Workload(NamedTuple):
    """A network of models.MODELS with its source's optimiser and batch."""

    model: str
    batch_size: int
    optimizer: str = "adam"
    whole_epochs: bool = False  # not bare steps: a new order, validation and the best weights kept are timed too

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of an epoch."""
        return NUM_EXAMPLES // self.batch_size


BATCH_SIZES = (32, 64, 128, 256, 512)  # of the two networks whose speed is shown along them

WORKLOADS = {
    **{f"lenet5_{size}": Workload("lenet5", size) for size in BATCH_SIZES},
    "lenet5_relu_128": Workload("lenet5_relu", 128),
    "lenet5_relu_dropout_128": Workload("lenet5_relu_dropout", 128),
    "lenet5_relu_batchnorm_128": Workload("lenet5_relu_batchnorm", 128),
    "lenet5_adadelta_128": Workload("lenet5_adadelta", 128, "adadelta"),
    "cnn_a_32": Workload("cnn_a", 32, "rmsprop"),
    "cnn_b_32": Workload("cnn_b", 32, "rmsprop"),
    "cnn_c_32": Workload("cnn_c", 32, "rmsprop"),
    "cnn_d_32": Workload("cnn_d", 32, "rmsprop"),
    "cnn_e_32": Workload("cnn_e", 32, "rmsprop"),
    **{f"dense_{size}": Workload("dense", size) for size in BATCH_SIZES},
    "mlp512_32": Workload("mlp512", 32),
    "mlp_128_64_128": Workload("mlp_128_64", 128),
}


def workload_of(name: str) -> Workload:
    """One of WORKLOADS, whose name may begin as one of whole epochs.

    >>> workload_of("whole_epochs_dense_64")
    Workload(model='dense', batch_size=64, optimizer='adam', whole_epochs=True)
    """
    bare = name.removeprefix(WHOLE_EPOCHS)
    return WORKLOADS[bare]._replace(whole_epochs=bare != name)


def steps_of_round(workload: Workload, round_gflop: float) -> int:
    """As many steps as take `round_gflop` operations, an epoch's at most; a whole epoch's where these are timed."""
    if workload.whole_epochs:
        return workload.steps_per_epoch
    step_gflop = flops_per_example(workload.model) * workload.batch_size / 1e9
    return min(max(1, round(round_gflop / step_gflop)), workload.steps_per_epoch)


def write_job(workload: Workload, dataset: Dataset, num_steps: int, scratch: Path) -> jobs.Job:
    """The job, with its weights, images and order as files in `scratch`."""
    import jax
    from flax import traverse_util

    from mnistlab.data import batches
    from mnistlab.nets import models
    from mnistlab.training import executables, optim, step
    from mnistlab.training.losses import cross_entropy

    optim_config = optim.default_config(workload.optimizer)
    model = models.make_model(workload.model)
    program = step.make_step_functions(
        model, optim.make_optimizer(optim_config, 1, 1), cross_entropy, TrainConfig(workload.model)
    )
    seed = np.zeros(1, np.uint32)
    # As mnistlab begins a population of one, compiled as quickly.
    init = jax.jit(jax.vmap(lambda seed: program.init(seed, (28, 28, 1), {}))).lower(seed)
    state = init.compile(compiler_options=executables.compiler_options("init"))(seed)
    params = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state.params)
    np.savez(scratch / f"{workload.model}.npz", **traverse_util.flatten_dict(params, sep="/"))
    np.save(scratch / "image.npy", np.asarray(dataset.train.image))
    np.save(scratch / "label.npy", np.asarray(dataset.train.label, np.int32))
    np.save(scratch / "val_image.npy", np.asarray(dataset.test.image))
    np.save(scratch / "val_label.npy", np.asarray(dataset.test.label, np.int32))
    order = batches.epoch_order(np.arange(len(dataset.train.label), dtype=np.int32), workload.batch_size, 0, 0)
    np.save(scratch / f"order_{workload.batch_size}.npy", order.example[:num_steps])
    layers = models.MODELS[workload.model]
    rows: list[jobs.Row] = []
    shape: tuple[int, ...] = (28, 28, 1)
    for name, layer in zip(models.layer_names(layers), layers, strict=True):
        fields = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
        fields = {key: value for key, value in fields.items() if key not in ("parent", "name")}
        rows.append((type(layer).__name__, name, {**fields, "input_shape": shape}))
        shape = layer.shape_after(shape)
    return jobs.Job(
        workload.model,
        rows,
        workload.optimizer,
        optim_config.learning_rate,
        workload.batch_size,
        1,
        num_cores(),
        scratch,
        workload.whole_epochs,
        jax.default_backend(),
    )


def operations(workload: Workload) -> float:
    """Operations of an epoch, with the forward pass of its validation where that is timed too."""
    training = flops_per_example(workload.model) * workload.batch_size * workload.steps_per_epoch
    return training + 2 * sum(multiply_adds(workload.model)) * NUM_VALIDATED * workload.whole_epochs


def flops_per_example(model_name: str) -> float:
    """Operations of one example in one training step: 2 for each multiply-add of the products, nothing else counted.

    Forward, gradient of the kernel and gradient of the input, the last not for the first product. Convolutions count as
    sums over whole windows.

    >>> flops_per_example("dense") == 2 * (3 * (784 * 128 + 128 * 10) - 784 * 128)
    True
    """
    products = multiply_adds(model_name)
    return 2 * (3 * sum(products) - products[0])


@functools.cache
def multiply_adds(model_name: str) -> tuple[float, ...]:
    """Of each product of the network, for one example."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from mnistlab.nets import layers, models

    counts: list[float] = []

    def count(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and isinstance(module, layers.Conv | layers.Dense):
            kernel: Any = module.get_variable("params", "kernel")
            counts.append(float(kernel.size) * float(np.prod(out.shape[1:-1])))
        return out

    model = models.make_model(model_name)
    with nn.intercept_methods(count):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1))))
    return tuple(counts)
