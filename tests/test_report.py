"""Tables, figures and the page: what goes in comes out again, and the page stands alone."""

import dataclasses
import math
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.text import Text
from scipy import stats as scipy_stats

from mnistlab.errors import UserError
from mnistlab.report import canvas, figures, images, page, text, words

NAN = float("nan")
METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


def history(seeds, epochs, seed=0):
    rng = np.random.default_rng(seed)
    return {metric: 0.5 + 0.1 * rng.random((seeds, epochs)) for metric in METRICS}


def line(axes, label):
    """The one line with this label."""
    (found,) = [found for found in axes.get_lines() if found.get_label() == label]
    return found


def every_figure():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    digits = [str(digit) for digit in range(10)]
    values = rng.normal(0.98, 0.01, 8)
    lines = {"cpu": ([1.0, 8.0], [0.9, 7.0], [1.1, 9.0])}
    return {
        "history": figures.history({"a": history(3, 5)}, {"a": {"val_loss": [0.5, 0.4]}}),
        "predictions": images.predictions(image, [1, 2, 3, 4], [1, 2, 3, 5], digits, 2, 2),
        "confusion": images.confusion(np.eye(10, dtype=int) * 7, digits),
        "seeds": figures.seeds({"a": values, "b": values[:1]}, "test accuracy", {"a": 0.97}),
        "differences": figures.seeds({"a > b": values}, "difference", intervals={"a > b": (0.9, 1.0)}),
        "forest": figures.forest([figures.ForestRow("a", 0.98, (0.97, 0.99), (0.95, 1.01), 0.975)], "accuracy"),
        "sweep": figures.sweep([1e-3, 1e-2], {"a": rng.random((2, 4))}, "learning rate", "accuracy"),
        "lines": figures.lines([10, 100], lines, "size", "time (ms)", log="xy"),
        "singular": images.signed(rng.normal(size=(2, 28, 28)), ["1", "2"]),
    }


# Numbers


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("test_accuracy", 0.98664, "0.9866"),
        ("val_loss", 1.4758, "1.4758"),
        ("val_loss", 12.34567, "12.3457"),
        ("params", 407050, "407,050"),
        ("stopped_epoch", 16.0, "16"),
        ("train_seconds", 99.07, "99.1"),
        ("train_seconds", 0.0012345, "0.00123"),
        ("milliseconds", 3473.367, "3,470"),
        ("milliseconds", 9.996, "10.0"),
        ("test_accuracy", NAN, "–"),
        ("test_accuracy", None, "–"),
        ("difference_in_loss", -0.25, "−0.2500"),
    ],
)
def test_format_value(metric, value, expected):
    assert text.format_value(metric, value) == expected


@pytest.mark.parametrize(
    ("mean", "sd", "n", "expected"),
    [
        (0.98713, 0.00087, 8, "0.9871 ± 0.0009 (n=8)"),
        (0.98713, 0.00123, 8, "0.9871 ± 0.0012 (n=8)"),  # a leading 1 keeps a second digit
        (0.98713, 0.0096, 8, "0.987 ± 0.010 (n=8)"),
        (0.98713, 0.0000996, 8, "0.98713 ± 0.00010 (n=8)"),
        (1234.5, 33.0, 3, "1,234 ± 33 (n=3)"),
        (0.98713, 0.0, 8, "0.9871 ± 0.0000 (n=8)"),
        (np.mean([0.1] * 3), np.std([0.1] * 3, ddof=1), 3, "0.1000 ± 0.0000 (n=3)"),  # rounding of a sum
        (0.98713, NAN, 1, "0.9871 (n=1)"),
    ],
)
def test_format_mean_sd(mean, sd, n, expected):
    assert text.format_mean_sd(mean, sd, n) == expected


def test_format_interval_takes_digits_from_the_width():
    assert text.format_interval(0.5, 0.25, 0.75) == "0.5 [0.2, 0.8]"
    assert text.format_interval(-0.00031, -0.00042, -0.0002, signed=True) == "−0.00031 [−0.00042, −0.00020]"
    assert text.format_interval(0.98765, NAN, NAN) == "0.9877"
    assert text.format_interval(0.1, 0.1 - 1e-17, 0.1 + 2e-17) == "0.1000 [0.1000, 0.1000]"


def test_names_that_differ_in_signs_alone_have_figures_of_their_own(tmp_path):
    draw = page.draw_into(tmp_path)
    names = ("net", "net_", "my net", "my_net", "net")
    files = [draw(figures.seeds({"a": np.ones(2)}, "x"), name, "").figure for name in names]
    assert len(set(files[:4])) == 4 and files[4] == files[0]


