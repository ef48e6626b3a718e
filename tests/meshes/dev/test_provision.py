"""`manage.py provision`: one live account key of the stack's own, and none over credentials that it cannot open."""

import pytest
from django.core.management import CommandError, call_command

from meshes.dev.management.commands import provision
from meshes.dev.stack_folder import StackFolder
from tests.factories import make_connection, make_workspace
from workspaces import keys
from workspaces.models import ApiKey, Installation
from workspaces.vault import sealing, stored_keys
from workspaces.vault.models import AccessRecord, SealedDocument


@pytest.fixture
def folder(transactional_db, tmp_path, monkeypatch):
    monkeypatch.setenv("MESHES_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MESHES_ADMIN_PASSWORD", "canary-admin-password-42")
    return StackFolder(tmp_path)


def provide(*options):
    call_command("provision", *options, verbosity=0)


def make_key(name):
    return keys.create_key(name=name, kind=ApiKey.Kind.ACCOUNT, scopes=keys.SCOPES).row.pk


def live():
    return set(ApiKey.objects.filter(revoked_at=None).values_list("pk", flat=True))


def own(folder):
    return keys.parse(folder.read_env()["MESHES_ACCOUNT_KEY"])


def test_the_key_stays_over_restarts(folder):
    provide()
    first = own(folder)
    provide()
    assert own(folder) == first
    assert live() == {first}


def test_a_key_whose_secret_was_lost_ends_and_those_of_others_stay(folder):
    provide()
    first = own(folder)
    others = {make_key("CI"), make_key(provision.KEY_NAME)}
    for _ in range(2):
        folder.update_env({"MESHES_ACCOUNT_KEY": None})
        provide()
    assert own(folder) != first
    assert live() == others | {own(folder)}


def test_keys_of_earlier_versions_end_by_their_name(folder):
    call_command("migrate", verbosity=0)
    old, others = {make_key(provision.KEY_NAME), make_key(provision.KEY_NAME)}, {make_key("CI")}
    provide()
    assert live() == others | {own(folder)}
    assert not live() & old


def test_the_key_of_an_earlier_version_is_known_from_now_on(folder):
    provide()
    Installation.objects.update(account_key_id=None)
    provide()
    others = make_key(provision.KEY_NAME)
    folder.update_env({"MESHES_ACCOUNT_KEY": None})
    provide()
    assert live() == {others, own(folder)}


def test_no_key_is_made_over_credentials_that_no_key_opens(folder, use_keys):
    """As where stack.env was lost, and the database is on another server."""
    use_keys("old")
    provide()
    before, sealed = live(), SealedDocument.objects.count()
    folder.update_env({"MESHES_ACCOUNT_KEY": None})
    use_keys("another")
    with pytest.raises(CommandError) as refused:
        provide()
    assert str(refused.value) == provision.LOST_KEYS_WORDS
    assert (live(), SealedDocument.objects.count()) == (before, sealed)
    assert "MESHES_ACCOUNT_KEY" not in folder.read_env()
    provide("--new-keys")
    assert live() == {own(folder)}
    assert stored_keys.find_missing() == []


def test_credentials_that_are_given_up_do_not_open_and_the_others_do(folder, use_keys):
    use_keys("old")
    provide()
    lost = make_connection(make_workspace())
    use_keys("another")
    kept = make_connection(make_workspace())
    folder.update_env({"MESHES_ACCOUNT_KEY": None})
    provide("--new-keys")
    assert SealedDocument.objects.values_list("key_id", flat=True).get(connection=kept) == sealing.newest_key_id()
    assert SealedDocument.objects.values_list("key_id", flat=True).get(connection=lost) not in sealing.key_ids()
    assert AccessRecord.objects.get(owner_id=lost.pk, purpose="deleted").actor == "make up NEW_KEYS=1"
