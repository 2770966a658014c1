"""Announcements by HTTP to a real server that fails on purpose."""

import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import httpx
import pytest

from app.announce import Options
from app.announce.webhook import WebhookAnnouncer
from app.model.errors import AnnounceUnavailable, ConfigError
from tests.announce.contract import AnnouncerContract, Received, announcement


class Receiver:
    """An HTTP server that keeps what is posted and answers a script of status codes, else 204."""

    def __init__(self):
        self.requests, self.script, self.status = [], deque(), 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.script.popleft() if receiver.script else receiver.status
                if status is None:  # break off without an answer
                    self.close_connection = True
                    return
                receiver.requests.append((dict(self.headers.items()), body, status))
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?token=secret"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}).start()

    @property
    def received(self):
        return [received(*request[:2]) for request in self.requests if request[2] < 300]

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def received(headers, body):
    lowered = {name.lower(): value for name, value in headers.items()}
    attributes = {name[3:]: unquote(value) for name, value in lowered.items() if name.startswith("ce-")}
    return Received(attributes, lowered["content-type"], None, body)


@pytest.fixture
def receiver():
    opened = Receiver()
    yield opened
    opened.close()


@pytest.fixture
def announcer(receiver):
    opened = WebhookAnnouncer("announce.urls", receiver.url, Options(headers={"Authorization": "Bearer x"}))
    yield opened
    opened.close()


class TestWebhook(AnnouncerContract):
    @pytest.fixture
    def receive(self, receiver):
        return lambda count: receiver.received

    @pytest.fixture
    def down(self, receiver):
        def refuse():
            receiver.status = 503
            return lambda: setattr(receiver, "status", 204)

        return refuse

    @pytest.fixture
    def vendor(self, announcer, monkeypatch):
        def provoke(kind):
            def fail(*_, **__):
                takes_response = issubclass(kind, httpx.HTTPStatusError)
                request, response = httpx.Request("POST", "http://x"), httpx.Response(500)
                alone = issubclass(kind, httpx.StreamError) and kind is not httpx.StreamError
                raise (
                    kind("x", request=request, response=response)
                    if takes_response
                    else kind()
                    if alone
                    else kind("x")
                )

            monkeypatch.setattr(announcer._client, "post", fail)
            announcer.announce([announcement()])

        public = [getattr(httpx, name) for name in dir(httpx)]
        module = type(httpx)("httpx_errors")
        kinds = [kind for kind in public if isinstance(kind, type) and issubclass(kind, Exception)]
        for kind in kinds:
            if kind is not httpx.CookieConflict:  # raised by a jar alone, which is not read here
                setattr(module, kind.__name__, kind)
        return [module], provoke

    @pytest.mark.parametrize("status", [301, 400, 404, 410, 429, 500, 503, None])
    def test_whatever_is_no_success_is_a_refusal(self, announcer, receiver, status):
        receiver.script.append(status)
        with pytest.raises(AnnounceUnavailable):
            announcer.announce([announcement()])
        announcer.announce([announcement()])
        assert len(receiver.received) == 1

    def test_a_batch_of_which_one_is_refused_is_refused(self, announcer, receiver):
        receiver.script.extend([204, 503, 204])
        with pytest.raises(AnnounceUnavailable, match="it answers 503"):
            announcer.announce([announcement(number) for number in range(3)])

    def test_headers_of_the_settings_are_sent(self, announcer, receiver):
        announcer.announce([announcement()])
        headers = {name.lower(): value for name, value in receiver.requests[0][0].items()}
        assert headers["authorization"] == "Bearer x"
        assert headers["ce-subject"].isascii()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.org/hook", "http: is for receivers on this machine"),
        ("https:///hook", "a receiver is written https://host/path"),
        ("https://host:port/", "is not valid"),
    ],
)
def test_what_cannot_work_is_found_before_the_start(url, why):
    with pytest.raises(ConfigError, match=why):
        WebhookAnnouncer.check_settings("announce.urls", url, Options())
