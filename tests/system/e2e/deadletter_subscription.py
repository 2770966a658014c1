"""Stands in for the BigQuery subscription with metadata: dead letters become rows of `dead_letter`."""

import json
from types import TracebackType

from google.cloud.pubsub_v1.subscriber.message import Message

from app.bus import DeadLetterSink
from app.model.errors import DicomlakeError
from app.model.values import Row
from tests.emulators import PubSubEmulator


class DeadLetterSubscription:
    """Pulls from a topic and hands each message to `sink` as a row; one that it refuses comes again."""

    def __init__(self, emulator: PubSubEmulator, topic: str, sink: DeadLetterSink) -> None:
        self.name = emulator.pull(topic)
        self._emulator, self._sink = emulator, sink
        self._pulling = emulator.subscriber.subscribe(self.name, self._write)

    def __enter__(self) -> "DeadLetterSubscription":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._pulling.cancel()
        self._pulling.result(timeout=10)
        self._emulator.unsubscribe(self.name)

    def _write(self, message: Message) -> None:
        try:
            self._sink(self._row(message))
        except DicomlakeError:
            message.nack()
        else:
            message.ack()

    def _row(self, message: Message) -> Row:
        """Return the columns that such a subscription writes, in its spelling of them."""
        return {
            "subscription_name": self.name,
            "message_id": message.message_id,
            "publish_time": message.publish_time,
            "data": message.data,
            "attributes": json.dumps(dict(message.attributes)),
        }
