"""The best net under 110,000 parameters on Fashion-MNIST, and what the best epoch of a run claims.

python -m experiments.small_budgets_fashion [--seeds=16] [--until=resolved]
"""

from dataclasses import replace

from mnistlab.analysis.claims import Claim
from mnistlab.comparison.spec import Experiment
from mnistlab.config import AugmentConfig

from . import common, small_budgets

CONTROLLED = {
    "under_110000": replace(
        small_budgets.SMALL,
        model="small_110k",
        dataset="fashion_mnist",
        augment=AugmentConfig(shift_pixels=2, flip_fraction=0.5),
        description="separable convolutions with shortcuts, 64 and 128 channels",
    ),
}
MATTERS = 0.001  # 10 of the 10,000 test images
CLAIMS = (
    Claim("a", "93.5 %", "test_accuracy", "under_110000", ">", 0.935, ours=True, matters=MATTERS),
    Claim(
        "b",
        "92.5 %, as in the dataset's table",
        "test_accuracy",
        "under_110000",
        ">",
        0.925,
        ours=True,
        matters=MATTERS,
    ),
)

EXPERIMENT = Experiment(
    name="small_budgets_fashion",
    title="Few parameters on Fashion-MNIST",
    source="our own question; the dataset's own table has 92.5 % under 100,000 parameters",
    question="How accurate on Fashion-MNIST is a net under 110,000 parameters, on average at the last epoch?",
    quirks=small_budgets.EXPERIMENT.quirks,
    controlled=CONTROLLED,
    claims=CLAIMS,
    answered_by=("a", "test_accuracy"),
    extra=small_budgets.best_epoch_table,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
