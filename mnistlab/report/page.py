"""One self-contained html page, out of blocks: headings, paragraphs, tables, figures, commands."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mnistlab.errors import UserError
from mnistlab.files import sha256
from mnistlab.report.canvas import save_figure, svg_of
from mnistlab.report.text import table_cells

if TYPE_CHECKING:
    from mnistlab.report.canvas import Figure


@dataclass(frozen=True)
class Heading:
    """A heading; level 2 for sections, 3 and 4 below (the page's title is level 1)."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """Paragraphs, parted by empty lines; `backquotes` make code, nothing else is markup."""

    text: str
    notice: bool = False  # framed: what must be known before the rest is read


@dataclass(frozen=True)
class Table:
    """A table; columns of numbers go right, cells that are verdicts are drawn as such."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""


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
class Details:
    """Blocks that open on a click (and are always printed)."""

    summary: str
    blocks: Sequence[Block]


Draw: TypeAlias = Callable[..., Picture]
"""(figure, file name, caption, text in place of the picture) -> the saved figure as a block of the page."""


def draw_into(folder: Path) -> Draw:
    """What saves figures in `folder`, as svg and png, and makes blocks of them."""

    def draw(figure: Any, name: str, caption: str, alt: str | None = None) -> Picture:
        svg, _ = save_figure(figure, folder, _file_name(name))
        return Picture(svg, caption, alt or caption)

    return draw


def _file_name(name: str) -> str:
    """A file name for any name, another for every other one unless they differ in spaces and signs of equality alone.

    >>> _file_name("history_dense learning_rate=0.1"), _file_name("history_a/b")
    ('history_dense_learning_rate_0.1', 'history_a_b_e3c3c066')
    """
    plain = re.sub(r"[^\w.+-]+", "_", name).strip("_")
    is_usual = re.fullmatch(r"[\w.+= -]*", name) and len(name) < 120
    return plain if is_usual else f"{plain[:60]}_{sha256(name.encode())[:8]}"


@dataclass(frozen=True)
class Html:
    """Markup as it is: of the library's own templates alone."""

    markup: str


Block: TypeAlias = Heading | Text | Table | Picture | Command | Details | Html

# Each verdict has a sign and a border of its own, so that it reads without colour.
_VERDICTS = {
    "holds": ("holds", "✓"),
    "reversed": ("reversed", "✗"),
    "not resolved": ("open", "?"),
    "inside": ("holds", "✓"),
    "outside": ("reversed", "✗"),
}


def _inline_svg(svg: str, prefix: str, alt: str) -> str:
    """An svg file as an element of a page: no prolog, no metadata, no namespaces; every id and reference prefixed."""
    match = re.search(r"<svg\b.*</svg>", svg, re.DOTALL)
    if match is None:
        raise UserError("the picture is no svg: expected a file that save_figure wrote")
    body = re.sub(r"<metadata>.*?</metadata>", "", match.group(), flags=re.DOTALL)
    body = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body).replace("xlink:href=", "href=")
    body = re.sub(r'(\sid=")', rf"\g<1>{prefix}", body)
    body = re.sub(r'(\shref="#|url\(#)', rf"\g<1>{prefix}", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    width = re.search(r'<svg\b[^>]*?\swidth="([\d.]+)pt"', body)
    # On a narrow screen a figure scrolls before its text gets too small to read.
    style = f' style="min-width: min({width.group(1)}pt, 32rem)"' if width else ""
    return body.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"{style}', 1)


def _html_cell(cell: str) -> str:
    text = html.escape(cell)
    for word, (style, sign) in _VERDICTS.items():
        if cell == word or cell.startswith(f"{word} ("):
            rest = html.escape(cell.removeprefix(word))
            return f'<span class="verdict {style}">{sign} {word}</span>{rest}'
    return text


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


def _render(block: Block, numbers: Mapping[str, Iterator[int]]) -> str:
    match block:
        case Heading(text, level):
            level = min(max(level, 2), 6)
            return f'<h{level} id="h{next(numbers["heading"])}-{_slug(text)}">{html.escape(text)}</h{level}>'
        case Text(text, notice):
            paragraphs = [html.escape(part.strip()) for part in re.split(r"\n\s*\n", text) if part.strip()]
            tag = '<p class="notice" role="note">' if notice else "<p>"
            return re.sub(r"`([^`]+)`", r"<code>\1</code>", "\n".join(f"{tag}{part}</p>" for part in paragraphs))
        case Table(header, rows, caption):
            cells, numeric = table_cells(header, rows)
            long = [max((len(row[j]) for row in cells), default=0) > 24 for j in range(len(header))]
            kind = [
                ' class="number"' if right else ' class="words"' if words else ""
                for right, words in zip(numeric, long, strict=True)
            ]
            head = "".join(f'<th scope="col"{k}>{html.escape(name)}</th>' for name, k in zip(header, kind, strict=True))
            body = "\n".join(
                "<tr>" + "".join(f"<td{k}>{_html_cell(cell)}</td>" for cell, k in zip(row, kind, strict=True)) + "</tr>"
                for row in cells
            )
            title = f"<caption>Table {next(numbers['table'])}. {html.escape(caption)}</caption>\n" if caption else ""
            content = f"{title}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
            return f'<div class="wide"><table>\n{content}</table></div>'
        case Picture(figure, caption, alt):
            number = next(numbers["figure"])
            svg = figure.read_text(encoding="utf-8") if isinstance(figure, Path) else svg_of(figure)
            picture = _inline_svg(svg, f"f{number}-", alt)
            text = f"<figcaption>Figure {number}. {html.escape(caption)}</figcaption>"
            return f'<figure>\n<div class="picture">{picture}</div>\n{text}\n</figure>'
        case Command(text, caption):
            return f'<p class="label">{html.escape(caption)}</p>\n<pre><code>{html.escape(text.strip())}</code></pre>'
        case Details(summary, blocks):
            inner = "\n".join(_render(inside, numbers) for inside in blocks)
            return f"<details><summary>{html.escape(summary)}</summary>\n{inner}\n</details>"
        case Html(markup):
            return markup
    raise TypeError(f"no page block: {block!r}")


def html_page(title: str, blocks: Sequence[Block], footer: str = "") -> str:
    """One page that needs nothing but itself: figures inline, no addresses, scripts in `Html` alone.

    Figures and tables with captions are numbered in order; more than three level-2 headings give a list of contents.
    """
    numbers = {kind: itertools.count(1) for kind in ("heading", "table", "figure")}
    parts = [_render(block, numbers) for block in blocks]
    sections = re.findall(r'^<h2 id="([^"]+)">(.*)</h2>$', "\n".join(parts), re.MULTILINE)
    contents = "".join(f'<li><a href="#{name}">{text}</a></li>' for name, text in sections)
    nav = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n' if len(sections) > 3 else ""
    end = f"<footer>{html.escape(footer)}</footer>\n" if footer else ""
    name = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>\n{resources.files('mnistlab.report').joinpath('page.css').read_text().strip()}\n</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>\n{nav}"
        + "\n".join(parts)
        + f"\n</main>\n{end}</body>\n</html>\n"
    )
