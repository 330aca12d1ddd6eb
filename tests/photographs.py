"""Twenty pictures like photographs of a digit, and how many of them the nets of a run read rightly.

python tests/photographs.py RUN [FOLDER]     leaves the pictures in FOLDER; prints each variant's number of 20 by seed

Ten digits are set in fonts, ten drawn as strokes of a thick pen. All are turned a little, grey, dark on light paper
that is lit unevenly, with noise, blur and a shadow across; what is random comes from the picture's number.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import mnistlab

SIZE = (420, 360)  # width, height
FONTS = (  # of each line the first that the system has; matplotlib brings DejaVu
    ("LiberationSans-Regular.ttf", "DejaVuSans.ttf"),
    ("LiberationSerif-Regular.ttf", "DejaVuSerif.ttf"),
    ("LiberationMono-Regular.ttf", "DejaVuSansMono.ttf"),
    ("DejaVuSans.ttf",),
    ("DejaVuSerif-Italic.ttf",),
    ("LiberationSans-BoldItalic.ttf", "DejaVuSans-BoldOblique.ttf"),
    ("LiberationSerif-Italic.ttf", "DejaVuSerif-Italic.ttf"),
    ("LiberationSansNarrow-Bold.ttf", "DejaVuSans-Bold.ttf"),
    ("DejaVuSans-Oblique.ttf",),
    ("LiberationSerif-BoldItalic.ttf", "DejaVuSerif-BoldItalic.ttf"),
)


def _arc(cx, cy, rx, ry, start, end):
    """Points on an ellipse, degrees clockwise from the right, y downwards."""
    angle = np.radians(np.linspace(start, end, 40))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], 1)


STROKES = {  # in a box of 0..1 by 0..1
    0: [_arc(0.5, 0.5, 0.32, 0.5, -80, 285)],
    1: [np.array([(0.36, 0.16), (0.55, 0.0), (0.52, 1.0)])],
    2: [np.concatenate([_arc(0.5, 0.27, 0.3, 0.27, 190, 395), [(0.2, 0.98)], [(0.85, 0.95)]])],
    3: [np.concatenate([_arc(0.45, 0.24, 0.3, 0.24, 200, 440), _arc(0.45, 0.74, 0.34, 0.27, -85, 150)])],
    4: [np.array([(0.36, 0.0), (0.14, 0.6), (0.86, 0.57)]), np.array([(0.66, 0.22), (0.6, 1.0)])],
    5: [np.array([(0.82, 0.03), (0.32, 0.03), (0.27, 0.43)]), _arc(0.45, 0.69, 0.36, 0.3, -120, 145)],
    6: [np.concatenate([[(0.68, 0.0), (0.36, 0.34)], _arc(0.5, 0.7, 0.29, 0.29, 190, 550)])],
    7: [np.array([(0.14, 0.05), (0.84, 0.04), (0.4, 1.0)])],
    8: [_arc(0.5, 0.25, 0.25, 0.25, 80, 445), _arc(0.5, 0.74, 0.32, 0.26, -95, 270)],
    9: [_arc(0.47, 0.28, 0.27, 0.28, 0, 360), np.array([(0.74, 0.26), (0.7, 0.62), (0.56, 1.0)])],
}


def pictures():
    """(name, digit, picture uint8 [H, W, 3]) of all twenty."""
    for number in range(20):
        digit = number % 10
        mask = _set(digit) if number < 10 else _drawn(digit, number)
        kind = "font" if number < 10 else "strokes"
        yield f"{number:02}_{kind}_{digit}", digit, _photographed(mask, number)


def _set(digit):
    """The digit in a font: float [H, W], 0 to 1."""
    mask = Image.new("L", SIZE)
    font = next(filter(None, map(_font, FONTS[digit])))
    ImageDraw.Draw(mask).text((SIZE[0] / 2, SIZE[1] / 2), str(digit), fill=255, font=font, anchor="mm")
    return mask


def _font(name):
    for folder in ("", f"{Path(sys.modules['matplotlib'].get_data_path())}/fonts/ttf/" if _has_matplotlib() else ""):
        try:
            return ImageFont.truetype(folder + name, 230)
        except OSError:
            continue
    return None


def _has_matplotlib():
    import matplotlib  # noqa: F401

    return True


def _drawn(digit, number):
    """The digit as strokes of a pen about a tenth as wide as it is high, its points a little off."""
    rng = np.random.default_rng(1000 + number)
    mask = Image.new("L", SIZE)
    draw = ImageDraw.Draw(mask)
    height, width, pen = rng.uniform(170, 230), rng.uniform(130, 170), int(rng.integers(15, 25))
    sway = rng.normal(0, 0.015, 2)
    for stroke in STROKES[digit]:
        at = stroke + sway * np.sin(3 * stroke[:, ::-1])
        points = [tuple(map(float, point)) for point in at * (width, height) + ((SIZE[0] - width) / 2, 70)]
        draw.line(points, fill=255, width=pen, joint="curve")
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return mask


def _photographed(mask, number):
    """uint8 [H, W, 3]: the ink on paper, turned, lit, shaded, blurred, with noise."""
    rng = np.random.default_rng(number)
    turned = mask.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC)
    ink = np.asarray(turned.filter(ImageFilter.GaussianBlur(1.2)), np.float64)[..., None] / 255
    y, x = np.mgrid[0 : 1 : SIZE[1] * 1j, 0 : 1 : SIZE[0] * 1j]
    light = 1 - 0.25 * (x * rng.uniform(0.2, 1) + y * rng.uniform(0.2, 1))
    shadow = Image.new("L", SIZE)
    edge, slope = rng.uniform(0.3, 0.7) * SIZE[0], rng.uniform(-120, 120)
    corners = [(edge, 0), (SIZE[0], 0), SIZE, (edge + slope, SIZE[1])]
    ImageDraw.Draw(shadow).polygon(corners, fill=255)
    shade = np.asarray(shadow.filter(ImageFilter.GaussianBlur(rng.uniform(2, 12))), np.float64) / 255
    light = light * (1 - rng.uniform(0.25, 0.45) * shade)
    paper, pen = rng.uniform(205, 245) * np.array([1, 0.98, 0.94]), rng.uniform(40, 90) * np.array([0.9, 0.95, 1.1])
    picture = (paper * (1 - ink) + pen * ink) * light[..., None] + rng.normal(0, 4, (*light.shape, 3))
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def main(run, folder):
    """Writes the pictures and counts."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths, digits = [], []
    for name, digit, picture in pictures():
        paths.append(Path(folder) / f"{name}.png")
        Image.fromarray(picture).save(paths[-1])
        digits.append(digit)
    run = mnistlab.read_run(run)
    for variant in run.variants:
        for seed in run.seeds:
            said = mnistlab.load_net(run, variant, seed=seed).predict(paths).argmax(axis=1)
            wrong = ", ".join(
                f"{path.stem} as {got}" for path, digit, got in zip(paths, digits, said, strict=True) if got != digit
            )
            print(
                f"{variant}, seed {seed}: {int((said == digits).sum())} of {len(paths)} right; wrong: {wrong or 'none'}"
            )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(sys.argv[1], temporary)