def test_only_the_shares_that_are_known_are_points():
    assert text.unit("overfitting_gap").of_difference == " points"
    assert text.unit("test_logit_gap") == text.Unit("test_logit_gap")


def test_text_table_is_aligned():
    rows = [["lenet5", 61706, "0.9871 ± 0.0009 (n=8)", True], ["a longer name", 7, None, False]]
    lines = text.text_table(["variant", "params", "test accuracy", "best"], rows).splitlines()
    widths = [13, 6, 21, 4]
    assert lines[1] == "  ".join("-" * width for width in widths)
    starts = np.cumsum([0] + [width + 2 for width in widths])
    cells = [[line[a : a + w] for a, w in zip(starts, widths, strict=False)] for line in lines]
    assert [row[0] for row in cells[2:]] == ["lenet5       ", "a longer name"]
    assert [row[1] for row in cells] == ["params", "------", "61,706", "     7"]
    assert [row[2] for row in cells[2:]] == ["0.9871 ± 0.0009 (n=8)", "–".rjust(21)]
    assert [row[3].strip() for row in cells[2:]] == ["yes", "no"]


def test_a_ragged_table_is_refused():
    with pytest.raises(ValueError, match="2 cells, its header has 1"):
        text.text_table(["a"], [[1, 2]])


# Figures


def test_history_draws_the_epochs_as_they_are():
    ours, reported = history(4, 6), {metric: np.linspace(0.5, 0.6, 8) for metric in METRICS}
    figure = figures.history({"a": ours, "b": history(1, 6)}, {"a": reported})
    assert len(figure.axes) == 4
    for axes, quantity in zip(figure.axes[:2], ("loss", "accuracy"), strict=True):
        for part, label in (("train", "training"), ("val", "validation")):
            values = ours[f"{part}_{quantity}"]
            np.testing.assert_array_equal(line(axes, label).get_xdata(), [1, 2, 3, 4, 5, 6])
            np.testing.assert_allclose(line(axes, label).get_ydata(), values.mean(0), rtol=1e-15)
            behind = line(axes, f"reported {label}")
            np.testing.assert_array_equal(behind.get_ydata(), reported[f"{part}_{quantity}"])
            assert behind.get_zorder() < line(axes, label).get_zorder()
            assert behind.get_linestyle() != "-"
        bands = [c for c in axes.collections if isinstance(c, PolyCollection)]
        corners = bands[0].get_paths()[0].vertices
        for epoch in range(6):
            band = corners[corners[:, 0] == epoch + 1, 1]
            seeds = ours[f"train_{quantity}"][:, epoch]
            assert (band.min(), band.max()) == (seeds.min(), seeds.max())
    assert not figure.axes[2].collections  # one seed has no band
    assert "lowest to highest of 4 seeds" in "".join(label.get_text() for label in figure.legends[0].get_texts())


def test_history_leaves_out_the_epochs_of_stopped_seeds():
    values = np.array([[0.4, 0.3, NAN, NAN], [0.6, 0.5, 0.2, NAN]])
    axes = figures.history({"a": {"val_loss": values}}).axes[0]
    np.testing.assert_allclose(line(axes, "validation").get_ydata(), [0.5, 0.4, 0.2, NAN])
    np.testing.assert_array_equal(line(axes, "last epoch of a seed that stopped").get_xdata(), [2, 3])


@pytest.mark.filterwarnings("error")
def test_history_survives_a_variant_that_never_finished_an_epoch(tmp_path):
    figure = figures.history({"a": {metric: np.full((2, 3), NAN) for metric in METRICS}})
    canvas.save_figure(figure, tmp_path, "empty")


def test_history_says_so_where_the_axis_ends_before_a_point():
    good = np.concatenate([[0.1], np.linspace(0.97, 0.99, 19)])
    axes = figures.history({"a": {"val_accuracy": good, "train_accuracy": np.full(20, 0.98)}}).axes[1]
    assert 0.9 < axes.get_ylim()[0] < 0.97
    (note,) = axes.texts
    assert (note.get_text(), note.xy[0]) == ("down to 0.100", 1)  # beside epoch 1
    # Nothing is cut where nothing is wasted.
    calm = figures.history({"a": {"val_accuracy": np.linspace(0.9, 0.99, 20)}}).axes[1]
    assert calm.get_ylim()[0] < 0.9
    assert not calm.texts


