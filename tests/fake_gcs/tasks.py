"""What tests ask of a worker process."""

from app.types import Content


def read_ends(content: Content) -> tuple[bytes, bytes, int]:
    """Return the first and last three bytes, read through the content's own opener, and its length."""
    with content.open() as stream:
        first = stream.read(3)
        stream.seek(-3, 2)
        return first, stream.read(), stream.tell()
