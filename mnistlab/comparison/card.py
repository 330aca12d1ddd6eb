"""What goes with a trained network wherever it goes: trained on what, how good, and what not to use it for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mnistlab.analysis import departures
from mnistlab.comparison.saved import RunFolder
from mnistlab.report import text

ACCURACY = "test_accuracy"
NOT_FOR = (
    "It was made to compare ways of training on a small benchmark. Do not use it where a mistake costs anything: "
    "cheques, forms, meters, medicine, identification, examination papers, or any decision about a person. It answers "
    "with one of its classes whatever it is shown, and its probabilities are not calibrated. Pictures from elsewhere "
    "than its data may be read much worse than the accuracy above says, and for whose hand was never studied."
)
LICENCES = {
    "mnist": "Data: MNIST, Yann LeCun, Corinna Cortes and Christopher Burges, CC BY-SA 3.0.",
    "fashion_mnist": "Data: Fashion-MNIST, Zalando SE, MIT.",
}


class Card(NamedTuple):
    """A model card."""

    experiment: str
    variant: str
    seed: int
    which: str
    protocol: str  # in words, with what the run departs in
    data: Mapping[str, Any]  # name, fingerprint
    settings: Mapping[str, Any]  # the variant's config.json
    num_parameters: int
    accuracy: Mapping[str, Any]  # on test, over the seeds: mean, sd, ci95, n, values
    own_accuracy: float | None  # of this seed; None: it diverged
    code: Mapping[str, Any]  # git_revision, versions


def of_run(run: RunFolder, label: str, seed: int, which: str, num_parameters: int) -> Card:
    """The card of the network of `label` and `seed`."""
    accuracy = run.summary["variants"][label]["metrics"][ACCURACY]
    return Card(
        experiment=str(run.summary["experiment"]),
        variant=label,
        seed=seed,
        which=which,
        protocol=departures.protocol_of(run.summary),
        data=run.summary["data"],
        settings=run.settings_of(label),
        num_parameters=num_parameters,
        accuracy=accuracy,
        own_accuracy=accuracy["values"][run.seeds_of(label).index(seed)],
        code={name: run.config.get(name) for name in ("git_revision", "versions")},
    )


def of_digits(card: Card) -> bool:
    """Whether it was trained on MNIST's digits."""
    return card.data["name"] == "mnist"


def line(card: Card) -> str:
    """The data and the test accuracy, with its interval over the seeds."""
    return f"{card.num_parameters:,} parameters, {card.data['name']}, test accuracy {_measured(card)}"


def markdown(card: Card) -> str:
    """The whole card."""
    own = "diverged" if card.own_accuracy is None else text.format_value(ACCURACY, card.own_accuracy)
    best = (
        ""
        if card.which == "last"
        else " The accuracies are of the last epoch's weights; these are of the epoch best in validation."
    )
    limit = card.settings.get("limit_examples")
    part = "" if limit is None else f", the first {limit:,} training images alone"
    names = ("model", "loss", "optimizer", "batch_size", "num_epochs", "patience_epochs", "pixel_scale")
    settings = [(name, _short(card.settings[name])) for name in names if name in card.settings]
    rows = [
        ("experiment", card.experiment),
        ("variant, seed", f"{card.variant}, {card.seed}"),
        ("weights", card.which),
        ("parameters", f"{card.num_parameters:,}"),
        ("data", f"{card.data['name']}{part}"),
        ("data's fingerprint", str(card.data.get("fingerprint"))),
        ("trained under", card.protocol),
        *settings,
        ("code", str(card.code["git_revision"])),
        ("versions", ", ".join(f"{name} {version}" for name, version in dict(card.code["versions"] or {}).items())),
    ]
    return "\n\n".join(
        [
            f"# {card.variant} of {card.experiment}, seed {card.seed}",
            text.markdown_table(("", ""), rows),
            f"Test accuracy of this network: {own}. Over the seeds of its run: {_measured(card)}.{best}",
            f"## Not to be used for\n\n{NOT_FOR}",
            LICENCES.get(
                card.data["name"], "Data: its owner's; ask there what may be done with networks trained on it."
            ),
        ]
    )


def _short(setting: Any) -> str:
    """A setting, of an optimiser its name and learning rate."""
    if isinstance(setting, Mapping) and {"name", "learning_rate"} <= set(setting):
        return f"{setting['name']}, learning rate {setting['learning_rate']:g}"
    return str(setting)


def _measured(card: Card) -> str:
    mean, n = card.accuracy["mean"], card.accuracy["n"]
    if mean is None:
        return "none: every run diverged"
    low, high = card.accuracy["ci95"]
    if low is None or high is None:
        return f"{text.format_value(ACCURACY, mean)} (n = {n}, too few for an interval)"
    return f"{text.format_interval(mean, low, high)} (mean over {n} seeds with its 95 % interval)"
