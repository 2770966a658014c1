"""Dead letters: the message, the attributes that Pub/Sub adds on giving it up, and our reason."""

from __future__ import annotations

from datetime import datetime

from app.model.names import plain
from app.model.times import rfc3339
from app.model.values import Message, Reason

MAX_ATTRIBUTE_BYTES = 1024  # the limit of Pub/Sub


def dead_letter(message: Message, now: datetime, reason: Reason | None = None) -> Message:
    """Return the dead letter of a message: the whole message and `added_attributes`.

    The id stays the same, so that a message given up twice can be recognised as one dead letter.
    """
    attributes = kept_attributes(message, reason) | added_attributes(message, now, reason)
    return Message(message.data, attributes, message.message_id, now)


def kept_attributes(message: Message, reason: Reason | None) -> dict[str, str]:
    """Return the attributes that a dead letter keeps from the message: with a reason, all but `objectUri`.

    The reason contains the address of the object; the sender may have set a different one.
    """
    dropped = () if reason is None else ("objectUri",)
    return {name: value for name, value in message.attributes.items() if name not in dropped}


def added_attributes(message: Message, now: datetime, reason: Reason | None = None) -> dict[str, str]:
    """Return the attributes that are added to a dead letter, the most important first.

    Those of Pub/Sub name the subscription, if the message came through one.
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
