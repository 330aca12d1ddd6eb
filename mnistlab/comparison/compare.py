"""A comparison of one's own in one call."""

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnistlab.analysis.claims import Claim
from mnistlab.comparison import run
from mnistlab.comparison.notebook import Summary
from mnistlab.comparison.spec import Experiment, Options, Variant
from mnistlab.data.datasets import Dataset
from mnistlab.training.step import Metric


def compare(
    variants: Mapping[str, Variant],
    *,
    data: Dataset | None = None,
    claims: Sequence[Claim] = (),
    metrics: Mapping[str, Metric] | None = None,
    seeds: int = 1,
    workdir: Path | str,
    **options: Any,
) -> Summary:
    """Trains every variant with the same seeds, checks the claims and leaves files and a page in `workdir`.

    Called again it continues: an interrupted run after its last epoch, a finished one with more seeds or variants.

    Args:
      data: what all variants are trained on; None takes the dataset that they name. Its own validation set, where it
        has one, is taken whatever a variant's `split` says.
      metrics: name -> (logits float32 [N, K], label int32 [N]) -> float32 [N]; measured on the final weights as
        `final_train_<name>`, `val_<name>` and `test_<name>`.
      seeds: how many; with until="resolved" at least so many, and then more until every claim is answered.
      options: fields of `Options`, such as sweep={"learning_rate": (1e-3, 1e-2)}, until="resolved", num_devices=2; and
        what the page says: name, title, question, source (whose claims they are; without it the user's own), extra.

    Returns:
      What summary.json holds: `["variants"]["a"]["metrics"]["test_accuracy"]["mean"]`, `["claims"][0]["verdict"]`, ...

    Raises:
      UserError: what cannot be, in one line that says what to do.
      TypeError: an option that there is not.
    """
    named = dict(variants)
    if data is not None:
        named = {label: dataclasses.replace(variant, dataset=data.name) for label, variant in named.items()}
    said = {name: options.pop(name) for name in ("name", "title", "question", "source", "extra") if name in options}
    experiment = Experiment(
        **{"name": "own", "title": " against ".join(named), **said},
        controlled=named,
        claims=tuple(claims),
        metrics=dict(metrics or {}),
        data=data,
    )
    is_script = bool(sys.argv) and sys.argv[0].endswith(".py") and "ipykernel" not in sys.argv[0]
    command = shlex.join(["python", *sys.argv]) if is_script else ""
    asked = Options(Path(workdir), protocol="controlled", num_seeds=seeds, command=command, **options)
    return Summary(run.run(experiment, asked))
