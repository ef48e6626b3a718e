import pytest

from tests.factories import make_workspace
from workspaces import keys
from workspaces.vault import vault
from workspaces.vault.models import AccessRecord, SealedDocument
from workspaces.vault.vault import CredentialRefused

pytestmark = pytest.mark.django_db


@pytest.fixture
def key():
    return keys.create_key(name="k", kind="workspace", scopes=["config"], workspace=make_workspace()).row


def test_a_key_s_secret_opens_for_its_own_key(key):
    vault.seal(
        {"signing_secret": "a-signing-secret"},
        workspace_id=key.workspace_id,
        owner_kind="api_key",
        owner_id=key.pk,
        kind=keys.SIGNING_SECRET,
    )
    key.version = SealedDocument.objects.get(api_key=key).version
    assert keys.open_signing_secrets(key, "testing") == ["a-signing-secret"]
    record = AccessRecord.objects.get(purpose="testing")
    assert (record.owner_kind, record.owner_id, record.purpose, record.granted) == (
        "api_key",
        key.pk,
        "testing",
        True,
    )


def test_an_account_key_has_no_workspace(db):
    key = keys.create_key(name="k", kind="account", scopes=["config"]).row
    assert len(keys.open_signing_secrets(key, "testing")) == 1


def test_the_version_of_a_rotated_key_follows(key):
    keys.rotate_key(key.pk, 0, key.created_at)
    key.refresh_from_db()
    assert SealedDocument.objects.get(api_key=key).version == key.version == 2


@pytest.mark.parametrize("versions_ahead", [1, 5])
def test_a_version_that_does_not_exist_is_refused(key, versions_ahead):
    key.version += versions_ahead
    with pytest.raises(CredentialRefused):
        keys.open_signing_secrets(key, "testing")
    assert not AccessRecord.objects.get(purpose="testing").granted


def test_a_destroyed_secret_is_refused(key):
    vault.destroy(workspace_id=key.workspace_id, owner_kind="api_key", owner_id=key.pk)
    with pytest.raises(CredentialRefused):
        keys.open_signing_secrets(key, "testing")
