"""The two formats of sealed documents, pinned byte for byte, and what each is bound to."""

import base64
import json
import uuid

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.delivery.dispatch.test_dispatch import attempts_of
from tests.factories import deliver, make_connection, make_deliveries, make_workspace
from tests.workspaces.callers import issue
from tests.workspaces.vault.test_rotate_encryption_keys import rotate
from workspaces import keys
from workspaces.vault import sealing, stored_keys, vault
from workspaces.vault.models import SealedDocument

BINDING = {"workspace": "w", "owner_kind": "connection", "owner": "o", "kind": "credentials", "version": 3}
CONTENT = b'{"secret": {"token": "known"}}'

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
"""An entry of FERNET_KEYS: bytes 0 to 31."""
DERIVED = b"KTYzLTk9JtJaxUkZqO9BwF_BxN_URN93DmfM8N3kjwM="
KEY_ID = "5e16e86207428a6b"
TOKEN = (
    "gAAAAABlU_EAAAECAwQFBgcICQoLDA0OD-PNwsJJylKI9jGwL9E8OFFFczPreatzyPkvjKoJg5v8M4Nm84nNANBh7rbu4riDWsnpGkd1C3Dj1CpJ0"
    "_NZmuE="
)
"""CONTENT at 2023-11-14 22:13:20 UTC with the bytes 0 to 15 as its vector."""


@pytest.fixture
def known(settings, use_keys):
    use_keys("to be replaced")
    settings.FERNET_KEYS[:] = [KEY]


@pytest.fixture
def gcm(settings):
    settings.MESHES_SEALING = sealing.AES_256_GCM


def derive(text: str) -> bytes:
    """As the library does it, by the cryptography package alone."""
    hkdf = HKDF(SHA256(), 32, salt=b"django-fernet-fields-hkdf-salt", info=b"django-fernet-fields")
    return base64.urlsafe_b64encode(hkdf.derive(text.encode()))


# --- Fernet ---------------------------------------------------------------------------------------------------------


def test_the_format_of_the_library_is_pinned(known):
    assert sealing.sealing_keys() == [DERIVED] == [derive(KEY)]
    assert sealing.newest_key_id() == KEY_ID
    assert sealing.unseal(TOKEN.encode(), BINDING) == CONTENT
    token = Fernet(derive(KEY))._encrypt_from_parts(CONTENT, 1_700_000_000, bytes(range(16)))
    assert token == TOKEN.encode()


def test_plain_fernet_and_the_library_open_each_others_tokens(known):
    assert sealing.unseal(Fernet(derive(KEY)).encrypt(CONTENT), BINDING) == CONTENT
    assert Fernet(derive(KEY)).decrypt(sealing.seal(CONTENT, BINDING)) == CONTENT


@pytest.mark.django_db
def test_the_field_of_the_library_reads_what_is_sealed_and_the_vault_what_the_field_writes(known):
    connection = make_connection(make_workspace(), secret={"token": "known"})
    row = SealedDocument.objects.get(connection=connection)
    assert json.loads(row.document)["secret"] == {"token": "known"}
    SealedDocument.objects.filter(pk=row.pk).update(document=row.document)  # text: encrypted by the library
    assert opened(connection) == {"token": "known"}


# --- AES-256-GCM ----------------------------------------------------------------------------------------------------

GCM_TOKEN = (
    "v2.5e16e86207428a6b.AAECAwQFBgcICQoLDA0OD-evWSg0pZGlvmTrGCIKZcwAAQIDBAUGBwgJCgtlYE1wqhyYNnmr8zirwlIb"
    "OayfZxtNwdzDc1QROhlBzKmdN0UiHO7apmSD3f_f"
)
"""CONTENT with the bytes 0 to 15 as its salt and 0 to 11 as its nonce."""


def test_a_known_token_of_aes_256_gcm_opens(known, gcm, monkeypatch):
    assert sealing.unseal(GCM_TOKEN.encode(), BINDING) == CONTENT
    monkeypatch.setattr(sealing.os, "urandom", lambda number: bytes(range(number)))
    assert sealing.seal(CONTENT, BINDING) == GCM_TOKEN.encode()


