"""Photographs and scans of one digit brought to MNIST's form, as its makers brought their forms' digits to it.

    grey         of red, green and blue the one with the widest range; what is transparent is white
    polarity     what the picture's rim shows is the paper: light on dark is turned to dark on light
    background   the paper at each pixel by a grey closing (the largest, then the smallest of a window wider than any
                 stroke), which keeps shadows; ink = 1 - grey / paper, the light that is missing, in sun and shade alike
    noise        what the ink's spread on blank paper explains is no ink
    digit        the largest piece of ink of half the full strength, those at least a tenth as large, and their rims
    size         the digit's box scaled, antialiased, until its longer side is 20 pixels
    place        the centre of mass on the centre of 28 x 28

MNIST's own digits come back as they are but for single pixels of rounding. A picture may have any size and colours, and
show a little of a shadow or of other things; it holds one digit, upright. Turned pictures are not turned back.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnistlab.errors import UserError

SIDE, BOX = 28, 20  # of the image, and of the box that the digit fills, in pixels
WINDOW = 0.4  # of the picture's shorter side: wider than any stroke
WORKING_SIDE = 256  # larger pictures are brought to it first
LEAST_CONTRAST = 0.1  # ink that takes less of the paper's light is none
LEAST_PIECE = 0.1  # of the largest piece's size: a stroke set apart, not a speck
FAINT = 0.05  # ink that a stroke's rim may have for a twentieth of the picture, and less for
RIM = 3  # pixels more, where JPEG leaves ripples

Floats = NDArray[np.float64]


def read_picture(path: Path | str) -> NDArray[np.uint8]:
    """The picture of any format that Pillow knows, uint8 [H, W, 3], turned as its camera was held.

    Raises:
      UserError: no such file, or no picture.
    """
    from PIL import Image, ImageOps

    no_picture = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
    try:
        with Image.open(path) as file:
            picture = _of_eight_bits(ImageOps.exif_transpose(file)).convert("RGBA")
            paper = Image.new("RGBA", picture.size, "white")
            return np.asarray(Image.alpha_composite(paper, picture).convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}; expected a picture of a digit") from error
    except no_picture as error:
        raise UserError(f"cannot read {path} as a picture ({error!s:.200}); give a PNG or JPEG") from error


def _of_eight_bits(picture: Any) -> Any:
    """A Pillow image whose pixels have 8 bits; Pillow's own conversion turns all that is light in 16 bits white."""
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("its pixels are fractions, of which nothing says what is white")
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture, np.int64) // 257).clip(0, 255).astype(np.uint8))


def to_shape(picture: NDArray[np.uint8], image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A picture uint8 [h, w, 3] as an image of a dataset uint8 (H, W, C): grey where that has one channel."""
    from PIL import Image

    height, width, channels = image_shape
    image = Image.fromarray(picture).convert("L" if channels == 1 else "RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.BOX), np.uint8).reshape(image_shape)


def to_mnist(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The digit on a picture uint8 [H, W] or [H, W, 3] as MNIST would show it: uint8 [28, 28], light on black.

    Raises:
      UserError: no such array, or no ink on it.

    >>> page = np.full((90, 60, 3), 230, np.uint8)  # a page,
    >>> page[20:70, 28:33] = (20, 30, 90)  # and a 1 in blue ink
    >>> digit = to_mnist(page)
    >>> digit.shape, digit[14, 14], digit[0, 0], int((digit.max(axis=1) > 0).sum())
    ((28, 28), np.uint8(255), np.uint8(0), 20)
    """
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (1,), (3,)):
        raise UserError(f"a picture is {picture.dtype} {list(picture.shape)}; expected uint8 [H, W] or [H, W, 3]")
    if min(picture.shape[:2]) < 8:
        raise UserError(f"a picture has {picture.shape[0]} x {picture.shape[1]} pixels; expected at least 8 x 8")
    ink = _ink(_dark_on_light(_grey(picture)))
    return _placed(_boxed(_digit(ink)))


