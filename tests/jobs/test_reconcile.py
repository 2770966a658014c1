"""`reconcile`, `backfill`, `reprocess`: what differs, what is published, and where a job goes on."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydicom.data import get_testdata_file

from app import pipeline
from app.cli.commands import cli
from app.cli.fleet import _noted
from app.jobs import backfill as backfilling
from app.jobs import lane
from app.jobs.compare import Comparison, Difference, Kind, in_order, places
from app.jobs.ingest import ingest
from app.jobs.reconcile import Wanted, reconcile
from app.model.cleaning import Cleaning
from app.model.errors import ConfigError, StorageUnavailable, WarehouseUnavailable
from app.model.values import ObjectRef
from app.storage import Listed

CT, MR = (Path(get_testdata_file(name, download=False)) for name in ("CT_small.dcm", "MR_small.dcm"))
SECRET = b"0123456789abcdef0123456789abcdef"


def listed(name, generation=1, written_s=0.0):
    return f"gs://b/{name}", Listed(ObjectRef("b", name, generation), 10, written_s)


def row(name, generation=1):
    return {"object_uri": f"gs://b/{name}", "generation": generation, "ingested_at": datetime.now(UTC)}


def kinds(listing, rows):
    found = Comparison(listing, rows)
    return [(one.kind, one.object_uri.removeprefix("gs://b/")) for one in found]


@pytest.mark.parametrize(
    ("listing", "rows", "expected"),
    [
        ([], [], []),
        ([listed("a")], [row("a")], []),
        ([listed("a"), listed("b")], [row("b")], [(Kind.MISSING, "a")]),
        ([listed("b")], [row("a"), row("b"), row("c")], [(Kind.ORPHAN_ROW, "a"), (Kind.ORPHAN_ROW, "c")]),
        ([listed("a", 2)], [row("a", 1)], [(Kind.STALE, "a")]),
        # Overwritten by an object of another study: the removal of the first version was lost.
        ([listed("a", 2)], [row("a", 1), row("a", 2)], [(Kind.ORPHAN_ROW, "a")]),
        # In the order of UTF-8 bytes: "-" < "." < "/" < "b" < "é"
        ([listed(n) for n in ("a-b", "a.t", "a/x", "ab", "aé")], [row("a/x"), row("aé")],
         [(Kind.MISSING, "a-b"), (Kind.MISSING, "a.t"), (Kind.MISSING, "ab")]),
    ],
)  # fmt: skip
def test_two_ordered_streams_are_compared(listing, rows, expected):
    assert kinds(listing, rows) == expected


def test_streams_out_of_order_are_refused_before_anything_is_taken_for_removed():
    with pytest.raises(StorageUnavailable):
        kinds([listed("b"), listed("a")], [])
    with pytest.raises(WarehouseUnavailable):
        kinds([], [row("b"), row("a")])


def test_neither_stream_is_collected():
    """Endless streams: what is compared so far is all that was taken."""
    comparison = Comparison((listed(f"{n:09}") for n in count()), (row(f"{2 * n:09}") for n in count()))
    found = list(islice(comparison, 1000))
    assert [one.kind for one in found] == [Kind.MISSING] * 1000
    assert comparison.objects == 2000


def test_a_listing_is_sorted_in_parts():
    names = [f"{n * 7919 % 1000:03}" for n in range(1000)]
    assert list(in_order((listed(name) for name in names), 64)) == [listed(name) for name in sorted(names)]


class Sent:
    """A bus that keeps what is published."""

    def __init__(self):
        self.messages = []

    def publish_all(self, messages):
        self.messages += messages


@pytest.fixture
def lake(services):
    """A lake with `a.dcm` and `b.dcm` stored, two hours ago."""
    root = services.source.root
    for name in ("a.dcm", "b.dcm"):
        (root / name).write_bytes(CT.read_bytes())
    assert ingest([root], services, lambda line: None)["stored"] == 2
    return later(services)


def later(services, hours=2):
    return replace(services, now=lambda: datetime.now(UTC) + timedelta(hours=hours))


def reconciled(services, fix=False, age_s=3600.0):
    """Return the lines by kind and name, the summary, and what was published."""
    lines, sent = [], Sent()
    wanted = Wanted(tuple(places(services)), fix, age_s)
    summary = reconcile(services, sent, wanted, lines.append)
    return sorted((one["kind"], os.path.basename(one.get("object_uri", ""))) for one in lines), summary, sent


def handled(services, sent):
    return [pipeline.handle(message, services).status.value for message in sent.messages]


def test_a_lake_in_order_has_no_differences(lake):
    lines, summary, _ = reconciled(lake)
    assert lines == []
    assert summary == {
        "objects": 2, "rows": 2, "missing": 0, "stale": 0, "orphan_row": 0, "orphan_artifact": 0
    }  # fmt: skip


def test_lost_events_are_found_and_published(lake):
    root = lake.source.root
    (root / "a.dcm").unlink()  # and its removal was lost
    (root / "b.dcm").write_bytes(MR.read_bytes())  # and so was that it was overwritten
    (root / "c.dcm").write_bytes(MR.read_bytes())
    lines, summary, sent = reconciled(lake)
    assert lines == [("missing", "c.dcm"), ("orphan_row", "a.dcm"), ("stale", "b.dcm")]
    assert sent.messages == []  # without --fix
    _, summary, sent = reconciled(lake, fix=True)
    assert summary["published"] == 3
    assert sorted(handled(lake, sent)) == ["deleted", "stored", "stored"]
    lines, summary, _ = reconciled(lake)
    assert [kind for kind, _ in lines] == ["orphan_artifact", "orphan_artifact"]  # of the first b.dcm
    modalities = lake.warehouse.query("SELECT object_uri, modality FROM instances_current ORDER BY 1")
    assert [one["modality"] for one in modalities] == ["MR", "MR"]


def test_what_is_young_may_be_on_its_way(lake):
    (lake.source.root / "a.dcm").unlink()
    (lake.source.root / "c.dcm").write_bytes(MR.read_bytes())
    lines, summary, _ = reconciled(later(lake, 0))
    assert (lines, summary["young"]) == ([], 2)
    lines, _, _ = reconciled(later(lake, 0), age_s=0)
    assert lines == [("missing", "c.dcm"), ("orphan_row", "a.dcm")]


def test_dead_letters_and_what_the_pipeline_ignores_are_not_missing(lake):
    (lake.source.root / "x.dcm").write_text("just a text")
    (lake.source.root / "gcloud/tmp/parallel_composite_uploads").mkdir(parents=True)
    (lake.source.root / "gcloud/tmp/parallel_composite_uploads/part").write_bytes(b"x")
    assert ingest([lake.source.root / "x.dcm"], lake, lambda line: None)["dead_lettered"] == 1
    lines, summary, _ = reconciled(lake)
    assert (lines, summary["dead_lettered"], summary["unwanted"]) == ([], 1, 1)


def test_an_artifact_without_a_row_is_reported_and_kept(lake):
    uri = lake.artifacts.write("metadata/nobody.dcm.1.json", b"{}", "application/json")
    lines, summary, sent = reconciled(lake, fix=True)
    assert ([kind for kind, _ in lines], summary["orphan_artifact"]) == (["orphan_artifact"], 1)
    assert sent.messages == []
    assert lake.artifacts.read(uri) == b"{}"


def test_an_object_that_came_back_is_not_removed(lake):
    """The row is of an earlier version of a file that is there again when its removal would be published."""
    row_of = lake.warehouse.query("SELECT object_uri, generation FROM instances_current ORDER BY 1")[0]
    from app.jobs.reconcile import _events

    found = Difference(Kind.ORPHAN_ROW, row_of["object_uri"], None, row_of)
    assert list(_events(found, lake)) == []


def test_names_that_are_hashed_are_compared_as_rows_show_them(services):
    clean = replace(services, cleaning=Cleaning("basic", SECRET))
    root = services.source.root
    for name in ("JONES.dcm", "SMITH.dcm", "ADAMS.dcm"):
        (root / name).write_bytes(CT.read_bytes())
    assert ingest([root], clean, lambda line: None)["stored"] == 3
    (root / "MILLER.dcm").write_bytes(MR.read_bytes())
    lines, summary, sent = reconciled(later(clean), fix=True)
    assert [kind for kind, _ in lines] == ["missing"]
    assert "MILLER" not in json.dumps(lines)
    assert summary["published"] == 1
    assert handled(clean, sent) == ["stored"]
    assert reconciled(later(clean))[0] == []


def test_a_place_is_of_the_source(services):
    root = services.source.root
    assert [place.prefix for place in places(services, f"file://{root}/ct/")] == ["ct/"]
    assert [place.prefix for place in places(services, f"file://{root}")] == [""]
    with pytest.raises(ConfigError, match="is not in source"):
        places(services, "gs://elsewhere/")


class Clock:
    """Seconds that only pass while somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 0.0, 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.slept += seconds


