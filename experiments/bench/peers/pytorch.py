"""PyTorch, eager and compiled: images as floats on the device, one loop over the batches, a fused optimiser."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .job import VALIDATION_BATCH, Job, Round, same_padding

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


class Training(NamedTuple):
    """A network and what a step of it needs."""

    network: Any  # as it is called: compiled, or the model itself
    model: nn.Module
    optimizer: torch.optim.Optimizer
    image: torch.Tensor  # float32 [N, C, H, W], 0..1
    label: torch.Tensor  # int64 [N]


def prepare(job: Job, peer: str) -> Round:
    """A round of plain PyTorch on a GPU where there is one, else on the CPU.

    The peer's name says how: "compiled" puts torch.compile around the network, with "graphs" as CUDA graphs, with
    "tuned" by trying kernels; "channels_last" is the order of the images' axes in memory; with "ordered" the images lie
    in the order of the batches before the clock starts, and a batch is a slice of them, not gathered.
    """
    training = _training(job, peer)
    if job.whole_epochs:
        return _whole_epoch(training, job, peer)
    order = torch.from_numpy(job.order().astype(np.int64)).to(training.image.device)
    ordered = _arranged(training, order) if "ordered" in peer else training

    def train(order: np.ndarray) -> float:
        if "ordered" in peer:
            return _train(training, _slices(ordered, job.batch_size))
        index = torch.from_numpy(order.astype(np.int64)).to(training.image.device)
        return _train(training, _gathered(training, index))

    return train


def _whole_epoch(training: Training, job: Job, peer: str) -> Round:
    """A new order without its last, partial batch (torch.compile has one shape), validation, the best weights copied."""
    image, label = _tensors(*job.validation(), training.image.device)
    validation = training._replace(image=image, label=label)
    num_batches = len(training.label) // job.batch_size
    best_accuracy, best_weights = -1.0, None

    def train(order: np.ndarray) -> float:
        nonlocal best_accuracy, best_weights
        del order
        drawn = torch.randperm(len(training.label), device=training.image.device)
        drawn = drawn[: num_batches * job.batch_size].reshape(num_batches, job.batch_size)
        if "ordered" in peer:
            loss = _train(training, _slices(_arranged(training, drawn), job.batch_size))
        else:
            loss = _train(training, _gathered(training, drawn))
        accuracy = _accuracy(validation)
        if accuracy > best_accuracy:
            best_accuracy, best_weights = accuracy, copy.deepcopy(training.model.state_dict())
        return loss

    return train


@torch.no_grad()
def _accuracy(validation: Training) -> float:
    validation.model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=validation.image.device)
    for x, y in _slices(validation, VALIDATION_BATCH):
        correct += (validation.network(x).argmax(1) == y).sum()
    validation.model.train()
    return float(correct) / len(validation.label)


def _tensors(image: np.ndarray, label: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [N, H, W, C] as float32 [N, C, H, W], 0..1; int32 [N] as int64."""
    pixels = torch.from_numpy(image.astype(np.float32) / 255).permute(0, 3, 1, 2)
    return pixels.contiguous().to(device), torch.from_numpy(label.astype(np.int64)).to(device)


