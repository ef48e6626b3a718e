import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from io import StringIO
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction

from connections.models import Connection
from connections.oauth import grants
from connections.oauth.refresh import DIRECT, renew
from connections.providers.webhook import new_signing_secret
from delivery.dispatch import attempts, claims, settling
from meshes.environment import PROJECT
from tests.conftest import key_named
from tests.connections.oauth.conftest import integrations, vendor  # noqa: F401  (fixtures)
from tests.connections.oauth.making import expired, need_of
from tests.factories import fan_out, make_connection, make_event, make_rule, make_workspace
from tests.polling import eventually, patient
from tests.workspaces.callers import caller, issue, post
from workspaces import keys
from workspaces.vault import sealing, stored_keys, vault
from workspaces.vault.models import AccessRecord, SealedDocument
from workspaces.vault.secret import Secret

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
    assert stored_keys.count_by_key() == {sealing.newest_key_id(): 7}
    use_keys("new")
    assert tokens(owners) == [f"{CANARY}-{number}" for number in range(7)]


def test_rotation_leaves_records_and_prints_no_secret(owners):
    out = rotate()
    records = AccessRecord.objects.filter(purpose="key rotation", actor="manage.py rotate_encryption_keys")
    assert {record.owner_id for record in records} == {owner.pk for owner in owners}
    assert CANARY not in out
    assert key_named("old") not in out
    assert key_named("new") not in out


@pytest.mark.fault
@pytest.mark.django_db(transaction=True)
def test_a_rotation_that_was_killed_goes_on_where_it_was(owners):
    fourth = owners[3]
    with transaction.atomic():
        SealedDocument.objects.select_for_update().values_list("id").get(connection=fourth)
        process = start_rotation(1)
        try:
            # three are done, the fourth waits for our lock
            eventually(lambda: stored_keys.count_to_reseal() == 4, 30)
        finally:
            process.kill()
            process.communicate()
    assert stored_keys.count_to_reseal() == 4
    assert "4 of 4 re-sealed" in rotate(batch_size=1)
    assert stored_keys.count_to_reseal() == 0
    assert tokens(owners) == [f"{CANARY}-{number}" for number in range(7)]


def start_rotation(batch_size: int) -> "subprocess.Popen[bytes]":
    """The real command in a process of its own, on this test's database."""
    database = connection.settings_dict
    server = urlsplit(os.environ["DATABASE_URL"])
    environment = {
        **os.environ,
        "DATABASE_URL": urlunsplit(server._replace(path=f"/{database['NAME']}")),
        "FERNET_KEYS": ",".join(settings.FERNET_KEYS),
    }
    command = [sys.executable, "manage.py", "rotate_encryption_keys", "--batch-size", str(batch_size)]
    return subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=subprocess.PIPE)


def test_running_it_again_changes_nothing(owners):
    rotate()
    before = list(SealedDocument.objects.order_by("id").values_list("id", "version", "key_id"))
    assert "to re-seal: 0" in rotate()
    assert list(SealedDocument.objects.order_by("id").values_list("id", "version", "key_id")) == before
    assert AccessRecord.objects.filter(purpose="key rotation").count() == 7


def test_a_change_that_comes_between_wins(owners, monkeypatch):
    changed, real = owners[0], stored_keys._write_tokens

    def after_a_change(changes):
        vault.seal(
            {"token": "newer"},
            workspace_id=changed.workspace_id,
            owner_kind="connection",
            owner_id=changed.pk,
            kind=vault.CREDENTIALS,
        )
        return real(changes)

    monkeypatch.setattr(stored_keys, "_write_tokens", after_a_change)
    assert stored_keys.count_to_reseal() == 7
    _, resealed, unreadable = stored_keys.reseal_batch(None, 100, actor="a test")
    assert (resealed, unreadable) == (6, [])  # one was overtaken
    assert tokens([changed]) == ["newer"]