def pacing(rate=1e9):
    clock = Clock()
    return lane.Pacing(rate, clock, clock.sleep), clock


def test_events_begin_at_500_a_second_and_double_every_20_minutes():
    paced, clock = pacing(4000)
    pace = lane.Pace(paced)
    for _ in range(3000):
        pace.wait(200)  # 600,000 events are 500 a second for 1,200 s
    pace.wait(0)
    assert clock.now == pytest.approx(1200)
    clock.now = 1201
    assert pace.rate() == 1000
    clock.now = 86_400
    assert pace.rate() == 4000
    assert lane.seconds_for(600_000) == pytest.approx(1200)
    assert lane.seconds_for(600_000 + 1_200_000 + 2_400_000 + 4000) == pytest.approx(3601)


def job_of(services, **arguments):
    return lane.begin(services, "backfill", {"url": f"file://{services.source.root}", **arguments})


def test_a_backfill_publishes_what_has_no_row(lake):
    for number in range(3):
        (lake.source.root / f"new{number}.dcm").write_bytes(MR.read_bytes())
    (lake.source.root / "a.dcm").unlink()
    sent, noted = Sent(), []
    counts = backfilling.backfill(
        lake, sent, job_of(lake), pacing()[0], backfilling.Reporting(note=noted.append)
    )
    assert counts == {"objects": 4, "published": 3}
    assert [os.path.basename(one["object_uri"]) for one in noted] == ["new0.dcm", "new1.dcm", "new2.dcm"]
    assert handled(lake, sent) == ["stored"] * 3
    assert backfilling.backfill(lake, Sent(), job_of(lake), pacing()[0]) == {"objects": 4}
    _, first = lane.job_rows(lake.warehouse)
    assert (first["counts"], first["ended_at"] is None) == ({"objects": 4, "published": 3}, False)


