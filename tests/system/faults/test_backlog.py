"""The short form of `make fleet`: 300 objects instead of 100,000, two kills of each process."""

from tests.system.faults.backlog import Backlog, faults


def test_a_backlog_is_worked_once_though_lister_and_service_die_and_live_files_come(tmp_path):
    found = Backlog(tmp_path / "lake", objects=300, kills=2, rate=100).run()
    assert [*faults(found)] == []
    assert (found["kills_of_lister"], found["kills_of_service"]) == (2, 2)
    assert found["live"] > 20
