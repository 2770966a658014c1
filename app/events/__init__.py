"""What arrived, as a value: a request becomes a Message, a Message becomes an ObjectEvent. All pure."""

from app.events.envelope import given_id, message_from_request
from app.events.notification import ignored, object_event

__all__ = ["given_id", "ignored", "message_from_request", "object_event"]
