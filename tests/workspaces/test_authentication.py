"""Machine tokens: HS256, a minute at most, signed with the key's signing secret."""

import base64
import json
import time
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from meshes.api.problems import Problem
from tests.factories import make_workspace
from tests.workspaces.callers import bearer, issue, why_refused
from workspaces import authentication, keys
from workspaces.models import ApiKey
from workspaces.vault.models import AccessRecord, SealedDocument

pytestmark = pytest.mark.django_db


def sign(issued, *, secret=None, headers=None, algorithm="HS256", **claims):
    moment = int(time.time())
    claims = {"iat": moment, "exp": moment + 30, "aud": "meshes-api"} | claims
    headers = {"kid": issued.row.public_id} | (headers or {})
    present = {name: value for name, value in claims.items() if value is not None}
    payload = json.dumps(present).encode()  # by hand: the library refuses to write some of what it has to read
    return jwt.PyJWS().encode(payload, secret or issued.signing_secret, algorithm, headers)


def test_a_token_is_its_key():
    issued = issue("workspace", ["config"], make_workspace())
    record = authentication.verify_token(sign(issued))
    assert record is not None
    assert record.id == issued.row.pk
    assert record.workspace_id == issued.row.workspace_id
    assert set(record.scopes) == {"config"}


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
    expected = "expired" if claims == {"exp": 0} else "malformed"
    assert why_refused(authentication.verify_token, sign(issue(), **claims)) == expected


@pytest.mark.parametrize("seconds", [{"exp": 3600}, {"iat": -3600}, {"iat": 30, "exp": 40}], ids=repr)
def test_times_outside_the_minute_are_refused(seconds):
    claims = {claim: time.time() + ahead for claim, ahead in seconds.items()}
    assert why_refused(authentication.verify_token, sign(issue(), **claims)) == "malformed"


def test_sixty_seconds_are_the_longest():
    issued, moment = issue(), int(time.time())
    assert authentication.verify_token(sign(issued, iat=moment, exp=moment + 59)) is not None
    assert why_refused(authentication.verify_token, sign(issued, iat=moment, exp=moment + 75)) == "malformed"


def test_a_token_that_was_good_has_expired():
    moment = int(time.time())
    assert why_refused(authentication.verify_token, sign(issue(), iat=moment - 40, exp=moment - 5)) == "expired"


# --- aud, nbf, iss --------------------------------------------------------------------------------------------------


def old_key():
    """A key as it stood before tokens had to name their audience."""
    issued = issue()
    ApiKey.objects.filter(pk=issued.row.pk).update(audience_from_version=None)
    return issued


@pytest.mark.parametrize("audience", ["meshes-api", ["meshes-api"], ["another", "meshes-api"]])
def test_an_audience_that_fits(audience):
    assert authentication.verify_token(sign(issue(), aud=audience)).kind == "account"


@pytest.mark.parametrize("audience", ["", "another", "MESHES-API", [], ["another"], {"meshes-api": 1}, 1, True])
@pytest.mark.parametrize("make", [issue, old_key])
def test_an_audience_that_does_not_fit(make, audience):
    assert why_refused(authentication.verify_token, sign(make(), aud=audience)) == "malformed"


def test_null_is_no_audience():
    issued = old_key()
    claims = {"iat": int(time.time()), "exp": int(time.time()) + 30, "aud": None}
    token = jwt.encode(claims, issued.signing_secret, headers={"kid": issued.row.public_id})
    assert why_refused(authentication.verify_token, token) == "malformed"


def test_keys_made_now_demand_an_audience_and_older_ones_do_not():
    assert why_refused(authentication.verify_token, sign(issue(), aud=None)) == "malformed"
    assert authentication.verify_token(sign(old_key(), aud=None)).kind == "account"


@pytest.mark.django_db(transaction=True)
def test_an_older_key_demands_an_audience_from_its_rotation_on_and_its_old_secret_does_not():
    first = old_key()
    second = keys.rotate_key(first.row.pk, 60, datetime.now(UTC))
    assert authentication.verify_token(sign(first, aud=None)).id == first.row.pk
    assert why_refused(authentication.verify_token, sign(second, aud=None)) == "malformed"
    third = keys.rotate_key(first.row.pk, 60, datetime.now(UTC))
    assert why_refused(authentication.verify_token, sign(second, aud=None)) == "malformed"
    assert authentication.verify_token(sign(third)).id == first.row.pk


def test_the_installation_names_its_audience(settings):
    settings.MESHES_TOKEN_AUDIENCE = "https://meshes.example.com"
    issued = issue()
    assert authentication.verify_token(sign(issued, aud="https://meshes.example.com")).id == issued.row.pk
    assert why_refused(authentication.verify_token, sign(issued, aud="meshes-api")) == "malformed"


@pytest.mark.parametrize(("ahead", "refused"), [(-10, None), (0, None), (3, None), (20, "malformed")])
def test_a_token_is_good_from_its_nbf_on(ahead, refused):
    assert why_refused(authentication.verify_token, sign(issue(), nbf=time.time() + ahead)) == refused


@pytest.mark.parametrize("moment", ["now", True, -1, 10**400, float("nan"), [1]], ids=repr)
def test_other_nbfs_are_refused(moment):
    assert why_refused(authentication.verify_token, sign(issue(), nbf=moment)) == "malformed"


def test_an_issuer_is_the_key():
    issued = issue()
    assert authentication.verify_token(sign(issued, iss=f"urn:meshes:m2m:{issued.row.public_id}")).id == issued.row.pk
    for issuer in ("", "urn:meshes:m2m:", f"urn:meshes:m2m:{issue().row.public_id}", issued.row.public_id, 1, []):
        assert why_refused(authentication.verify_token, sign(issued, iss=issuer)) == "malformed"


