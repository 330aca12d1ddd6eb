"""Keras 3 on TensorFlow: `model.fit`, its images already floats and in order when the clock starts."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from .handover import Epochs
from .job import VALIDATION_BATCH, Job, Round

MOST_EPOCHS = 10_000  # no benchmark comes to the end
OPTIMIZERS = {
    "adam": lambda rate: keras.optimizers.Adam(rate, epsilon=1e-7),
    "rmsprop": lambda rate: keras.optimizers.RMSprop(rate, rho=0.9, epsilon=1e-14),  # Keras 3 adds it within the root
    "adadelta": lambda rate: keras.optimizers.Adadelta(rate, rho=0.95, epsilon=1e-7),
}


def prepare(job: Job, peer: str) -> Round:
    """A round of `fit`, with Keras' defaults; the images are put in order before, not by Keras.

    The peer's name may say whether XLA compiles the step; left to Keras it does on a GPU, not on a CPU.
    """
    jit = False if "_nojit" in peer else True if "_jit" in peer else "auto"
    tf.config.threading.set_intra_op_parallelism_threads(job.num_threads)
    tf.config.threading.set_inter_op_parallelism_threads(job.num_threads)
    if job.platform != "gpu":
        tf.config.set_visible_devices([], "GPU")
    elif not tf.config.list_physical_devices("GPU"):
        raise RuntimeError("this TensorFlow finds no GPU, on which mnistlab runs")
    keras.utils.set_random_seed(0)
    model = build(job)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(OPTIMIZERS[job.optimizer](job.learning_rate), loss=loss, metrics=["accuracy"], jit_compile=jit)
    if job.whole_epochs:
        return Epochs(lambda after_epoch: _fit(model, job, after_epoch))
    example = job.order().reshape(-1)
    image = job.image()[example].astype(np.float32) / 255
    label = job.label()[example]

    def fit(after_epoch: Callable[[float], None]) -> None:
        call = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: after_epoch(float(logs["loss"])))
        asked = {"batch_size": job.batch_size, "epochs": MOST_EPOCHS, "shuffle": False, "verbose": 0}
        model.fit(image, label, callbacks=[call], **asked)

    return Epochs(fit)  # one call for all rounds, as a user's for all epochs


def _fit(model: keras.Model, job: Job, after_epoch: Callable[[float], None]) -> None:
    """Keras' own loop: shuffled, validated, the best weights in a file."""
    image, label = job.validation()
    best = job.folder / f"keras_{os.getpid()}.weights.h5"
    calls = [
        keras.callbacks.ModelCheckpoint(best, monitor="val_accuracy", save_best_only=True, save_weights_only=True),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: after_epoch(float(logs["loss"]))),
    ]
    model.fit(
        job.image().astype(np.float32) / 255,
        job.label(),
        batch_size=job.batch_size,
        epochs=MOST_EPOCHS,
        verbose=0,
        validation_data=(image.astype(np.float32) / 255, label),
        validation_batch_size=VALIDATION_BATCH,
        callbacks=calls,
    )


def build(job: Job) -> keras.Model:
    """The network with the job's weights."""
    params = job.params()
    inputs = keras.Input((28, 28, 1))
    x: Any = inputs
    for kind, name, fields in job.layers:
        x = _layer(kind, name, fields)(x)
    model = keras.Model(inputs, x)
    for layer in model.layers:
        name = layer.name.replace("-", "/")  # Keras allows no slash
        if f"{name}/kernel" in params:
            layer.set_weights([params[f"{name}/kernel"], params[f"{name}/bias"]])
    return model


def _layer(kind: str, name: str, fields: dict[str, Any]) -> Any:
    if kind == "Conv":
        return layers.Conv2D(
            fields["features"],
            fields["kernel_size"],
            fields["stride"],
            fields["padding"].lower(),
            activation=fields["activation"],
            name=name,
        )
    if kind == "Dense":
        return layers.Dense(fields["features"], fields["activation"], name=name)
    if kind in ("AvgPool", "MaxPool"):
        pool = layers.AveragePooling2D if kind == "AvgPool" else layers.MaxPooling2D
        return pool(fields["window"], fields["stride"])
    if kind == "LocalResponseNorm":
        radius, bias, alpha, beta = (fields[field] for field in ("depth_radius", "bias", "alpha", "beta"))
        return layers.Lambda(lambda x: tf.nn.local_response_normalization(x, radius, bias, alpha, beta))
    if kind == "BatchNorm":
        return layers.BatchNormalization(momentum=fields["momentum"], epsilon=fields["epsilon"])
    if kind == "Dropout":
        return layers.Dropout(fields["rate"])
    if kind == "Flatten":
        return layers.Flatten()
    if kind == "Pad":
        return layers.ZeroPadding2D(fields["size"])
    if kind == "Inception":
        return lambda x: _inception(x, name, fields)
    raise ValueError(f"no Keras form of {kind}")


def _inception(x: Any, name: str, fields: dict[str, Any]) -> Any:
    one, three, five, projection, three_reduce, five_reduce = fields["filters"]

    def conv(features: int, size: int, part: str, x: Any) -> Any:
        return layers.Conv2D(features, size, padding="same", activation="relu", name=f"{name}-{part}")(x)

    return layers.Concatenate()(
        [
            conv(one, 1, "one", x),
            conv(three, 3, "three", conv(three_reduce, 1, "three_reduce", x)),
            conv(five, 5, "five", conv(five_reduce, 1, "five_reduce", x)),
            conv(projection, 1, "projection", layers.MaxPooling2D(3, 1, "same")(x)),
        ]
    )
