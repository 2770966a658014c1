"""What a message gains when it is given up: the attributes that Pub/Sub adds, and our reason."""

from __future__ import annotations

from datetime import datetime

from app.model.names import plain
from app.model.times import rfc3339
from app.model.values import Message, Reason

MAX_ATTRIBUTE_BYTES = 1024  # as Pub/Sub


def dead_letter(message: Message, now: datetime, reason: Reason | None = None) -> Message:
    """Return what the dead-letter topic gets of a message: all of it, and `added_attributes`.

    The id stays, so that the same message given up twice is one dead letter wherever ids are compared.
    """
    attributes = kept_attributes(message, reason) | added_attributes(message, now, reason)
    return Message(message.data, attributes, message.message_id, now)


def kept_attributes(message: Message, reason: Reason | None) -> dict[str, str]:
    """Return the attributes that a dead letter keeps of the message: with a reason, all but `objectUri`.

    The reason has the address of the object; the sender may have named any other.
    """
    dropped = () if reason is None else ("objectUri",)
    return {name: value for name, value in message.attributes.items() if name not in dropped}


def added_attributes(message: Message, now: datetime, reason: Reason | None = None) -> dict[str, str]:
    """Return the attributes that a dead letter gains, the ones that matter most first.

    Pub/Sub's own name the subscription that a message came by; one that came by none goes without that.
    """
    added = _reason(message, reason) if reason is not None else {}
    added["CloudPubSubDeadLetterSourceDeliveryCount"] = str(message.attempt or 1)
    added["CloudPubSubDeadLetterSourceTopicPublishTime"] = rfc3339(
        message.publish_time or now, "milliseconds"
    )
    match message.subscription.split("/"):
        case ["projects", project, "subscriptions", subscription]:
            added["CloudPubSubDeadLetterSourceSubscription"] = subscription
            added["CloudPubSubDeadLetterSourceSubscriptionProject"] = project
    return added


def _reason(message: Message, reason: Reason) -> dict[str, str]:
    text = plain(reason.text).encode()[:MAX_ATTRIBUTE_BYTES].decode(errors="ignore")
    added = {"dicomlakeCode": reason.code, "dicomlakeReason": text}
    uri = plain(reason.object_uri)
    if 0 < len(uri.encode()) <= MAX_ATTRIBUTE_BYTES:
        added["objectUri"] = uri
    added["dicomlakeMessageId"] = plain(message.message_id)
    return added