def _grey(picture: NDArray[np.uint8]) -> Floats:
    """float64 [h, w], 0 to 255: the widest-ranging colour, no side longer than WORKING_SIDE."""
    from PIL import Image

    factor = max(picture.shape[:2]) / WORKING_SIDE
    planes = picture.reshape(*picture.shape[:2], -1).transpose(2, 0, 1)
    if factor > 1:
        size = tuple(max(8, round(side / factor)) for side in picture.shape[1::-1])
        planes = np.stack([np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX)) for plane in planes])
    low, high = np.percentile(planes, (1, 99), axis=(1, 2))
    return planes[np.argmax(high - low)].astype(np.float64)


def _dark_on_light(grey: Floats) -> Floats:
    """The picture, inverted where what differs most from its rim is lighter than it."""
    h, w = grey.shape
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1)  # light that falls off over the page
    on_rim = np.ones((h, w), bool)
    rim = max(1, min(h, w) // 10)
    on_rim[rim:-rim, rim:-rim] = False
    solution = np.linalg.lstsq(terms[on_rim], grey[on_rim], rcond=None)[0]
    rest = grey - np.clip(terms @ solution, grey[on_rim].min(), grey[on_rim].max())
    low, high = np.percentile(rest, (0.5, 99.5))
    return 255 - grey if high > -low else grey


def _ink(grey: Floats) -> Floats:
    """float64 [h, w], 0 (paper) to 1: the share of the paper's light that is missing, noise taken for paper."""
    from scipy import ndimage

    window = max(3, int(WINDOW * min(grey.shape)) | 1)
    smooth = ndimage.median_filter(grey, 3) if min(grey.shape) > 2 * SIDE else grey
    paper = ndimage.grey_closing(smooth, (window, window), mode="nearest")
    ink = 1 - np.minimum(grey, paper) / np.maximum(paper, 1)
    strong = 1 - np.minimum(smooth, paper) / np.maximum(paper, 1)
    full = np.percentile(strong[strong >= strong.max() / 2], 90)
    if full < LEAST_CONTRAST:
        raise UserError("a picture shows no digit: nothing on it is much darker or lighter than its background")
    blank = ink[strong < full / 4]
    noise = np.median(blank) + 6 * np.median(np.abs(blank - np.median(blank))) if blank.size else 0.0
    return np.where(ink > min(noise, full / 3), np.minimum(ink / full, 1), 0)


def _digit(ink: Floats) -> Floats:
    """The ink of the digit's pieces alone."""
    from scipy import ndimage

    around = np.ones((3, 3), bool)
    strong = ink > 0.5
    label, count = ndimage.label(strong, around)
    sizes = np.bincount(label.ravel(), minlength=count + 1)
    sizes[0] = 0
    inner = sizes.copy()
    inner[np.unique(np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]]))] = 0
    if inner.max() > sizes.max() / 4:  # else the digit itself is cut off at the rim
        sizes = inner  # what the rim cuts off is a table, a finger, a neighbour
    kept = np.isin(label, np.flatnonzero(sizes >= LEAST_PIECE * sizes.max()))
    reach = max(1, min(ink.shape) // 20)
    rim = ndimage.binary_dilation(kept, around, iterations=reach, mask=(ink > FAINT))
    return np.where(ndimage.binary_dilation(rim, around, iterations=RIM, mask=(ink > 0)), ink, 0)


def _boxed(ink: Floats) -> Floats:
    """The box of the digit, its longer side BOX pixels, its strongest ink 1."""
    from PIL import Image

    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(box.shape)
    size = (max(1, round(box.shape[1] * scale)), max(1, round(box.shape[0] * scale)))
    scaled = np.asarray(Image.fromarray(box.astype(np.float32)).resize(size, Image.Resampling.HAMMING), np.float64)
    return np.clip(scaled / np.percentile(scaled[scaled >= scaled.max() / 2], 90), 0, 1)


def _placed(box: Floats) -> NDArray[np.uint8]:
    """uint8 [28, 28] with the box's centre of mass at its centre, or as near as the box fits."""
    image = np.zeros((SIDE, SIDE), np.uint8)
    corner = []
    for axis in (0, 1):
        centre = (np.arange(box.shape[axis]) @ box.sum(axis=1 - axis)) / box.sum()
        corner.append(int(np.clip(round(SIDE / 2 - centre), 0, SIDE - box.shape[axis])))
    top, left = corner
    image[top : top + box.shape[0], left : left + box.shape[1]] = np.round(255 * box)
    return image
