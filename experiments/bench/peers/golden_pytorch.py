"""Golden results from outside: the experiments in plain PyTorch, written from their description alone.

    python -m experiments.bench.peers.golden_pytorch --tasks=full --seeds=16      appends to tests/golden/pytorch.csv

Nothing of mnistlab is imported, and nothing is shared with it but the archives: networks, losses, batches, splits,
initial values and the optimiser are written here once more. One seed at a time, on one thread.
"""

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from . import golden_task
from .golden_task import Images, Task

OUT = Path(__file__).parents[3] / "tests" / "golden" / "pytorch.csv"
EVALUATION_BATCH = 1000


class Tensors(NamedTuple):
    """Images as a network takes them."""

    image: torch.Tensor  # float32 [N, 1, 28, 28], 0..1
    label: torch.Tensor  # int64 [N]

    def at(self, index: torch.Tensor) -> "Tensors":
        """Those at `index` int64 [n]."""
        return Tensors(self.image[index], self.label[index])


def lenet5() -> nn.Sequential:
    """LeNet-5 with tanh and average pooling; what its softmax gives is left to `losses`."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )


def lenet5_relu() -> nn.Sequential:
    """LeNet-5 with relu, max pooling and a third convolution, which sees the whole image."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 120, 5), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def dense() -> nn.Sequential:
    """784-128-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def mlp() -> nn.Sequential:
    """784-128-64-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "lenet5": lenet5,
    "lenet5_relu": lenet5_relu,
    "dense": dense,
    "mlp": mlp,
}


class KerasAdam:
    """Adam as Keras has it: rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon); PyTorch's puts epsilon elsewhere."""

    def __init__(self, params: list[nn.Parameter], rate: float):
        self.params, self.rate, self.step_number = params, rate, 0
        self.m = [torch.zeros_like(param) for param in params]
        self.v = [torch.zeros_like(param) for param in params]

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter along its gradient."""
        b1, b2, epsilon = 0.9, 0.999, 1e-7
        self.step_number += 1
        rate = self.rate * (1 - b2**self.step_number) ** 0.5 / (1 - b1**self.step_number)
        for param, m, v in zip(self.params, self.m, self.v, strict=True):
            assert param.grad is not None
            m.mul_(b1).add_(param.grad, alpha=1 - b1)
            v.mul_(b2).addcmul_(param.grad, param.grad, value=1 - b2)
            param.addcdiv_(m, v.sqrt().add_(epsilon), value=-rate)


def build(task: Task) -> nn.Sequential:
    """The task's network as Keras initialises it: kernels Glorot-uniform, biases zero."""
    network = NETWORKS[task.network]()
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        if isinstance(layer, nn.Conv2d):  # how it is stored: quicker, the same numbers
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return network


def losses(task: Task, output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The loss of each example, float32 [N]; the source's LeNet-5 gives probabilities to a loss that wants logits."""
    logits = output.softmax(1) if task.double_softmax else output
    return functional.cross_entropy(logits, label, reduction="none")


def train(task: Task, development: Images, test: Images, seed: int, *, compiled: bool = False) -> dict[str, float]:
    """One run: its METRICS. `compiled` is quicker for LeNet-5 with tanh, and takes a minute to begin."""
    torch.manual_seed(seed)
    fit, val, test_part = split(task, _tensors(development), _tensors(test))
    network = build(task)
    forward: Any = torch.compile(network, dynamic=False) if compiled else network
    adam = KerasAdam(list(network.parameters()), task.learning_rate)
    sums = torch.zeros(2, dtype=torch.float64)
    for _ in range(task.num_epochs):
        sums.zero_()
        for index in torch.randperm(len(fit.label)).split(task.batch_size):  # the last may be smaller
            batch = fit.at(index)
            output = forward(batch.image)
            loss = losses(task, output, batch.label)
            network.zero_grad()
            loss.mean().backward()
            adam.step()
            sums += _sums(loss.detach(), output, batch.label)
    metrics = {}
    for part, total, count in (
        ("test", _evaluate(task, forward, test_part), len(test_part.label)),
        ("val", _evaluate(task, forward, val), len(val.label)),
        ("train", sums, len(fit.label)),
    ):
        metrics[f"{part}_loss"], metrics[f"{part}_accuracy"] = (total / count).tolist()
    return metrics


def split(task: Task, development: Tensors, test: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    """What is trained on, validated on, tested on."""
    if task.random_split:
        order = torch.randperm(len(development.label))
        count = len(order) * 8 // 10
        return development.at(order[:count]), development.at(order[count:]), test
    half = len(test.label) // 2
    return development, test.at(torch.arange(half, 2 * half)), test.at(torch.arange(half))


@torch.no_grad()
def _evaluate(task: Task, network: Any, part: Tensors) -> torch.Tensor:
    """Sums of loss and of right answers over a part, float64 [2]."""
    total = torch.zeros(2, dtype=torch.float64)
    for index in torch.arange(len(part.label)).split(EVALUATION_BATCH):
        batch = part.at(index)
        output = network(batch.image)
        total += _sums(losses(task, output, batch.label), output, batch.label)
    return total


def _sums(loss: torch.Tensor, output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return torch.stack([loss.sum(), (output.argmax(1) == label).sum()]).double()


def _tensors(images: Images) -> Tensors:
    image = torch.from_numpy(images.image.astype(np.float32) / 255).reshape(-1, 1, 28, 28)
    return Tensors(image, torch.from_numpy(images.label.astype(np.int64)))


def _append(path: Path, row: dict[str, object]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, golden_task.COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    """Trains what the command line names, one row per seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="full", help="full, reduced, or EXPERIMENT/VARIANT with commas between")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--compile", action="store_true", help="with torch.compile, which needs g++")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    groups = {"full": golden_task.FULL, "reduced": golden_task.REDUCED}
    known = {golden_task.name(task): task for tasks in groups.values() for task in tasks}
    for task in groups.get(arguments.tasks) or [known[name] for name in arguments.tasks.split(",")]:
        development, test = golden_task.read(task)
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            start = time.perf_counter()
            got = train(task, development, test, seed, compiled=arguments.compile)
            metrics = {name: f"{value:.6g}" for name, value in got.items()}
            about = {"experiment": task.experiment, "variant": task.variant, "seed": seed}
            _append(arguments.out, {**about, "num_epochs": task.num_epochs, **metrics})
            print(f"{golden_task.name(task)} seed {seed}: {time.perf_counter() - start:.0f} s, {metrics}", flush=True)


if __name__ == "__main__":
    main()
