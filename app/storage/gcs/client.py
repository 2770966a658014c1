"""The Cloud Storage client: created on first use, with retries within a deadline and translated errors.

The SDK's own retries differ by call and last up to two minutes; they are off, and `tried` replaces them.
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
"""Timeouts to connect and between two reads, short enough for three attempts in half a minute."""
DEADLINE_S = 25.0
"""No attempt starts after this, and no transfer lasts longer."""
PAUSES_S = (0.1, 0.5)
"""Pauses between attempts. A fault that lasts longer than a second is left to redelivery by the bus."""
CONNECTIONS = 64
"""Size of the connection pool: more than the server has threads, so connections are always reused."""


def new_client() -> Any:
    """Create a client with default credentials, or with none if STORAGE_EMULATOR_HOST is set.

    It needs no project, because every call names its bucket. It takes half a second, mostly for imports.
    """
    with gcs_errors():
        from google.cloud.storage import Client
        from requests.adapters import HTTPAdapter

        client = Client(project=None)
        # Otherwise a thread would read the bucket's metadata, for which our roles have no permission.
        client._bucket_metadata_cache = None
        session = client._http  # the documented way to a larger pool
        if not session.is_mtls:  # mTLS has adapters of its own
            for scheme in ("https://", "http://"):
                session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
    return client


@contextmanager
def gcs_errors(absent: type[DicomlakeError] = StorageUnavailable) -> Iterator[None]:
    """Translate the errors of google-cloud-storage and its dependencies; a test checks completeness.

    `absent` is the error for a 404, or for a 412 that the caller does not handle: the bucket or a version.
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
    """Return `call()`, with up to three attempts on transient errors. The call must be idempotent."""
    end = time.monotonic() + DEADLINE_S
    for pause_s in PAUSES_S:
        try:
            with gcs_errors(absent):
                return call()
        except TransientError as error:
            pause_s *= random.uniform(0.5, 1.0)  # jitter: calls that failed together spread out
            if _refused(error) or time.monotonic() + pause_s > end:
                raise
        time.sleep(pause_s)
    with gcs_errors(absent):
        return call()


def _refused(error: TransientError) -> bool:
    """Return whether the store refused the call: a missing grant may appear, but not within a second."""
    code = getattr(error.__cause__, "code", None)
    return isinstance(code, int) and 400 <= code < 500 and code not in (408, 429)
