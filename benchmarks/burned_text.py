"""Pictures with text burned into them, made here: the data of `benchmarks.deid_pixels`.

Each is a data set of one of several kinds (CT, MR, CR, ultrasound, secondary capture, cine), drawn from a
seed, with names, dates and numbers in many fonts, sizes, places and contrasts, or without any.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.data import identity

FONTS = sorted(Path("/usr/share/fonts/truetype").rglob("*.ttf"))
UNUSUAL = ("Math", "ExtraLight")
NAMES = (
    "ANDERSON",
    "BAKER",
    "Chen",
    "DUBOIS",
    "Garcia",
    "HOFFMANN",
    "Ivanova",
    "JOHNSON",
    "KOWALSKI",
    "Lindqvist",
    "MÜLLER",
    "NGUYEN",
    "Okafor",
)
GIVEN = ("ANNA", "Bernd", "CAROL", "Dmitri", "ELISE", "Fatima", "GEORGE", "Hana", "IGOR", "Jane")
PLACES = ("CITY HOSPITAL", "St. Mary Clinic", "UNIV. MED CENTER", "Radiology North", "KLINIKUM SUED")
FREE, DARK, SHADOW = "free", "dark box", "shadow"


@dataclass(frozen=True)
class Line:
    """A line of burned-in text: what it says, its pixels (left, top, right, bottom), a frame that has it."""

    text: str
    box: tuple[int, int, int, int]
    frame: int = 0


@dataclass(frozen=True)
class Sample:
    """A data set whose frames are native, and the lines burned into it."""

    name: str
    dataset: Dataset
    frames: np.ndarray
    lines: tuple[Line, ...]


def samples(count: int, seed: int = 1, clean: bool = False) -> Iterator[Sample]:
    """Draw `count` pictures of every kind in turn; without text if `clean`."""
    kinds = list(KINDS.items())
    for number in range(count):
        name, draw = kinds[number % len(kinds)]
        dice = random.Random(f"{seed} {number} {clean}")
        noise = np.random.default_rng([seed, number, clean])
        yield sample(f"{name}-{'clean' if clean else 'text'}-{number}", draw(dice, noise), dice, clean)


@dataclass(frozen=True)
class Ground:
    """A picture without text. frames: (n, rows, columns[, 3]) stored values."""

    frames: np.ndarray
    bits: int
    photometric: str = "MONOCHROME2"
    modality: str = "OT"
    signed: bool = False
    window: tuple[float, float] | None = None
    intercept: int = 0


def sample(name: str, ground: Ground, dice: random.Random, clean: bool) -> Sample:
    """Burn lines into a picture, unless it stays clean, and put it into a data set."""
    frames = ground.frames.copy()
    lines = () if clean else burn(frames, ground, dice)
    return Sample(name, to_dataset(ground, frames), frames, lines)


def to_dataset(ground: Ground, frames: np.ndarray) -> Dataset:
    """Return frames as a data set in Explicit VR Little Endian."""
    allocated = 8 if ground.bits <= 8 else 16
    samples_per_pixel = 3 if frames.ndim == 4 else 1
    dataset = identity(
        Modality=ground.modality,
        Rows=frames.shape[1],
        Columns=frames.shape[2],
        BitsAllocated=allocated,
        BitsStored=ground.bits,
        HighBit=ground.bits - 1,
        PixelRepresentation=int(ground.signed),
        SamplesPerPixel=samples_per_pixel,
        PhotometricInterpretation=ground.photometric,
        PlanarConfiguration=0 if samples_per_pixel == 3 else None,
        NumberOfFrames=str(len(frames)) if len(frames) > 1 else None,
        RescaleIntercept=str(ground.intercept) if ground.intercept else None,
        RescaleSlope="1" if ground.intercept else None,
        WindowCenter=None if ground.window is None else str(ground.window[0]),
        WindowWidth=None if ground.window is None else str(ground.window[1]),
    )
    dataset.PixelData = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.set_original_encoding(False, True)
    return dataset


def burn(frames: np.ndarray, ground: Ground, dice: random.Random) -> tuple[Line, ...]:
    """Burn one or two blocks of lines into frames, in place, and return where they lie."""
    rows, columns = frames.shape[1:3]
    taken: list[tuple[int, int, int, int]] = []
    lines: list[Line] = []
    chosen = [0] if len(frames) == 1 or dice.random() < 0.3 else list(range(len(frames)))
    if len(frames) > 1 and chosen == [0]:
        chosen = [dice.randrange(len(frames))]
    for _ in range(dice.choice((1, 1, 2))):
        font, size = font_of(dice, rows)
        style = dice.choice((FREE, FREE, DARK, SHADOW))
        texts = words(dice)[: dice.randint(1, 4)]
        boxes = place(texts, font, size, (rows, columns), dice, taken)
        if boxes is None:
            continue
        bright = style != FREE or dice.random() < 0.85
        contrast = dice.uniform(0.45, 1.0)
        smooth = dice.random() < 0.7
        glyphs, edge = Image.new("L", (columns, rows)), Image.new("L", (columns, rows))
        for text, (left, top, right, bottom) in zip(texts, boxes, strict=True):
            anchor = ImageDraw.Draw(glyphs).textbbox((0, 0), text, font=font)
            ImageDraw.Draw(glyphs).text((left - anchor[0], top - anchor[1]), text, fill=255, font=font)
            if style == DARK:
                ImageDraw.Draw(edge).rectangle((left - 3, top - 3, right + 3, bottom + 3), fill=255)
        if style == SHADOW:
            edge = glyphs.filter(ImageFilter.MaxFilter(3))
        ink = np.asarray(glyphs, np.float32) / 255
        ink = ink if smooth else (ink > 0.5).astype(np.float32)
        around = np.asarray(edge) > 100
        for index in chosen:
            blend(frames[index], ground, ink, around, (bright, contrast, dice))
        for text, box in zip(texts, boxes, strict=True):
            lines.append(Line(text, box, chosen[0]))
            taken.append(box)
    return tuple(lines)


def blend(
    frame: np.ndarray,
    ground: Ground,
    ink: np.ndarray,
    around: np.ndarray,
    how: tuple[bool, float, random.Random],
) -> None:
    """Lay ink over one frame, in place, so far from what is below it as the contrast says."""
    bright, contrast, dice = how
    low, high = float(frame.min()), float(frame.max())
    if ground.photometric == "MONOCHROME1":
        bright = not bright
    around_ink = frame[ink > 0.5].astype(float)
    if not len(around_ink):
        return
    if frame.ndim == 3:
        frame[around] = 0
        color = np.full(3, 255.0 if bright else 0.0)
        if bright and dice.random() < 0.4:
            color = np.array(dice.choice([(255, 255, 0), (0, 255, 0), (0, 255, 255), (255, 180, 60)]), float)
        ground_level = float(np.median(frame[ink > 0.5].astype(float).mean(axis=1)))
        if abs(color.mean() - ground_level) < 90:
            color = np.full(3, 0.0 if ground_level > 127 else 255.0)
    else:
        frame[around] = low if bright else high
        below = frame[ink > 0.5].astype(float)
        far = float(np.percentile(below, 90 if bright else 10))
        end = high if bright else low
        if abs(end - far) < 0.3 * (high - low):  # on a ground as bright as the ink
            end = low if bright else high
        strength = max(contrast, min(1.0, 0.3 * (high - low) / abs(end - far)))
        color = np.array(far + (end - far) * strength)
    weight = ink if frame.ndim == 2 else ink[..., None]
    frame[...] = np.rint(frame * (1 - weight) + color * weight).astype(frame.dtype)


def place(
    texts: list[str],
    font: ImageFont.FreeTypeFont,
    size: int,
    shape: tuple[int, int],
    dice: random.Random,
    taken: list[tuple[int, int, int, int]],
) -> list[tuple[int, int, int, int]] | None:
    """Find a place for a block of lines, in a corner or anywhere; None if it does not fit."""
    rows, columns = shape
    spans = [font.getbbox(text) for text in texts]
    widths = [int(span[2] - span[0]) for span in spans]
    step = round(size * dice.uniform(1.2, 1.6))
    height, width = step * len(texts), max(widths)
    if width + 8 > columns or height + 8 > rows:
        return None
    margin = dice.randint(2, 12)
    for _ in range(8):
        x = dice.choice((margin, columns - width - margin, dice.randint(2, columns - width - 2)))
        y = dice.choice((margin, rows - height - margin, dice.randint(2, rows - height - 2)))
        right = x > columns / 2
        x, y = max(2, x), max(2, y)
        boxes = []
        for number, (span, wide) in enumerate(zip(spans, widths, strict=True)):
            left = x + (width - wide if right else 0)
            top = y + number * step
            boxes.append((left, top, left + wide, top + int(span[3] - span[1])))
        block = (x - 6, y - 6, x + width + 6, y + height + 6)
        if boxes[-1][3] < rows and not any(
            block[0] < b[2] and b[0] < block[2] and block[1] < b[3] and b[1] < block[3] for b in taken
        ):
            return boxes
    return None


def font_of(dice: random.Random, rows: int) -> tuple[ImageFont.FreeTypeFont, int]:
    """Choose a font, and a size that a device would use on so many rows."""
    usual = [path for path in FONTS if not any(word in path.name for word in UNUSUAL)]
    size = dice.randint(*((10, 18) if rows < 600 else (11, 26) if rows < 1200 else (18, 60)))
    return ImageFont.truetype(str(dice.choice(usual)), size), size


def words(dice: random.Random) -> list[str]:
    """Return lines as devices write them."""
    day = f"{dice.randint(1, 28):02}"
    month, year = f"{dice.randint(1, 12):02}", str(dice.randint(1930, 2025))
    lines = [
        f"{dice.choice(NAMES)}{dice.choice((', ', ' ', '^'))}{dice.choice(GIVEN)}",
        f"{dice.choice(('ID: ', 'MRN ', '', 'Pat. '))}{dice.randint(10000, 99999999)}",
        f"{dice.choice(('DOB ', '', '*'))}{dice.choice(('/', '.', '-')).join((day, month, year))}",
        dice.choice(PLACES),
        f"{year}-{month}-{day} {dice.randint(0, 23):02}:{dice.randint(0, 59):02}",
        f"Acc# {dice.choice('ABCD')}{dice.randint(1000, 999999)}",
        f"{dice.choice('MF')} {dice.randint(18, 99)}Y",
    ]
    dice.shuffle(lines)
    return lines


def blurred(noise: np.ndarray, radius: float) -> np.ndarray:
    """Return noise without its fine grain, from 0 to 1."""
    low, high = noise.min(), noise.max()
    image = Image.fromarray(((noise - low) / (high - low) * 255).astype(np.uint8))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    soft -= soft.min()
    return soft / max(float(soft.max()), 1.0)


def ellipse(rows: int, columns: int, at: tuple[float, float, float, float]) -> np.ndarray:
    """Return where an ellipse lies; centre and half axes as shares of the picture."""
    y, x = np.mgrid[0:rows, 0:columns]
    return ((y / rows - at[0]) / at[2]) ** 2 + ((x / columns - at[1]) / at[3]) ** 2 < 1


def ct(dice: random.Random, noise: np.random.Generator) -> Ground:
    """Draw a body in air with lungs, bones and noise, in Hounsfield units as stored values."""
    signed = dice.random() < 0.5
    body = np.full((512, 512), -1000.0)
    body[ellipse(512, 512, (0.52, 0.5, 0.3, 0.42))] = 40
    for side in (0.32, 0.68):
        body[ellipse(512, 512, (0.48, side, 0.17, 0.13))] = -820
    for at in ((0.72, 0.5, 0.06, 0.05), (0.3, 0.42, 0.02, 0.04), (0.3, 0.6, 0.02, 0.04)):
        body[ellipse(512, 512, at)] = dice.randint(500, 1100)
    body += noise.normal(0, dice.uniform(8, 30), body.shape) + 60 * blurred(noise.random(body.shape), 9)
    intercept = 0 if signed else -1024
    stored = np.rint(np.clip(body, -1024, 3071) - intercept).astype(np.int16 if signed else np.uint16)
    window = dice.choice(((40.0, 400.0), (-600.0, 1500.0), (300.0, 2000.0), None))
    return Ground(stored[None], 16 if signed else 12, "MONOCHROME2", "CT", signed, window, intercept)


def mr(dice: random.Random, noise: np.random.Generator) -> Ground:
    """Draw a head with folds, 12 bit."""
    side = dice.choice((256, 320, 384, 512))
    head = np.zeros((side, side), np.float32)
    head[ellipse(side, side, (0.5, 0.5, 0.43, 0.36))] = 900
    head[ellipse(side, side, (0.5, 0.5, 0.39, 0.32))] = 200
    inner = ellipse(side, side, (0.5, 0.5, 0.36, 0.29))
    head[inner] = 350 + 500 * blurred(noise.random((side, side)), side / 80)[inner]
    head = np.abs(head + noise.normal(0, 20, head.shape))
    stored = np.clip(head, 0, 4095).astype(np.uint16)
    return Ground(stored[None], 12, "MONOCHROME2", "MR", False, dice.choice(((450.0, 900.0), None)))


def cr(dice: random.Random, noise: np.random.Generator) -> Ground:
    """Draw a chest on a plate, 10 to 14 bit, of either photometric interpretation."""
    rows, columns = dice.choice(((1024, 1024), (1760, 1440), (2022, 1736)))
    bits = dice.choice((10, 12, 14))
    chest = 0.75 - 0.3 * blurred(noise.random((rows, columns)), rows / 12)
    for side in (0.3, 0.7):
        chest -= 0.35 * blurred(ellipse(rows, columns, (0.45, side, 0.3, 0.14)).astype(np.float32), rows / 40)
    for rib in range(8):
        y, x = np.mgrid[0:rows, 0:columns]
        bow = (0.2 + 0.08 * rib) * rows + 0.12 * rows * ((x / columns - 0.5) * 2) ** 2
        chest += 0.06 * (np.abs(y - bow) < rows * 0.012)
    chest += noise.normal(0, 0.01, chest.shape)
    top = (1 << bits) - 1
    stored = np.rint(np.clip(chest, 0, 1) * 0.9 * top).astype(np.uint16)
    photometric = dice.choice(("MONOCHROME1", "MONOCHROME2"))
    return Ground(stored[None], bits, photometric, "CR", False, dice.choice(((top / 2, float(top)), None)))


def fan(dice: random.Random, noise: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Draw the speckle of an ultrasound fan, 0 to 255."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    x0, y0 = columns / 2, -rows * 0.05
    angle, reach = np.arctan2(x - x0, y - y0), np.hypot(x - x0, y - y0)
    inside = (np.abs(angle) < 0.7) & (reach > rows * 0.15) & (reach < rows * 0.9)
    speckle = noise.rayleigh(dice.uniform(25, 45), (rows, columns))
    tissue = 0.3 + blurred(noise.random((rows, columns)), rows / 25)
    image = np.asarray(
        Image.fromarray(np.clip(speckle * tissue, 0, 255).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(0.8)
        )
    )
    return np.where(inside, image, dice.choice((0, 0, 12))).astype(np.uint8)


def us(dice: random.Random, noise: np.random.Generator) -> Ground:
    """Draw an ultrasound picture, grey or in colours."""
    rows, columns = dice.choice(((480, 640), (600, 800), (768, 1024)))
    grey = fan(dice, noise, rows, columns)
    if dice.random() < 0.4:
        return Ground(grey[None], 8, "MONOCHROME2", "US")
    frame = np.repeat(grey[..., None], 3, axis=2)
    flow = ellipse(rows, columns, (0.5, 0.5, 0.08, 0.1)) & (grey > 20)
    frame[flow] = np.stack([grey[flow], np.zeros_like(grey[flow]), 255 - grey[flow]], axis=1)
    frame[rows // 4 : rows // 2, columns - 30 : columns - 18] = np.linspace(255, 0, rows // 2 - rows // 4)[
        :, None, None
    ].astype(np.uint8)
    return Ground(frame[None], 8, "RGB", "US")


def cine(dice: random.Random, noise: np.random.Generator) -> Ground:
    """Draw an ultrasound loop whose speckle moves."""
    count = dice.randint(4, 16)
    frames = np.stack([fan(dice, noise, 480, 640) for _ in range(count)])
    if dice.random() < 0.5:
        return Ground(frames, 8, "MONOCHROME2", "US")
    return Ground(np.repeat(frames[..., None], 3, axis=3), 8, "RGB", "US")


def capture(dice: random.Random, noise: np.random.Generator) -> Ground:
    """Draw a screen: a picture on a plain ground, with frames and a curve, but no text."""
    rows, columns = dice.choice(((512, 512), (600, 800), (768, 1024)))
    ground = dice.choice(((0, 0, 0), (20, 30, 60), (200, 200, 205), (255, 255, 255)))
    image = Image.new("RGB", (columns, rows), ground)
    draw = ImageDraw.Draw(image)
    inset = fan(dice, noise, rows // 2, columns // 2)
    image.paste(Image.fromarray(inset), (columns // 4, rows // 4))
    draw.rectangle((columns // 4, rows // 4, columns * 3 // 4, rows * 3 // 4), outline=(90, 140, 90))
    points = [(x, rows * 0.9 + rows * 0.05 * float(np.sin(x / 17))) for x in range(20, columns - 20, 4)]
    draw.line(points, fill=(230, 60, 60), width=2)
    return Ground(np.asarray(image)[None].copy(), 8, "RGB", "OT")


KINDS: dict[str, Callable[[random.Random, np.random.Generator], Ground]] = {
    "ct": ct,
    "mr": mr,
    "cr": cr,
    "us": us,
    "sc": capture,
    "cine": cine,
}
