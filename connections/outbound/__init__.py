"""The one client through which every HTTP request to the outside leaves.

`send` for deliveries, `session` for conversations with vendors, `check_url` for the moment at which a URL is saved.
Requests, answers, errors and URLs are in `connections.messages`. Reading order: `client` (the steps, the request on
the wire, the sockets between requests), `guard` (which addresses are allowed, and the lookup of names), `errors` (what
libcurl says), `sessions` (`requests` on top).
"""

from connections.outbound.client import send
from connections.outbound.guard import Policy, check_url
from connections.outbound.sessions import session

__all__ = ["Policy", "check_url", "send", "session"]
