"""One self-contained html page, out of blocks: headings, paragraphs, tables, figures, commands."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mnistlab.errors import UserError
from mnistlab.files import sha256
from mnistlab.report.canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, save_figure, svg_of
from mnistlab.report.text import Link, table_cells, text_table

if TYPE_CHECKING:
    from mnistlab.report.canvas import Figure


@dataclass(frozen=True)
class Heading:
    """A heading of a section."""

    text: str


@dataclass(frozen=True)
class Text:
    """Paragraphs, parted by empty lines; `backquotes` make code, nothing else is markup."""

    text: str
    notice: bool = False  # framed: what must be known before the rest is read


@dataclass(frozen=True)
class Answer:
    """What a run answers, in a sentence that stands first, and below it the question."""

    text: str
    question: str = ""


@dataclass(frozen=True)
class Card:
    """A claim: what is said, by whom, whether it holds, and numbers by name; or a run and what it answers."""

    title: str
    label: str
    verdict: str
    facts: Sequence[tuple[str, str]] = ()
    link: str = ""  # of the title, an address relative to the page


@dataclass(frozen=True)
class Cards:
    """Cards beside each other where there is room, else below."""

    cards: Sequence[Card]


@dataclass(frozen=True)
class Table:
    """A table; columns of numbers go right, cells that are verdicts are drawn as such."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""

    def as_text(self) -> str:
        """For the terminal, below its caption."""
        return f"{self.caption}\n{text_table(self.header, self.rows)}"


@dataclass(frozen=True)
class Picture:
    """A figure, or the path of an svg that `save_figure` wrote; `alt` says in words what is to be seen."""

    figure: Figure | Path
    caption: str
    alt: str


@dataclass(frozen=True)
class Command:
    """A command to copy."""

    text: str
    caption: str = "How to repeat it"


@dataclass(frozen=True)
class Words:
    """What words mean; cards and tables on the same page link to them."""

    meanings: Mapping[str, str]


@dataclass(frozen=True)
class Html:
    """Markup as it is: of the library's own templates alone."""

    markup: str


@dataclass(frozen=True)
class Filling:
    """Text and markup that are made last, of how many bytes the rest of the page takes."""

    make: Callable[[int], Sequence[Block]]


@dataclass(frozen=True)
class Details:
    """Blocks that open on a click (and are always printed)."""

    summary: str
    blocks: Sequence[Block]


Draw: TypeAlias = Callable[..., Picture]
"""(figure, file name, caption, text in place of the picture) -> the saved figure as a block of the page."""


def how_to_repeat(command: str) -> list[Block]:
    """The end of a page: the command that made it."""
    return [Heading("How to repeat it"), Command(command)]


def draw_into(folder: Path) -> Draw:
    """What saves figures in `folder`, as svg and png, and makes blocks of them."""
    names: dict[str, str] = {}  # of a file, that of its figure

    def draw(figure: Any, name: str, caption: str, alt: str | None = None) -> Picture:
        file = _file_name(name)
        if names.setdefault(file, name) != name:
            file = _hashed(name)
        svg, _ = save_figure(figure, folder, file)
        return Picture(svg, caption, alt or caption)

    return draw


def _file_name(name: str) -> str:
    """A file name for any name, another for every other one unless they differ in spaces and signs of equality alone.

    >>> _file_name("history_dense learning_rate=0.1"), _file_name("history_a/b")
    ('history_dense_learning_rate_0.1', 'history_a_b_e3c3c066')
    """
    is_usual = re.fullmatch(r"[\w.+= -]*", name) and len(name) < 120
    return _plain(name) if is_usual else _hashed(name)


