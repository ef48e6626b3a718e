"""Keys: their form, what is stored of them, and which of them are live."""

import hashlib
import math
import re
import time
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from cachetools import TLRUCache

from meshes.api.problems import Problem
from meshes.kit import ids
from tests.factories import make_workspace
from tests.polling import eventually
from tests.workspaces.callers import issue, why_refused
from workspaces import keys
from workspaces.models import ApiKey
from workspaces.vault.models import SealedDocument

FORM = re.compile(r"mesh_live_[0-9a-z]{26}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}")


def now():
    return datetime.now(UTC)


def test_a_key_carries_its_id_and_parses_offline():
    key_id = ids.uuid7()
    text = keys._generate(key_id)
    assert FORM.fullmatch(text)
    assert keys.parse(text) == key_id


def test_one_changed_character_is_a_typo():
    text = keys._generate(ids.uuid7())
    for position in range(len(keys.PREFIX), len(text)):
        changed = "a" if text[position] != "a" else "b"
        assert keys.parse(text[:position] + changed + text[position + 1 :]) is None


@pytest.mark.parametrize("text", ["", "mesh_live_", "mesh_test_x", "mesh_live_" + "a" * 77, "mesh_live_é"])
def test_other_texts_are_no_keys(text):
    assert keys.parse(text) is None


def test_two_keys_share_no_secret():
    key_id = ids.uuid7()
    assert keys._generate(key_id) != keys._generate(key_id)


@pytest.mark.django_db
def test_only_the_hash_is_stored():
    issued = issue()
    row = ApiKey.objects.get(pk=issued.row.pk)
    assert bytes(row.secret_hash) == hashlib.sha256(issued.key.encode()).digest()
    secret = issued.key.split("_")[3]
    assert not any(secret in str(value) for value in vars(row).values())
    assert issued.key not in repr(issued)
    assert issued.signing_secret not in repr(issued)


@pytest.mark.django_db
def test_a_live_key_verifies():
    issued = issue(scopes=["config", "events:read"])
    record = keys.verify(issued.key)
    assert record is not None
    assert record.id == issued.row.pk
    assert set(record.scopes) == {"config", "events:read"}


@pytest.mark.django_db
def test_the_right_id_with_another_secret_is_refused():
    issued = issue()
    assert why_refused(keys.verify, keys._generate(issued.row.pk)) == "unknown"


@pytest.mark.django_db
def test_an_unknown_id_is_refused():
    assert why_refused(keys.verify, keys._generate(uuid.UUID(int=ids.uuid7().int ^ 1))) == "unknown"


@pytest.mark.django_db
def test_an_unknown_id_costs_what_another_secret_of_a_known_one_does(django_assert_num_queries):
    known, unknown = issue().row.pk, ids.uuid7()
    for key_id in (known, unknown):
        keys.forget(key_id)
        with django_assert_num_queries(1):
            assert why_refused(keys.verify, keys._generate(key_id)) == "unknown"
        with django_assert_num_queries(0):
            assert why_refused(keys.verify, keys._generate(key_id)) == "unknown"


@pytest.mark.django_db
def test_a_key_that_was_asked_for_before_it_was_made_is_known_soon():
    issued = issue()
    ApiKey.objects.filter(pk=issued.row.pk).delete()
    keys.forget(issued.row.pk)
    assert why_refused(keys.verify, issued.key) == "unknown"
    issued.row.save(force_insert=True)
    eventually(lambda: why_refused(keys.verify, issued.key) is None, seconds=10)


@pytest.mark.django_db(transaction=True)
def test_that_a_key_was_revoked_is_told_only_to_who_has_its_secret():
    issued = issue()
    keys.revoke_key(issued.row.pk, now())
    assert why_refused(keys.verify, issued.key) == "revoked"
    assert why_refused(keys.verify, keys._generate(issued.row.pk)) == "unknown"


@pytest.mark.django_db
def test_a_typo_costs_no_query(django_assert_num_queries):
    text = issue().key
    with django_assert_num_queries(0):
        assert why_refused(keys.verify, text[:-1] + ("0" if text[-1] != "0" else "1")) == "malformed"


@pytest.mark.django_db
def test_a_known_key_costs_no_query(django_assert_num_queries):
    text = issue().key
    keys.verify(text)
    with django_assert_num_queries(0):
        assert keys.verify(text) is not None


@pytest.mark.django_db
def test_a_key_ends_at_its_expiry():
    issued = issue(expires_at=now() + timedelta(seconds=2))
    assert keys.verify(issued.key) is not None
    eventually(lambda: why_refused(keys.verify, issued.key) == "expired", seconds=4)


