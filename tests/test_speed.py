"""The guard against lost speed: it measures, and it fails when a limit is passed."""

from dataclasses import replace

import pytest

from benchmarks import speed

CT = replace(speed.CASES[0], metadata=1e9, picture=1e9)


def test_speed_within_the_limits_passes(capsys):
    speed.main([CT])
    assert "| CT raw" in capsys.readouterr().out


def test_lost_speed_fails_with_one_line_that_says_what_and_where():
    with pytest.raises(SystemExit) as caught:
        speed.main([replace(CT, picture=1e-9)])
    assert str(caught.value).startswith("speed lost: CT raw: the picture takes ")
    assert str(caught.value).endswith("or raise the limit in benchmarks/speed.py")
    assert "\n" not in str(caught.value)
