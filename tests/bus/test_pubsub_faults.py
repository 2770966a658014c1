"""What Pub/Sub refuses, and what the bus makes of a Pub/Sub that fails; needs no emulator."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.iam.v1.iam_policy_pb2 import TestIamPermissionsRequest as Question
from google.iam.v1.iam_policy_pb2 import TestIamPermissionsResponse as Answer
from google.pubsub_v1 import PublishRequest, PublishResponse

from app.bus import open_bus
from app.bus.pubsub import PubSubBus
from app.model.errors import BadEvent, BusUnavailable, ConfigError
from app.model.values import Message, Reason
from tests.bus.conftest import QUICK
from tests.bus.contract import note
from tests.parts import ROOT
from tests.processes import PATIENCE_S

TOPIC = "projects/p/topics/landing"
LETTERS = "projects/p/topics/letters"
NOT_DICOM = Reason("not_dicom", "describe: the bytes are not DICOM", "gs://in/a.dcm")


class Cloud:
    """Stands where Pub/Sub is, for what its emulator cannot: permissions, and answers that are failures."""

    def __init__(self) -> None:
        self.granted: list[str] = []
        self.questions: list[Question] = []
        self.requests: list[PublishRequest] = []
        self.failures: list[grpc.StatusCode] = []
        self.answering = threading.Event()
        self.answering.set()
        self._server = grpc.server(ThreadPoolExecutor(2))
        iam = grpc.unary_unary_rpc_method_handler(self._test, Question.FromString, Answer.SerializeToString)
        publish = grpc.unary_unary_rpc_method_handler(
            self._publish, PublishRequest.deserialize, PublishResponse.serialize
        )
        services = {
            "google.iam.v1.IAMPolicy": {"TestIamPermissions": iam},
            "google.pubsub.v1.Publisher": {"Publish": publish},
        }
        handlers = [grpc.method_handlers_generic_handler(*service) for service in services.items()]
        self._server.add_generic_rpc_handlers(handlers)
        self.host = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self.answering.set()
        self._server.stop(None).wait()

    def _test(self, question: Question, context: grpc.ServicerContext) -> Answer:
        self.questions.append(question)
        return Answer(permissions=self.granted)

    def _publish(self, request: PublishRequest, context: grpc.ServicerContext) -> PublishResponse:
        self.requests.append(request)
        self.answering.wait(PATIENCE_S)
        if self.failures:
            context.abort(self.failures.pop(0), "as told")
        return PublishResponse(message_ids=["41"])


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    cloud = Cloud()
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", cloud.host)
    yield cloud
    cloud.close()


@pytest.fixture
def bus(cloud: Cloud) -> Iterator[PubSubBus]:
    bus = offline()
    yield bus
    bus.close()


def offline(dead_letter_topic: str = LETTERS) -> PubSubBus:
    return PubSubBus(f"pubsub:{TOPIC}", QUICK, lambda row: None, dead_letter_topic)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (note(**{f"key{number}": "" for number in range(101)}), "limited to 100 attributes"),
        (note(name="é" * 513), "limited to 256 bytes in its name and 1024 in its value"),
        (note(**{"n" * 257: ""}), "limited to 256 bytes in its name"),
        (Message(b"x", {"": "value"}, ""), "an attribute of a message"),
        (note(name="\ud800"), "is UTF-8"),
        (note(b""), "needs data or an attribute"),
    ],
)
def test_message_that_pubsub_never_takes_is_refused_before_it_is_sent(message, sentence):
    with pytest.raises(BadEvent, match=sentence):
        offline().publish(message)


def test_dead_letter_that_does_not_fit_leaves_the_message_to_the_subscription():
    with pytest.raises(BusUnavailable, match="does not fit: a message is limited to 10 MB"):
        offline().dead_letter(note(b"x" * 10_000_000), NOT_DICOM)


def test_dead_letter_without_a_topic_leaves_the_message_to_the_subscription():
    with pytest.raises(BusUnavailable, match=r"bus\.dead_letter_topic is not set"):
        offline(dead_letter_topic="").dead_letter(note(), NOT_DICOM)


def test_service_that_does_not_answer_is_unavailable_after_retries(monkeypatch):
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:9")
    monkeypatch.setattr("app.bus.pubsub.RETRY_S", 0.5)
    bus = offline()
    for call in (bus.check, lambda: bus.publish(note()), lambda: bus.dead_letter(note(), NOT_DICOM)):
        with pytest.raises(BusUnavailable, match="ServiceUnavailable"):
            call()
    bus.close()


def test_missing_credentials_are_unavailable(monkeypatch, tmp_path):
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    with pytest.raises(BusUnavailable, match="DefaultCredentialsError"):
        offline().publish(note())


@pytest.mark.parametrize(
    "name", ["landing", "projects/p/topics/", "projects/p/subscriptions/s", f"/{TOPIC}", "//x"]
)
def test_topic_of_another_form_is_a_config_error(name, sink):
    with pytest.raises(ConfigError, match=r"bus\.url names the topic .* projects/PROJECT/topics/TOPIC"):
        open_bus(f"pubsub:{name}", QUICK, sink)
    with pytest.raises(ConfigError, match=r"bus\.dead_letter_topic names the topic"):
        open_bus(f"pubsub:{TOPIC}", QUICK, sink, name)


def test_dead_letters_into_the_topic_they_come_from_are_a_config_error():
    with pytest.raises(ConfigError, match="letters would come back"):
        offline(dead_letter_topic=TOPIC)


def test_opening_loads_no_sdk():
    code = (
        "import sys; from app.bus import DeliveryPolicy, open_bus;"
        f"bus = open_bus('pubsub:{TOPIC}', DeliveryPolicy(), print, '{LETTERS}');"
        "bus.start(None); bus.depth(); bus.close();"
        "print([m for m in sys.modules if m.startswith(('google.', 'grpc', 'requests'))])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_sdk_that_is_not_installed_is_a_config_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.pubsub_v1", None)
    monkeypatch.delitem(sys.modules, "app.bus.pubsub")
    with pytest.raises(ConfigError, match=r"bus\.url pubsub: needs dicomlake\[gcp\]"):
        open_bus(f"pubsub:{TOPIC}", QUICK, print)


def test_check_asks_whether_dead_letters_may_be_published(bus, cloud):
    cloud.granted = ["pubsub.topics.publish"]
    bus.check()
    (question,) = cloud.questions
    assert (question.resource, list(question.permissions)) == (LETTERS, ["pubsub.topics.publish"])


def test_check_fails_while_dead_letters_may_not_be_published(bus, cloud):
    with pytest.raises(BusUnavailable, match=f"{LETTERS}: .* roles/pubsub.publisher on it is missing"):
        bus.check()


def test_check_asks_for_no_right_where_no_dead_letter_is_published(cloud):
    bus = offline(dead_letter_topic="")
    bus.check()
    assert cloud.questions[0].resource == TOPIC
    bus.close()


@pytest.mark.parametrize(
    "failure",
    ["UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED"],
)
def test_failure_that_passes_is_tried_again(failure, bus, cloud):
    cloud.failures = [grpc.StatusCode[failure]]
    assert bus.publish(note(b"x")) == "41"
    assert [request.messages[0].data for request in cloud.requests] == [b"x", b"x"]


@pytest.mark.parametrize(
    ("failure", "name"),
    [
        ("PERMISSION_DENIED", "PermissionDenied"),
        ("UNAUTHENTICATED", "Unauthenticated"),
        ("NOT_FOUND", "NotFound"),
        ("INVALID_ARGUMENT", "InvalidArgument"),
        ("FAILED_PRECONDITION", "FailedPrecondition"),
    ],
)
def test_failure_that_someone_must_mend_is_told_at_once(failure, name, bus, cloud):
    cloud.failures = [grpc.StatusCode[failure]]
    with pytest.raises(BusUnavailable, match=f"^{LETTERS}: {name}$"):
        bus.dead_letter(note(b"x"), NOT_DICOM)
    assert len(cloud.requests) == 1


def test_silence_ends_as_unavailable_after_attempts_and_retries(bus, cloud, monkeypatch):
    monkeypatch.setattr("app.bus.pubsub.ATTEMPT_S", 0.2)
    monkeypatch.setattr("app.bus.pubsub.RETRY_S", 0.8)
    cloud.answering.clear()
    with pytest.raises(BusUnavailable, match=f"^{TOPIC}: DeadlineExceeded$"):
        bus.publish(note(b"x"))
    assert 1 < len(cloud.requests) <= 5
