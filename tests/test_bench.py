"""The benchmark beside peers: how it shows times, and that a tool which cannot do a task is left out."""

from __future__ import annotations

from benchmarks.bench import OURS, Way, in_turn, svg, table


def test_a_table_shows_how_many_times_our_cpu_each_peer_takes():
    times = {"CT | both": {OURS: 2.0, "dcmtk": 31.0}, "US | both": {OURS: 2.0, "dcmtk": 247}}
    times["MR | both"] = {OURS: 8.25}
    assert table(["file", "task"], times, [OURS, "dcmtk"], OURS).splitlines() == [
        "| file | task | dicomlake | dcmtk |",
        "|---|---|---:|---:|",
        "| CT | both | 2 | 31 (16) |",
        "| US | both | 2 | 247 (120) |",
        "| MR | both | 8.25 |  |",
    ]


def test_a_way_that_cannot_do_a_task_is_left_out():
    def cannot() -> None:
        raise NotImplementedError

    ticks = iter(range(10**6))
    ways = [Way("can", lambda: None, lambda: next(ticks)), Way("cannot", cannot)]
    assert in_turn(ways, 3) == {"can": 1000.0}


def test_the_plot_has_a_bar_for_each_tool_that_was_there():
    found = svg(
        {"files": {"CT": {"both": {OURS: 2.0, "dcmtk": 31.0}}, "RTSTRUCT": {"metadata": {OURS: 5.0}}}}
    )
    assert found.startswith("<svg ")
    assert "dicomlake 2 ms" in found
    assert "dcmtk 31 ms" in found
    assert "RTSTRUCT" not in found
