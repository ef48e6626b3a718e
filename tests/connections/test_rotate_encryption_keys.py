import os
import subprocess
import sys
from io import StringIO
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from connections import resealing, vault
from connections.models import AccessRecord, SealedDocument
from meshes.stack_folder import PROJECT
from tests.factories import make_connection, make_workspace
from tests.polling import eventually

pytestmark = pytest.mark.django_db

CANARY = "canary-51c09d3e"


@pytest.fixture
def owners(use_keys):
    """Seven connections, sealed with the key `old`; the process now knows `new` and `old`."""
    use_keys("old")
    workspace = make_workspace()
    made = [make_connection(workspace, secret={"token": f"{CANARY}-{number}"}) for number in range(7)]
    use_keys("new", "old")
    return made


def rotate(**options) -> str:
    out = StringIO()
    call_command("rotate_encryption_keys", stdout=out, **options)
    return out.getvalue()


def tokens(owners) -> list[str]:
    return [
        vault.open(
            workspace_id=owner.workspace_id,
            owner_kind="connection",
            owner_id=owner.pk,
            kind=vault.CREDENTIALS,
            actor="a test",
            purpose="testing",
        )
        .secret["token"]
        .reveal()
        for owner in owners
    ]


def test_everything_is_sealed_with_the_newest_key(owners, use_keys):
    out = rotate(batch_size=3)
    assert "7 of 7 re-sealed; 0 do not open" in out
    assert resealing.count_by_key() == {vault.newest_key_id(): 7}
    use_keys("new")
    assert tokens(owners) == [f"{CANARY}-{number}" for number in range(7)]


def test_rotation_leaves_records_and_prints_no_secret(owners):
    out = rotate()
    records = AccessRecord.objects.filter(purpose="key rotation", actor="manage.py rotate_encryption_keys")
    assert {record.owner_id for record in records} == {owner.pk for owner in owners}
    assert CANARY not in out
    assert "old" not in out.replace("older keys", "")


@pytest.mark.fault
@pytest.mark.django_db(transaction=True)
def test_a_rotation_that_was_killed_goes_on_where_it_was(owners):
    fourth = owners[3]
    with transaction.atomic():
        SealedDocument.objects.select_for_update().values_list("id").get(connection=fourth)
        process = start_rotation()
        try:
            eventually(
                lambda: resealing.count_on_older_keys() == 4, 30
            )  # three are done, the fourth waits for our lock
        finally:
            process.kill()
            process.communicate()
    assert resealing.count_on_older_keys() == 4
    assert "4 of 4 re-sealed" in rotate(batch_size=1)
    assert resealing.count_on_older_keys() == 0
    assert tokens(owners) == [f"{CANARY}-{number}" for number in range(7)]


def start_rotation() -> "subprocess.Popen[bytes]":
    """The real command in a process of its own, on this test's database."""
    database = connection.settings_dict
    server = urlsplit(os.environ["DATABASE_URL"])
    environment = {
        **os.environ,
        "DATABASE_URL": urlunsplit(server._replace(path=f"/{database['NAME']}")),
        "FERNET_KEYS": "new,old",
    }
    command = [sys.executable, "manage.py", "rotate_encryption_keys", "--batch-size", "1"]
    return subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=subprocess.PIPE)


def test_running_it_again_changes_nothing(owners):
    rotate()
    before = list(SealedDocument.objects.order_by("id").values_list("id", "version", "key_id"))
    assert "sealed with older keys: 0" in rotate()
    assert list(SealedDocument.objects.order_by("id").values_list("id", "version", "key_id")) == before
    assert AccessRecord.objects.filter(purpose="key rotation").count() == 7


def test_a_change_that_comes_between_wins(owners, monkeypatch):
    changed, real = owners[0], resealing._write_tokens

    def after_a_change(changes):
        vault.seal(
            {"token": "newer"},
            workspace_id=changed.workspace_id,
            owner_kind="connection",
            owner_id=changed.pk,
            kind=vault.CREDENTIALS,
        )
        return real(changes)

    monkeypatch.setattr(resealing, "_write_tokens", after_a_change)
    batch = resealing.reseal_batch(None, 100, actor="a test")
    assert (batch.resealed, batch.overtaken, batch.unreadable) == (6, 1, [])
    assert tokens([changed]) == ["newer"]


def test_what_no_key_opens_is_named_and_left(owners, use_keys):
    use_keys("new", "unrelated")
    broken = list(SealedDocument.objects.order_by("id").values_list("id", flat=True))
    with pytest.raises(CommandError) as caught:
        rotate()
    assert str(caught.value).startswith("7 documents open with none of the keys and were left: ")
    assert str(broken[0]) in str(caught.value)
    use_keys("new", "old")
    assert resealing.count_on_older_keys() == 7
    assert tokens(owners[:1]) == [f"{CANARY}-0"]


def test_a_copied_document_stays_refused(owners):
    ciphertext = SealedDocument.objects.filter(connection=owners[0])
    document = ciphertext.get().document
    SealedDocument.objects.filter(connection=owners[1]).update(document=document)
    rotate()
    with pytest.raises(vault.CredentialRefused, match="another owner"):
        tokens([owners[1]])


def test_a_dry_run_counts_only(owners):
    assert ": 7" in rotate(dry_run=True)
    assert resealing.count_on_older_keys() == 7


def test_a_batch_has_at_least_one_document(owners):
    with pytest.raises(CommandError, match="at least 1"):
        rotate(batch_size=0)