def test_an_interrupted_job_goes_on_where_it_was(lake, monkeypatch):
    monkeypatch.setattr(lane, "RECORD_EVERY", 2)
    monkeypatch.setattr(lane, "BATCH", 1)
    for number in range(6):
        (lake.source.root / f"new{number}.dcm").write_bytes(MR.read_bytes())

    class Interrupted(Sent):
        def publish_all(self, messages):
            if len(self.messages) == 4:
                raise KeyboardInterrupt
            super().publish_all(messages)

    job, first = job_of(lake), Interrupted()
    with pytest.raises(KeyboardInterrupt):
        backfilling.backfill(lake, first, job, pacing()[0])
    stood = lane.job_row(lake.warehouse, job.id)
    assert stood["ended_at"] is None
    assert os.path.basename(stood["cursor"]) == "new2.dcm"
    rest = Sent()
    again = lane.resume(lake, "backfill", job.id)
    counts = backfilling.backfill(lake, rest, again, pacing()[0])
    assert [one.attributes["objectId"] for one in rest.messages] == [
        "new3.dcm", "new4.dcm", "new5.dcm"
    ]  # fmt: skip
    assert counts == {"objects": 8, "published": 6}
    with pytest.raises(ConfigError, match="is complete"):
        lane.resume(lake, "backfill", job.id)
    with pytest.raises(ConfigError, match="dicomlake backfill"):
        lane.resume(lake, "reprocess", job.id)
    with pytest.raises(ConfigError, match="there is no job x"):
        lane.resume(lake, "backfill", "x")


def test_the_cost_of_a_hundred_million_ct_is_that_of_the_page():
    """docs/cost.md: 13.00 USD a million; reading 50 TB from Coldline is 1,000 USD, from Archive 2,500."""
    found = backfilling.cost(10**8, 10**8, {"STANDARD": 10**12}, previews=True)
    assert found["total"] == pytest.approx(1301.5, abs=1)
    assert (found["storage_writes"], found["listing"]) == (1000.0, 0.5)
    assert backfilling.cost(1, 0, {"COLDLINE": 50_000 * 2**30}, True)["retrieval_coldline"] == 1000.0
    assert backfilling.cost(1, 0, {"ARCHIVE": 50_000 * 2**30}, True)["retrieval_archive"] == 2500.0


