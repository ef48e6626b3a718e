"""A token lives as long as its vendor says, whichever host asked for it and whatever that host's clock said."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from connections import providers
from connections.oauth.refresh import Authorization
from meshes.kit.clock import Reading, database_now
from tests.connections.oauth.making import authorized, expired, need_of, opened

pytestmark = pytest.mark.django_db

FAR = float("inf")
LIFE_SECONDS = 1800
shifts = pytest.mark.parametrize("hours", [1, -1])


def prepare(target) -> None:
    document = opened(target)
    provider = providers.get(target.type)
    need = need_of(target, document.version)
    Authorization(need, provider, target.config, document.secret, Reading.take()).prepare(FAR)


def shifted(hours: int):
    return time_machine.travel(datetime.now(UTC) + timedelta(hours=hours), tick=True)


@shifts
def test_a_token_that_a_host_with_a_wrong_clock_renewed_is_used_for_its_life_by_others(vendor, hours):
    target = expired(vendor)
    with shifted(hours):
        prepare(target)
    (asked,) = vendor.refreshes
    ends_at = datetime.fromisoformat(opened(target).secret["expires_at"].reveal())
    assert abs((ends_at - database_now()).total_seconds() - LIFE_SECONDS) < 60
    prepare(target)
    assert vendor.refreshes == [asked]


@shifts
def test_a_host_with_a_wrong_clock_renews_what_is_due_and_nothing_else(vendor, hours):
    fresh, due = authorized(vendor), expired(vendor)
    with shifted(hours):
        prepare(fresh)
        assert vendor.refreshes == []
        prepare(due)
        assert len(vendor.refreshes) == 1
