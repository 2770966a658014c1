"""The folders of two customers to a receiver that fails in every way; the service is killed in the middle.

Meanwhile retention archives and deletes what was received. What has no row, or a delivery that is not
finished, stays.

python -m tests.system.e2e.test_forward [--files 60]
"""

import argparse
import base64
import json
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from tests import data
from tests.receiver import PictureReceiver
from tests.system.e2e.service import Service, until

CUSTOMERS = ("acme", "beta")
QUICK = {
    "delivery__permanent_attempts": 1,
    "delivery__backoff_min_s": 0.1,
    "delivery__backoff_max_s": 1,
    "workers__count": 1,
    "retention__delete_after_days": 1e-6,
    "retention__archive_after_days": 1e-6,
}


class Receiver(PictureReceiver):
    """Notes also whose file was gone before it had accepted the picture."""

    def __init__(self, landing):
        self.gone_early = []

        def watched(body, before):
            key, name = body["row_id"], body["file_name"].removesuffix(".png")
            if (
                key not in self.accepted
                and body["collection"]
                and not (landing / body["collection"] / name).exists()
            ):
                self.gone_early.append(name)
            return answer(body, before)

        super().__init__(watched)


def answer(body, before):
    """Refuse every tenth picture for good; fail once in turn for most others."""
    if body["file_name"] == "last.dcm.png":
        return 204
    number = int(body["file_name"].split(".")[0])
    if number % 10 == 9:
        return 422
    return 204 if before else (503, (429, "1"), None, 204, 500)[number % 5]


def files(count):
    """Yield name and content: every fifteenth is junk, the others pictures."""
    for number in range(count):
        junk = number % 15 == 14
        ct = data.ct(SOPInstanceUID=f"{data.SERIES}.{number}", PatientName="Canary^Qzxjvkw")
        yield f"{CUSTOMERS[number % 2]}/{number}.dcm", b"not DICOM\0" * 40 if junk else ct


def run(lake, count):
    """Return the receiver and the service's tables after all files have ended; killed after a third."""
    receiver = Receiver(lake / "landing")
    urls = json.dumps([receiver.url, f"file:{lake / 'encoded'}"])
    archive = f"file:{lake / 'archive'}"
    service = Service(lake, forward__urls=urls, retention__archive_url=archive, **QUICK)
    try:
        service.start()
        for name, content in files(count):
            service.drop(name, content)
        assert until(lambda: len(receiver.accepted) > count // 3), service.log.read_text()
        service.stop(signal.SIGKILL)
        with service.start():
            left = "SELECT id FROM queue"
            ended = "SELECT object_uri FROM instances_current UNION SELECT object_uri FROM dead_letters"
            assert until(lambda: len(service.rows(ended)) == count and not service.rows(left), 120), (
                service.log.read_text()
            )
            assert until(lambda: len(names(service.landing)) == count // 10 + count // 15 - count // 30)
        with service.start():  # what retention has deleted is no removal after a restart either
            service.drop("last.dcm", data.ct())
            assert until(lambda: "last.dcm" in service.current() and not service.rows(left))
        return receiver, service
    finally:
        receiver.close()


def names(folder):
    """Return the names of the files in a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {
        "last.dcm"
    }


def summary(receiver, service):
    """Return what came of it, in numbers."""
    states = service.rows(
        "SELECT substr(target, 1, 4) AS target, status, COUNT(DISTINCT row_id) AS n FROM deliveries"
        " GROUP BY 1, 2"
    )
    letters = service.rows("SELECT code, COUNT(*) AS n FROM dead_letters GROUP BY 1")
    return {
        "left_in_landing": sorted(names(service.landing)),
        "archived": len(names(service.lake / "archive")),
        "files_gone_before_their_delivery": receiver.gone_early,
        "removals": len(service.rows("SELECT row_id FROM instances WHERE event_type = 'OBJECT_DELETE'")),
        "rows": len(service.rows("SELECT row_id FROM instances_current")),
        "requests": len(receiver.requests),
        "answers": dict(receiver.answers),
        "arrived": len(receiver.accepted),
        "arrived_again": receiver.repeats.total(),
        "encoded": len(list((service.lake / "encoded").rglob("*.png.txt"))),
        "deliveries": {f"{one['target']} {one['status']}": one["n"] for one in states},
        "dead_letters": {one["code"]: one["n"] for one in letters},
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return run(tmp_path_factory.mktemp("forward") / "lake", 30)


def test_every_picture_arrives_or_is_a_dead_letter_with_its_reason(ran):
    receiver, service = ran
    stored = {row["row_id"] for row in service.rows("SELECT row_id FROM instances_current")}
    assert len(stored) == 29
    sql = "SELECT reason, code FROM dead_letters ORDER BY code"
    letters = [(one["code"], one["reason"]) for one in service.rows(sql)]
    # 9, 19; 29 is junk, as 14 is
    assert letters[:2] == [("forward_refused", f"forward: {receiver.url}: it answers 422")] * 2
    assert [code for code, _ in letters[2:]] == ["not_dicom"] * 2
    assert len(receiver.accepted) == 27
    assert set(receiver.accepted) <= stored
    delivered = service.rows("SELECT DISTINCT row_id, target FROM deliveries WHERE status = 'delivered'")
    assert len(delivered) == 27 + 29


def test_pictures_are_whole_and_of_the_customer_that_has_sent_them(ran):
    receiver, service = ran
    bodies = [body for body in receiver.accepted.values() if body["file_name"] != "last.dcm.png"]
    for body in bodies:
        number = int(body["file_name"].split(".")[0])
        assert body["collection"] == CUSTOMERS[number % 2]
        encoded = service.lake / "encoded" / body["collection"] / f"{number}.dcm.png.txt"
        assert encoded.read_text() == body["picture"]
        assert base64.b64decode(body["picture"]).startswith(b"\x89PNG")


def test_a_repetition_has_the_key_of_the_first(ran):
    receiver, _ = ran
    assert receiver.answers["None"] >= 5
    assert receiver.repeats.total() >= receiver.answers["None"]
    assert len({body["file_name"] for body in receiver.accepted.values()}) == len(receiver.accepted)


def test_no_name_of_a_patient_is_on_the_wire_or_in_the_log(ran):
    receiver, service = ran
    told = service.log.read_bytes() + b"".join(
        repr(headers).encode() + body for headers, body in receiver.requests
    )
    assert b"Qzxjvkw" not in told


def test_retention_leaves_what_is_not_finished_and_removes_nothing_from_the_lake(ran):
    receiver, service = ran
    # 9 and 19 were refused, 14 and 29 are junk.
    assert names(service.landing) == {"beta/9.dcm", "beta/19.dcm", "acme/14.dcm", "beta/29.dcm"}
    assert names(service.lake / "archive") == {name for name, _ in files(30)} - names(service.landing)
    assert receiver.gone_early == []
    assert service.rows("SELECT row_id FROM instances WHERE event_type <> 'OBJECT_FINALIZE'") == []


def main():
    """Print what came of it."""
    parser = argparse.ArgumentParser(description="two customers, a receiver that fails, a killed service")
    parser.add_argument("--files", type=int, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        json.dump(summary(*run(Path(scratch) / "lake", given.files)), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