def test_rows_by_older_software_are_described_again(lake):
    job = lane.begin(lake, "reprocess", {"older_than": "99.0.0"})
    sent = Sent()
    counts = backfilling.reprocess(lake, sent, job, pacing()[0])
    assert counts == {"objects": 2, "published": 2}
    assert handled(lake, sent) == ["stored", "stored"]
    rows = lake.warehouse.query("SELECT revision FROM instances_current")
    assert [one["revision"] for one in rows] == [int(job.started_at.timestamp())] * 2
    assert backfilling.older_versions(lake.warehouse, "0.0.1") == []
    with pytest.raises(ConfigError, match="is no version"):
        backfilling.older_versions(lake.warehouse, "new")


def test_rows_by_a_condition_are_described_again(lake):
    job = lane.begin(lake, "reprocess", {"where": "object_uri LIKE '%/b.dcm' OR modality = 'PT'"})
    sent = Sent()
    assert backfilling.reprocess(lake, sent, job, pacing()[0]) == {"objects": 1, "published": 1}
    assert sent.messages[0].attributes["objectId"] == "b.dcm"


def test_what_was_ingested_in_place_is_outside_of_the_lane(lake, tmp_path):
    (tmp_path / "elsewhere.dcm").write_bytes(CT.read_bytes())
    ingest([tmp_path / "elsewhere.dcm"], lake, lambda line: None)
    job = lane.begin(lake, "reprocess", {"where": "1 = 1"})
    assert backfilling.reprocess(lake, Sent(), job, pacing()[0]) == {
        "objects": 3, "outside": 1, "published": 2
    }  # fmt: skip


def test_names_that_are_hashed_are_found_again_for_a_revision(services):
    clean = replace(services, cleaning=Cleaning("basic", SECRET))
    for name in ("JONES.dcm", "ADAMS.dcm", "SMITH.dcm"):
        (services.source.root / name).write_bytes(CT.read_bytes())
    ingest([services.source.root], clean, lambda line: None)
    sent = Sent()
    job = lane.begin(clean, "reprocess", {"older_than": "99.0.0"})
    assert backfilling.reprocess(clean, sent, job, pacing()[0]) == {"objects": 3, "published": 3}
    names = {one.attributes["objectId"] for one in sent.messages}
    assert names == {"ADAMS.dcm", "JONES.dcm", "SMITH.dcm"}
    assert handled(clean, sent) == ["stored"] * 3


@pytest.fixture
def say(tmp_path, monkeypatch):
    """Run a command on the default lake, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        result = CliRunner().invoke(cli, words)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout, result.stderr

    return run


def test_a_killed_lister_leaves_no_published_object_out_of_the_manifest(tmp_path):
    with _noted(tmp_path / "published.jsonl") as note:
        note({"object_uri": "gs://b/a.dcm", "generation": 1})
        assert json.loads((tmp_path / "published.jsonl").read_text())["object_uri"] == "gs://b/a.dcm"


def test_the_commands_of_the_fleet(say, tmp_path):
    landing = tmp_path / "lake/landing"
    landing.mkdir(parents=True)
    (landing / "a.dcm").write_bytes(CT.read_bytes())
    code, said, _ = say("reconcile", "--json", "--age", "0")
    assert code == 1
    lines = [json.loads(line) for line in said.splitlines()]
    assert lines[0]["kind"] == "missing"
    assert lines[1]["summary"]["missing"] == 1
    code, said, _ = say("backfill", f"file://{landing}/", "--dry-run", "--json")
    assert (code, json.loads(said)) == (
        0,
        {"objects": 1, "known": 0, "to_publish": 1, "bytes": {"STANDARD": 39206}, "hours": 0.0},
    )
    code, said, why = say("backfill", f"file://{landing}/", "--json", "--manifest", "published.jsonl")
    assert code == 0
    job = json.loads(said)["job"]
    assert why == f"job {job}\n"
    assert json.loads(said) == {"job": job, "objects": 1, "published": 1}
    assert json.loads((tmp_path / "published.jsonl").read_text())["object_uri"] == f"file://{landing}/a.dcm"
    code, said, _ = say("status", job, "--json")
    assert (code, json.loads(said)["counts"]) == (0, {"objects": 1, "published": 1})
    assert say("status")[1].startswith(f"id: {job}\n")
    assert say("backfill")[0] == 2
    assert say("backfill", "gs://elsewhere/")[0] == 2
    assert say("reprocess", "--where", "1 = 1", "--dry-run") == (0, "to_publish: 0\nhours: 0.0\n", "")
    assert say("status", "nothing")[0] == 2
    code, said, _ = say("reconcile", "--fix", "--age", "0", "--quiet")
    assert (code, said.splitlines()[-1]) == (0, "published: 1")
