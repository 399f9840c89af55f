"""The control plane's exceptions, arranged by what the caller can do about them.

InferenceManagerError
├── ConfigError          the operator edits a file and tries again
├── RequestRejected      the caller changes the request, or retries when told
├── RuntimeFailure       an engine, its environment or the host failed: back off, then retry
└── StoreFailure         nothing was committed: refuse new work until it recovers
    └── StoreHeld        another control plane owns the store
"""

from adapters.base import NormalError


class InferenceManagerError(Exception):
    """Base of every expected failure; the message says what failed and what to do."""


class ConfigError(InferenceManagerError):
    """A configuration file is wrong; the message names file, path and remedy."""


class RequestRejected(InferenceManagerError):
    """A call cannot be served; `error` is what its caller gets, in OpenAI's terms.

    `retry_after_seconds` None: trying the same again is of no use.
    """

    def __init__(self, error: NormalError, retry_after_seconds: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_seconds = retry_after_seconds


class RuntimeFailure(InferenceManagerError):
    """A replica, its environment or its host failed; retrying later may succeed."""


class StoreFailure(InferenceManagerError):
    """The store could not commit; nothing of the transaction took effect."""


class StoreHeld(StoreFailure):
    """Another control plane holds the store; the message names the holder."""
