"""A contact sheet of the previews of a folder, to look at: every file with its name, or the code why not.

Run as `python -m benchmarks.contact_sheet FOLDER -o sheet.png [--skip CODE ...]`.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from app.dicom.read.dataset import read_dataset
from app.dicom.render.preview import preview
from app.model.errors import PermanentError
from app.model.options import PreviewOptions
from app.model.values import Content, ObjectRef

CELL, CAPTION, COLUMNS = 160, 26, 10


def previews(folder: Path, skip: set[str]) -> Iterator[tuple[str, Image.Image | str]]:
    """Yield each file's name with its preview, or with the code of what went wrong."""
    options = PreviewOptions(max_side=CELL)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        ref = ObjectRef("contact-sheet", path.name, 1)
        try:
            dataset = read_dataset(Content(ref, path.resolve().as_uri(), len(data), data=data))
            yield path.name, Image.open(io.BytesIO(preview(dataset, options)))
        except PermanentError as exc:
            if exc.code not in skip:
                yield path.name, exc.code


def contact_sheet(cells: list[tuple[str, Image.Image | str]]) -> Image.Image:
    """Lay the cells out row by row on dark blue, so that black and white both stand out."""
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL, max(1, rows) * (CELL + CAPTION)), (20, 30, 80))
    draw = ImageDraw.Draw(sheet)
    for index, (name, content) in enumerate(cells):
        left, top = index % COLUMNS * CELL, index // COLUMNS * (CELL + CAPTION)
        if isinstance(content, str):
            draw.text((left + 4, top + CELL // 2), content, (255, 120, 120))
        else:
            sheet.paste(content, (left, top))
        for line in range(2):
            draw.text((left + 2, top + CELL + 12 * line), name[26 * line : 26 * line + 26], (230, 230, 230))
    return sheet


def main() -> None:
    """Read the arguments and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--skip", nargs="*", default=[], help="codes to leave out, such as no_pixel_data")
    arguments = parser.parse_args()
    contact_sheet(list(previews(arguments.folder, set(arguments.skip)))).save(arguments.output)


if __name__ == "__main__":
    main()
