"""Pages in a real browser: nothing off the screen, the answer first, no barrier, in both themes and on paper.

Needs the package playwright, a Chromium (BROWSER names it), and AXE, the path of axe-core's axe.min.js; what is missing
is said and skips, or fails with REQUIRE_BROWSER.
"""

import dataclasses
import itertools
import os
import re
import shutil
from pathlib import Path

import pytest

from experiments import lenet_vs_dense, scoreboard
from mnistlab.comparison import run, saved
from mnistlab.comparison.spec import Options

pytestmark = pytest.mark.browser

CHROMIUM = os.environ.get("BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS, THEMES, HEIGHT = (375, 800, 1200), ("light", "dark"), 812
PAGES = ("one seed", "eight seeds", "changed run", "scoreboard")


def missing(what):
    if os.environ.get("REQUIRE_BROWSER"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install mnistlab[browser]")
    if CHROMIUM is None:
        missing("no Chromium: install one, or name it in BROWSER")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def axe():
    path = os.environ.get("AXE")
    if not path:
        missing("no axe-core: npm install axe-core, then AXE=node_modules/axe-core/axe.min.js")
    return Path(path).read_text()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Name -> a page of a small run of dense nets; those of one and eight seeds are made as the experiment's own."""
    folder = tmp_path_factory.mktemp("pages")
    quick = {"num_epochs": 2, "limit_examples": 300, "batch_size": 64}
    own = lenet_vs_dense.EXPERIMENT
    dense = {name: dataclasses.replace(variant, model="dense") for name, variant in own.reported.items()}
    small = {name: dataclasses.replace(variant, **quick) for name, variant in dense.items()}
    as_own, command = dataclasses.replace(own, reported=small), "python -m experiments.lenet_vs_dense --seeds="
    run.run(as_own, Options(folder / "one seed", num_seeds=1, command=command + "1"))
    run.run(as_own, Options(folder / "eight seeds", num_seeds=8, command=command + "8"))
    changed = Options(folder / "changed run", num_seeds=2, overrides=quick, command=command + "2")
    run.run(dataclasses.replace(own, reported=dense), changed)
    places = {("lenet_vs_dense", "reported"): folder / "eight seeds", ("cnn_variants", "reported"): folder / "one seed"}
    summaries = {key: saved.read_summary(place) for key, place in places.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoreboard.common, "command", lambda: "python -m experiments.scoreboard")
        scoreboard._write(folder / "scoreboard", summaries, [], places)
    return {name: (folder / name / "report.html").as_uri() for name in PAGES}


@pytest.fixture
def opened(browser, pages):
    """(name, width, theme) -> the page in a tab of its own, with all its details open."""
    tabs = []

    def open_page(name, width=1200, theme="light"):
        tab = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=theme)
        tabs.append(tab)
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(pages[name])
        tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        return tab

    asked = []
    yield open_page
    for tab in tabs:
        tab.close()
    assert all(url.startswith(("file:", "data:")) for url in asked), asked


def views(tab, widths):
    """Each width and theme, in which the page is then seen."""
    for width, theme in itertools.product(widths, THEMES):
        tab.set_viewport_size({"width": width, "height": HEIGHT})
        tab.emulate_media(color_scheme=theme)
        yield width, theme


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_off_the_screen_and_the_answer_is_on_the_first(opened, name):
    tab = opened(name)
    for width, theme in views(tab, WIDTHS):
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, theme
        answer = tab.locator(".answer").first.bounding_box()
        assert answer["x"] >= 0 and answer["x"] + answer["width"] <= width, theme
        assert answer["y"] + answer["height"] <= HEIGHT, (width, theme)
        for verdict in tab.locator(".card .verdict").all():
            box = verdict.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, theme


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_barrier(opened, axe, name):
    tab = opened(name)
    tab.evaluate(axe)
    for width, theme in views(tab, (WIDTHS[0], WIDTHS[-1])):  # the two layouts
        found = tab.evaluate(
            """axe.run({resultTypes: ["violations"]}).then((all) => ({
                numPassed: all.passes.length,
                violations: all.violations.map((one) => [one.id, one.impact, one.nodes[0].html.slice(0, 200)]),
            }))"""
        )
        assert found["numPassed"] > 10 and found["violations"] == [], (width, theme)


@pytest.mark.parametrize("name", PAGES[:3])
def test_figures_follow_the_theme_and_their_text_is_text(opened, name):
    colors = {}
    for theme in THEMES:
        tab = opened(name, 800, theme)
        label = tab.locator("figure svg text", has_text=re.compile("^test accuracy$")).first
        colors[theme] = label.evaluate("(text) => getComputedStyle(text).fill")
        plates = "(path) => [getComputedStyle(path).fill, getComputedStyle(document.body).backgroundColor]"
        plate, background = tab.locator("figure svg path").first.evaluate(plates)
        assert plate == background
    assert colors["light"] != colors["dark"]


def test_a_page_is_printed_on_four_sheets_at_most(opened):
    for name in PAGES[:3]:
        sheets = opened(name).pdf(format="A4", prefer_css_page_size=True)
        assert 1 <= len(re.findall(rb"/Type\s*/Page\b", sheets)) <= 4, name


def test_the_scoreboard_leads_to_the_pages_of_the_runs(opened):
    tab = opened("scoreboard")
    tab.locator("main a[href$='report.html']").first.click()
    assert tab.locator("h1").inner_text() == lenet_vs_dense.EXPERIMENT.title
