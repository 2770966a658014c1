"""The bus of Google Cloud. Pub/Sub pushes by itself, so this file only publishes and dead-letters.

It uses the plain client, not the batching one of `google.cloud.pubsub_v1`: publishers wait until the message
is durable, so batches and their threads would only add latency. The client is created on first use, because
most instances never dead-letter anything and start faster without it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from app.bus import Connect, DeadLetterSink, DeliveryPolicy
from app.bus.dead_letter import added_attributes, kept_attributes
from app.bus.pubsub_setup import around, asking, members, subscription_facts
from app.model.errors import BadEvent, BusUnavailable, ConfigError
from app.model.values import Message, Reason

if TYPE_CHECKING:
    from google.api_core.retry import Retry
    from google.pubsub_v1 import PublisherClient, PublishRequest

if find_spec("google.pubsub_v1") is None:  # a missing package is reported on opening, not on first use
    raise ModuleNotFoundError("No module named 'google.pubsub_v1'", name="google.pubsub_v1")

MAX_REQUEST_BYTES = 10_000_000
MAX_REQUEST_MESSAGES = 1000
MAX_ATTRIBUTES = 100
MAX_NAME_BYTES, MAX_VALUE_BYTES = 256, 1024
# No attempt starts after RETRY_S, and none lasts longer than ATTEMPT_S, so a publish ends within 40 s.
RETRY_S, ATTEMPT_S = 30.0, 10.0
CHECK_S = 5.0
PUBLISH = "pubsub.topics.publish"

_TOPIC = re.compile(r"projects/[^/\s]+/topics/[A-Za-z][A-Za-z0-9_.~+%-]{2,254}")


class PubSubBus:
    """The bus of `pubsub:projects/P/topics/T`, with dead letters to a topic of its own.

    `policy` and `sink` are not used: the subscription controls delivery, and a BigQuery subscription writes
    dead letters to the warehouse.
    """

    def __init__(
        self,
        url: str,
        policy: DeliveryPolicy,
        sink: DeadLetterSink,
        dead_letter_topic: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.check_settings(url, dead_letter_topic)
        self._topic, self._dead_letter_topic = url.partition(":")[2], dead_letter_topic
        self._clock = clock
        self._lock = threading.Lock()
        self._client: PublisherClient | None = None
        self._closed = False

    @staticmethod
    def check_settings(url: str, dead_letter_topic: str) -> None:
        """Raise ConfigError unless both topics have valid, different names. Does not contact Pub/Sub."""
        topic = url.partition(":")[2]
        given = {"bus.url": topic, "bus.dead_letter_topic": dead_letter_topic}
        wrong = [
            f"{setting} names the topic {name!r}; it has the form projects/PROJECT/topics/TOPIC"
            for setting, name in given.items()
            if not _TOPIC.fullmatch(name) and (name or setting == "bus.url")
        ]
        if dead_letter_topic == topic:
            wrong.append(f"bus.dead_letter_topic {topic} is that of bus.url: letters would come back")
        if wrong:
            raise ConfigError("; ".join(wrong))

    def publish(self, message: Message) -> str:
        """Publish `data` and `attributes`; return the message id once the message is durable.

        Raises BadEvent if the message exceeds a limit of Pub/Sub, BusUnavailable if it is not accepted.
        """
        return self._publish(self._topic, message)

    def publish_all(self, messages: Sequence[Message]) -> None:
        """Publish in requests of up to 1,000 messages; raises as `publish`."""
        for request in _requests(self._topic, messages):
            with pubsub_errors(self._topic):
                self._connected().publish(request, retry=_retry(), timeout=ATTEMPT_S)

    def backlog(self) -> PubSubBus:
        """Return this bus: a lane of Pub/Sub is a topic with a subscription of its own (`backfill.topic`)."""
        return self

    def dead_letter(self, message: Message, reason: Reason) -> None:
        """Publish a message as a dead letter with its reason; return when that is durable.

        Raises BusUnavailable, also if no topic is configured: the message is then nacked and redelivered
        until its subscription gives it up. A subscription without a dead-letter policy sends no attempt
        numbers, and without them the pipeline gives nothing up either.
        """
        if not self._dead_letter_topic:
            raise BusUnavailable("bus.dead_letter_topic is not set")
        now = datetime.fromtimestamp(self._clock(), UTC)
        kept = kept_attributes(message, reason)
        attributes = _with_added(kept, added_attributes(message, now, reason))
        try:
            self._publish(self._dead_letter_topic, Message(message.data, attributes, ""))
        except BadEvent as exc:  # no room for the reason; Pub/Sub dead-letters it later without one
            raise BusUnavailable(f"the dead letter does not fit: {exc.text}") from exc

    def start(self, connect: Connect) -> None:
        """Do nothing: the subscription pushes."""

    def unfinished(self) -> None:
        """Return None: nobody can look into a topic."""

    def depth(self) -> None:
        """Return None: only Cloud Monitoring has this number, some minutes later."""

    def setup(self) -> dict[str, Any]:
        """Return topics, subscriptions, who may publish, and what is around; the service may not see it."""
        found: dict[str, Any] = {"topic": self._topic, "dead_letter_topic": self._dead_letter_topic}
        found |= {"subscriptions": self._subscriptions(self._topic), "publishers": self._members(self._topic)}
        if self._dead_letter_topic:
            found["dead_letter_subscriptions"] = self._subscriptions(self._dead_letter_topic)
            found["dead_letter_publishers"] = self._members(self._dead_letter_topic)
        if self._permissions(self._topic) is not None:  # not at an emulator, which is a machine of its own
            pushes = [one for one in found["subscriptions"] if one["endpoint"]]
            now = datetime.fromtimestamp(self._clock(), UTC)
            found |= around(pushes, self._topic.split("/")[1], asking(), now)
        return found

    def _subscriptions(self, topic: str) -> list[dict[str, Any]]:
        from google.pubsub_v1 import SubscriberClient

        client = SubscriberClient()
        try:
            with pubsub_errors(topic):
                names = list(self._connected().list_topic_subscriptions({"topic": topic}, timeout=CHECK_S))
                return [
                    subscription_facts(client.get_subscription({"subscription": name}, timeout=CHECK_S))
                    | {"subscribers": members(client, name, "roles/pubsub.subscriber")}
                    for name in names
                ]
        finally:
            client.transport.close()  # type: ignore[no-untyped-call]

    def _members(self, topic: str) -> list[str]:
        with pubsub_errors(topic):
            return members(self._connected(), topic, "roles/pubsub.publisher")

    def check(self) -> None:
        """Raise BusUnavailable unless Pub/Sub answers and takes dead letters, if they have a topic."""
        topic = self._dead_letter_topic or self._topic
        held = self._permissions(topic)
        if self._dead_letter_topic and held is not None and PUBLISH not in held:
            raise BusUnavailable(f"{topic}: does not exist, or roles/pubsub.publisher on it is missing")

    def _permissions(self, topic: str) -> Sequence[str] | None:
        """Return whether we may publish to a topic; None at the emulator, which knows no permissions.

        TestIamPermissions is the only method of a topic that needs no permission.
        """
        from google.api_core.exceptions import MethodNotImplemented

        request = {"resource": topic, "permissions": [PUBLISH]}
        with pubsub_errors(topic):
            try:
                answer = self._connected().test_iam_permissions(request, timeout=CHECK_S, retry=None)
            except MethodNotImplemented:
                return None
        return list(answer.permissions)

    def close(self) -> None:
        """Close the connection; later calls raise BusUnavailable."""
        with self._lock:
            self._closed = True
            if self._client is not None:
                self._client.transport.close()  # type: ignore[no-untyped-call]

    def _publish(self, topic: str, message: Message) -> str:
        request = _request(topic, message)
        with pubsub_errors(topic):
            answer = self._connected().publish(request, retry=_retry(), timeout=ATTEMPT_S)
        return str(answer.message_ids[0])

    def _connected(self) -> PublisherClient:
        """Return the client. It reads PUBSUB_EMULATOR_HOST by itself."""
        from google.pubsub_v1 import PublisherClient

        with self._lock:
            if self._closed:
                raise BusUnavailable("the bus is closed")
            if self._client is None:
                self._client = PublisherClient()
            return self._client


@contextmanager
def pubsub_errors(topic: str) -> Iterator[None]:
    """Translate errors of the SDK. All are transient: a missing topic or grant can be created."""
    try:
        yield
    except _vendor_errors() as exc:
        cause = getattr(exc, "cause", None) or exc
        raise BusUnavailable(f"{topic}: {type(cause).__name__}") from exc


def _vendor_errors() -> tuple[type[Exception], ...]:
    """Return the base classes of the client's errors, imported only after an error.

    OSError covers credential files, ValueError a channel that was closed meanwhile.
    """
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from grpc import (  # type: ignore[import-untyped]  # it ships no types
        FutureCancelledError,
        FutureTimeoutError,
        RpcError,
    )

    grpc_errors = RpcError, FutureCancelledError, FutureTimeoutError
    return GoogleAPIError, GoogleAuthError, *grpc_errors, OSError, ValueError


def _retry() -> Retry:
    """Return the retry policy of a publish. Receivers tolerate duplicates."""
    from google.api_core import exceptions as api
    from google.api_core.retry import Retry, if_exception_type

    passing = if_exception_type(
        api.Aborted,
        api.DeadlineExceeded,
        api.InternalServerError,
        api.ResourceExhausted,
        api.ServiceUnavailable,
        api.Unknown,
    )
    return Retry(passing, initial=0.1, maximum=5.0, multiplier=2.0, timeout=RETRY_S)


def _requests(topic: str, messages: Sequence[Message]) -> Iterator[PublishRequest]:
    """Yield the publish requests of some messages; raises as `_request`, before it yields any."""
    from google.pubsub_v1 import PublishRequest

    gathered: list[PublishRequest] = []
    room = count = 0
    for message in messages:
        one = _request(topic, message)
        size = PublishRequest.pb(one).ByteSize()
        if size > room or count == MAX_REQUEST_MESSAGES:
            gathered.append(PublishRequest(topic=topic))
            room, count = MAX_REQUEST_BYTES, 0
        gathered[-1].messages.extend(one.messages)
        room, count = room - size, count + 1
    yield from gathered


def _request(topic: str, message: Message) -> PublishRequest:
    """Return the publish request of a message. Raises BadEvent if Pub/Sub would always refuse it."""
    from google.pubsub_v1 import PublishRequest, PubsubMessage

    if len(message.attributes) > MAX_ATTRIBUTES:
        raise BadEvent(f"a message is limited to {MAX_ATTRIBUTES} attributes")
    if not all(_fits(name, value) for name, value in message.attributes.items()):
        limits = f"{MAX_NAME_BYTES} bytes in its name and {MAX_VALUE_BYTES} in its value"
        raise BadEvent(f"an attribute of a message is UTF-8 and limited to {limits}")
    if not (message.data or message.attributes):
        raise BadEvent("a message needs data or an attribute")
    published = PubsubMessage(
        data=message.data, attributes=dict(message.attributes), ordering_key=message.ordering_key
    )
    request = PublishRequest(topic=topic, messages=[published])
    if PublishRequest.pb(request).ByteSize() > MAX_REQUEST_BYTES:
        raise BadEvent("a message is limited to 10 MB, attributes included")
    return request


def _fits(name: str, value: str) -> bool:
    try:
        return 0 < len(name.encode()) <= MAX_NAME_BYTES and len(value.encode()) <= MAX_VALUE_BYTES
    except UnicodeEncodeError:
        return False


def _with_added(kept: dict[str, str], added: dict[str, str]) -> dict[str, str]:
    """Return the attributes of a dead letter: the message's own, and as many added ones as fit."""
    attributes = dict(kept)
    for name, value in added.items():
        if _fits(name, value) and (name in attributes or len(attributes) < MAX_ATTRIBUTES):
            attributes[name] = value
    return attributes
