"""Checked claims as blocks of a page: tables, sentences to quote, figures of the seeds and their differences."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mnistlab.analysis import claims, departures, history, looks, stats
from mnistlab.analysis.claims import Checked, Sides
from mnistlab.report import figures, page, text, words
from mnistlab.report.page import Draw
from mnistlab.training.result import Result

MOST_DRAWN = 12  # claims, whose panels one figure and one page can hold


def claims_table(checked: Sequence[Checked], changes: Sequence[str] = ()) -> page.Table:
    """The claims with their verdicts, a row each; a run with `changes` in its protocol judges no source."""
    rows = []
    for item in checked:
        c = item.comparison
        who = "ours" if item.claim.ours else "source"
        verdict = _verdict(item)
        if c is None or c.n == 0:
            n = str(c.n) if c else text.MISSING
            rows.append((item.claim.id, item.claim.text, who, verdict, *(text.MISSING,) * 3, n))
            continue
        low, high = c.interval
        interval = text.format_interval(c.difference, low, high, signed=True)
        p = text.format_p(c.p_holm) if np.isfinite(c.p_holm) else text.MISSING
        chance = text.MISSING if c.direction == "=" else f"{c.probability:.2f}"
        rows.append((item.claim.id, item.claim.text, who, verdict, interval, p, chance, str(c.n)))
    header = ("", "claim", "whose", "verdict", "difference [95 %]", "p (Holm)", "P(claim)", "n")
    what = "What the claims say, asked of a changed run: it judges no source" if changes else "Claims, checked"
    return page.Table(header, rows, f"{what}; runs are paired by seed")


def claim_cards(checked: Sequence[Checked], unit_of: Callable[[str], text.Unit] = text.unit) -> list[page.Block]:
    """The claims that were measured with their verdicts, a card each, and in a line those that were not.

    `unit_of` says in which unit a metric is.
    """
    cards = []
    for item in checked:
        if item.verdict == "not measured":
            continue
        claim, c = item.claim, item.comparison
        facts = []
        if c is not None and c.n:
            unit = unit_of(claim.metric)
            values = unit.factor * np.array([c.difference, *c.interval])
            facts = [
                (f"difference,{unit.of_difference}".rstrip(","), text.format_interval(*values, signed=True)),
                ("p (Holm)", text.format_p(c.p_holm)),
                ("pairs", f"{c.n}" + (f", {c.num_failed} diverged" if c.num_failed else "")),
            ]
            facts = facts if c.n > 1 else [facts[0], ("pairs", "1: no verdict is possible")]
        elif item.error is not None:
            facts = [("largest error", text.format_error(item.error))]
        asked = f"({claim.id}) {'our question' if claim.ours else 'the source'}"
        cards.append(page.Card(claim.text, asked, _verdict(item), facts))
    missing = [f"({item.claim.id}) {item.claim.text}" for item in checked if item.verdict == "not measured"]
    said = f"Not measured, for want of a variant or an epoch: {'; '.join(missing)}."
    return [*([page.Cards(cards)] if cards else []), *([page.Text(said)] if missing else [])]


def diverged(results: Mapping[str, Result]) -> str:
    """Which runs of which variants diverged, in words; empty where none did."""
    found = []
    for name, result in results.items():
        seeds = [run.seed for run, bad in zip(result.runs, history.diverged(result), strict=True) if bad]
        if seeds:
            which = ", ".join(map(str, seeds[:8])) + (", ..." if len(seeds) > 8 else "")
            found.append(f"{name} in {len(seeds)} of {len(result.runs)} runs (seed{'s' * (len(seeds) > 1)} {which})")
    rule = "A network that is not finite is counted, and enters no mean, interval or test."
    return f"Diverged: {'; '.join(found)}. {rule}" if found else ""


def notices(
    changes: Sequence[str], results: Mapping[str, Result], consequence: str = departures.CONSEQUENCE
) -> list[page.Block]:
    """What must be known before a run is read: the `changes` in which it departs from its protocol, what diverged."""
    lines = [departures.notice(changes, consequence) if changes else "", diverged(results)]
    return [page.Text(line, notice=True) for line in lines if line]


def _verdict(item: Checked) -> str:
    """A claim's verdict, its sides by their names."""
    return stats.named(item.verdict, item.claim.left, str(item.claim.right))


def measured_table(checked: Sequence[Checked], caption: str) -> page.Table:
    """The claims with their verdicts and what was measured in words, for those that no seeds answer."""
    rows = [(c.claim.id, c.claim.text, "ours" if c.claim.ours else "source", c.verdict, c.measured) for c in checked]
    return page.Table(("", "claim", "whose", "verdict", "measured"), rows, caption)


def quotable(checked: Sequence[Checked], where: str) -> list[page.Block]:
    """The claims as sentences to quote, which say `where` they were measured, and all the evidence."""
    measured = [item for item in checked if item.comparison]
    if not measured:
        return []
    sentences = [f"({item.claim.id}) {item.sentence}" for item in measured]
    return [
        page.Details("To quote", [page.Text("\n\n".join([f"Measured on {where}:", *sentences]))]),
        page.Details("All the evidence", [evidence_table(measured)]),
        page.Details("What the words mean", [page.Words(words.words())]),
    ]


