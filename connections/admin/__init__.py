"""Pages for operators: connections, their health, and the records of their credentials (never the credentials)."""

from connections.admin import authorizations, destinations, records

__all__ = ["authorizations", "destinations", "records"]
