"""Stands between Pub/Sub's emulator and the service, and adds what only the real Pub/Sub does.

A push gets its deliveryAttempt and an identity token of the push account; an answer of 202 is an ack.
"""

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

AUDIENCE = "dicomlake-ingest.demo-project"
ACCOUNT = "push@demo-project.iam.gserviceaccount.com"
KEY_ID = "a-key"


@dataclass(frozen=True)
class Delivery:
    """One push and how it was answered; `time_s` is monotonic, of its arrival."""

    message_id: str
    attempt: int
    status: int
    time_s: float


class Relay:
    """An endpoint for a push subscription, in front of `target`; serves the keys of its tokens at /keys."""

    def __init__(self) -> None:
        self.target = ""
        self.deliveries: list[Delivery] = []
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._client = httpx.Client(timeout=120)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> "Relay":
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._client.close()

    def token(self, **claims: object) -> str:
        """Return a token as Google's, valid from now on; `claims` replace those of the push account."""
        now = int(time.time())
        usual = {"iss": "https://accounts.google.com", "aud": AUDIENCE, "email": ACCOUNT}
        usual |= {"email_verified": True, "iat": now, "exp": now + 3600}
        return jwt.encode({**usual, **claims}, self._key, algorithm="RS256", headers={"kid": KEY_ID})

    def keys(self) -> bytes:
        """Return the public keys, as Google's certs endpoint does."""
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        return json.dumps({"keys": [{**key, "kid": KEY_ID, "alg": "RS256", "use": "sig"}]}).encode()

    def of(self, message_id: str) -> list[Delivery]:
        """Return the deliveries of a message, oldest first."""
        with self._lock:
            return [delivery for delivery in self.deliveries if delivery.message_id == message_id]

    def acked(self) -> set[str]:
        """Return the ids of messages that were acknowledged."""
        with self._lock:
            return {delivery.message_id for delivery in self.deliveries if delivery.status < 300}

    def forward(self, body: bytes) -> int:
        """Push on, and return the status to answer with; a service that is not there is a 503."""
        push, begin = json.loads(body), time.monotonic()
        message_id = push["message"]["messageId"]
        with self._lock:
            self._attempts[message_id] += 1
            push["deliveryAttempt"] = attempt = self._attempts[message_id]
        headers = {"authorization": f"Bearer {self.token()}"}
        try:
            status = self._client.post(self.target, json=push, headers=headers).status_code
        except httpx.TransportError:
            status = 503
        status = 200 if status == 202 else status
        with self._lock:
            self.deliveries.append(Delivery(message_id, attempt, status, begin))
        return status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._answer(relay.forward(self.rfile.read(int(self.headers["Content-Length"]))), b"")

            def do_GET(self) -> None:
                self._answer(200, relay.keys())

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Print nothing; `deliveries` has it all."""

        return Handler
