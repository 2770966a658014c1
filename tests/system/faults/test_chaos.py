"""The short form of `make chaos`: one seed, some hundred events; the whole is three seeds of 10,000."""

from tests.system.faults.chaos import Chaos


def test_nothing_is_lost_wrong_or_doubled_while_calls_fail_and_the_process_is_killed(tmp_path):
    chaos = Chaos(tmp_path / "lake", seed=4, rate=0.05, names=150)
    try:
        findings = chaos.run(events=300)
    finally:
        chaos.service.end()
    assert findings.counts() == dict.fromkeys(findings.counts(), 0), list(findings.lines())
    assert chaos.counts["bad exits"] == 0
    assert chaos.counts["SIGKILL"] >= 1
    assert chaos.counts["faults"] >= 50
    assert chaos.counts["repeated"] >= 5
    assert min(chaos.counts[ended] for ended in ("stored", "deleted", "failed")) >= 10
