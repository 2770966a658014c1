"""A look-up of one study reads that study: counted by DuckDB, a column store, on BigQuery's statements."""

import json
import subprocess

from tests.bq_emulator import HOME
from tests.parts import ROOT, need

OBJECTS, REMOVED, STUDY = 20_000, 200, 200


def test_a_look_up_of_one_study_reads_its_rows_and_the_removals():
    need("the BigQuery emulator, for its DuckDB", (HOME / "bin/python").exists(), "make emulators")
    command = [HOME / "bin/python", "-m", "benchmarks.pruning", "--rows", str(OBJECTS)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {line["query"]: (line["instances"], line["removed"], line["answer"]) for line in lines} == {
        "instances_current, without removals": (OBJECTS + REMOVED, 0, STUDY - 2),
        "series, without removals": (OBJECTS + REMOVED, 0, 1),
        "studies, without removals": (OBJECTS + REMOVED, 0, 1),
        "instances_current, with removals": (STUDY, REMOVED, STUDY - 2),
        "series, with removals": (STUDY, REMOVED, 1),
        "studies, with removals": (STUDY, REMOVED, 1),
        "current_of_study": (STUDY, REMOVED, STUDY - 2),
    }
