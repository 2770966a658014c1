"""No value of a data set and no secret leaves by what Google's services say of their failures.

Their texts quote rows, objects and tokens (canary_cloud.py), in every status there is. All that the service
then says is searched for canaries (canaries.py).
"""

import grpc
import pytest

from tests.archives import zipped
from tests.system.e2e.canaries import REFUSED, WHOLE, WORD, check_lines, data_sets, leaks
from tests.system.e2e.canary_cloud import CanaryCloud, refused_tokens, running_canaries
from tests.system.e2e.canary_service import Said

CANARY = WORD.decode()
BAD_ROW = data_sets()["refused"]
STATUSES = [status.name for status in grpc.StatusCode if status is not grpc.StatusCode.OK]
ONCE = {"workers__count": 1, "delivery__permanent_attempts": 5, "log__level": "debug"}


def refuse_rows(cloud: CanaryCloud, said: Said):
    """A row that BigQuery names, one that it does not name, one in an archive, each until it is given up."""
    cloud.front.refused = REFUSED
    for names_rows in (True, False):
        cloud.front.names_rows = names_rows
        assert cloud.push(said, "row.dcm", BAD_ROW) == 422
        assert cloud.again(said, attempt=5) == 204
        members = [("a.dcm", BAD_ROW), ("b.dcm", WHOLE)]
        assert cloud.push(said, "rows.zip", zipped(members), attempt=5) == 204
    cloud.front.refused = ""


def fail_appends(cloud: CanaryCloud, said: Said):
    """Every status that ends a call or comes in an answer; what may pass is tried three times."""
    for failure in [*STATUSES, *(f"told_{status}" for status in STATUSES)]:
        cloud.front.failures = [failure] * 3
        invalid = "INVALID_ARGUMENT" in failure
        assert cloud.push(said, "fail.dcm", WHOLE) == (422 if failure == "INVALID_ARGUMENT" else 503), failure
        assert invalid or not [one for one in cloud.front.failures if one != failure]
        cloud.front.failures = []


def fail_objects(cloud: CanaryCloud, said: Said):
    """Every status of Cloud Storage, at each of its calls."""
    for status in (400, 401, 403, 404, 412, 429, 500, 503):
        for method, target in (("GET", "/b/landing/"), ("POST", "/b/artifacts/"), ("GET", "/b/artifacts/")):
            cloud.gcs.fail(status, times=3, method=method, target=target, text=CANARY)
            cloud.push(said, "object.dcm", WHOLE)
            cloud.gcs.faults.clear()


def fail_letters(cloud: CanaryCloud, said: Said):
    """Pub/Sub that does not take a dead letter."""
    for status in (
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
    ):
        cloud.publisher.failures = [status]
        assert cloud.push(said, "letter.dcm", WHOLE[:-9], attempt=5) == 503
    assert cloud.again(said, attempt=5) == 204


def ask(cloud: CanaryCloud, said: Said):
    """A statement that BigQuery stops at a row."""
    for failure in ("400", "strange", "404", "403"):
        cloud.front.failures = ["", failure]  # what it reads is asked first
        ran = cloud.service.run("query", "SELECT object_uri FROM instances")
        assert ran.returncode == 1
        said.add(f"query {failure}", ran.stderr + ran.stdout)


def refuse_credentials(said, folder, front):
    """Tokens that are not to be had, for storage and for the reader of the warehouse."""
    nowhere = "https://127.0.0.1:1"
    with refused_tokens(folder) as credentials, running_canaries(folder / "lake", front, **ONCE) as cloud:
        cloud.service.stop()
        del cloud.service.env["STORAGE_EMULATOR_HOST"]
        url = f"bigquery:demo-project.lake?endpoint={nowhere}"
        cloud.service.env |= credentials | {"DICOMLAKE__WAREHOUSE__URL": url}
        cloud.service.start()
        assert cloud.push(said, "token.dcm", WHOLE) == 503
        assert "RefreshError" in said.texts[list(said.texts)[-1]].decode(), said.texts
        ran = cloud.service.run("query", "SELECT 1 AS one")
        assert ran.returncode == 1
        said.add("query", ran.stderr + ran.stdout)
        cloud.service.stop()
        said.add("log", cloud.service.log.read_bytes())


@pytest.fixture(scope="module")
def said(tmp_path_factory, session_front):
    found, folder = Said(), tmp_path_factory.mktemp("canaries")
    with running_canaries(folder / "storage", session_front, **ONCE) as cloud:
        refuse_rows(cloud, found)
        fail_appends(cloud, found)
        fail_objects(cloud, found)
        fail_letters(cloud, found)
        cloud.keep(found)
        found.planted = list(session_front.said)
    with running_canaries(folder / "text", session_front, **ONCE, log__format="text") as cloud:
        refuse_rows(cloud, found)
        ask(cloud, found)
        cloud.keep(found)
        found.planted += session_front.said
    refuse_credentials(found, folder, session_front)
    return found


pytestmark = pytest.mark.xdist_group("cloud")


def test_no_value_of_a_row_and_no_secret_leaves(said):
    assert leaks(said.texts) == []


def test_the_canaries_were_where_they_belong(said):
    assert len(leaks({"rows": said.rows})) > 100
    texts = [text for text in said.planted if len(leaks({"": text.replace(CANARY, "", 1).encode()})) > 10]
    assert len(texts) > 50, "what BigQuery said quoted rows"


def test_what_was_refused_is_told_without_its_values(said):
    assert {"row_rejected", "warehouse_unavailable", "storage_unavailable", "bus_unavailable"} <= said.codes
    letters = b"".join(text for where, text in said.texts.items() if where.endswith("dead letters"))
    assert letters.count(b"append: 1 row(s) refused: ") == 4
    assert letters.count(b"row_rejected") > 4


def test_nothing_but_lines_of_the_log_is_on_stderr(said):
    logs = [text for where, text in said.texts.items() if where.endswith(" log")]
    for text, form in zip(logs, ("json", "text", "json"), strict=True):
        check_lines(text, form)
