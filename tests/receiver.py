"""A receiver of pictures: an HTTP server that folds repetitions by key and fails as it is told."""

import json
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = int | tuple[int, str] | None
"""A status; with a Retry-After; None takes the picture and breaks off without an answer."""


class PictureReceiver:
    """Keeps what is posted, by its Idempotency-Key.

    script: what each request is answered, then `answer` decides by body and by how often the key came before.
    """

    def __init__(self, answer: Callable[[dict[str, object], int], Answer] = lambda body, before: 204) -> None:
        self.script: deque[Answer] = deque()
        self.accepted: dict[str, dict[str, object]] = {}
        self.repeats: Counter[str] = Counter()
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: Counter[str] = Counter()
        seen: dict[str, int] = defaultdict(int)
        lock, receiver = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                key = headers["idempotency-key"]
                is_json = headers["content-type"] == "application/json"
                body = json.loads(data) if is_json else {"form": data}
                with lock:
                    receiver.requests.append((headers, data))
                    given = receiver.script.popleft() if receiver.script else answer(body, seen[key])
                    seen[key] += 1
                    status, wait = given if isinstance(given, tuple) else (given, "")
                    receiver.answers[str(status)] += 1
                    if status is None or status < 300 or status == 409:
                        receiver.repeats[key] += key in receiver.accepted
                        receiver.accepted[key] = body
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                if wait:
                    self.send_header("Retry-After", wait)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Say nothing of a client that was killed."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/pictures"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
