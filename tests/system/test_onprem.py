"""The short form of `python -m tests.system.onprem --kills 25`."""

import pytest

from tests.system.onprem import WAYS, corpus, run


@pytest.mark.xdist_group("orthanc")
def test_what_each_way_in_has_seen_is_stored_and_announced_whoever_dies(tmp_path):
    files = ["CT_small", "MR_small", "JPEG2000", "MR_small_RLE", "badVR", "rtplan_truncated"]
    wanted = [path for path in corpus() if path.stem in files]
    assert len(wanted) == len(files)
    report = run(tmp_path, wanted, kills=2)
    counts = report["counts"]
    assert {way: counts[way].lost + counts[way].phantom for way in WAYS} == {way: [] for way in WAYS}
    orthanc = counts["orthanc"]
    assert orthanc.seen >= len(files) - 2
    assert orthanc.seen == orthanc.landed == orthanc.current + orthanc.dead_letters
    assert orthanc.current == orthanc.announced
    assert counts["folder"].dead_letters == counts["folder"].dead_letters_announced >= 1
    (log, row, event), (_, _, letter) = report["followed"]
    assert '"status": "stored"' in log
    assert event.startswith("event")
    assert row.startswith("row")
    assert '"reason": "describe: the bytes are plain text"' in letter