def test_a_network_with_more_logits_than_there_are_classes_has_its_predictions_drawn():
    image = np.zeros((2, 8, 8, 1), np.uint8)
    figure = images.predictions(image, [0, 1], [0, 7], ["dark", "bright"], 1, 2)
    assert "7" in figure.axes[0].texts[1].get_text() and "bright" in figure.axes[0].texts[1].get_text()


def test_images_of_any_channels_and_scale_are_drawn():
    fractions = np.linspace(-1, 1, 2 * 9, dtype=np.float32).reshape(2, 3, 3, 1)
    drawn = images.predictions(fractions, [0, 1], None, ["a", "b"], 1, 2).axes[0].get_images()
    assert (drawn[0].get_array().min(), drawn[1].get_array().max()) == (0, 255)
    two_channels = np.stack([np.zeros((2, 3, 3)), np.full((2, 3, 3), 100)], axis=-1).astype(np.uint8)
    (picture, _) = images.predictions(two_channels, [0, 1], None, ["a", "b"], 1, 2).axes[0].get_images()
    assert np.all(picture.get_array() == 50)


def test_predictions_mark_what_is_wrong_twice():
    image = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3, 1)
    figure = images.predictions(image, [0, 1, 2, 3], [0, 1, 7, 3], [str(k) for k in range(10)], 2, 2)
    (axes,) = figure.axes
    assert [title.get_text() for title in axes.texts] == [
        "truth 0, predicted 0",
        "truth 1, predicted 1",
        "truth 2, predicted 7 ✗",
        "truth 3, predicted 3",
    ]
    marked = [True, True, False, True]
    assert [to_rgba(title.get_color()) == to_rgba("black") for title in axes.texts] == marked
    assert [frame.get_linewidth() < 1 for frame in axes.patches] == marked
    for k, picture in enumerate(axes.get_images()):
        np.testing.assert_array_equal(picture.get_array(), image[k, ..., 0])
        left, right, foot, top = picture.get_extent()
        assert 0 < right - left == pytest.approx(foot - top) and left < axes.texts[k].get_position()[0] < right
    labelled = images.predictions(image, [0, 1, 1, 0], None, ["Coat", "Bag"], 2, 3)
    assert [title.get_text() for title in labelled.axes[0].texts] == ["Coat", "Bag", "Bag", "Coat"]


def test_a_picture_keeps_its_proportions_within_its_tile():
    wide = np.zeros((3, 10, 20, 3), np.uint8)
    for picture in images.predictions(wide, [0, 1, 2], None, ["a", "b", "c"], 2, 2).axes[0].get_images():
        left, right, foot, top = picture.get_extent()
        assert right - left == pytest.approx(2 * (foot - top)) and 0 < right - left < 1.42


