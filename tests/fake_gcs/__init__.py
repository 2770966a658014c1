"""A strict stand-in for Cloud Storage's JSON API, for the real client: what it does not know is a 501.

    with FakeGcs() as gcs:
        gcs.make_bucket("landing", versioning=True)
        gcs.subscribe(callback)      # callback(attributes, data) for every notification
        gcs.fail("reset", times=2)   # the next two requests that fit lose their connection
        STORAGE_EMULATOR_HOST=gcs.url

Objects live in memory. `gcs.requests` are those that came; `gcs.grants`, if set, is all that is permitted.
"""

from tests.fake_gcs.errors import ApiError
from tests.fake_gcs.faults import Fault
from tests.fake_gcs.messages import Request
from tests.fake_gcs.notifications import Subscription
from tests.fake_gcs.objects import Bucket, Version
from tests.fake_gcs.server import ROLES, FakeGcs

__all__ = ["ROLES", "ApiError", "Bucket", "FakeGcs", "Fault", "Request", "Subscription", "Version"]
