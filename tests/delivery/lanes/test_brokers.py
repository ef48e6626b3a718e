"""What a lane may do: its owner's limits, the vendor's, and the shared budget of a vendor account."""

import uuid

from delivery.lanes.brokers import LaneLimits, bucket_of, limits_of

WORKSPACE, CONNECTION = uuid.uuid4(), uuid.uuid4()


def of(in_flight=None, rate=None, kind="hubspot", account=""):
    return limits_of(WORKSPACE, CONNECTION, in_flight, rate, kind, account)


def test_a_webhook_has_its_owner_s_limits_alone():
    assert of(3, 2.5, "webhook", "1") == LaneLimits(WORKSPACE, CONNECTION, 3, 2.5)
    assert not of(kind="webhook").says_something


def test_an_owner_may_ask_for_less_than_the_vendor_allows_and_not_for_more():
    assert (of().in_flight, of().rate) == (8, 10)
    assert (of(2, 0.5).in_flight, of(2, 0.5).rate) == (2, 0.5)
    assert (of(500, 900.0).in_flight, of(500, 900.0).rate) == (8, 10)


def test_connections_to_one_account_share_a_bucket_with_the_vendor_s_limits():
    assert of(2, 1.0, account="123").bucket == (bucket_of("hubspot", "123"), 8, 10)
    other = limits_of(uuid.uuid4(), uuid.uuid4(), None, None, "hubspot", "123")
    assert other.bucket == of(account="123").bucket
    assert of(account="124").bucket != of(account="123").bucket
    assert of().bucket is None


def test_all_connections_to_a_vendor_that_counts_by_address_share_one_bucket():
    """Discord blocks an address, for all tenants, that goes on above 50 requests a second."""
    one, other = of(kind="discord", account="1"), of(kind="discord", account="2")
    assert one.bucket == other.bucket == of(kind="discord").bucket == ("discord", None, 45)
    assert (one.in_flight, one.rate) == (2, 2)


def test_a_bucket_s_name_holds_any_account_id():
    assert bucket_of("slack", "T1/ü {x}").startswith("slack.")


def test_an_integration_that_is_not_installed_any_more_keeps_its_owner_s_limits():
    assert of(3, None, "carrier-pigeon", "1") == LaneLimits(WORKSPACE, CONNECTION, 3, None)
