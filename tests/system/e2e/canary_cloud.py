"""Google's ends of the lake, all of whose errors quote what was sent to them, credentials too.

Cloud Storage and BigQuery are those of the other tests; here is what fails in the place of Pub/Sub and of
the server that gives out tokens. Events are pushed by hand, so that their answers are seen.
"""

import base64
import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import httpx
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.pubsub_v1 import PublishRequest, PublishResponse

from tests.bq_front import Front
from tests.fake_gcs import FakeGcs
from tests.system.e2e.canaries import WORD
from tests.system.e2e.canary_service import Said
from tests.system.e2e.service import Service

PROJECT = "demo-project"
PEM, PKCS8 = Encoding.PEM, PrivateFormat.PKCS8
TOPIC, LETTERS = f"projects/{PROJECT}/topics/changes", f"projects/{PROJECT}/topics/letters"


class Publisher:
    """Stands where Pub/Sub is: takes dead letters, or ends in the `failures`, quoting what it was to take."""

    def __init__(self) -> None:
        self.failures: list[grpc.StatusCode] = []
        self.letters: list[str] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        publish = grpc.unary_unary_rpc_method_handler(
            self._publish, PublishRequest.deserialize, PublishResponse.serialize
        )
        handler = grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", {"Publish": publish})
        self._server.add_generic_rpc_handlers([handler])
        self.host = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait()

    def _publish(self, request: PublishRequest, context: grpc.ServicerContext) -> PublishResponse:
        if self.failures:
            context.abort(self.failures.pop(0), WORD.decode())
        self.letters += [repr(message) for message in request.messages]
        return PublishResponse(message_ids=["41"])


class Tokens(BaseHTTPRequestHandler):
    """Refuses every token, as Google's server does, with the secret that it was asked with."""

    def do_POST(self) -> None:
        body = json.dumps({"error": WORD.decode(), "error_description": WORD.decode()}).encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class CanaryCloud:
    """The service between these ends, and what it says."""

    def __init__(
        self, folder: Path, front: Front, publisher: Publisher, gcs: FakeGcs, **further: object
    ) -> None:
        dataset = f"lake_{uuid.uuid4().hex[:8]}"
        front.emulator.create_dataset(PROJECT, dataset)
        self.front, self.publisher, self.gcs = front, publisher, gcs
        self.events: list[tuple[dict[str, str], bytes]] = []
        places = {
            "source__url": "gs://landing",
            "artifacts__url": "gs://artifacts",
            "warehouse__url": front.url(f"{PROJECT}.{dataset}"),
            "bus__url": f"pubsub:{TOPIC}",
            "bus__dead_letter_topic": LETTERS,
        }
        self.service = Service(folder, **(places | further))
        self.service.env |= {"STORAGE_EMULATOR_HOST": gcs.url, "PUBSUB_EMULATOR_HOST": publisher.host}
        self.dataset = dataset

    def push(self, said: Said, name: str, data: bytes, attempt: int = 1) -> int:
        """Store an object under a name of its own, push its event, keep the answer and return its status."""
        self.gcs.put("landing", f"{len(self.events)}-{name}", data)
        return self.again(said, attempt)

    def again(self, said: Said, attempt: int = 1) -> int:
        """Push the last event, once more."""
        attributes, data = self.events[-1]
        body = {"attributes": attributes, "data": base64.b64encode(data).decode(), "messageId": "4711"}
        push = {"message": body, "subscription": "projects/p/subscriptions/s", "deliveryAttempt": attempt}
        answer = httpx.post(self.service.url, json=push, timeout=120)
        said.add("answer", answer.content + repr(answer.headers).encode())
        return answer.status_code

    def rows(self, table: str) -> list[dict[str, object]]:
        """Return the rows of a table, past the front and past our own code."""
        sql = f"SELECT * FROM `{PROJECT}.{self.dataset}.{table}`"
        with self.front.turn:
            answer = httpx.post(
                f"{self.front.emulator.rest}/bigquery/v2/projects/{PROJECT}/queries",
                json={"query": sql, "useLegacySql": False},
                timeout=60,
            ).json()
        names = [field["name"] for field in answer["schema"]["fields"]]
        return [
            dict(zip(names, [cell["v"] for cell in row["f"]], strict=True)) for row in answer.get("rows", [])
        ]

    def keep(self, said: Said) -> None:
        """Keep what the running service shows, what it has written, and its log."""
        for path in ("/metrics", "/ready"):
            said.add(path, httpx.get(self.service.url + path, timeout=60).content)
        said.add("failures", repr(self.rows("failures")))
        said.add("dead letters", "\n".join(self.publisher.letters))
        said.rows += repr(self.rows("instances")).encode()
        self.service.stop()
        said.add("log", self.service.log.read_bytes())


@contextmanager
def running_canaries(folder: Path, front: Front, **settings: object) -> Iterator[CanaryCloud]:
    """Run the service between ends that quote; `write` is how it writes rows, the rest settings."""
    front.reset()
    front.says = WORD.decode()
    with ExitStack() as stack:
        stack.callback(front.reset)
        gcs, publisher = stack.enter_context(FakeGcs()), Publisher()
        stack.callback(publisher.close)
        for bucket in ("landing", "artifacts"):
            gcs.make_bucket(bucket)
        cloud = CanaryCloud(folder, front, publisher, gcs, **settings)
        gcs.subscribe(lambda attributes, data: cloud.events.append((attributes, data)), bucket="landing")
        stack.enter_context(cloud.service)
        yield cloud


@contextmanager
def refused_tokens(folder: Path) -> Iterator[dict[str, str]]:
    """Yield an environment with credentials that hold canaries and are refused with them."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Tokens) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        secret, file = WORD.decode(), folder / "credentials.json"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        account = {
            **{
                "type": "service_account",
                "project_id": PROJECT,
                "client_email": secret,
                "private_key_id": secret,
            },
            "private_key": key.private_bytes(PEM, PKCS8, NoEncryption()).decode(),
            "token_uri": f"http://127.0.0.1:{server.server_port}/token",
        }
        file.write_text(json.dumps(account))
        try:
            yield {"GOOGLE_APPLICATION_CREDENTIALS": str(file), "NO_GCE_CHECK": "true"}
        finally:
            server.shutdown()
            thread.join()