def _plain(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")


def _hashed(name: str) -> str:
    return f"{_plain(name)[:60]}_{sha256(name.encode())[:8]}"


Block: TypeAlias = Answer | Heading | Text | Cards | Table | Picture | Command | Words | Html | Filling | Details

EXPLAINED = {"pairs": "Pair", "p (Holm)": "Holm", "difference": "Confidence sequence"}
"""How the numbers of claims are called, or how their names begin, and by which word that is explained."""

# Each verdict has a sign and a border of its own, so that it reads without colour.
_VERDICTS = {
    "holds": ("holds", "✓"),
    "reversed": ("reversed", "✗"),
    "the opposite holds": ("reversed", "✗"),
    "does not hold": ("reversed", "✗"),
    "no difference that matters": ("same", "≈"),
    "not resolved": ("open", "?"),
    "not measured": ("open", "–"),
    "inside": ("holds", "✓"),
    "outside": ("reversed", "✗"),
}


# The colours of canvas.py (and matplotlib's own black and white) by their names in page.css, which a theme sets.
_THEMED = {
    "#000000": "ink",
    "#ffffff": "paper",
    GREY: "soft",
    "#6b6b6b": "soft",
    "#e3e3e3": "grid",
    "#f3f3f3": "shade",
    "#c8c8c8": "line",
    BLUE: "blue",
    VERMILLION: "vermillion",
    GREEN: "green",
    PURPLE: "purple",
    ORANGE: "orange",
    SKY: "sky",
}
_COLOR = re.compile("|".join(_THEMED), re.IGNORECASE)
_BY_COLOR = {color.lower(): name for color, name in _THEMED.items()}


def _inline_svg(svg: str, prefix: str, start: str) -> Markup:
    """An svg file as an element of a page, in the page's colours and font, and as short as may be.

    No prolog, metadata, namespaces or names that nothing refers to; every other name prefixed.
    """
    match = re.search(r"<svg\b.*</svg>", svg, re.DOTALL)
    if match is None:
        raise UserError("the picture is no svg: expected a file that save_figure wrote")
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", match.group(), flags=re.DOTALL)
    body = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body).replace("xlink:href=", "href=")
    body = re.sub(r'\sid="ink\d+"', ' class="ink"', body)
    used = set(re.findall(r'(?:\shref="#|url\(#)([^")]+)', body))
    body = re.sub(r'\sid="([^"]*)"', lambda found: found.group() if found[1] in used else "", body)
    body = re.sub(r'(\sid=")', rf"\g<1>{prefix}", body)
    body = re.sub(r'(\shref="#|url\(#)', rf"\g<1>{prefix}", body)
    body = re.sub(r"<[^>]*>", lambda tag: _short_tag(tag.group()), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return Markup(body.replace("<svg", start, 1))


def _short_tag(tag: str) -> str:
    """A tag of an svg with colours by name, no font of its own, and hundredths of a point where there were millionths.

    >>> _short_tag('<path d="M 1.238 2" style="fill: #0072b2"/>')
    '<path d="M 1.24 2" style="fill: var(--blue)"/>'
    """
    tag = _COLOR.sub(lambda color: f"var(--{_BY_COLOR[color.group().lower()]})", tag)
    tag = re.sub(r" font-family: [^;\"]*;| transform=\"rotate\(-0 [^\"]*\"", "", tag)
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number.group()):.2f}".rstrip("0").rstrip("."), tag)


def _least_sizes(svg: str) -> str | None:
    """The style of an svg whose text is to be read: on a narrow screen it scrolls, on paper it may have this height."""
    found = [re.search(rf'<svg\b[^>]*?\s{side}="([\d.]+)pt"', svg) for side in ("width", "height")]
    width, height = (round(share * float(one[1])) if one else 0 for one, share in zip(found, (0.72, 0.55), strict=True))
    return f"min-width: {width}pt; --on-paper: {height}pt" if width else None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


