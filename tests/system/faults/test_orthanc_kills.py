"""The short form of `python -m tests.system.faults.orthanc_kills`."""

import pytest

from tests.system.faults.orthanc_kills import Kills


@pytest.mark.xdist_group("orthanc")
def test_whoever_dies_each_instance_lands_once_and_has_one_row(tmp_path):
    counts = Kills(tmp_path, kills=4).run()
    assert counts["uploaded"] > 0
    assert set(counts.values()) == {counts["uploaded"]}, counts
