"""Uploads that others announce: no code of ours between Google's client and the push."""

from collections import Counter

import pytest

from tests.system.e2e.announced import Run, announced

pytestmark = pytest.mark.xdist_group("cloud")


def test_an_upload_becomes_a_row_a_delete_a_tombstone_and_what_is_broken_a_letter(tmp_path, pubsub):
    with announced(tmp_path, pubsub) as cloud:
        found = cloud.run(objects=40, broken=2)
    assert found == Run(
        rows=36,
        previews=36,
        tombstones=4,
        artifacts=72,
        reasons=Counter(
            {
                "truncated: describe: the value of 7FE00010 is cut off": 1,
                "not_dicom: describe: the bytes do not begin as a data set": 1,
            }
        ),
    )
