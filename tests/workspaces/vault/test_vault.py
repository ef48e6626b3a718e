import json
import time
import uuid
from typing import Any

import pytest
from django.db import connection as database

from connections.models import Connection
from meshes.kit import ids
from tests.factories import make_connection, make_workspace
from workspaces.vault import sealing, vault
from workspaces.vault.models import AccessRecord, SealedDocument
from workspaces.vault.secret import Secret

CANARY = "canary-7d1f0a52"

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner() -> Connection:
    return make_connection(make_workspace(), secret={"token": CANARY})


def open_of(owner: Connection, **other: Any) -> vault.Opened:
    values: dict[str, Any] = {"workspace_id": owner.workspace_id, "owner_kind": "connection", "owner_id": owner.pk}
    return vault.open(**values | {"kind": vault.CREDENTIALS, "actor": "a test", "purpose": "testing"} | other)


def encrypt(content: str) -> str:
    field: Any = SealedDocument._meta.get_field("document")
    token: bytes = field.fernet.encrypt(content.encode())
    return token.decode()


def ciphertext_of(owner: Connection) -> str:
    with database.cursor() as cursor:
        cursor.execute("SELECT encode(document, 'escape') FROM sealed_documents WHERE connection_id = %s", [owner.pk])
        document: str = cursor.fetchone()[0]
        return document


def open_ciphertext(owner: Connection, document: str | None, **other: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"workspace_id": owner.workspace_id, "owner_kind": "connection", "owner_id": owner.pk}
    return vault.open_document(document, **values | {"kind": vault.CREDENTIALS, "version": 1} | other)


def test_what_is_sealed_opens_as_secrets():
    owner = make_connection(make_workspace(), secret={"a": "x", "list": [{"b": Secret("y")}], "n": 3})
    opened = open_of(owner)
    assert opened.version == 1
    assert opened.secret["a"].reveal() == "x"
    assert opened.secret["list"][0]["b"].reveal() == "y"
    assert opened.secret["n"] == 3
    assert repr(opened) == "Opened(version=1, secret={'a': ••••, 'list': [{'b': ••••}], 'n': 3})"


def test_the_row_holds_nothing_readable(owner):
    with database.cursor() as cursor:
        cursor.execute("SELECT sealed_documents::text FROM sealed_documents")
        row = cursor.fetchone()[0]
    assert CANARY not in row
    assert CANARY.encode().hex() not in row


def test_an_opening_leaves_a_record(owner):
    open_of(owner)
    record = AccessRecord.objects.get(purpose="testing")
    assert (record.workspace_id, record.owner_kind, record.owner_id) == (owner.workspace_id, "connection", owner.pk)
    assert (record.kind, record.version, record.actor, record.purpose) == ("credentials", 1, "a test", "testing")
    assert record.granted


def test_a_refusal_leaves_a_record(owner):
    SealedDocument.objects.filter(connection=owner).update(version=2)
    with pytest.raises(vault.CredentialRefused) as caught:
        open_of(owner)
    assert caught.value.reason == "it was sealed for another version"
    record = AccessRecord.objects.get(purpose="testing")
    assert (record.version, record.granted) == (2, False)


def test_a_missing_document_is_refused_with_a_record(owner):
    with pytest.raises(vault.CredentialRefused, match="there is no document"):
        open_of(owner, kind="other")
    assert not AccessRecord.objects.get(purpose="testing").granted


def test_another_workspace_finds_nothing(owner):
    with pytest.raises(vault.CredentialRefused):
        open_of(owner, workspace_id=make_workspace().pk)


