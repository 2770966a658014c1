"""The short form of the kills of `make chaos`: once at every step instead of 20 times."""

from itertools import product

from tests.system.faults.kills import MOMENTS, STEPS, Kills


def test_a_process_that_dies_at_any_step_loses_nothing(tmp_path):
    kills = Kills(tmp_path / "lake", times=1)
    findings = kills.run()
    assert findings.counts() == dict.fromkeys(findings.counts(), 0), list(findings.lines())
    assert set(kills.killed()) == {f"{moment} {step}" for step, moment in product(STEPS, MOMENTS)}
