"""Where devices write text: outside of ultrasound regions, and by rules for single devices."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from pydicom.dataset import Dataset

from app.dicom.deidentify.pixels.boxes import Box, cover, outside
from app.dicom.pixels.attributes import integer, items, number, readable

CORNERS = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
LEAST_SHARE = 0.05
"""Share of a picture that the ultrasound regions must take; less is a mistake of the device."""
ALL = "all"


def region_boxes(dataset: Dataset, shape: tuple[int, int]) -> tuple[Box, ...]:
    """Return what is masked without a look at the picture.

    Parameters
    ----------
    dataset : names the device and, for ultrasound, the regions that hold data
    shape : (rows, columns) of a frame

    Returns
    -------
    boxes inside the frame: all but the ultrasound regions, and those of the rules that match

    References
    ----------
    PS3.3 C.8.5.5 (US Region Calibration)
    """
    return (*_beside_ultrasound(dataset, shape), *_by_rule(dataset, shape))


def _beside_ultrasound(dataset: Dataset, shape: tuple[int, int]) -> tuple[Box, ...]:
    kept = []
    for region in items(dataset, "SequenceOfUltrasoundRegions"):
        left, top, right, bottom = (integer(region, corner, -1) for corner in CORNERS)
        if (
            left >= 0
            and top >= 0
            and (box := Box(left, top, right + 1, bottom + 1).within(shape)) is not None
        ):
            kept.append(box)
    if cover(kept, shape).mean() < LEAST_SHARE:
        return ()
    return outside(kept, shape)


def _by_rule(dataset: Dataset, shape: tuple[int, int]) -> tuple[Box, ...]:
    boxes: list[Box] = []
    for rule in device_rules():
        if not all(_matches(dataset, keyword, values) for keyword, values in rule["when"].items()):
            continue
        if rule["boxes"] == ALL:
            return (Box(0, 0, shape[1], shape[0]),)
        for left, top, width, height in rule["boxes"]:
            inside = Box(left, top, left + width, top + height).within(shape)
            boxes += [] if inside is None else [inside]
    return tuple(boxes)


def _matches(dataset: Dataset, keyword: str, values: Sequence[str | int]) -> bool:
    if isinstance(values[0], int):
        return number(dataset, keyword, -1) in values
    text = readable(dataset, keyword)
    return any(re.search(rf"(?<!\w){re.escape(str(value))}", text, re.IGNORECASE) for value in values)


@lru_cache(maxsize=1)
def device_rules() -> Sequence[Mapping[str, Any]]:
    """Return the rules; `device_rules.json` explains their form, and names their source."""
    text = files("app.dicom.deidentify.pixels").joinpath("device_rules.json").read_text()
    rules: Sequence[Mapping[str, Any]] = json.loads(text)["rules"]
    return rules
