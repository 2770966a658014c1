"""Parse events: an HTTP request becomes a Message, a Message becomes an ObjectEvent. All pure."""

from app.events.notification import ignored, object_event
from app.events.requests import given_id, message_from_request

__all__ = ["given_id", "ignored", "message_from_request", "object_event"]