@pytest.mark.parametrize("same_workspace", [True, False])
def test_a_row_copied_to_another_connection_is_refused(owner, same_workspace):
    other = make_connection(owner.workspace if same_workspace else make_workspace(), secret={"token": "other"})
    with database.cursor() as cursor:
        cursor.execute(
            "UPDATE sealed_documents SET document = source.document FROM sealed_documents source"
            " WHERE source.connection_id = %s AND sealed_documents.connection_id = %s",
            [owner.pk, other.pk],
        )
    with pytest.raises(vault.CredentialRefused, match=r"another (workspace|owner)"):
        open_of(other)
    assert open_of(owner).secret["token"].reveal() == CANARY


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"workspace_id": uuid.uuid4()}, "it was sealed for another workspace"),
        ({"workspace_id": None}, "it was sealed for another workspace"),
        ({"owner_kind": "api_key"}, "it was sealed for another owner kind"),
        ({"owner_id": uuid.uuid4()}, "it was sealed for another owner"),
        ({"kind": "signing_secret"}, "it was sealed for another kind"),
        ({"version": 2}, "it was sealed for another version"),
        ({"version": None}, "there is no document"),
    ],
)
def test_a_document_opens_for_its_own_row_only(owner, other, reason):
    document = ciphertext_of(owner)
    assert open_ciphertext(owner, document)["token"].reveal() == CANARY
    with pytest.raises(vault.CredentialRefused) as caught:
        open_ciphertext(owner, document, **other)
    assert caught.value.reason == reason


@pytest.mark.parametrize("damaged", ["", "gAAAAA", "ümlaut", "x" * 200, "\\200\\201"])
def test_a_damaged_document_is_refused(owner, damaged):
    with pytest.raises(vault.CredentialRefused, match="does not decrypt"):
        open_ciphertext(owner, damaged)


@pytest.mark.parametrize("content", ["not json", "[]", "{}", json.dumps({"secret": "text"})])
def test_what_is_no_sealed_document_is_refused(owner, content):
    token = encrypt(content)
    with pytest.raises(vault.CredentialRefused, match="not a sealed document"):
        open_ciphertext(owner, token)


def test_a_missing_binding_is_refused(owner):
    content = {"workspace": None, "secret": {"token": "x"}}
    token = encrypt(json.dumps(content))
    with pytest.raises(vault.CredentialRefused, match="another owner kind"):
        open_ciphertext(owner, token, workspace_id=None)


def test_a_new_version_replaces_the_old_one(owner):
    old = ciphertext_of(owner)
    again = {"workspace_id": owner.workspace_id, "owner_kind": "connection", "owner_id": owner.pk}
    assert vault.seal({"token": "new"}, **again, kind=vault.CREDENTIALS) == 2
    assert SealedDocument.objects.filter(connection=owner).count() == 1
    opened = open_of(owner)
    assert (opened.version, opened.secret["token"].reveal()) == (2, "new")
    with pytest.raises(vault.CredentialRefused, match="another version"):
        open_ciphertext(owner, old, version=2)


def test_an_older_version_than_asked_for_is_refused(owner):
    assert open_of(owner, oldest_version=1).version == 1
    with pytest.raises(vault.CredentialRefused, match="no document of this version"):
        open_of(owner, oldest_version=2)


def test_destroyed_documents_are_gone(owner):
    assert vault.destroy(workspace_id=owner.workspace_id, owner_kind="connection", owner_id=owner.pk) == 1
    assert not SealedDocument.objects.exists()


def test_a_claim_brings_the_ciphertext_and_leaves_a_record(owner):
    delivery_id, access_id = ids.uuid7(), ids.uuid7()
    claimed = "claimed (delivery_id, workspace_id, connection_id, attempt_number, access_id, actor) AS (VALUES"
    with database.cursor() as cursor:
        cursor.execute(
            f"WITH {claimed} (%s::uuid, %s::uuid, %s::uuid, 3, %s::uuid, 'worker 1'::text)), {vault.SQL_OPENED}"
            " SELECT sealed_version, sealed_document FROM claimed LEFT JOIN opened USING (delivery_id)",
            [delivery_id, owner.workspace_id, owner.pk, access_id],
        )
        version, document = cursor.fetchone()
    assert open_ciphertext(owner, document, version=version)["token"].reveal() == CANARY
    record = AccessRecord.objects.get(pk=access_id)
    assert (record.delivery_id, record.attempt_number, record.actor) == (delivery_id, 3, "worker 1")
    assert (record.workspace_id, record.owner_id, record.version, record.granted) == (
        owner.workspace_id,
        owner.pk,
        1,
        True,
    )


