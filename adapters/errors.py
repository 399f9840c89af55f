"""What can go wrong between us and an engine, sorted by what the caller can do about it.

    EngineError
    ├── EngineUnreachable     nothing was delivered: safe to try again, here or elsewhere
    ├── EngineDied            the connection was lost after the request was sent
    ├── EngineDeclined        the engine answered that it cannot do it now: another try may succeed
    ├── EngineProtocolError   the engine answered, but not in valid HTTP (or too much of it)
    ├── EngineTimeout         the engine took longer than the caller allowed
    └── LaunchError           the model cannot be started as it is configured: edit its entry

A status code is not an error here: the caller reads it from the response.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of everything an adapter raises about an engine."""


class EngineUnreachable(EngineError):
    """No connection came about, so the engine has seen nothing of the request."""


class EngineDied(EngineError):
    """The connection went away after the request was sent; the engine may have worked on it."""


class EngineDeclined(EngineError):
    """The engine lives and has refused for now (it is full, closing, or failed inside); nothing was done."""


class EngineProtocolError(EngineError):
    """The reply is not what the protocol allows, or passes a limit of ours."""


class EngineTimeout(EngineError):
    """The engine did not answer within the time that the caller gave."""


class LaunchError(EngineError):
    """The model cannot be started like this: options, folder or budget are wrong. The message names the remedy."""