class _Page:
    """The templates, and which headings and how many tables and figures were rendered with them.

    Args:
      words: that the page explains.
    """

    def __init__(self, words: Collection[str]) -> None:
        self.words = words
        loader = PackageLoader("mnistlab.report")
        self.templates = Environment(
            loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
        )
        self.macros: Any = self.templates.get_template("blocks.html.j2").module
        self.numbers: Mapping[str, Iterator[int]] = {kind: itertools.count(1) for kind in ("table", "figure")}
        self.sections: list[tuple[str, str]] = []  # (id, text) of the headings
        self.fillings: dict[str, Filling] = {}  # by what stands in their places

    def render(self, block: Block) -> Markup:
        """A block as a piece of the page."""
        match block:
            case Heading(text):
                name = f"h{len(self.sections) + 1}-{_slug(text)}"
                self.sections.append((name, text))
                return self.macros.heading(name, text)
            case Text(text, notice):
                parts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
                return self.macros.paragraphs([_with_code(part) for part in parts], notice)
            case Answer(text, question):
                return self.macros.answer(text.replace(" %", "\u00a0%"), question)  # a sign stays with its number
            case Cards(cards):
                drawn = [
                    (card, self._cell(card.verdict), [(name, self._word_of(name), value) for name, value in card.facts])
                    for card in cards
                ]
                return self.macros.cards(drawn)
            case Table():
                return self._table(block)
            case Picture(figure, caption, alt):
                number = next(self.numbers["figure"])
                svg = figure.read_text(encoding="utf-8") if isinstance(figure, Path) else svg_of(figure)
                start = self.macros.svg_start(alt, _least_sizes(svg))
                return self.macros.picture(_inline_svg(svg, f"f{number}-", start), f"Figure {number}. {caption}")
            case Command(text, caption):
                return self.macros.command(caption, text.strip())
            case Words(meanings):
                return self.macros.words([(_slug(word), word, meaning) for word, meaning in meanings.items()])
            case Html(markup):
                return Markup(markup)
            case Filling():
                place = f"<!-- filling {len(self.fillings)} -->"
                self.fillings[place] = block
                return Markup(place)
            case Details(summary, blocks):
                return self.macros.details(summary, self.all_of(blocks))
        raise TypeError(f"no page block: {block!r}")

    def all_of(self, blocks: Sequence[Block]) -> Markup:
        """Blocks one after another."""
        return Markup("\n").join(self.render(block) for block in blocks)

    def _table(self, block: Table) -> Markup:
        cells, numeric = table_cells(block.header, block.rows)
        long = [max((len(row[j]) for row in cells), default=0) > 24 for j in range(len(block.header))]
        kinds = ["number" if right else "words" if words else "" for right, words in zip(numeric, long, strict=True)]
        number = next(self.numbers["table"]) if block.caption else 0
        caption = f"Table {number}. {block.caption}" if block.caption else ""
        rows = [
            [
                self.macros.named(cell, value.address) if isinstance(value, Link) else self._cell(cell)
                for cell, value in zip(row, values, strict=True)
            ]
            for row, values in zip(cells, block.rows, strict=True)
        ]
        header = [(name, self._word_of(name)) for name in block.header]
        return self.macros.table(caption, f"t{number}", header, rows, kinds)

    def _word_of(self, name: str) -> str:
        """Where the page explains what a number is called; empty where it does not."""
        word = next((word for start, word in EXPLAINED.items() if name.startswith(start)), "")
        return f"#word-{_slug(word)}" if word in self.words else ""

    def _cell(self, cell: str) -> str | Markup:
        plain = cell.removeprefix("changed run: ")
        for word, (kind, sign) in _VERDICTS.items():
            if plain == word or plain.startswith(f"{word} ("):
                prefix = escape(cell.removesuffix(plain))
                return prefix + self.macros.verdict(word, sign, kind) + plain.removeprefix(word)
        return cell


def _words_in(block: Block) -> list[str]:
    match block:
        case Words(meanings):
            return list(meanings)
        case Details(_, blocks):
            return [word for inside in blocks for word in _words_in(inside)]
    return []


def _with_code(text: str) -> Markup:
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def html_page(title: str, blocks: Sequence[Block], footer: str = "") -> str:
    """One page that needs nothing but itself: figures inline, no addresses, scripts in `Html` alone.

    Figures and tables with captions are numbered in order; more than three headings give a list of contents.
    """
    page = _Page([word for block in blocks for word in _words_in(block)])
    first = next((n for n, block in enumerate(blocks) if isinstance(block, Heading)), len(blocks))
    lead, body = page.all_of(blocks[:first]), page.all_of(blocks[first:])
    styles = Markup(resources.files("mnistlab.report").joinpath("page.css").read_text().strip())
    template = page.templates.get_template("page.html.j2")
    text = template.render(title=title, lead=lead, body=body, sections=page.sections, styles=styles, footer=footer)
    for place, filling in page.fillings.items():
        text = text.replace(place, page.all_of(filling.make(len(text.encode()))))
    return text + "\n"
