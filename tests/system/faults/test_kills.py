"""The short form of the kills of `make chaos`: once at every step instead of 20 times."""

from itertools import product

from tests.system.faults.kills import MOMENTS, STEPS, Kills


def test_a_process_that_dies_while_it_forwards_forwards_every_picture(tmp_path):
    kills = Kills(tmp_path / "lake", times=1, steps=["append_instances", "announce", "forward"])
    findings = kills.run()
    assert findings.counts() == dict.fromkeys(findings.counts(), 0), list(findings.lines())
    assert {one.partition(" ")[2] for one in kills.killed()} == {"append_instances", "announce", "forward"}
    sql = (
        "SELECT row_id FROM instances_current EXCEPT SELECT row_id FROM deliveries WHERE status = 'delivered'"
    )
    assert len(kills.service.current()) == 6
    assert kills.service.rows(sql) == []
    assert len(list((kills.service.lake / "encoded").rglob("*.png.txt"))) == 6


def test_a_process_that_dies_at_any_step_loses_nothing(tmp_path):
    kills = Kills(tmp_path / "lake", times=1)
    findings = kills.run()
    assert findings.counts() == dict.fromkeys(findings.counts(), 0), list(findings.lines())
    assert set(kills.killed()) == {f"{moment} {step}" for step, moment in product(STEPS, MOMENTS)}