def test_what_no_key_opens_is_named_and_left(owners, use_keys):
    use_keys("new", "unrelated")
    out = StringIO()
    with pytest.raises(CommandError, match=r"^7 documents open with none of the keys and were left\.$"):
        call_command("rotate_encryption_keys", stdout=out, no_color=True)
    named = [line for line in out.getvalue().splitlines() if line.startswith("does not open: ")]
    assert named == [
        f'does not open: {each.public_id} "{each.name}" of the workspace {each.workspace}' for each in owners
    ]
    use_keys("new", "old")
    assert stored_keys.count_to_reseal() == 7
    assert tokens(owners[:1]) == [f"{CANARY}-0"]


DAMAGES = {
    "a byte": "set_byte(document, 60, get_byte(document, 60) # 1)",
    "cut": "substr(document, 1, 30)",
    "empty": "''::bytea",
    "not a token": "'\\x00ff5c'::bytea",
    "another version": "'v2.'::bytea || substr(document, 4)",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("batch_size", [1, 200])
def test_one_unreadable_row_keeps_no_other_from_being_re_sealed(owners, damage, batch_size):
    broken = owners[3]
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE sealed_documents SET document = {damage} WHERE connection_id = %s", [broken.pk])
    out = StringIO()
    with pytest.raises(CommandError, match=r"^1 documents open with none of the keys and were left\.$"):
        call_command("rotate_encryption_keys", stdout=out, no_color=True, batch_size=batch_size)
    assert f'does not open: {broken.public_id} "{broken.name}" of the workspace {broken.workspace}' in out.getvalue()
    assert stored_keys.count_to_reseal() == 1
    others = [each for each in owners if each != broken]
    assert len(tokens(others)) == 6


def test_a_lost_key_is_given_up_by_its_id(owners, use_keys):
    use_keys("new")
    key = issue("account", ["config"]).row
    (lost,) = stored_keys.find_missing()
    out = rotate(give_up=lost)
    assert f'emptied: {owners[0].public_id} "{owners[0].name}" of the workspace {owners[0].workspace}\n' in out
    assert out.endswith(f"7 documents that the key {lost} sealed were emptied.\n")
    assert (stored_keys.find_missing(), list(stored_keys.find_unopenable())) == ([], [])
    assert not stored_keys.is_missing_for(owners[0].workspace_id, owners[0].pk)
    assert "to re-seal: 0\n" in rotate()
    records = AccessRecord.objects.filter(purpose="deleted", actor="manage.py rotate_encryption_keys")
    assert {record.owner_id: record.granted for record in records} == {owner.pk: True for owner in owners}
    with pytest.raises(vault.CredentialRefused) as caught:
        tokens(owners[:1])
    assert not isinstance(caught.value, vault.KeyMissing)
    version = vault.seal(
        {"token": "anew"},
        workspace_id=owners[0].workspace_id,
        owner_kind="connection",
        owner_id=owners[0].pk,
        kind=vault.CREDENTIALS,
    )
    assert (version, tokens(owners[:1])) == (2, ["anew"])
    assert keys.open_signing_secrets(key, "testing")


def test_a_key_at_hand_is_not_given_up(owners):
    held = next(iter(stored_keys.count_by_key()))
    with pytest.raises(CommandError, match=f"^{held}: this key is among FERNET_KEYS, and opens what it sealed"):
        rotate(give_up=held)
    assert tokens(owners) == [f"{CANARY}-{number}" for number in range(7)]


def test_who_had_a_lost_key_can_enter_credentials_anew(owners, use_keys):
    use_keys("new")
    target, api = owners[0], caller("workspace", workspace=owners[0].workspace)
    path = f"/api/v1/connections/{target.public_id}/rotate-secret"
    assert post(api, path).status_code == 409
    rotate(give_up=stored_keys.find_missing()[0])
    Connection.objects.filter(pk=target.pk).update(credential_hints={}, status="credential_error")
    assert post(api, path).status_code == 200
    target.refresh_from_db()
    assert target.status == "active"


def test_keys_and_apps_are_named_too(use_keys):
    use_keys("old")
    workspace = make_workspace()
    key = issue("workspace", ["config"], workspace).row
    app = grants.put_app(workspace.pk, "hubspot", "their-app", Secret("secret"))
    account = issue("account", ["config"]).row
    use_keys("new")
    named = stored_keys.name_owners(SealedDocument.objects.values_list("pk", flat=True))
    assert named == [
        f'{key.public_id} "{key.name}" of the workspace {workspace}',
        f'{app.public_id} "hubspot" of the workspace {workspace}',
        f'{account.public_id} "{account.name}" of no workspace',
    ]


def test_a_copied_document_stays_refused(owners):
    ciphertext = SealedDocument.objects.filter(connection=owners[0])
    document = ciphertext.get().document
    SealedDocument.objects.filter(connection=owners[1]).update(document=document)
    rotate()
    with pytest.raises(vault.CredentialRefused, match="another owner"):
        tokens([owners[1]])


def test_a_dry_run_counts_only(owners):
    assert ": 7" in rotate(dry_run=True)
    assert stored_keys.count_to_reseal() == 7


def test_a_batch_has_at_least_one_document(owners):
    with pytest.raises(CommandError, match="at least 1"):
        rotate(batch_size=0)


# --- ten thousand, in use -------------------------------------------------------------------------------------------

NUMBER = 10_000


SENDING = 20
"""Connections that every event goes to, spread over all of them."""


REFRESHED = 50
"""Connections to a vendor whose refresh tokens are good once."""


class Users:
    """Threads that deliver with, replace and refresh the credentials of connections, over and over."""

    def __init__(self, targets, authorized) -> None:
        self.targets, self.authorized = targets, authorized
        for target in targets[:: len(targets) // SENDING]:
            make_rule(target)
        self.tokens = {target.pk: f"{CANARY}-{target.pk}" for target in targets}
        self.access_tokens: dict[uuid.UUID, str] = {}
        self.delivered: list[str] = []
        self.replaced = self.refreshed = 0
        self.errors: list[Exception] = []
        self._stopping = threading.Event()
        steps = (self._deliver, self._replace, self._refresh)
        self._threads = [threading.Thread(target=self._run, args=(step,)) for step in steps]

    def __enter__(self) -> "Users":
        for thread in self._threads:
            thread.start()
        eventually(lambda: all(self.counts) or self.errors)
        return self

    @property
    def counts(self) -> list[int]:
        return [len(self.delivered), self.replaced, self.refreshed]

    def __exit__(self, *_) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, step) -> None:
        try:
            while not self._stopping.is_set():
                step()
        except Exception as error:  # noqa: BLE001  (asserted on)
            self.errors.append(error)
        finally:
            connections.close_all()

    def _deliver(self) -> None:
        wake_ups = fan_out([make_event(self.targets[0].workspace).pk])
        jobs = [job for job in claims.claim([delivery_id for *_, delivery_id in wake_ups], "worker") if job]
        results = [attempts.attempt(job) for job in jobs]
        settling.settle(results, "worker")
        assert len(results) == SENDING
        self.delivered += [str(result.verdict.outcome) for result in results]

    def _refresh(self) -> None:
        target = random.choice(self.authorized)
        version = SealedDocument.objects.values_list("version", flat=True).get(connection=target)
        renewed = renew(need_of(target, version), DIRECT, until=float("inf"))
        self.access_tokens[target.pk] = renewed.credentials["access_token"].reveal()
        self.refreshed += 1

    def _replace(self) -> None:
        """A new token under the next version, as its owner gives it."""
        target = random.choice(self.targets)
        owner = {"workspace_id": target.workspace_id, "owner_kind": "connection", "owner_id": target.pk}
        with transaction.atomic():
            Connection.objects.select_for_update().values_list("pk").get(pk=target.pk)
            opened = vault.open(**owner, kind=vault.CREDENTIALS, actor="worker", purpose="replace credentials")
            assert opened.secret["token"].reveal() == self.tokens[target.pk]
            fresh = f"{CANARY}-{target.pk}-{opened.version}"
            vault.seal(opened.secret | {"token": fresh}, **owner, kind=vault.CREDENTIALS)
        self.tokens[target.pk] = fresh
        self.replaced += 1


@pytest.mark.fault
@pytest.mark.django_db(transaction=True)
def test_ten_thousand_are_re_sealed_while_they_are_in_use_and_through_a_kill(use_keys, endpoint, vendor):  # noqa: F811
    vendor.rotates = True
    use_keys("old")
    targets = make_many(NUMBER, endpoint.url)
    authorized = [expired(vendor) for _ in range(REFRESHED)]
    use_keys("new", "old")
    with Users(targets, authorized) as users:
        killed = start_rotation(50)
        eventually(lambda: stored_keys.count_to_reseal() < NUMBER / 2, 60)
        killed.kill()
        killed.communicate()
        left = stored_keys.count_to_reseal()
        began, before = time.monotonic(), users.counts
        printed, _ = start_rotation(200).communicate(timeout=patient(120))
        seconds, used = time.monotonic() - began, [now - then for now, then in zip(users.counts, before, strict=True)]
    told = "{} deliveries, {} replacements and {} refreshes beside it".format(*used)
    print(f"{left:,} of {NUMBER:,} were left; {seconds:.1f} s, {told}")
    assert 0 < left < NUMBER / 2
    assert b"Every document is sealed with the newest key." in printed
    assert users.errors == []
    assert set(users.delivered) == {"delivered"}
    assert min(used) > 0
    assert not AccessRecord.objects.filter(granted=False).exists()
    use_keys("new")
    assert stored_keys.count_to_reseal() == 0
    assert read_all("token") == users.tokens
    renewed = read_all("access_token")
    assert len(renewed) == REFRESHED
    assert renewed | users.access_tokens == renewed
    assert set(users.access_tokens.values()) <= vendor.access_tokens


def make_many(number, url) -> list[Connection]:
    """Connections with a sealed token each, in as few statements as it takes."""
    workspace, key_id = make_workspace(), sealing.newest_key_id()
    config = {"type": "webhook", "config": {"url": url}}
    targets = [Connection(workspace=workspace, name=f"Hook {index}", **config) for index in range(number)]
    Connection.objects.bulk_create(targets, batch_size=1000)
    documents = []
    for target in targets:
        binding = vault.binding_of(workspace.pk, "connection", target.pk, vault.CREDENTIALS, 1)
        secret = {"signing_secret": new_signing_secret(), "previous": [], "token": f"{CANARY}-{target.pk}"}
        sealed = {"version": 1, "key_id": key_id, "document": json.dumps({**binding, "secret": secret})}
        documents.append(SealedDocument(workspace=workspace, connection=target, kind=vault.CREDENTIALS, **sealed))
    SealedDocument.objects.bulk_create(documents, batch_size=1000)
    return targets


def read_all(name: str) -> dict[uuid.UUID, str]:
    """This secret of every connection that has it, with the keys at hand."""
    tokens: dict[uuid.UUID, str] = {}
    with connection.cursor() as cursor:
        cursor.execute("SELECT workspace_id, connection_id, version, encode(document, 'escape') FROM sealed_documents")
        for workspace_id, owner_id, version, document in cursor.fetchall():
            binding = {"workspace_id": workspace_id, "owner_kind": "connection", "owner_id": owner_id}
            opened = vault.open_document(document, **binding, kind=vault.CREDENTIALS, version=version)
            tokens |= {owner_id: opened[name].reveal()} if name in opened else {}
    return tokens