def test_confusion_has_truth_in_rows():
    counts = np.array([[90, 10, 0], [1, 2, 7], [0, 0, 0]])
    axes = images.confusion(counts, ["a", "b", "c"]).axes[0]
    shown = {label.get_position(): label.get_text() for label in axes.texts}
    assert shown[(1, 0)] == "10"  # x is the prediction, y the truth
    assert shown[(2, 1)] == "7"
    np.testing.assert_allclose(axes.get_images()[0].get_array(), [[0.9, 0.1, 0], [0.1, 0.2, 0.7], [0, 0, 0]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_seeds_show_every_finite_seed_and_the_interval_of_the_mean():
    values = [0.981, 0.985, NAN, 0.979, 0.984]
    axes = figures.seeds({"a": values}, "test accuracy", {"a": 0.9832}).axes[0]
    finite = np.array(values)[np.isfinite(values)]
    np.testing.assert_array_equal(np.sort(line(axes, "one seed").get_xdata()), np.sort(finite))
    np.testing.assert_array_equal(line(axes, "reported").get_xdata(), [0.9832, 0.9832])
    expected = scipy_stats.t.interval(0.95, 3, finite.mean(), finite.std(ddof=1) / 2)
    bars = [found.get_xdata() for found in axes.get_lines() if found.get_label().startswith("_")]
    np.testing.assert_allclose(bars, [expected], rtol=1e-9)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (n=4, 1 not finite)"]


def test_the_numbers_of_an_axis_stand_apart(tmp_path):
    values = {name: np.linspace(0.8833, 0.9027, 10) for name in ("keras", "dropout_at_evaluation")}
    svg = page.draw_into(tmp_path)(figures.seeds(values, "test accuracy"), "seeds", "").figure.read_text()
    assert 3 <= len(re.findall(r">0\.\d+<", svg)) <= 6  # there is room for so many


def test_differences_draw_the_interval_that_they_are_given():
    axes = figures.seeds({"a > b": [0.1, 0.3], "b > c": [0.2]}, "accuracy", intervals={"a > b": (-0.5, 0.9)}).axes[0]
    bars = [tuple(found.get_xdata()) for found in axes.get_lines() if found.get_label().startswith("_")]
    assert bars == [(-0.5, 0.9)]
    assert set(line(axes, "no difference").get_xdata()) == {0.0}


def test_forest_is_about_the_reported_number():
    rows = [
        figures.ForestRow("a", 0.75, (0.5, 1.0), (0.25, 1.25), reported=0.5),
        figures.ForestRow("never reported", 0.75, (0.5, 1.0)),
    ]
    numbers, axes = figures.forest(rows, "accuracy").axes
    assert list(line(axes, "where one more run would fall (95 %)").get_xdata()) == [-0.25, 0.75]
    assert list(line(axes, "ours: mean and its 95 % interval").get_xdata()) == [0.25]
    assert [label.get_text() for label in numbers.texts[2:]] == ["0.5000", "0.8 [0.5, 1.0]", "–", "0.8 [0.5, 1.0]"]


@pytest.mark.parametrize("name", ["$\\frac{1$", "$$", "$x$", "a_{$"])
def test_a_dollar_in_a_name_is_a_dollar(name):
    values = np.array([0.25, 0.5])
    drawn = [
        figures.history({name: history(3, 5)}),
        figures.seeds({name: values}, name),
        figures.seeds({name: values}, name, intervals={name: (0.25, 0.5)}),
        figures.forest([figures.ForestRow(name, 0.5)], name),
        figures.sweep([1e-3, 1e-2], {name: np.ones((2, 2))}, name, name),
        figures.durations({name: {name: [1.0, 20.0]}}, name),
    ]
    for figure in drawn:
        texts = [text for text in figure.findobj(Text) if name in text.get_text()]
        assert texts and not any(text.get_parse_math() for text in texts)


def test_the_numbers_of_a_logarithmic_axis_are_no_formulas():
    lines = {"a": ([0.001, 0.02], [0.001, 0.02], [0.001, 0.02])}
    (axes,) = figures.lines([1, 2], lines, "n", "difference", log="y").axes
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert {"0.001", "0.002", "0.005", "0.01", "0.02"} <= set(shown)


def test_sweep_averages_over_seeds_not_settings():
    values = np.array([[0.1, 0.3], [0.5, NAN], [0.2, 0.8]])
    axes = figures.sweep([1e-4, 1e-3, 1e-2], {"a": values}, "learning rate", "accuracy").axes[0]
    np.testing.assert_allclose(line(axes, "a").get_ydata(), [0.2, 0.5, 0.5])
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.0001", "0.001", "0.01"]


def test_durations_mark_medians_and_what_is_ours():
    figure = figures.durations({"a": {"mine": [1.0, 3.0, 2.0], "mine_8": [1.0], "other": [4.0]}}, "seconds")
    (axes,) = figure.axes
    bars = [line for line in axes.get_lines() if line.get_linestyle() == "-"]
    assert [line.get_xdata()[0] for line in bars] == [2.0, 1.0, 4.0]
    assert [line.get_color() == canvas.BLUE for line in bars] == [True, True, False]
    dots = [line.get_xdata().tolist() for line in axes.get_lines() if line.get_marker() == "o"]
    assert dots == [[1.0, 3.0, 2.0], [1.0], [4.0]]


def test_singular_images_share_a_scale_symmetric_about_zero():
    weights = np.array([[[1.0, -3.0]], [[0.5, 2.0]]])
    figure = images.signed(weights, ["1", "2"])
    assert [axes.get_images()[0].get_clim() for axes in figure.axes[:2]] == [(-3.0, 3.0)] * 2


@pytest.mark.filterwarnings("error")
def test_every_figure_is_labelled_and_its_files_are_whole_and_small(tmp_path):
    for name, figure in every_figure().items():
        if name not in ("predictions", "singular"):
            labels = [axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes if axes.get_lines() or axes.images]
            assert all(labels), name
        svg, png = canvas.save_figure(figure, tmp_path, name)
        data = png.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", data[16:24])
        np.testing.assert_allclose([width, height], figure.get_size_inches() * 200, atol=1)
        assert svg.stat().st_size < 300_000
        assert "<text" in svg.read_text() or name == "predictions"  # not outlines: searched, copied, read aloud
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".png"] * 9 + [".svg"] * 9


def test_the_same_figure_is_the_same_bytes(tmp_path):
    first, second = every_figure(), every_figure()
    for name in ("history", "predictions", "forest"):
        once = [path.read_bytes() for path in canvas.save_figure(first[name], tmp_path / "1", name)]
        again = [path.read_bytes() for path in canvas.save_figure(first[name], tmp_path / "2", name)]
        anew = [path.read_bytes() for path in canvas.save_figure(second[name], tmp_path / "3", name)]
        assert once == again == anew


def test_pixels_are_the_picture():
    figure = figures.seeds({"a": [1.0, 2.0]}, "loss")
    picture = canvas.pixels(figure)
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture.shape, [*(figure.get_size_inches()[::-1] * 100), 3], atol=1)
    assert (picture[0, 0] == 255).all()
    color = np.array([int(canvas.SKY[k : k + 2], 16) for k in (1, 3, 5)])
    assert (abs(picture.astype(int) - color).max(-1) <= 2).sum() >= 4  # two dots