def evidence_table(checked: Sequence[Checked]) -> page.Table:
    """All that was measured on the claims, a column each."""
    measured = [(item, item.comparison) for item in checked if item.comparison]
    columns = []
    for item, c in measured:
        claim = item.claim
        low, high = c.probability_interval
        right = claim.right if isinstance(claim.right, str) else f"{claim.right:g}"
        more = "<" if c.direction == "<" else ">"
        columns.append(
            {
                "metric": claim.metric.replace("_", " "),
                "A": claim.left,
                "B": right,
                "claim": f"A {c.direction} B",
                "pairs": str(c.n) + (f", {c.num_failed} diverged" if c.num_failed else ""),
                "A: mean ± sd": text.format_mean_sd(c.mean_a, c.sd_a, c.n),
                "B: mean ± sd": text.format_mean_sd(c.mean_b, c.sd_b, c.n),
                "A − B [95 %]": text.format_interval(c.difference, *c.interval, signed=True),
                "p that they do not differ": text.format_p(c.standing.p_differs),
                "smallest difference that matters": text.format_significant(c.margin, 2) if c.margin else "any",
                "p that the difference matters": text.format_p(c.standing.p_within) if c.margin else text.MISSING,
                "p of the verdict (Holm)": text.format_p(c.p_holm),
                "one look: A − B [95 %, t]": text.format_interval(c.difference, *c.t_interval, signed=True),
                "one look: A − B [95 %, BCa]": text.format_interval(c.difference, *c.bca_interval, signed=True),
                "one look: sign-flip p": text.format_p(c.p),
                f"one look: P(A {more} B) [95 %]": f"{c.probability:.2f} [{low:.2f}, {high:.2f}]"
                if c.n
                else text.MISSING,
                "correlation of A and B": text.format_significant(c.correlation, 2),
                "one look: smallest resolvable difference": text.format_significant(c.smallest_resolvable, 2),
                "verdict": item.verdict,
            }
        )
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, *(column.get(name, text.MISSING) for column in columns)) for name in names]
    caption = (
        'The evidence. Verdict, interval and p hold however often one looks; rows that begin with "one look" are valid '
        "for one number of pairs, chosen beforehand. Smallest resolvable: the true difference that so many pairs find "
        "four times in five, before Holm"
    )
    return page.Table(("", *(f"({item.claim.id})" for item, _ in measured)), rows, caption)


def seeds_picture(
    metric: str, results: Mapping[str, Result], draw: Draw, numbers: Mapping[str, float] | None = None
) -> page.Picture:
    """A metric of every seed, one dot each, with the reported `numbers` by variant."""
    values = {name: history.metric(result, metric) for name, result in results.items()}
    label = metric.replace("_", " ")
    figure = figures.seeds(values, label, numbers)
    caption = f"{label.capitalize()} of every seed, one dot each"
    several = any(len(array) > 1 for array in values.values())
    caption += "; below them the mean with its 95 % interval." if several else "."
    found = {name: history.summarize(array) for name, array in values.items()}
    means = "; ".join(
        f"{name} {text.format_summary(one)} (n={one['n']})" if one["n"] else f"{name}: every seed diverged"
        for name, one in found.items()
    )
    theirs = "".join(f"; reported for {name} {text.format_value(metric, one)}" for name, one in (numbers or {}).items())
    return draw(figure, f"seeds_{metric}", caption, f"Mean {label} with 95 % intervals: {means}{theirs}.")


def difference_pictures(checked: Sequence[Checked], results: Mapping[str, Result], draw: Draw) -> list[page.Picture]:
    """The paired differences behind the claims about two variants: a figure for each quantity, one row per claim."""
    rows: dict[str, dict[str, np.ndarray]] = {}
    intervals: dict[str, tuple[float, float]] = {}
    said: dict[str, str] = {}
    for item in checked:
        claim = item.claim
        both = claims.sides(claim, results)
        if item.comparison is None or both is None or not isinstance(claim.right, str):
            continue
        label = f"({claim.id}) {claim.left} − {claim.right}, {claim.metric.replace('_', ' ')}"
        rows.setdefault(text.unit(claim.metric).quantity, {})[label] = stats.paired_differences(*both)
        intervals[label] = item.comparison.interval
        said[label] = text.format_interval(item.comparison.difference, *intervals[label], signed=True)
    return [
        draw(
            figures.seeds(differences, f"difference in {quantity}", intervals=intervals),
            f"differences_{quantity}",
            f"Paired differences in {quantity}, one dot per seed; below them the mean, and the claim's 95 % interval.",
            "Mean differences: " + "; ".join(f"{row} {said[row]}" for row in differences) + ".",
        )
        for quantity, differences in rows.items()
    ]


def looks_picture(checked: Sequence[Checked], sides: Sequence[Sides | None], draw: Draw) -> list[page.Picture]:
    """Evidence and interval of the claims by number of pairs; nothing where no claim has two."""
    measured = [(c, c.comparison, both) for c, both in zip(checked, sides, strict=True) if c.comparison and both]
    drawable = [one for one in measured if one[1].n > 1]
    drawn = drawable[:MOST_DRAWN]
    rows = {
        f"({item.claim.id})": (looks.looks(both, len(measured), comparison.direction), item.claim.margin)
        for item, comparison, both in drawn
    }
    caption = (
        "Evidence and 95 % interval by number of pairs. The broken line settles the claim with the most evidence "
        "(Holm); one of equality has none. An interval between the dotted lines says that no difference matters."
    )
    if len(drawn) < len(drawable):
        caption += f" Of the {len(drawable)} claims that have two pairs the first {len(drawn)} are drawn."
    alt = "By number of pairs: " + "; ".join(f"({item.claim.id}) {_verdict(item)}" for item, *_ in drawn) + "."
    return [draw(figures.looks(rows), "looks", caption, alt)] if rows else []