def _training(job: Job, peer: str) -> Training:
    torch.set_num_threads(job.num_threads)
    if job.platform == "gpu" and not torch.cuda.is_available():
        raise RuntimeError("this PyTorch finds no GPU, on which mnistlab runs")
    device = torch.device("cuda" if job.platform == "gpu" else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True  # as XLA does unless it is told otherwise
    axes = torch.channels_last if "channels_last" in peer else torch.contiguous_format
    model: Any = build(job).to(device)  # any: torch's types leave memory_format out
    model.to(memory_format=axes)
    image, label = _tensors(job.image(), job.label(), device)
    image = image.contiguous(memory_format=axes)
    network: Any = torch.compile(model, mode=_compile_mode(peer), dynamic=False) if "compiled" in peer else model
    return Training(network, model, _optimizer(job, model), image, label)


def _train(training: Training, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The mean loss over the batches, each of which is trained on."""
    device = training.image.device
    total, correct = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
    count = 0
    for x, y in batches:
        training.optimizer.zero_grad(set_to_none=True)
        logits = training.network(x)
        loss = functional.cross_entropy(logits, y)
        loss.backward()
        training.optimizer.step()
        total += loss.detach()
        correct += (logits.argmax(1) == y).sum()
        count += 1
    return float(total) / count


def _arranged(training: Training, order: torch.Tensor) -> Training:
    """The same training with its images in the order int64 [steps, B]."""
    index = order.reshape(-1)
    return training._replace(image=training.image[index], label=training.label[index])


def _slices(ordered: Training, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(ordered.image.split(size), ordered.label.split(size), strict=True)


def _gathered(training: Training, order: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return ((training.image[index], training.label[index]) for index in order)


def _compile_mode(peer: str) -> str:
    if "graphs" in peer:
        return "reduce-overhead"
    return "max-autotune-no-cudagraphs" if "tuned" in peer else "default"


def build(job: Job) -> nn.Module:
    """The network with the job's weights, in training mode."""
    torch.manual_seed(0)
    params = {name: torch.from_numpy(array) for name, array in job.params().items()}
    modules: list[nn.Module] = []
    for kind, name, fields in job.layers:
        modules += _modules(kind, name, fields, params, job)
    return nn.Sequential(*modules).train()


def _modules(kind: str, name: str, fields: dict[str, Any], params: dict[str, Any], job: Job) -> list[nn.Module]:
    shape = fields["input_shape"]
    if kind == "Conv":
        return _conv(name, fields, shape, params)
    if kind == "Dense":
        dense = nn.Linear(shape[0], fields["features"])
        kernel = params[f"{name}/kernel"]
        before = _flattened_shape(name, job)
        if before is not None:  # rows of the kernel: from (row, column, channel) to (channel, row, column)
            kernel = kernel.reshape(*before, -1).permute(2, 0, 1, 3).reshape(kernel.shape)
        _set(dense.weight, kernel.T)
        _set(dense.bias, params[f"{name}/bias"])
        return [dense, *_activation(fields)]
    if kind in ("AvgPool", "MaxPool"):
        pool: Any = nn.AvgPool2d if kind == "AvgPool" else nn.MaxPool2d
        return [pool(fields["window"], fields["stride"] or fields["window"])]
    if kind == "LocalResponseNorm":
        size = 2 * fields["depth_radius"] + 1
        return [nn.LocalResponseNorm(size, size * fields["alpha"], fields["beta"], fields["bias"])]
    if kind == "BatchNorm":
        norm: Any = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
        return [norm(shape[-1], eps=fields["epsilon"], momentum=1 - fields["momentum"])]
    if kind == "Dropout":
        return [nn.Dropout(fields["rate"])]
    if kind == "Flatten":
        return [nn.Flatten()]
    if kind == "Pad":
        return [nn.ZeroPad2d(fields["size"])]
    if kind == "Inception":
        return [_Inception(name, fields, params)]
    raise ValueError(f"no PyTorch form of {kind}")


def _conv(name: str, fields: dict[str, Any], shape: list[int], params: dict[str, Any]) -> list[nn.Module]:
    k, stride = fields["kernel_size"], fields["stride"]
    pads = [same_padding(size, k, stride) if fields["padding"] == "SAME" else (0, 0) for size in shape[:2]]
    symmetric = all(before == after for before, after in pads)
    padding = (pads[0][0], pads[1][0]) if symmetric else (0, 0)
    conv = nn.Conv2d(shape[2], fields["features"], k, stride, padding)
    _set(conv.weight, params[f"{name}/kernel"].permute(3, 2, 0, 1))
    _set(conv.bias, params[f"{name}/bias"])
    before: list[nn.Module] = [] if symmetric else [nn.ZeroPad2d((*pads[1], *pads[0]))]
    return [*before, conv, *_activation(fields)]


class _Inception(nn.Module):
    def __init__(self, name: str, fields: dict[str, Any], params: dict[str, Any]):
        super().__init__()
        one, three, five, projection, three_reduce, five_reduce = fields["filters"]
        shape = fields["input_shape"]

        def conv(features: int, size: int, part: str, channels: int) -> nn.Sequential:
            asked = {"kernel_size": size, "stride": 1, "padding": "SAME", "features": features, "activation": "relu"}
            return nn.Sequential(*_conv(f"{name}/{part}", asked, [*shape[:2], channels], params))

        self.branches = nn.ModuleList(
            [
                conv(one, 1, "one", shape[2]),
                nn.Sequential(conv(three_reduce, 1, "three_reduce", shape[2]), conv(three, 3, "three", three_reduce)),
                nn.Sequential(conv(five_reduce, 1, "five_reduce", shape[2]), conv(five, 5, "five", five_reduce)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(projection, 1, "projection", shape[2])),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _activation(fields: dict[str, Any]) -> list[nn.Module]:
    return [ACTIVATIONS[fields["activation"]]()] if fields["activation"] else []


def _flattened_shape(name: str, job: Job) -> list[int] | None:
    """Image shape before the Flatten that stands (but for dropout and normalisation) right before layer `name`."""
    shape = None
    for kind, other, fields in job.layers:
        if kind == "Flatten":
            shape = fields["input_shape"]
        if other == name:
            return shape
        if kind == "Dense":
            shape = None
    return None


def _set(parameter: torch.Tensor | None, value: torch.Tensor) -> None:
    assert parameter is not None
    with torch.no_grad():
        parameter.copy_(value)


def _optimizer(job: Job, model: nn.Module) -> torch.optim.Optimizer:
    rate = job.learning_rate
    if job.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), rate, eps=1e-7, fused=True)
    if job.optimizer == "rmsprop":
        return torch.optim.RMSprop(model.parameters(), rate, alpha=0.9, eps=1e-7, foreach=True)
    if job.optimizer == "adadelta":
        return torch.optim.Adadelta(model.parameters(), rate, rho=0.95, eps=1e-7, foreach=True)
    raise ValueError(f"no PyTorch form of {job.optimizer}")