def test_a_folder_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        canvas.save_figure(figures.seeds({"a": [1.0, 2.0]}, "loss"), tmp_path / "file", "seeds")


# The page


class Page(HTMLParser):
    """Collects what the tests ask about; fails on tags that do not nest."""

    VOID = ("meta", "br", "hr", "img", "input", "link")

    def __init__(self, source):
        super().__init__()
        self.stack, self.ids, self.references, self.tags = [], [], [], []
        self.words, self.tagged = [], []
        self.feed(source)
        self.close()
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attrs):
        self.note(tag, attrs)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.note(tag, attrs)

    def note(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.references.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, (tag, self.stack)
        self.stack.pop()

    def handle_data(self, data):
        if not {"style", "title"} & set(self.stack):
            self.words.append(data)
            self.tagged.append((self.stack[-1] if self.stack else "", data))


def sample_blocks(tmp_path):
    drawn = every_figure()
    svg, _ = canvas.save_figure(drawn["forest"], tmp_path, "forest")
    pictures = [page.Picture(figure, f"the {name}", f'a "{name}"') for name, figure in drawn.items()]
    return [
        page.Text("First `x < 1` & more.\n\nSecond <script>alert(1)</script>"),
        page.Command("python -m experiments.lenet_vs_dense --seeds=8 > log"),
        page.Heading("Results"),
        page.Table(["claim", "n", "verdict"], [["a > b", 8, "holds"], ["b", 3, "not resolved (n too small)"]], "All"),
        *pictures,
        page.Heading("Results"),
        page.Picture(svg, "from a file", "forest"),
        page.Details("All <knobs>", [page.Table(["knob", "value"], [["seeds", 8]]), *pictures[:2]]),
        page.Heading("Third"),
        page.Heading("Fourth"),
    ]


def test_the_page_stands_alone(tmp_path):
    source = page.html_page("A & B", sample_blocks(tmp_path), "mnistlab <0.1>")
    read = Page(source)
    assert len(read.ids) == len(set(read.ids))
    targets = {f"#{name}" for name in read.ids}
    outside = [r for r in read.references if not r.startswith("data:image/png;base64,")]
    assert len(outside) > 100  # markers, clips, contents
    assert set(outside) <= targets
    assert "http" not in source
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in read.tags}
    assert not re.search(r"@import|\son\w+=", source)
    svgs = [attributes for tag, attributes in read.tags if tag == "svg"]
    assert len(svgs) == 12
    assert svgs[0]["aria-label"] == 'a "history"'


def test_the_page_says_what_it_was_given(tmp_path):
    source = page.html_page("A & B", sample_blocks(tmp_path), "mnistlab <0.1>")
    read = Page(source)
    words = re.sub(r"\s+", " ", "".join(read.words))
    for part in (
        "A & B",
        "First x < 1 & more.",
        "Second <script>alert(1)</script>",
        "--seeds=8 > log",
        "All <knobs>",
        "mnistlab <0.1>",
        "Table 1. All",
        "Figure 1. the history",
        "Figure 10. from a file",
        "✓ holds",
        "? not resolved (n too small)",
    ):
        assert part in words, part
    assert "<code>x &lt; 1</code>" in source
    contents = [word for tag, word in read.tagged if tag == "a"]
    assert contents == ["Results", "Results", "Third", "Fourth"]


