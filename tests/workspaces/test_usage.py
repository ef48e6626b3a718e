"""When a key was last used is written after the answer, at most once a minute."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.workspaces.callers import bearer, issue
from workspaces import keys
from workspaces.models import ApiKey

PATH = "/api/v1/workspaces"

pytestmark = pytest.mark.django_db


def last_used(issued):
    return ApiKey.objects.get(pk=issued.row.pk).last_used_at


def test_the_first_use_is_written():
    issued = issue()
    assert last_used(issued) is None
    bearer(issued.key).get(PATH)
    assert datetime.now(UTC) - last_used(issued) < timedelta(seconds=5)


def test_it_is_written_once_a_minute():
    issued = issue()
    client = bearer(issued.key)
    client.get(PATH)
    earlier = datetime.now(UTC) - timedelta(minutes=5)
    ApiKey.objects.filter(pk=issued.row.pk).update(last_used_at=earlier)
    client.get(PATH)
    assert last_used(issued) == earlier
    keys._used.pop(issued.row.pk)  # as after a minute
    client.get(PATH)
    assert last_used(issued) > earlier


def test_another_process_that_wrote_a_moment_ago_is_enough():
    issued = issue()
    just_now = datetime.now(UTC) - timedelta(seconds=10)
    ApiKey.objects.filter(pk=issued.row.pk).update(last_used_at=just_now)
    bearer(issued.key).get(PATH)
    assert last_used(issued) == just_now


def test_a_refused_key_is_not_used():
    issued = issue(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert bearer(issued.key).get(PATH).status_code == 401
    assert last_used(issued) is None
