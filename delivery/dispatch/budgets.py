"""What a connection's lane may do: its own limits, the vendor's, and the budget of a vendor account that several share.

Vendors count requests by account, whichever connection sends them. A test of a connection learns its account; from then
on all connections to that account, of whatever workspace, draw on one bucket with the vendor's limits. Where the vendor
counts by address, all connections of its kind draw on one. Lanes of different brokers do not share.
"""

import hashlib
import uuid
from dataclasses import dataclass

from connections import providers
from connections.providers.base import Provider


@dataclass(frozen=True, slots=True)
class Bucket:
    """A budget that lanes share."""

    name: str
    in_flight: int | None
    rate: float | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection's lane may do; None: the default."""

    workspace_id: uuid.UUID
    connection_id: uuid.UUID
    in_flight: int | None
    """Deliveries open at once."""
    rate: float | None
    """Deliveries per second."""
    bucket: Bucket | None = None

    @property
    def says_something(self) -> bool:
        return self.in_flight is not None or self.rate is not None or self.bucket is not None


def limits_of(
    workspace_id: uuid.UUID,
    connection_id: uuid.UUID,
    in_flight: int | None,
    rate: float | None,
    connection_type: str,
    account_id: str,
) -> Limits:
    """The limits of a connection with these columns. An owner may ask for less than the vendor allows, not for more."""
    try:
        provider = providers.get(connection_type)
    except providers.UnknownProvider:
        return Limits(workspace_id, connection_id, in_flight, rate)
    vendor, bucket = provider.limits, _bucket(provider, account_id)
    least_in_flight = min((each for each in (in_flight, vendor.in_flight) if each is not None), default=None)
    least_rate = min((each for each in (rate, vendor.rate) if each is not None), default=None)
    return Limits(workspace_id, connection_id, least_in_flight, least_rate, bucket)


def _bucket(provider: Provider, account_id: str) -> Bucket | None:
    system, vendor = provider.system_limits, provider.limits
    if system.in_flight is not None or system.rate is not None:
        return Bucket(provider.slug, system.in_flight, system.rate)
    if account_id and (vendor.in_flight is not None or vendor.rate is not None):
        return Bucket(bucket_of(provider.slug, account_id), vendor.in_flight, vendor.rate)
    return None


def bucket_of(connection_type: str, account_id: str) -> str:
    """The bucket's name; a vendor's ids may hold any character."""
    return f"{connection_type}.{hashlib.sha256(account_id.encode()).hexdigest()[:24]}"
