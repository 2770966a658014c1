"""What the API answers instead of a result."""

import json

REASONS = {
    304: "notModified",
    400: "invalid",
    401: "authError",
    403: "forbidden",
    404: "notFound",
    408: "uploadBrokenConnection",
    409: "conflict",
    412: "conditionNotMet",
    416: "requestedRangeNotSatisfiable",
    429: "rateLimitExceeded",
    500: "internalError",
    501: "notImplemented",
    502: "badGateway",
    503: "backendError",
    504: "gatewayTimeout",
}


class ApiError(Exception):
    """An answer that is an error; `headers` go with it."""

    def __init__(self, status: int, message: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status} {message}")
        self.status, self.message, self.headers = status, message or REASONS[status], headers or {}

    def body(self) -> bytes:
        """Return the JSON of an error as the API writes it."""
        reason = REASONS[self.status]
        fault = {"message": self.message, "domain": "global", "reason": reason}
        return json.dumps(
            {"error": {"code": self.status, "message": self.message, "errors": [fault]}}
        ).encode()
