"""Draw docs/previews.png: previews that dicomlake makes of pydicom's samples, each beside columns of its row.

Run `python -m tools.contact_sheet` after a change that alters previews; a test compares the picture.
"""

from __future__ import annotations

import io
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw

from app.dicom import describe, draw_page
from app.dicom.pages.text import font, writable
from app.model.options import DescribeOptions, PreviewOptions
from app.model.values import Content, Instance, ObjectRef

PICTURE = Path(__file__).parents[1] / "docs/previews.png"
SAMPLES = (
    "CT_small.dcm",
    "MR_small_jp2klossless.dcm",
    "examples_overlay.dcm",
    "examples_palette.dcm",
    "examples_rgb_color.dcm",
    "examples_ybr_color.dcm",
    "JPGExtended.dcm",
    "liver_1frame.dcm",
    "rtdose.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "test-SR.dcm",
    "waveform_ecg.dcm",
)
ACROSS = 3
SIDE, WIDTH, GAP = 150, 400, 10
COLUMNS = ("modality", "rows", "columns", "number_of_frames", "bits_stored", "study_date", "manufacturer")
MAX_COLORS = 128
PAPER, INK, LABEL, BACKGROUND = (255, 255, 255), (30, 34, 40), (110, 118, 129), (0, 0, 0)


def sheet() -> Image.Image:
    """Return the contact sheet: one card for each sample, its preview beside columns of its row."""
    down = -(-len(SAMPLES) // ACROSS)
    size = ACROSS * (WIDTH + GAP) + GAP, down * (SIDE + GAP) + GAP
    image = Image.new("RGB", size, PAPER)
    for number, name in enumerate(SAMPLES):
        row, column = divmod(number, ACROSS)
        _draw_card(image, name, GAP + column * (WIDTH + GAP), GAP + row * (SIDE + GAP))
    return image.quantize(MAX_COLORS, dither=Image.Dither.NONE)


def _describe_sample(name: str) -> tuple[Instance, bytes]:
    data = resources.files("pydicom.data").joinpath("test_files", name).read_bytes()
    content = Content(ObjectRef("landing", name, 1), f"gs://landing/{name}", len(data), data=data)
    instance = describe(content, DescribeOptions(preview=PreviewOptions(max_side=2 * SIDE)))
    png = instance.preview
    if instance.pdf is not None:
        png, _ = draw_page(instance.pdf, PreviewOptions(max_side=2 * SIDE))
    if png is None:
        raise SystemExit(f"{name}: no preview: {instance.preview_error}")
    return instance, png


def _draw_card(image: Image.Image, name: str, left: int, top: int) -> None:
    instance, png = _describe_sample(name)
    preview = Image.open(io.BytesIO(png)).convert("RGB")
    preview.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), fill=BACKGROUND)
    image.paste(preview, (left + (SIDE - preview.width) // 2, top + (SIDE - preview.height) // 2))
    left += SIDE + GAP
    draw.text((left, top), name, INK, font(14))
    values = [(column, instance.columns.get(column)) for column in COLUMNS]
    lines = [(column, value) for column, value in values if value not in (None, "")]
    for number, (column, value) in enumerate(lines, 1):
        y = top + 4 + 18 * number
        draw.text((left, y), column, LABEL, font(12))
        draw.text((left + 120, y), writable(str(value))[:18], INK, font(12))


if __name__ == "__main__":
    sheet().save(PICTURE, optimize=True)