def test_other_claims_are_not_read():
    assert authentication.verify_token(sign(issue(), org=7, sub=["x"], jti={})).kind == "account"


# --- what a guesser learns ------------------------------------------------------------------------------------------


def test_an_unknown_key_costs_what_another_secret_of_a_known_one_does():
    known, unknown = issue(), issue()
    ApiKey.objects.filter(pk=unknown.row.pk).delete()
    spent = [queries_of(sign(issued, secret="x" * 43)) for issued in (known, known, unknown, unknown)]
    assert spent == [spent[0], 0, spent[0], 0]
    assert spent[0] > 2


def queries_of(token):
    with CaptureQueriesContext(connection) as queries:
        assert why_refused(authentication.verify_token, token) == "unknown"
    return len(queries)


def test_nothing_is_recorded_of_an_unknown_key():
    unknown = issue()
    ApiKey.objects.filter(pk=unknown.row.pk).delete()
    before = AccessRecord.objects.count()
    assert why_refused(authentication.verify_token, sign(unknown)) == "unknown"
    assert AccessRecord.objects.count() == before


def test_what_is_wrong_with_a_token_is_told_only_to_who_signed_it():
    issued = issue()
    assert why_refused(authentication.verify_token, sign(issued, exp=0, aud="another", secret="x" * 43)) == "unknown"


def test_the_key_itself_signs_nothing():
    issued = issue()
    assert why_refused(authentication.verify_token, sign(issued, secret=issued.key)) == "unknown"


def test_another_keys_secret_is_refused():
    mine, other = issue(), issue()
    assert why_refused(authentication.verify_token, sign(mine, secret=other.signing_secret)) == "unknown"


def test_other_algorithms_are_refused():
    assert why_refused(authentication.verify_token, sign(issue(), algorithm="HS384")) == "malformed"


def test_unsigned_tokens_are_refused():
    issued = issue()
    header = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": issued.row.public_id}).encode()).rstrip(b"=")
    claims = sign(issued).split(".")[1]
    assert why_refused(authentication.verify_token, f"{header.decode()}.{claims}.") == "malformed"


@pytest.mark.parametrize("kid", ["", "key_", "ws_01m7zyf5wteqcva9befdm6my7k", "../../etc/passwd", "key_\u0000"])
def test_other_key_ids_are_refused(kid):
    assert why_refused(authentication.verify_token, sign(issue(), headers={"kid": kid})) == "malformed"


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "e30.e30.e30", "W1td.e30.", "[" * 3000, "é"])
def test_garbage_is_refused(text):
    assert why_refused(authentication.verify_token, text) == "malformed"


def test_a_deeply_nested_header_is_refused():
    nested = base64.urlsafe_b64encode(b'{"kid":' + b"[" * 2500).rstrip(b"=").decode()
    assert why_refused(authentication.verify_token, f"{nested}.e30.e30") == "malformed"


@pytest.mark.django_db(transaction=True)
def test_a_revoked_keys_tokens_are_refused():
    issued = issue()
    token = sign(issued)
    assert authentication.verify_token(token) is not None
    keys.revoke_key(issued.row.pk, datetime.now(UTC))
    assert why_refused(authentication.verify_token, token) == "unknown"


@pytest.mark.django_db(transaction=True)
def test_during_a_rotation_both_signing_secrets_are_good():
    first = issue()
    second = keys.rotate_key(first.row.pk, 60, datetime.now(UTC))
    assert second.signing_secret != first.signing_secret
    assert authentication.verify_token(sign(first)) is not None
    assert authentication.verify_token(sign(second)) is not None


@pytest.mark.django_db(transaction=True)
def test_after_the_overlap_only_the_new_one_is():
    first = issue()
    second = keys.rotate_key(first.row.pk, 60, datetime.now(UTC) - timedelta(seconds=61))
    assert why_refused(authentication.verify_token, sign(first)) == "unknown"
    assert authentication.verify_token(sign(second)) is not None


def test_opening_the_secret_is_recorded_once_for_many_tokens():
    issued = issue()
    for _ in range(5):
        assert authentication.verify_token(sign(issued)) is not None
    record = AccessRecord.objects.get(owner_id=issued.row.pk, purpose="verify a machine token")
    assert (record.owner_kind, record.granted) == ("api_key", True)


def test_a_secret_that_does_not_open_lets_nobody_in(caplog):
    issued = issue()
    token = sign(issued)
    SealedDocument.objects.filter(api_key=issued.row.pk).delete()
    assert why_refused(authentication.verify_token, token) == "unknown"
    assert "does not open" in caplog.text
    assert issued.signing_secret not in caplog.text


# --- without the key of the document ---------------------------------------------------------------------------------


def test_a_token_whose_signing_secret_waits_for_its_key_is_nobodys_fault(use_keys):
    use_keys("old")
    issued = issue("account", ["config"])
    use_keys("another")
    answer = bearer(sign(issued)).get("/api/v1/workspaces")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:meshes:problem:unavailable")
    assert "encryption key" in answer.json()["detail"]
    answer = bearer(issued.key).get("/api/v1/workspaces")
    assert answer.status_code == 200  # which needs no sealed document
    use_keys("old")
    assert bearer(sign(issued)).get("/api/v1/workspaces").status_code == 200


def test_a_rotation_does_not_end_a_signing_secret_that_waits_for_its_key(use_keys):
    use_keys("old")
    issued = issue("account", ["config"])
    use_keys("another")
    with pytest.raises(Problem) as refused:
        keys.rotate_key(issued.row.pk, 60, datetime.now(UTC))
    assert refused.value.status == 503
    use_keys("new", "old")
    assert authentication.verify_token(sign(issued)).version == 1
