"""Archives as a user sees them: drop one, overwrite it, remove it; and `ingest`."""

import json
import subprocess
import sys
import zipfile

import pytest

from tests import data
from tests.archives import deflated_zeros, tarred, zip_raw, zipped
from tests.parts import shared
from tests.system.e2e.service import Service, paths, until

CT = data.ct()
THREE = [(f"a/{number}.dcm", data.minimal(SOPInstanceUID=f"1.2.{number}")) for number in range(3)]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(tmp_path_factory.mktemp("lake"), delivery__backoff_min_s=0.1) as running:
        yield running


def members(service, name):
    rows = service.rows(f"SELECT member FROM instances_current WHERE object_uri LIKE '%/{name}'")
    return sorted(str(row["member"]) for row in rows)


def artifacts(service, name):
    return [path for path in paths(service.lake / "output") if path.is_file() and name in str(path)]


def test_a_dropped_zip_is_a_row_for_each_member_until_a_smaller_one_replaces_it_and_it_goes(service):
    path = service.drop("x.zip", zipped([*THREE, ("a/3.dcm", CT)]))
    assert until(lambda: members(service, "x.zip") == [f"a/{number}.dcm" for number in range(4)])
    first = path.stat().st_mtime_ns
    service.drop("x.zip", zipped([("a/0.dcm", CT)]))
    assert until(lambda: members(service, "x.zip") == ["a/0.dcm"])
    assert until(lambda: not artifacts(service, f"x.zip.{first}"))
    assert len(artifacts(service, "x.zip.")) == 2
    path.unlink()
    assert until(lambda: members(service, "x.zip") == [])
    assert until(lambda: not artifacts(service, "x.zip."))


def test_a_bomb_fails_with_its_reason_and_the_service_goes_on(service):
    packed, crc = deflated_zeros(1024)
    service.drop("bomb.zip", zip_raw("1.dcm", packed, 1 << 30, crc))
    assert until(lambda: service.rows("SELECT * FROM failures WHERE object_uri LIKE '%bomb.zip'"))
    (failure, *_) = service.rows("SELECT * FROM failures WHERE object_uri LIKE '%bomb.zip'")
    assert (failure["code"], failure["permanent"]) == ("compression_ratio", 1)
    service.drop("after.zip", zipped(THREE))
    assert until(lambda: len(members(service, "after.zip")) == 3)
    assert service.healthy()


def test_no_name_of_a_member_is_logged(service):
    service.drop("named.zip", zipped([("DOE^JANE.dcm", b"no image"), ("DOE^JOHN.dcm", CT)]))
    assert until(lambda: members(service, "named.zip") == ["DOE^JOHN.dcm"])
    lines = until(lambda: [line for line in service.lines() if line.get("object") == "named.zip"])
    assert lines[0]["stored"] == 1
    assert "DOE^" not in service.log.read_text()


def test_ingest_tells_how_many_members_were_stored(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.zip").write_bytes(zipped(THREE, zipfile.ZIP_STORED))
    (folder / "mixed.tar").write_bytes(tarred([*THREE, ("bad.dcm", b"no")]))
    service = Service(tmp_path / "lake")
    result = service.run("ingest", str(folder))
    good, mixed, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert (good["status"], good["members"]) == ("stored", 3)
    assert (mixed["status"], mixed["code"], mixed["members"]) == ("dead_lettered", "bad_archive", 3)
    assert last["summary"] == {
        **{"files": 2, "stored": 1, "dead_lettered": 1},
        "codes": {"bad_archive": 1},
        "see": "dicomlake dlq list",
    }
    assert result.returncode == 1


def test_every_archive_of_the_bad_inputs_ends_as_it_should(tmp_path):
    tool = shared("tools", "badinputs") / "badinputs.py"
    subprocess.run(
        [sys.executable, tool, "--only", "archive/*", "--out", tmp_path / "bad"],
        check=True,
        capture_output=True,
        timeout=300,
    )
    lines = (tmp_path / "bad/manifest.jsonl").read_text().splitlines()
    cases = [case for case in map(json.loads, lines) if case["group"] == "archive"]
    service = Service(tmp_path / "lake")
    result = service.run("ingest", str(tmp_path / "bad/archive"))
    ended = [json.loads(line) for line in result.stdout.splitlines()[:-1]]
    found = {line["object_uri"].rpartition("/bad/")[2]: line for line in ended}
    assert len(cases) == len(found) > 60
    wrong = [case["name"] for case in cases if not as_expected(case, found[case["file"]])]
    assert wrong == []


def as_expected(case, line):
    """Tell whether an archive ended as its manifest says: so many members stored, failing if any is bad."""
    permanent = line["status"] == "dead_lettered"
    if case["expect"] == "perm" or (permanent and "perm" in case["allow"]):
        return permanent
    wanted = case["must"]["members"]
    return (line.get("members"), permanent) == (wanted.get("ok", 0), bool(wanted.get("perm")))
