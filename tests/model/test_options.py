"""Keys of options: whoever renames or moves an option must not have every object described again."""

from dataclasses import replace

from app import config
from app.model.options import CleanOptions, DescribeOptions

OTHERS = {
    "metadata.keys": "tag",
    "metadata.include": ["PatientID"],
    "metadata.private": False,
    "metadata.bulk_threshold_bytes": 7,
    "metadata.strict": True,
    "preview.max_side": 99,
    "preview.frame": "first",
    "preview.window": "40,400",
    "preview.overlays": True,
    "preview.icc": True,
    "workers.max_pixels": 12345,
    "limits.depth": 17,
    "limits.scans": 33,
}


def test_the_keys_of_options_stay_as_rows_hold_them():
    """As they were before the options moved into the settings; only DOCUMENT_VERSION may change them."""
    assert DescribeOptions().key == "78177ac895d8c5af"
    others = config.load({}, OTHERS).settings.describe_options()
    assert others.key == "00be6ac8498a2753"
    cleaned = replace(others.leaving_pdf(), clean=CleanOptions("basic", b"s", "c", pixels=True))
    assert cleaned.key == "06e0c32e9547061a"
