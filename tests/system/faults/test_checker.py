"""The checker finds what it is there to find: a good lake is spoilt in every way."""

import shutil
import sqlite3
from contextlib import closing

import pytest

from tests.system.e2e.service import until
from tests.system.faults import checker
from tests.system.faults.service import FaultyService
from tests.system.faults.world import KINDS, World

NOTHING = checker.Findings().counts()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return a lake that holds an object of every kind and one that is gone, and a copy of it."""
    lake = tmp_path_factory.mktemp("faults") / "lake"
    settings = {"delivery__permanent_attempts": 1, "log__level": "debug"}
    with FaultyService(lake, **settings) as service:
        world = World(service.landing, lake / "staging", 0, seed=1)
        for kind in (*KINDS, "good"):
            world.write(f"{kind}{len(world.objects)}.dcm", kind)
        world.write("gone.dcm", "good")
        assert until(lambda: "gone.dcm" in service.current())
        world.delete("gone.dcm")
        world.save(lake / "model.json")
        assert until(lambda: not service.queued() and not checker.check(lake).any()), checker.check(lake)
    shutil.copytree(lake, lake.with_name("copy"))
    return lake


@pytest.fixture
def lake(good):
    yield good
    shutil.rmtree(good)
    shutil.copytree(good.with_name("copy"), good)


def sql(lake, *statements, file="lake.db"):
    with closing(sqlite3.connect(lake / file)) as database, database:
        for statement in statements:
            database.execute(statement)


def pictures(lake):
    return sorted((lake / "output/images").glob("good*.png"))


def view(lake, name, select):
    sql(
        lake,
        f"CREATE TABLE spoilt AS {select}",
        f"DROP VIEW {name}",
        f"CREATE VIEW {name} AS SELECT * FROM spoilt",
    )


CURRENT = "SELECT * FROM instances_current"
SPOILT = {
    "lost": lambda lake: view(lake, "instances_current", f"{CURRENT} WHERE object_uri NOT LIKE '%good0.dcm'"),
    "wrong": lambda lake: sql(
        lake, "UPDATE instances SET patient_id = 'N1' WHERE object_uri LIKE '%good0.dcm'"
    ),
    "doubled": lambda lake: view(lake, "instances_current", f"{CURRENT} UNION ALL {CURRENT}"),
    "ghosts": lambda lake: view(
        lake,
        "instances_current",
        f"{CURRENT} UNION ALL SELECT * FROM instances WHERE object_uri LIKE '%gone.dcm' AND rows = 2",
    ),
    "without_letter": lambda lake: view(lake, "dead_letters", "SELECT * FROM dead_letters LIMIT 2"),
    "wrongly_given_up": lambda lake: sql(
        lake, "UPDATE dead_letter SET attributes = replace(attributes, 'not_dicom', 'short_read')"
    ),
    "row_and_letter": lambda lake: sql(
        lake,
        "CREATE TABLE spoilt AS SELECT * FROM dead_letters",
        "UPDATE spoilt SET (object_uri, generation) = "
        "(SELECT object_uri, generation FROM instances_current WHERE object_uri LIKE '%good0.dcm')",
        "DROP VIEW dead_letters",
        "CREATE VIEW dead_letters AS SELECT * FROM spoilt",
    ),
    "unexplained": lambda lake: sql(lake, "DELETE FROM instances WHERE event_type = 'OBJECT_DELETE'"),
    "artifacts_missing": lambda lake: pictures(lake)[0].unlink(),
    "unannounced": lambda lake: sql(lake, "DELETE FROM queue", file="announced.db"),
    "phantoms": lambda lake: sql(lake, "DELETE FROM instances"),
    "artifacts_left_over": lambda lake: shutil.copy(pictures(lake)[0], lake / "output/images/x.dcm.1.png"),
}


@pytest.mark.parametrize("finding", SPOILT)
def test_it_finds(finding, lake):
    SPOILT[finding](lake)
    assert checker.check(lake).counts()[finding] > 0


def test_every_finding_is_tried():
    assert set(SPOILT) == set(NOTHING)


def test_it_finds_nothing_in_a_good_lake(lake):
    assert checker.check(lake).counts() == NOTHING


def test_it_finds_the_picture_of_another_object(lake):
    first, second = pictures(lake)
    shutil.copy(first, second)
    assert checker.check(lake).counts() == NOTHING | {"wrong": 1}


def test_it_finds_the_document_of_another_version(lake):
    first, second = sorted((lake / "output/metadata").glob("good*.json"))
    shutil.copy(first, second)
    assert checker.check(lake).counts() == NOTHING | {"wrong": 1}


def test_it_finds_that_a_file_of_the_source_was_removed(lake):
    (lake / "landing/text2.dcm").unlink()
    assert checker.check(lake).counts() == NOTHING | {"wrong": 1}