@pytest.mark.parametrize("damage", [b"\\xff00", b"gAAAA\\"])
def test_a_claim_survives_a_damaged_row(owner, damage):
    with database.cursor() as cursor:
        cursor.execute("UPDATE sealed_documents SET document = %s", [b"\xff\x00" + damage])
        cursor.execute(
            "WITH claimed (delivery_id, workspace_id, connection_id, attempt_number, access_id, actor) AS"
            f" (VALUES (%s::uuid, %s::uuid, %s::uuid, 1, %s::uuid, 'w'::text)), {vault.SQL_OPENED}"
            " SELECT sealed_document FROM claimed LEFT JOIN opened USING (delivery_id)",
            [ids.uuid7(), owner.workspace_id, owner.pk, ids.uuid7()],
        )
        (document,) = cursor.fetchone()
    with pytest.raises(vault.CredentialRefused, match="does not decrypt"):
        open_ciphertext(owner, document)


def test_a_refusal_after_a_claim_is_recorded(owner):
    delivery_id = ids.uuid7()
    vault.record_refusals([vault.Refusal(owner.workspace_id, owner.pk, delivery_id, 2, 1, "worker 1")])
    record = AccessRecord.objects.get(purpose="delivery")
    assert (record.delivery_id, record.attempt_number, record.granted) == (delivery_id, 2, False)


def test_opening_needs_a_key_that_sealed(owner, use_keys):
    key_id = sealing.newest_key_id()
    use_keys("another")
    with pytest.raises(vault.KeyMissing, match=f"sealed with the key {key_id}, which is not among FERNET_KEYS"):
        open_of(owner)
    record = AccessRecord.objects.get(owner_id=owner.pk, purpose="testing")
    assert (record.granted, record.version) == (False, 1)


def test_a_document_that_its_own_key_does_not_open_is_refused_as_ever(owner):
    """The key is at hand, so somebody has changed the document."""
    damaged = ciphertext_of(owner)[:-8] + "AAAAAAAA"
    with pytest.raises(vault.CredentialRefused, match="does not decrypt") as caught:
        open_ciphertext(owner, damaged, key_id=sealing.newest_key_id())
    assert not isinstance(caught.value, vault.KeyMissing)


def test_a_missing_key_is_told_once_a_minute_and_a_moved_document_each_time(owner, use_keys, caplog, monkeypatch):
    monkeypatch.setattr(vault, "_told", {})
    use_keys("another")
    for _ in range(3):
        with pytest.raises(vault.KeyMissing):
            open_of(owner)
    assert len(caplog.messages) == 1
    caplog.clear()
    for _ in range(3):
        with pytest.raises(vault.CredentialRefused):
            open_of(owner, kind="other")
    assert len(caplog.messages) == 3


def test_a_document_is_opened_again_for_the_same_binding_alone(owner, monkeypatch):
    document = ciphertext_of(owner)
    binding = {"workspace_id": owner.workspace_id, "owner_kind": "connection", "owner_id": owner.pk}
    binding |= {"kind": vault.CREDENTIALS, "version": 1}
    opened = vault.open_again(document, **binding)
    monkeypatch.setattr(vault, "open_document", lambda document, **values: pytest.fail("it was opened before"))
    assert vault.open_again(document, **binding) is opened
    monkeypatch.undo()
    for other in ({"workspace_id": ids.uuid7()}, {"owner_id": ids.uuid7()}, {"version": 2}, {"kind": "other"}):
        with pytest.raises(vault.CredentialRefused):
            vault.open_again(document, **binding | other)
    with pytest.raises(vault.CredentialRefused):
        vault.open_again(None, **binding)


def test_what_was_opened_is_not_used_for_long(owner):
    document = ciphertext_of(owner)
    binding = {"workspace_id": owner.workspace_id, "owner_kind": "connection", "owner_id": owner.pk}
    binding |= {"kind": vault.CREDENTIALS, "version": 1}
    opened = vault.open_again(document, **binding)
    vault.open_again.cache.expire(time.monotonic() + 5)
    assert vault.open_again(document, **binding) is not opened
