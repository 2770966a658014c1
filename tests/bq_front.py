"""A strict front before the BigQuery emulator: it refuses what BigQuery refuses and fails as it is told.

What it makes good besides: the emulator runs one request at a time only, and a query asked at once without
its dataset.
"""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import requests

from tests.bq_emulator import Emulator
from tests.bq_write_front import WriteHandler

REASONS = {
    **{400: "invalid", 401: "authError", 403: "accessDenied", 404: "notFound", 409: "duplicate"},
    **{412: "conditionNotMet", 413: "uploadTooLarge", 429: "rateLimitExceeded"},
    **{500: "internalError", 501: "notImplemented", 502: "backendError", 503: "backendError"},
}


class Front:
    """What tests see of it: where it listens, how it shall fail next, and what it was asked.

    failures: taken from the left, one a request that writes or asks. Of both services: `unavailable`,
    `lost_answer` (stored, then the connection breaks), `silent` (stored, no answer). Of REST also `quota`,
    any HTTP status, with a reason after it or its usual one, and `strange`, which has a text for its reason.
    Of the Write API also `hang_up` (answered, then closed, as after ten minutes) and any gRPC status, which
    ends the call or, with `told_` before it, comes in an answer.
    names_rows: the Write API says which row is bad.
    refused: a row in which this text stands is refused.
    may_ask: jobs may be started, as by who has that role.
    says: begins the text of what is refused or failed with a status, all of which quote what was sent; said:
    these texts.
    """

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.rest = self.grpc = ""
        self.lock = threading.Lock()
        self.turn = threading.Lock()  # the emulator's database refuses a second caller, it does not queue it
        self.reset()

    def reset(self) -> None:
        """Forget what was asked, and fail no more."""
        self.failures: list[str] = []
        self.asked: list[str] = []
        self.calls = 0
        self.names_rows = True
        self.refused = ""
        self.may_ask = True
        self.says = "Doe^Jane"
        self.said: list[str] = []

    def url(self, dataset: str, **options: str) -> str:
        """Return the URL of a warehouse behind this front."""
        places = {"endpoint": self.rest, "write_endpoint": f"http://{self.grpc}", **options}
        return f"bigquery:{dataset}?" + "&".join(f"{name}={value}" for name, value in places.items())

    def text(self, data: object) -> str:
        """Return the text of an error, which quotes what was sent; it has to fit into a header."""
        found = data.decode("ascii", "replace") if isinstance(data, bytes) else str(data)
        found = "".join(c if c.isprintable() else "." for c in found.replace("\ufffd", "."))
        with self.lock:
            self.said.append(f"{self.says} {found[:2000]}".strip())
            return self.said[-1]

    def failure(self) -> str:
        with self.lock:
            return self.failures.pop(0) if self.failures else ""

    def table(self, project: str, dataset: str, table: str) -> dict | None:
        path = f"/bigquery/v2/projects/{project}/datasets/{dataset}/tables/{table}"
        with self.turn:
            answer = requests.get(self.emulator.rest + path, timeout=30)
        return answer.json() if answer.ok else None


class RestHandler(BaseHTTPRequestHandler):
    """Forward to the emulator, strictly."""

    protocol_version = "HTTP/1.1"
    front: Front

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        asks = self.command == "POST" and path.endswith(("/queries", "/jobs"))
        with self.front.lock:
            self.front.asked.append(f"{self.command} {path}")
        failure = self.front.failure() if asks else ""
        if failure == "unavailable":
            return self.refuse(503, "backendError", "try again")
        if failure == "quota":
            return self.refuse(403, "quotaExceeded", "too much")
        status, _, reason = failure.partition(" ")
        if status.isdecimal():
            return self.refuse(int(status), reason or REASONS[int(status)], self.front.text(body))
        if failure == "strange":
            return self.refuse(400, self.front.text(body), self.front.text(body))
        if asks and not self.front.may_ask:
            return self.refuse(403, "accessDenied", "User does not have bigquery.jobs.create permission")
        code, answer = self.forward(body)
        if failure == "silent":
            time.sleep(5)
        if failure in ("silent", "lost_answer"):
            self.close_connection = True
            return None
        return self.reply(code, answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def forward(self, body: bytes) -> tuple[int, object]:
        if self.command == "POST" and self.path.partition("?")[0].endswith("/queries"):
            return self.query(json.loads(body))
        return self.pass_on(self.command, self.path, body)

    def pass_on(self, command: str, path: str, body: bytes) -> tuple[int, dict]:
        with self.front.turn:
            answer = requests.request(
                command,
                self.front.emulator.rest + path,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=60,
            )
        return answer.status_code, answer.json() if answer.content else {}

    def query(self, body: dict) -> tuple[int, dict]:
        """Run a query as a job: asked at once, the emulator forgets the dataset and hides what failed."""
        known = ("query", "useLegacySql", "defaultDataset", "queryParameters", "parameterMode")
        job = {"configuration": {"query": {name: body[name] for name in known if name in body}}}
        jobs = self.path.partition("?")[0].removesuffix("/queries")
        status, document = self.pass_on("POST", f"{jobs}/jobs", json.dumps(job).encode())
        fault = document.get("status", {}).get("errorResult")
        if fault:
            status = {"notFound": 404, "accessDenied": 403}.get(fault["reason"], 400)
            return status, fault_document(status, fault["reason"], fault["message"])
        if status != 200:
            return status, document
        job_id = document["jobReference"]["jobId"]
        status, document = self.pass_on("GET", f"{jobs}/queries/{job_id}?maxResults=10000", b"")
        return status, {**document, "kind": "bigquery#queryResponse"}

    def refuse(self, status: int, reason: str, message: str) -> None:
        self.reply(status, fault_document(status, reason, message))

    def reply(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def fault_document(status: int, reason: str, message: str) -> dict:
    return {
        "error": {
            "code": status,
            "message": message,
            "errors": [{"reason": reason, "message": message, "domain": "global"}],
        }
    }


@contextmanager
def running_front(emulator: Emulator) -> Iterator[Front]:
    """Run a front before an emulator."""
    front = Front(emulator)
    handler = type("Handler", (RestHandler,), {"front": front})
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as http,
        grpc.insecure_channel(emulator.grpc, options=unlimited) as channel,
    ):
        front.rest = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        server = grpc.server(ThreadPoolExecutor(16), options=unlimited)
        server.add_generic_rpc_handlers([WriteHandler(front, channel)])
        front.grpc = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield front
        finally:
            http.shutdown()
            thread.join()
            server.stop(0).wait()