def test_figures_are_in_the_colours_of_the_theme():
    """Every colour is a name that page.css defines in each theme, but those of pictures, which no theme changes."""
    drawn = {name: figure for name, figure in every_figure().items() if name != "confusion"}
    source = page.html_page("t", [page.Picture(figure, name, name) for name, figure in drawn.items()])
    styles, _, body = source.partition("</style>")
    assert not re.search(r"(fill|stroke): #", body) and "DejaVu" not in body
    used = set(re.findall(r"var\(--(\w+)\)", body))
    assert {"ink", "paper", "blue", "vermillion", "grid"} <= used
    light, dark, paper = styles.partition("@media (prefers")[0], *re.findall(r"@media [^}]*:root \{[^}]*", styles)
    unchanged = {"green", "purple", "orange"}
    for theme, inherited in ((light, set()), (dark, unchanged), (paper, unchanged)):
        assert used - inherited <= set(re.findall(r"--(\w+):", theme)), theme


def test_cards_and_an_answer_are_read_in_their_order():
    card = page.Card(
        "<a> beats b",
        "(a) the source",
        "changed run: does not hold (b diverged in 1 of 8 seeds)",
        [("n", "7")],
        "a.html",
    )
    read = Page(page.html_page("t", [page.Answer("Yes: & so.", "Is it?"), page.Cards([card])]))
    words = " ".join("".join(read.words).split())
    assert (
        words
        == "t Yes: & so. Is it? (a) the source <a> beats b changed run: ✗ does not hold (b diverged in 1 of 8 seeds) n7"
    )
    assert read.references == ["a.html"]


def test_mistakes_are_those_that_tell_networks_apart_first():
    truth = np.zeros(40, int)
    said = {"a": np.where(np.arange(40) < 30, 1, 0), "b": np.where(np.arange(40) < 10, 1, 0)}
    chosen = images.choose_mistakes(truth, said)
    assert chosen.tolist() == [*range(10, 18), *range(4)]  # they disagree; both wrong
    assert images.choose_mistakes(truth, {"a": truth}).size == 0
    image = np.zeros((2, 28, 28, 1), np.uint8)
    figure = images.mistakes(image, [0, 0], {"a": [1, 1], "b": [0, 1]}, ["zero", "one"])
    titles = [title.get_text() for title in figure.axes[0].texts]
    assert titles == ["truth zero\none: a ✗\nzero: b", "truth zero\none: a, b ✗"]


def test_numbers_go_right_and_words_left():
    rows = [["a", "0.98 ± 0.01 (n=8), 2 not finite", "< 0.001", None], ["b", "−0.5 [−0.6, −0.4]", "1,000", None]]
    source = page.html_page("t", [page.Table(["name", "x", "p", "none"], rows)])
    kinds = [attributes.get("class") for tag, attributes in Page(source).tags if tag == "td"]
    assert kinds == [None, "number", "number", None] * 2


def test_a_file_that_is_no_svg_is_refused(tmp_path):
    (tmp_path / "a.svg").write_text("nothing")
    with pytest.raises(UserError, match="no svg"):
        page.html_page("t", [page.Picture(tmp_path / "a.svg", "c", "a")])


def test_blocks_are_values():
    block = page.Heading("a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        block.text = "b"
    assert math.isnan(figures.ForestRow("a", 1.0).mean_interval[0])


def test_importing_report_imports_no_matplotlib():
    code = "import sys; from mnistlab.report import figures, images, page; "
    code += "sys.exit(any(module in sys.modules for module in ('matplotlib', 'jax', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    drawn = "import sys; from mnistlab.report import figures; figures.seeds({'a': [1.0]}, 'x'); "
    code = drawn + "sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_names_of_a_claims_numbers_lead_to_their_meaning_where_the_page_has_it():
    cards = page.Cards([page.Card("c", "(a)", "holds", [("p (Holm)", "0.03"), ("pairs", "8"), ("largest error", "0")])])
    meanings = page.Details("What the words mean", [page.Words(words.words())])
    text = page.html_page("t", [cards, meanings])
    assert set(re.findall(r'href="#([^"]+)"', text)) == {"word-holm", "word-pair"}
    assert {"word-holm", "word-pair"} <= set(re.findall(r'id="([^"]+)"', text))
    assert "href" not in page.html_page("t", [cards])
    assert set(page.EXPLAINED.values()) <= set(words.words())
