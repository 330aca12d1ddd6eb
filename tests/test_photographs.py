"""Pictures of a digit in MNIST's form: MNIST's own stay as they are, others are seen as if they were MNIST's."""

import numpy as np
import photographs as made
import pytest
from PIL import Image

import mnistlab
from mnistlab.data.photographs import read_picture, to_mnist
from mnistlab.errors import UserError


@pytest.fixture(scope="module")
def digits():
    return mnistlab.load("mnist").test.image[:300, ..., 0]


@pytest.fixture(scope="module")
def page():
    """A 4 of thick strokes on light paper, uint8 [200, 160]; nothing touches the rim."""
    image = np.full((200, 160), 225, np.uint8)
    image[40:110, 50:62] = image[98:110, 50:120] = image[60:165, 95:107] = 50
    return image


def difference(left, right):
    return np.abs(left.astype(int) - right.astype(int))


def test_digits_of_mnist_are_nearly_fixed_points(digits):
    seen = np.stack([to_mnist(digit) for digit in digits])
    largest = difference(seen, digits).max(axis=(1, 2))
    assert np.mean(largest <= 8) > 0.95  # the others have a piece of its own that is faint or small
    assert difference(seen, digits).mean() < 0.6


def test_a_digit_of_mnist_dark_on_light_or_enlarged_is_the_same_digit(digits):
    for digit in digits[:60]:
        np.testing.assert_array_equal(to_mnist(255 - digit), to_mnist(digit))
        tenfold = np.kron(digit, np.ones((10, 10), np.uint8))
        assert np.corrcoef(to_mnist(tenfold).ravel(), digit.ravel())[0, 1] > 0.97


def test_the_box_and_the_centre_of_mass_are_where_mnist_has_them(page):
    seen = to_mnist(page)
    rows, columns = (np.flatnonzero(seen.max(axis=axis)) for axis in (1, 0))
    assert rows[-1] - rows[0] + 1 == 20 and columns[-1] - columns[0] + 1 <= 20
    for axis in (0, 1):
        centre = np.arange(28) @ seen.sum(axis=1 - axis) / seen.sum()
        assert abs(centre - 14) <= 0.5
    assert seen.max() == 255 and seen.dtype == np.uint8


CHANGES = {
    "light on dark": lambda page: 255 - page,
    "faint": lambda page: (200 + (page.astype(int) - 50) // 7).astype(np.uint8),
    "wide margins": lambda page: np.pad(page, ((150, 300), (200, 60)), constant_values=225),
    "blue on yellow": lambda page: np.stack([page, page, 255 - page], -1),
    "yellow on white": lambda page: np.stack([np.full_like(page, 255)] * 2 + [np.where(page < 100, 0, 255)], -1).astype(
        np.uint8
    ),
    "a hard shadow": lambda page: np.where(np.arange(160) > 85, page * 0.55, page).astype(np.uint8),
    "light from one side": lambda page: (page * np.linspace(1, 0.4, 200)[:, None]).astype(np.uint8),
    "noise": lambda page: np.clip(page + np.random.default_rng(0).normal(0, 8, page.shape), 0, 255).astype(np.uint8),
    "a speck": lambda page: np.where(np.pad(np.ones((4, 4)), ((20, 176), (140, 16))) > 0, 40, page).astype(np.uint8),
    "a dark table": lambda page: np.pad(page, ((0, 40), (0, 0)), constant_values=70),
    "large": lambda page: np.kron(page, np.ones((9, 9), np.uint8)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_light_paper_colour_size_and_surroundings_do_not_change_what_is_seen(page, change):
    want, got = to_mnist(page), to_mnist(CHANGES[change](page))
    assert np.corrcoef(want.ravel(), got.ravel())[0, 1] > 0.95


def test_a_turned_digit_is_seen_turned(page):
    turned = np.asarray(Image.fromarray(page).rotate(10, Image.Resampling.BICUBIC, fillcolor=225))
    want = np.asarray(Image.fromarray(to_mnist(page)).rotate(10, Image.Resampling.BICUBIC))
    assert np.corrcoef(want.ravel(), to_mnist(turned).ravel())[0, 1] > 0.85


def test_twenty_photograph_like_pictures_show_a_digit_and_no_shadow():
    for name, _, picture in made.pictures():
        seen = to_mnist(picture)
        filled = np.mean(seen > 128)
        assert 0.04 < filled < 0.3, name  # MNIST's: 0.04 to 0.27; a shadow would fill more
        assert max(np.ptp(np.flatnonzero(seen.max(axis=axis))) for axis in (0, 1)) == 19, name


FILES = {
    "grey.png": lambda image: image,
    "colour.jpg": lambda image: image.convert("RGB"),
    "palette.png": lambda image: image.convert("P"),
    "grey16.png": lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 257),
    "bitmap.bmp": lambda image: image.point(lambda value: 255 * (value > 128)),
    "clear.png": lambda image: Image.merge("LA", (Image.new("L", image.size), image.point(lambda value: 255 - value))),
}


@pytest.mark.parametrize("name", FILES)
def test_pictures_of_every_kind_of_file_are_read(page, tmp_path, name):
    FILES[name](Image.fromarray(page)).save(tmp_path / name)
    picture = read_picture(tmp_path / name)
    assert (picture.shape, picture.dtype) == ((200, 160, 3), np.uint8)
    assert np.corrcoef(to_mnist(page).ravel(), to_mnist(picture).ravel())[0, 1] > 0.98


def test_a_picture_is_turned_as_its_camera_was_held(page, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # held a quarter turn to the left
    Image.fromarray(page).rotate(90, expand=True).save(tmp_path / "a.jpg", exif=exif)
    assert np.corrcoef(to_mnist(page).ravel(), to_mnist(read_picture(tmp_path / "a.jpg")).ravel())[0, 1] > 0.98


def test_what_is_no_picture_or_shows_nothing_is_one_line(tmp_path, page):
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(page).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:90])
    for path, words in ((tmp_path / "text.png", "as a picture"), (tmp_path / "cut.png", "as a picture")):
        with pytest.raises(UserError, match=words):
            read_picture(path)
    Image.fromarray(np.linspace(0, 1, 900, dtype=np.float32).reshape(30, 30)).save(tmp_path / "fractions.tiff")
    with pytest.raises(UserError, match="its pixels are fractions"):
        read_picture(tmp_path / "fractions.tiff")
    with pytest.raises(UserError, match="there is no file"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(UserError, match="shows no digit"):
        to_mnist(np.full((100, 100), 200, np.uint8))
    with pytest.raises(UserError, match="expected uint8"):
        to_mnist(page / 255)
    with pytest.raises(UserError, match="at least 8 x 8"):
        to_mnist(page[:5])
