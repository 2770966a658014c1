"""The client of Cloud Storage: made late, its calls tried again inside a deadline, its errors translated.

The SDK's own retries depend on the call and go on for two minutes; they are off, `tried` stands for them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, TypeVar

from app.model.errors import DicomlakeError, ObjectGone, ShortRead, StorageUnavailable, TransientError

T = TypeVar("T")

TIMEOUT_S = (3.0, 6.0)
"""To connect, and between two arrivals of bytes: three tries end within half a minute."""
DEADLINE_S = 25.0
"""No further try begins after it, and no transfer lasts longer."""
PAUSES_S = (0.1, 0.5)
"""Short: what lasts longer than a second is for the bus to deliver again."""
CONNECTIONS = 64
"""Connections kept open: more than the server has threads, so that none is made for one request."""


def new_client() -> Any:
    """Return a client with the credentials of this machine; where STORAGE_EMULATOR_HOST is set, with none.

    No project is asked for: every call names its bucket. It costs half a second, nearly all of it imports.
    """
    with gcs_errors():
        from google.cloud.storage import Client
        from requests.adapters import HTTPAdapter

        client = Client(project=None)
        client._bucket_metadata_cache = None  # else a thread reads the bucket's metadata, a right apart
        session = client._http  # the documented way to a larger pool
        if not session.is_mtls:  # which has adapters of its own
            for scheme in ("https://", "http://"):
                session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
    return client


@contextmanager
def gcs_errors(absent: type[DicomlakeError] = StorageUnavailable) -> Iterator[None]:
    """Translate the errors of google-cloud-storage and of what it stands on; tested to be complete.

    `absent` is what a 404 means here, and a 412 that the caller did not expect: the bucket, or a version.
    """
    from google.api_core.exceptions import GoogleAPIError, NotFound, PreconditionFailed
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
    from requests.exceptions import ChunkedEncodingError, ContentDecodingError, RequestException
    from urllib3.exceptions import HTTPError, ProtocolError, ProxySchemeUnsupported

    try:
        yield
    except (NotFound, PreconditionFailed) as exc:
        text = "object version is gone" if absent is ObjectGone else type(exc).__name__
        raise absent(text) from exc
    except (DataCorruption, ProtocolError, ChunkedEncodingError, ContentDecodingError) as exc:
        raise ShortRead(type(exc).__name__) from exc
    except (GoogleAPIError, GoogleAuthError, InvalidResponse) as exc:
        raise StorageUnavailable(type(exc).__name__) from exc
    except (RequestException, HTTPError, ProxySchemeUnsupported, HTTPException, OSError) as exc:
        raise StorageUnavailable(type(exc).__name__) from exc


def tried(call: Callable[[], T], absent: type[DicomlakeError] = StorageUnavailable) -> T:
    """Return `call()`; what fails in passing is tried three times. The call must be harmless to repeat."""
    end = time.monotonic() + DEADLINE_S
    for pause_s in PAUSES_S:
        try:
            with gcs_errors(absent):
                return call()
        except TransientError as error:
            pause_s *= random.uniform(0.5, 1.0)  # so that many who failed at once do not return at once
            if _refused(error) or time.monotonic() + pause_s > end:
                raise
        time.sleep(pause_s)
    with gcs_errors(absent):
        return call()


def _refused(error: TransientError) -> bool:
    """Tell whether the store said no: a grant that is missing heals, but not within a second."""
    code = getattr(error.__cause__, "code", None)
    return isinstance(code, int) and 400 <= code < 500 and code not in (408, 429)
