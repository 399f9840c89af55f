"""A lean HTTP/1.1 client to engines: the relay's upstream half.

One `Pool` per endpoint; payload bytes are handed on as they come. It does no redirects, TLS, compression,
cookies or proxies: engines sit on this host or on a private network, and bodies pass untouched.
"""

from adapters.http1.connection import Response
from adapters.http1.pool import Pool

__all__ = ["Pool", "Response"]
