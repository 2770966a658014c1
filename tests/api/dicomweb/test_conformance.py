"""The black-box checker of PS3.18, by others, against the service: both backends, every check it has."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import copy

import pytest

from app.api.users import Tokens
from tests.parts import shared
from tests.system.e2e.cloud import running_cloud
from tests.system.e2e.service import Service

NOT_OURS = {
    "xml.*": "dicom+xml is not served, as docs/dicomweb.md says",
}
"""Checks that are left out, and why."""
STORES = ("stow.*", "client.store")
MISREAD = {
    "mg_jpeg-sv1_mono2_gh133.dcm": "a birth date 00000000 is returned as no date",
    "mr_j2k-ll_mono2_slicethickness-empty-string.dcm": "a time 11:11:11.111 is returned as 111111.111",
    "us_bigendian_rgb_explvr-bigend.dcm": "a time 14:04:38 is returned as 140438",
    "us_explicit_rgb_color-pl.dcm": "a time 11:20:00 is returned as 112000",
    "us_explicit_rgb_color-px.dcm": "a time 11:20:00 is returned as 112000",
    "ct_explicit_mono2_mf.dcm": "its frames are of one value, so that no correlation shows which is which",
    "op_jpeg-sv1_mono2_sample-op.dcm": "lossy JPEG that claims to be lossless: decoders differ by one",
}
"""Files of the corpus of which the checker asks for something else than we want, and why."""
SHORT = (
    *("ct_explicit_mono2_ct-small", "ct_deflated_mono2_ct-small-deflated", "mr_rle_mono2_emri-small-rle"),
    *("mr_*_dcm-qa-ts-[1-3]", "cr_explicit_mono1_chrjapmulti*", "ot_explicit_mono2_chrh3?"),
    *(
        "ot_explicit_mono2_chrgerm",
        "ot_jpeg-baseline_ybr422_testpattern-*",
        "ot_explicit_rgb_sc-rgb-small-odd",
    ),
    *("sr_explicit_test-sr", "rtplan_implicit_rtplan", "us_rle_palette_no-pixel-spacing"),
)
OF_WAREHOUSE = ("qido.*", "wado.bulk.*", "wado.frames.*", "client.*")
"""Files of each kind, and the checks that rows and ranges decide, for emulators, which are slow."""


def files(folder: Path, *patterns: str) -> Path:
    """Copy what the checker reads as we do into a folder, and return it."""
    folder.mkdir()
    for pattern in patterns:
        for path in shared("corpus").glob(f"{pattern}.dcm"):
            if path.name not in MISREAD:
                copy(path, folder)
    return folder


def check(url: str, folder: Path, token: str = "", only: Sequence[str] = ()) -> dict[str, str]:
    """Run the checker, and return the outcome of each check: `pass`, `skip` or what is wrong.

    What it stores arrives among the results seconds later, so that happens when all else has been checked.
    """
    checker = shared("tools", "dicomweb") / "dicomweb_accept.py"
    command = [
        sys.executable,
        str(checker),
        f"{url}/dicomweb",
        str(folder),
        "--timeout",
        "120",
        "--wait",
        "120",
    ]
    command += ["--header", f"Authorization: Bearer {token}"] if token else []
    outcomes = {}
    for run, chosen in {
        "reads": [*_each("--skip", (*NOT_OURS, *STORES)), *_each("--only", only)],
        "stores": ["--stow", *_each("--only", STORES)],
    }.items():
        report = folder.with_name(f"{run}.json")
        done = subprocess.run(
            [*command, *chosen, "--json", str(report)], capture_output=True, text=True, check=False
        )
        assert report.exists(), done.stderr[-2000:]
        for one in json.loads(report.read_text()):
            outcomes[one["name"]] = one["text"] if one["state"] == "FAIL" else one["state"]
    return outcomes


def _each(option: str, patterns: Iterable[str]) -> list[str]:
    return [part for pattern in patterns for part in (option, pattern)]


def failed(outcomes: dict[str, str]) -> dict[str, str]:
    """Return what is wrong, by the name of the check."""
    return {name: text for name, text in outcomes.items() if text not in ("pass", "skip")}


def test_all_that_the_standard_asks_for_by_a_folder_and_sqlite(tmp_path):
    key = "k" * 32
    folder = files(tmp_path / "corpus", "*")
    with Service(tmp_path / "lake", api__users="token", api__users_key=key) as service:
        service.run("ingest", str(folder))
        outcomes = check(service.url, folder, Tokens(key).issue("checker", "user", time.time(), 3600))
    assert failed(outcomes) == {}
    assert sum(text == "pass" for text in outcomes.values()) > 160


@pytest.mark.xdist_group("cloud")
def test_all_that_the_standard_asks_for_by_buckets_and_bigquery(tmp_path, pubsub, session_front):
    folder = files(tmp_path / "corpus", *SHORT)
    with running_cloud(tmp_path / "lake", pubsub, session_front) as cloud:
        for path in sorted(folder.iterdir()):
            cloud.upload(path.name, path.read_bytes())
        cloud.settle(300)
        outcomes = check(cloud.service.url, folder, only=OF_WAREHOUSE)
    assert failed(outcomes) == {}
    assert sum(text == "pass" for text in outcomes.values()) > 100