def test_the_format_of_aes_256_gcm_is_pinned(known, gcm):
    """Opened by hand, as docs/vault.md describes it."""
    version, key_id, body = sealing.seal(CONTENT, BINDING).split(b".")
    assert (version, key_id.decode()) == (b"v2", KEY_ID)
    raw = base64.urlsafe_b64decode(body)
    salt, commitment, nonce, ciphertext = raw[:16], raw[16:32], raw[32:44], raw[44:]
    derived = HKDF(SHA256(), 48, salt=salt, info=b"meshes: sealed document, AES-256-GCM").derive(KEY.encode())
    associated = json.dumps(["v2.", KEY_ID, BINDING], sort_keys=True).encode()
    assert derived[32:] == commitment
    assert AESGCM(derived[:32]).decrypt(nonce, ciphertext, associated) == CONTENT
    with pytest.raises(InvalidTag):
        AESGCM(derived[:32]).decrypt(nonce, ciphertext, associated + b" ")


def test_each_document_has_a_key_of_its_own(known, gcm):
    tokens = {sealing.seal(CONTENT, BINDING) for _ in range(100)}
    raws = [base64.urlsafe_b64decode(token.split(b".")[2]) for token in tokens]
    assert (
        len({raw[:16] for raw in raws}) == len({raw[16:32] for raw in raws}) == len({raw[32:44] for raw in raws}) == 100
    )


@pytest.mark.parametrize("name", BINDING)
def test_the_binding_is_associated_data(known, gcm, name):
    token = sealing.seal(CONTENT, BINDING)
    assert sealing.unseal(token, BINDING) == CONTENT
    with pytest.raises(InvalidToken):
        sealing.unseal(token, BINDING | {name: "another"})


def test_no_changed_byte_opens(known, gcm):
    token = sealing.seal(CONTENT, BINDING)
    for place in range(len(token)):
        for byte in {ord("A"), ord("B"), ord("."), 0, 255} - {token[place]}:
            changed = token[:place] + bytes([byte]) + token[place + 1 :]
            with pytest.raises(InvalidToken):
                sealing.unseal(changed, BINDING)
    for length in range(len(token)):
        with pytest.raises(InvalidToken):
            sealing.unseal(token[:length], BINDING)


def test_which_key_made_it_shows_without_opening(use_keys, gcm):
    use_keys("old")
    old, token = sealing.newest_key_id(), sealing.seal(CONTENT, BINDING)
    use_keys("new", "old")
    assert sealing.unseal(token, BINDING) == CONTENT
    assert sealing.is_made_by(old, token)
    assert not sealing.is_made_by(sealing.newest_key_id(), token)
    forged = token.replace(old.encode(), sealing.newest_key_id().encode())
    assert not sealing.is_made_by(sealing.newest_key_id(), forged)
    with pytest.raises(InvalidToken):
        sealing.unseal(forged, BINDING)
    use_keys("new")
    assert not sealing.is_made_by(old, token)
    with pytest.raises(InvalidToken):
        sealing.unseal(token, BINDING)


# --- in use ---------------------------------------------------------------------------------------------------------


def opened(connection, **binding):
    owner = {"workspace_id": connection.workspace_id, "owner_kind": "connection", "owner_id": connection.pk}
    found = vault.open(**owner | binding, kind=vault.CREDENTIALS, actor="a test", purpose="testing")
    return {name: value.reveal() for name, value in found.secret.items()}


def token_of(connection) -> str:
    rows = SealedDocument.objects.filter(connection=connection).with_token()
    return str(rows.values_list("token", flat=True).get())


def copy(source, target):
    token = token_of(source).encode()
    SealedDocument.objects.filter(connection=target).update(document=token)