@pytest.mark.django_db(transaction=True)
def test_a_revoked_key_is_refused_at_once_here():
    issued = issue()
    assert keys.verify(issued.key) is not None
    keys.revoke_key(issued.row.pk, now())
    assert why_refused(keys.verify, issued.key) == "revoked"


@pytest.mark.django_db
def test_a_key_revoked_by_another_process_is_refused_when_the_memory_of_it_ends():
    issued = issue()
    assert keys.verify(issued.key) is not None
    ApiKey.objects.filter(pk=issued.row.pk).update(revoked_at=now())
    eventually(lambda: why_refused(keys.verify, issued.key) == "revoked", seconds=3)


@pytest.mark.django_db
def test_revoking_destroys_the_signing_secret_and_keeps_the_first_moment():
    issued = issue()
    first = now()
    keys.revoke_key(issued.row.pk, first)
    keys.revoke_key(issued.row.pk, first + timedelta(hours=1))
    assert ApiKey.objects.get(pk=issued.row.pk).revoked_at == first
    assert not SealedDocument.objects.filter(api_key=issued.row.pk).exists()


@pytest.mark.django_db(transaction=True)
def test_during_a_rotation_two_keys_are_live():
    first = issue()
    second = keys.rotate_key(first.row.pk, 60, now())
    assert second.row.version == 2
    assert keys.verify(first.key) is not None
    assert keys.verify(second.key) is not None


@pytest.mark.django_db(transaction=True)
def test_a_third_key_ends_the_first():
    first = issue()
    second = keys.rotate_key(first.row.pk, 60, now())
    third = keys.rotate_key(first.row.pk, 60, now())
    assert why_refused(keys.verify, first.key) == "unknown"
    assert keys.verify(second.key) is not None
    assert keys.verify(third.key) is not None


@pytest.mark.django_db(transaction=True)
def test_the_overlap_ends():
    first = issue()
    second = keys.rotate_key(first.row.pk, 60, now() - timedelta(seconds=61))
    assert why_refused(keys.verify, first.key) == "expired"
    assert keys.verify(second.key) is not None


@pytest.mark.django_db(transaction=True)
def test_without_an_overlap_the_present_key_ends_at_once():
    first = issue()
    second = keys.rotate_key(first.row.pk, 0, now())
    assert why_refused(keys.verify, first.key) == "unknown"
    assert keys.verify(second.key) is not None


@pytest.mark.django_db
def test_a_revoked_key_is_not_rotated():
    issued = issue()
    keys.revoke_key(issued.row.pk, now())
    with pytest.raises(Problem) as refused:
        keys.rotate_key(issued.row.pk, 60, now())
    assert refused.value.status == 409
    assert ApiKey.objects.get(pk=issued.row.pk).version == 1


@pytest.mark.django_db
def test_an_expired_key_is_not_rotated():
    issued = issue(expires_at=now() + timedelta(hours=1))
    with pytest.raises(Problem) as refused:
        keys.rotate_key(issued.row.pk, 60, now() + timedelta(hours=2))
    assert refused.value.status == 409


@pytest.mark.django_db
def test_publishable_keys_have_no_signing_secret():
    issued = issue("publishable", workspace=make_workspace())
    assert issued.signing_secret is None
    assert not SealedDocument.objects.filter(api_key=issued.row.pk).exists()


def test_what_is_remembered_is_fresher_than_a_second():
    assert keys.TTL_SECONDS < 1


@pytest.mark.django_db
def test_ids_that_anybody_makes_up_push_out_one_another_and_no_key(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(keys, "_unknown", TLRUCache(2, ttu=lambda *_: math.inf, timer=time.monotonic))
    monkeypatch.setattr(keys, "_found", TLRUCache(2, ttu=lambda *_: math.inf, timer=time.monotonic))
    key_id, made_up = issue().row.pk, [ids.uuid7() for _ in range(3)]
    assert keys.find(key_id).pk == key_id
    assert [keys.find(each) for each in made_up] == [None, None, None]
    with django_assert_num_queries(0):
        assert (keys.find(key_id).pk, keys.find(made_up[2])) == (key_id, None)
    with django_assert_num_queries(1):
        assert keys.find(made_up[0]) is None


@pytest.mark.django_db
def test_a_key_is_as_old_as_the_beginning_of_the_look_at_it(monkeypatch, django_assert_num_queries):
    key_id, began = issue().row.pk, time.monotonic() - keys.TTL_SECONDS
    monkeypatch.setattr(keys, "time", SimpleNamespace(monotonic=lambda: began))
    keys.find(key_id)
    monkeypatch.undo()
    with django_assert_num_queries(1):
        keys.find(key_id)
