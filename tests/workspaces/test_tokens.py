"""Machine tokens: HS256, a minute at most, signed with the key's signing secret."""

import base64
import json
import time
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from connections.models import AccessRecord, SealedDocument
from tests.factories import make_workspace
from tests.workspaces.callers import bearer, issue
from workspaces import keys, tokens

pytestmark = pytest.mark.django_db


def sign(issued, *, secret=None, headers=None, algorithm="HS256", **claims):
    moment = int(time.time())
    claims = {"iat": moment, "exp": moment + 30} | claims
    headers = {"kid": issued.row.public_id} | (headers or {})
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, secret or issued.signing_secret, algorithm=algorithm, headers=headers)


def test_a_token_is_its_key():
    issued = issue("workspace", ["config"], make_workspace())
    record = tokens.verify(sign(issued))
    assert record is not None
    assert record.id == issued.row.pk
    assert record.workspace_id == issued.row.workspace_id
    assert record.scopes == {"config"}


def test_a_token_opens_the_api():
    assert bearer(sign(issue())).get("/api/v1/workspaces").status_code == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"iat": None},
        {"exp": 0},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 10**400},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"iat": -(10**400)},
        {"exp": [1]},
    ],
    ids=["no exp", "no iat", "exp 0", "exp a word", "exp true",
         "exp huge", "exp inf", "exp nan", "iat hugely negative", "exp a list"],  # alike in every test process
)  # fmt: skip
def test_other_times_are_refused(claims):
    assert tokens.verify(sign(issue(), **claims)) is None


@pytest.mark.parametrize("seconds", [{"exp": 3600}, {"iat": -3600}, {"iat": 30, "exp": 40}], ids=repr)
def test_times_outside_the_minute_are_refused(seconds):
    claims = {claim: time.time() + ahead for claim, ahead in seconds.items()}
    assert tokens.verify(sign(issue(), **claims)) is None


def test_sixty_seconds_are_the_longest():
    issued, moment = issue(), int(time.time())
    assert tokens.verify(sign(issued, iat=moment, exp=moment + 59)) is not None
    assert tokens.verify(sign(issued, iat=moment, exp=moment + 75)) is None


def test_the_key_itself_signs_nothing():
    issued = issue()
    assert tokens.verify(sign(issued, secret=issued.key)) is None


def test_another_keys_secret_is_refused():
    mine, other = issue(), issue()
    assert tokens.verify(sign(mine, secret=other.signing_secret)) is None


def test_other_algorithms_are_refused():
    assert tokens.verify(sign(issue(), algorithm="HS384")) is None


def test_unsigned_tokens_are_refused():
    issued = issue()
    header = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": issued.row.public_id}).encode()).rstrip(b"=")
    claims = sign(issued).split(".")[1]
    assert tokens.verify(f"{header.decode()}.{claims}.") is None


@pytest.mark.parametrize("kid", ["", "key_", "ws_01m7zyf5wteqcva9befdm6my7k", "../../etc/passwd", "key_\u0000"])
def test_other_key_ids_are_refused(kid):
    assert tokens.verify(sign(issue(), headers={"kid": kid})) is None


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "e30.e30.e30", "W1td.e30.", "[" * 3000, "é"])
def test_garbage_is_refused(text):
    assert tokens.verify(text) is None


def test_a_deeply_nested_header_is_refused():
    nested = base64.urlsafe_b64encode(b'{"kid":' + b"[" * 2500).rstrip(b"=").decode()
    assert tokens.verify(f"{nested}.e30.e30") is None


@pytest.mark.django_db(transaction=True)
def test_a_revoked_keys_tokens_are_refused():
    issued = issue()
    token = sign(issued)
    assert tokens.verify(token) is not None
    keys.revoke_key(issued.row.pk, datetime.now(UTC))
    assert tokens.verify(token) is None


@pytest.mark.django_db(transaction=True)
def test_during_a_rotation_both_signing_secrets_are_good():
    first = issue()
    second = keys.rotate_key(first.row.pk, 60, datetime.now(UTC))
    assert second.signing_secret != first.signing_secret
    assert tokens.verify(sign(first)) is not None
    assert tokens.verify(sign(second)) is not None


@pytest.mark.django_db(transaction=True)
def test_after_the_overlap_only_the_new_one_is():
    first = issue()
    second = keys.rotate_key(first.row.pk, 60, datetime.now(UTC) - timedelta(seconds=61))
    assert tokens.verify(sign(first)) is None
    assert tokens.verify(sign(second)) is not None


def test_opening_the_secret_is_recorded_once_for_many_tokens():
    issued = issue()
    for _ in range(5):
        assert tokens.verify(sign(issued)) is not None
    record = AccessRecord.objects.get(owner_id=issued.row.pk, purpose="verify a machine token")
    assert (record.owner_kind, record.granted) == ("api_key", True)


def test_a_secret_that_does_not_open_lets_nobody_in(caplog):
    issued = issue()
    token = sign(issued)
    SealedDocument.objects.filter(api_key=issued.row.pk).delete()
    assert tokens.verify(token) is None
    assert "does not open" in caplog.text
    assert issued.signing_secret not in caplog.text