@pytest.mark.django_db
def test_a_delivery_is_sent_with_what_aes_256_gcm_sealed(gcm, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    assert token_of(target).startswith("v2.")
    (delivery,) = make_deliveries(target)
    assert deliver(delivery) == 1
    assert (delivery.status, len(endpoint.got)) == ("succeeded", 1)


@pytest.mark.django_db
def test_a_copied_document_is_refused_and_nothing_is_sent(gcm, endpoint):
    workspace = make_workspace()
    target, other = make_connection(workspace, url=endpoint.url), make_connection(workspace, url=endpoint.url)
    copy(other, target)
    (delivery,) = make_deliveries(target)
    deliver(delivery)
    target.refresh_from_db()
    assert (target.status, delivery.status, endpoint.got) == ("credential_error", "held", [])
    assert attempts_of(delivery)[-1].error_class == "credential_refused"


@pytest.mark.django_db
def test_without_its_key_it_is_the_operators_fault(gcm, use_keys):
    use_keys("old")
    target = make_connection(make_workspace())
    missing = sealing.newest_key_id()
    use_keys("new")
    with pytest.raises(vault.KeyMissing, match=missing):
        opened(target)
    assert [is_missing for is_missing, _ in stored_keys.find_unopenable()] == [True]


@pytest.mark.django_db
def test_the_secrets_of_api_keys_are_sealed_likewise(gcm):
    row = issue("account", ["config"]).row
    assert keys.open_signing_secrets(row, "testing")
    token = SealedDocument.objects.filter(api_key=row).with_token().values_list("token", flat=True).get()
    assert token.startswith("v2.")


@pytest.mark.django_db
@pytest.mark.parametrize("there", [sealing.AES_256_GCM, sealing.FERNET])
def test_the_re_sealer_moves_documents_to_the_present_format(settings, use_keys, there):
    use_keys("old")
    back = {sealing.FERNET: sealing.AES_256_GCM, sealing.AES_256_GCM: sealing.FERNET}[there]
    settings.MESHES_SEALING = back
    made = [make_connection(make_workspace(), secret={"token": f"token-{number}"}) for number in range(5)]
    settings.MESHES_SEALING = there
    assert [opened(each) for each in made] == [{"token": f"token-{number}"} for number in range(5)]
    assert f"format: {there}; to re-seal: 5" in rotate(batch_size=2)
    assert {sealing.format_of(token_of(each).encode()) for each in made} == {there}
    assert [opened(each) for each in made] == [{"token": f"token-{number}"} for number in range(5)]
    assert "to re-seal: 0" in rotate()
    use_keys("new", "old")
    assert "5 of 5 re-sealed; 0 do not open" in rotate()
    use_keys("new")
    assert [opened(each) for each in made] == [{"token": f"token-{number}"} for number in range(5)]


@pytest.mark.django_db
@pytest.mark.parametrize("first", [sealing.AES_256_GCM, sealing.FERNET])
def test_a_copied_document_stays_refused_in_the_other_format(settings, use_keys, first):
    use_keys("old")
    settings.MESHES_SEALING = first
    workspace = make_workspace()
    target, other = (make_connection(workspace, secret={"token": "x"}) for _ in range(2))
    copy(other, target)
    settings.MESHES_SEALING = {sealing.FERNET: sealing.AES_256_GCM, sealing.AES_256_GCM: sealing.FERNET}[first]
    stored_keys.reseal_batch(None, 10, actor="a test")
    assert opened(other) == {"token": "x"}
    with pytest.raises(vault.CredentialRefused):
        opened(target)


def test_a_document_is_opened_again_from_memory_for_its_own_binding_alone(known, gcm, monkeypatch):
    workspace_id, owner_id = uuid.uuid4(), uuid.uuid4()
    binding = {
        "workspace_id": workspace_id,
        "owner_kind": "connection",
        "owner_id": owner_id,
        "kind": "k",
        "version": 1,
    }
    bound = vault.binding_of(**binding)
    token = sealing.seal(json.dumps(bound | {"secret": {"token": "x"}}).encode(), bound).decode()
    assert vault.open_again(token, **binding)["token"].reveal() == "x"
    monkeypatch.setattr(sealing, "unseal", None)
    assert vault.open_again(token, **binding)["token"].reveal() == "x"
    monkeypatch.undo()
    with pytest.raises(vault.CredentialRefused):
        vault.open_again(token, **binding | {"version": 2})
