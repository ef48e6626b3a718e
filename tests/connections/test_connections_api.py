import json
import logging
from typing import Any

import pytest
import standardwebhooks
from django.core.exceptions import FieldDoesNotExist
from django.db import connection as database
from rest_framework import serializers

from connections import lifecycle
from connections.credentials import ConflictError
from connections.lifecycle import connection_changed
from connections.models import Connection
from connections.serializers import ConnectionChangeIn, ConnectionIn, LimitsIn
from meshes.kit import ids
from tests.factories import make_workspace
from tests.workspaces.callers import caller, post
from workspaces.vault import vault
from workspaces.vault.models import AccessRecord, SealedDocument
from workspaces.vault.secret import Secret

URL = "https://8.8.8.8/hook"
CANARY = "canary-token-4242"
PATH = "/api/v1/connections"
CLIENT = {"oauth_client_id": "c", "oauth_client_secret": "s"}

pytestmark = pytest.mark.django_db


@pytest.fixture
def workspace(db):
    return make_workspace()


@pytest.fixture
def changes():
    """The connections whose change was announced."""
    heard: list[Any] = []

    def hear(sender: Any, connection_id: Any, **kwargs: Any) -> None:
        heard.append(connection_id)

    connection_changed.connect(hear)
    yield heard
    connection_changed.disconnect(hear)


def body(workspace, /, **values):
    return {
        "workspace": workspace.external_id,
        "type": "webhook",
        "name": "Hook",
        "config": {"url": URL},
    } | values


def create(api, workspace, **values) -> dict:
    answer = post(api, PATH, body(workspace, **values))
    assert answer.status_code == 201, answer.content
    made: dict = answer.json()
    return made


def patch(api, made: dict, **values):
    return api.patch(f"{PATH}/{made['id']}", json.dumps(values), content_type="application/json")


def verb(api, made: dict, name: str):
    return post(api, f"{PATH}/{made['id']}/{name}", {})


def row(made: dict) -> Connection:
    pk = ids.decode(ids.CONNECTION, made["id"])
    assert pk is not None
    return Connection.objects.get(pk=pk)


def mistakes(answer) -> dict[str, str]:
    assert answer.status_code == 422, answer.content
    assert answer["content-type"] == "application/problem+json"
    return {mistake["pointer"]: mistake["rule"] for mistake in answer.json()["errors"]}


def sealed(made: dict) -> dict:
    connection = row(made)
    return vault.open(
        workspace_id=connection.workspace_id,
        owner_kind="connection",
        owner_id=connection.pk,
        kind=vault.CREDENTIALS,
        actor="a test",
        purpose="testing",
    ).secret


# --- creation -------------------------------------------------------------------------------------------------------


def test_a_webhook_is_made_with_a_secret_that_is_shown_once(api, workspace):
    made = create(api, workspace)
    secret = made.pop("signing_secret")
    assert secret.startswith("whsec_")
    assert made["credentials"] == {"signing_secret": "••••" + secret[-4:]}
    assert made["config"] == {"url": URL, "method": "POST", "body": "wrapped"}
    assert (made["status"], made["version"], made["deleted_at"]) == ("active", 1, None)
    assert made["workspace"] == workspace.public_id
    read = api.get(f"{PATH}/{made['id']}").json()
    assert read.pop("health")["status"] == "ok"
    assert read.pop("credentials_changed_at") is not None
    assert read == made
    assert sealed(made)["signing_secret"] == Secret(secret)


def test_retry_and_limits_are_kept(api, workspace):
    values = {"retry": {"schedule": [0, 1.5, 60]}, "limits": {"in_flight": 4, "rate": 2.5, "timeout": 5}}
    made = create(api, workspace, **values)
    assert made["retry"] == {"schedule": [0, 1.5, 60]}
    assert made["limits"] == {"in_flight": 4, "rate": 2.5, "timeout": 5}
    plain = create(api, workspace)
    assert plain["retry"] == {"schedule": None}
    assert plain["limits"] == {"in_flight": None, "rate": None, "timeout": None}


@pytest.mark.parametrize(
    ("values", "pointer", "rule"),
    [
        ({"workspace": "nobody"}, "/workspace", "unknown"),
        ({"type": "pigeon"}, "/type", "unknown"),
        ({"name": ""}, "/name", "blank"),
        ({"name": 5}, "/name", "type"),
        ({"config": []}, "/config", "not_a_dict"),
        ({"config": {}}, "/config/url", "required"),
        ({"config": {"url": URL, "extra": 1}}, "/config/extra", "unknown_field"),
        ({"config": {"url": "http://8.8.8.8/"}}, "/config/url", "url"),
        ({"config": {"url": "https://127.0.0.1/"}}, "/config/url", "url"),
        ({"config": {"url": "https://[::ffff:10.0.0.1]/"}}, "/config/url", "url"),
        ({"config": {"url": "https://user:pass@8.8.8.8/"}}, "/config/url", "url"),
        ({"config": {"url": "https://8.8.8.8:0/"}}, "/config/url", "url"),
        ({"config": {"url": "https://8.8.8.8/\r\nX: y"}}, "/config/url", "characters"),
        ({"config": {"url": URL, "headers": {"X-A": "1\r\nX-B: 2"}}}, "/config/headers/X-A", "header_value"),
        ({"credentials": "x"}, "/credentials", "not_a_dict"),
        ({"credentials": {"username": "ada"}}, "/credentials/password", "required"),
        ({"credentials": {"signing_secret": "whsec_AAAA"}}, "/credentials/signing_secret", "generated"),
        ({"credentials": {"token": "••••1234"}}, "/credentials/token", "mask"),
        ({"retry": {"schedule": []}}, "/retry/schedule", "min_length"),
        ({"retry": {"schedule": [0] * 21}}, "/retry/schedule", "max_length"),
        ({"retry": {"schedule": [-1]}}, "/retry/schedule/0", "min_value"),
        ({"retry": {"schedule": [0, 86_401]}}, "/retry/schedule/1", "max_value"),
        ({"retry": {"schedule": ["5"]}}, "/retry/schedule/0", "type"),
        ({"limits": {"in_flight": 0}}, "/limits/in_flight", "min_value"),
        ({"limits": {"in_flight": 1001}}, "/limits/in_flight", "max_value"),
        ({"limits": {"in_flight": 1.5}}, "/limits/in_flight", "type"),
        ({"limits": {"rate": 0}}, "/limits/rate", "min_value"),
        ({"limits": {"timeout": 31}}, "/limits/timeout", "max_value"),
        ({"limits": {"timeout": 0.5}}, "/limits/timeout", "min_value"),
        ({"limits": {"speed": 1}}, "/limits/speed", "unknown_field"),
        ({"status": "active"}, "/status", "unknown_field"),
    ],
)
def test_a_bad_body_is_refused_by_name_and_nothing_is_kept(api, workspace, values, pointer, rule):
    assert mistakes(post(api, PATH, body(workspace, **values))) == {pointer: rule}
    assert not Connection.objects.exists()
    assert not SealedDocument.objects.filter(api_key=None).exists()


def test_config_may_be_left_out_where_the_integration_needs_none(api, workspace):
    """HubSpot needs none; of a webhook the missing field is named."""
    given = {"workspace": workspace.public_id, "name": "CRM", "credentials": {"access_token": "pat-na1-0001"}}
    made = post(api, PATH, {**given, "type": "hubspot"})
    assert (made.status_code, made.json()["config"]) == (201, {"id_property": "email"})
    assert mistakes(post(api, PATH, {**given, "type": "webhook", "credentials": {}})) == {"/config/url": "required"}


def test_a_foreign_workspace_is_an_unknown_one(workspace):
    stranger = caller("workspace", workspace=make_workspace())
    assert mistakes(post(stranger, PATH, body(workspace))) == {"/workspace": "unknown"}


# --- reading --------------------------------------------------------------------------------------------------------


def test_lists_are_of_what_the_caller_may_see(api, workspace):
    own, foreign = create(api, workspace), create(api, make_workspace())
    tenant = caller("workspace", workspace=workspace)
    assert [each["id"] for each in tenant.get(PATH).json()["data"]] == [own["id"]]
    assert tenant.get(f"{PATH}/{foreign['id']}").status_code == 404
    listed = api.get(PATH, {"workspace": workspace.external_id}).json()["data"]
    assert [each["id"] for each in listed] == [own["id"]]


def test_a_credential_of_another_name_is_refused_with_the_nearest(api, workspace):
    given = {
        "workspace": workspace.public_id,
        "type": "hubspot",
        "name": "CRM",
        "credentials": {"token": "pat-na1-0001"},
    }
    refused = post(api, PATH, given)
    errors = {error["pointer"]: error["detail"] for error in refused.json()["errors"]}
    assert refused.status_code == 422
    assert errors["/credentials/token"].endswith("Did you mean access_token?")
    assert "pat-na1" not in refused.content.decode()


def test_lists_narrow_by_type_and_status(api, workspace):
    one, other = create(api, workspace), create(api, workspace)
    verb(api, other, "pause")
    assert [each["id"] for each in api.get(PATH, {"status": "paused"}).json()["data"]] == [other["id"]]
    assert [each["id"] for each in api.get(PATH, {"type": "webhook"}).json()["data"]] == [other["id"], one["id"]]
    unknown = api.get(PATH, {"type": "hubspt"})
    assert unknown.status_code == 422
    assert unknown.json()["errors"][0]["detail"].endswith("Did you mean hubspot?")
    assert api.get(PATH, {"status": "odd"}).status_code == 422


@pytest.mark.parametrize("name", ["test", "pause", "resume", "rotate-secret"])
def test_verbs_on_a_foreign_connection_are_not_found_and_change_nothing(api, workspace, name):
    made = create(api, workspace)
    before = row(made)
    assert verb(caller("workspace", workspace=make_workspace()), made, name).status_code == 404
    assert row(made).version == before.version
    assert row(made).status == "active"


# --- host names -----------------------------------------------------------------------------------------------------

MIXED, PUNYCODE = "https://\u0430pple.example/hook", "https://xn--pple-43d.example/hook"
"""The first letter is Cyrillic."""


def test_a_host_name_of_mixed_scripts_is_saved_and_shown_as_punycode(api, workspace):
    made = create(api, workspace, config={"url": MIXED, "oauth_token_url": MIXED}, credentials=CLIENT)
    assert {made["config"][key] for key in ("url", "oauth_token_url")} == {PUNYCODE}
    assert row(made).config["url"] == PUNYCODE
    moved = patch(api, made, config={"url": "https://b\u00fccher.example/"}, credentials=CLIENT)
    assert moved.json()["config"]["url"] == "https://xn--bcher-kva.example/"


def test_one_that_was_saved_before_is_shown_as_punycode_and_stays(api, workspace):
    made = create(api, workspace)
    Connection.objects.update(config={"url": MIXED, "method": "POST", "body": "wrapped"})
    shown = [api.get(f"{PATH}/{made['id']}").json(), *api.get(PATH).json()["data"]]
    assert [each["config"]["url"] for each in shown] == [PUNYCODE] * 2
    assert patch(api, made, name="New").status_code == 200
    assert row(made).config["url"] == MIXED


def test_an_inner_and_an_unknown_name_get_the_same_answer(api, workspace, monkeypatch):
    """Whatever the names of this network are: none is looked up."""
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: pytest.fail("asked"))
    for host in ("db", "db.internal", "metadata.google.internal", "unknown.example"):
        assert create(api, workspace, config={"url": f"https://{host}/"})["status"] == "active"
    for host in ("localhost", "10.0.0.1", "[::1]"):
        answer = post(api, PATH, body(workspace, config={"url": f"https://{host}/"}))
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["detail"] == "This address is not allowed."


# --- change ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"retry": {}}, {"retry": {"schedule": [1, 2]}}),
        ({"retry": {"schedule": None}}, {"retry": {"schedule": None}}),
        ({"retry": None}, {"retry": {"schedule": None}}),
        ({"limits": {}}, {"limits": {"rate": 2, "in_flight": 3, "timeout": None}}),
        ({"limits": {"rate": None}}, {"limits": {"rate": None, "in_flight": 3, "timeout": None}}),
        (
            {"config": {}},
            {"config": {"url": URL, "headers": {"X-A": "1", "X-B": "2"}, "body": "wrapped", "method": "POST"}},
        ),
        (
            {"config": {"headers": {}}},
            {"config": {"url": URL, "headers": {"X-A": "1", "X-B": "2"}, "body": "wrapped", "method": "POST"}},
        ),
        (
            {"config": {"headers": {"X-A": None, "X-C": "3"}}},
            {"config": {"url": URL, "headers": {"X-B": "2", "X-C": "3"}, "body": "wrapped", "method": "POST"}},
        ),
        ({"config": {"headers": None}}, {"config": {"url": URL, "body": "wrapped", "method": "POST"}}),
    ],
)
def test_objects_are_changed_name_by_name_and_null_removes(api, workspace, change, kept):
    given = {"url": URL, "headers": {"X-A": "1", "X-B": "2"}}
    made = create(api, workspace, config=given, limits={"rate": 2, "in_flight": 3}, retry={"schedule": [1, 2]})
    changed = patch(api, made, **change)
    assert changed.status_code == 200, changed.content
    shown = changed.json()
    assert {name: shown[name] for name in kept} == kept


def test_a_change_keeps_what_it_does_not_name(api, workspace):
    made = create(api, workspace, config={"url": URL, "headers": {"X-A": "1"}}, limits={"rate": 2, "in_flight": 3})
    changed = patch(api, made, name="New", config={"method": "PUT"}, limits={"rate": None}).json()
    assert changed["config"] == {"url": URL, "method": "PUT", "body": "wrapped", "headers": {"X-A": "1"}}
    assert changed["limits"] == {"in_flight": 3, "rate": None, "timeout": None}
    assert (changed["name"], changed["version"]) == ("New", 2)
    assert "signing_secret" not in changed
    assert patch(api, made, config={"headers": None}).json()["config"].keys() == {"url", "method", "body"}


def test_null_brings_the_defaults_back(api, workspace):
    made = create(api, workspace, retry={"schedule": [1]}, limits={"rate": 2, "timeout": 3})
    changed = patch(api, made, retry=None, limits=None).json()
    assert changed["retry"] == {"schedule": None}
    assert changed["limits"] == {"in_flight": None, "rate": None, "timeout": None}


def test_a_new_url_is_checked_and_an_old_one_is_not(api, workspace, settings):
    made = create(api, workspace)
    assert mistakes(patch(api, made, config={"url": "https://10.0.0.1/"})) == {"/config/url": "url"}
    assert row(made).config["url"] == URL
    settings.MESHES_OUTBOUND_PORTS = [8443]
    assert patch(api, made, config={"method": "PUT"}).status_code == 200


@pytest.mark.parametrize("field", ["type", "workspace", "id"])
def test_what_a_connection_is_does_not_change(api, workspace, field):
    made = create(api, workspace)
    assert mistakes(patch(api, made, **{field: made[field]})) == {f"/{field}": "unknown_field"}


def test_a_mask_sent_back_leaves_the_secret(api, workspace):
    made = create(api, workspace, credentials={"token": CANARY})
    secret = made["signing_secret"]
    assert made["credentials"]["token"] == "••••4242"
    changed = patch(api, made, credentials=made["credentials"], name="New")
    assert changed.status_code == 200
    assert sealed(made) == {"token": Secret(CANARY), "signing_secret": Secret(secret), "previous": []}
    assert SealedDocument.objects.get(connection=row(made)).version == 1


def test_a_mask_of_something_else_is_refused(api, workspace):
    made = create(api, workspace, credentials={"token": CANARY})
    assert mistakes(patch(api, made, credentials={"token": "••••9999"})) == {"/credentials/token": "mask"}


def test_credentials_are_replaced_key_by_key(api, workspace):
    made = create(api, workspace, credentials={"token": CANARY})
    both = patch(api, made, credentials={"username": "ada", "password": "a long password"})
    assert mistakes(both) == {"/credentials/token": "exclusive"}
    answer = patch(api, made, credentials={"username": "ada", "password": "a long password", "token": None})
    assert answer.json()["credentials"].keys() == {"username", "password", "signing_secret"}
    assert answer.json()["credentials"]["username"] == "••••"
    assert sealed(made)["password"] == Secret("a long password")
    assert SealedDocument.objects.get(connection=row(made)).version == 2


@pytest.mark.parametrize("status", ["needs_reauth", "credential_error"])
def test_new_credentials_end_what_bad_ones_began(api, workspace, status):
    made = create(api, workspace)
    Connection.objects.update(status=status, status_reason="401")
    assert patch(api, made, name="New").json()["status"] == status
    answer = patch(api, made, credentials={"token": CANARY}).json()
    assert (answer["status"], answer["status_reason"]) == ("active", "")


@pytest.mark.parametrize("status", ["disabled", "paused"])
def test_new_credentials_do_not_end_other_holds(api, workspace, status):
    made = create(api, workspace)
    Connection.objects.update(status=status)
    assert patch(api, made, credentials={"token": CANARY}).json()["status"] == status


def test_of_two_changes_at_once_one_is_told(api, workspace):
    made = create(api, workspace)
    seen = row(made)
    lifecycle.edit(seen, actor="one", name="First")
    with pytest.raises(ConflictError):
        lifecycle.edit(seen, actor="two", name="Second", credentials={"token": CANARY})
    assert row(made).name == "First"
    assert "token" not in sealed(made)


# --- credentials that do not open -------------------------------------------------------------------------------------


def spoil(made: dict) -> None:
    with database.cursor() as cursor:
        cursor.execute("UPDATE sealed_documents SET document = 'x' WHERE connection_id = %s", [row(made).pk])
    Connection.objects.filter(pk=row(made).pk).update(status="credential_error")


def test_lost_credentials_are_given_again(api, workspace):
    made = create(api, workspace, credentials={"token": CANARY})
    spoil(made)
    other = patch(api, made, credentials={"username": "ada", "password": "a long password"})
    assert other.status_code == 422
    answer = patch(api, made, credentials={"token": "another-long-token"})
    assert answer.status_code == 200
    assert answer.json()["status"] == "active"
    assert answer.json()["signing_secret"].startswith("whsec_")
    assert sealed(made)["token"] == Secret("another-long-token")


def test_a_lost_signing_secret_is_rotated(api, workspace):
    made = create(api, workspace)
    spoil(made)
    answer = verb(api, made, "rotate-secret").json()
    assert answer["status"] == "active"
    assert answer["signing_secret"] not in {made["signing_secret"], ""}
    assert sealed(made)["signing_secret"] == Secret(answer["signing_secret"])


def test_rotating_does_not_drop_lost_credentials_of_the_owner(api, workspace):
    made = create(api, workspace, credentials={"token": CANARY})
    spoil(made)
    assert verb(api, made, "rotate-secret").status_code == 409
    assert row(made).status == "credential_error"


# --- verbs ----------------------------------------------------------------------------------------------------------


def test_rotation_shows_the_new_secret_once_and_keeps_the_old_one_signing(api, workspace):
    made = create(api, workspace)
    rotated = verb(api, made, "rotate-secret").json()
    assert rotated["signing_secret"] != made["signing_secret"]
    assert rotated["version"] == 2
    assert "signing_secret" not in api.get(f"{PATH}/{made['id']}").json()
    kept = sealed(made)
    assert kept["signing_secret"] == Secret(rotated["signing_secret"])
    assert [each["secret"] for each in kept["previous"]] == [Secret(made["signing_secret"])]


def test_pause_and_resume(api, workspace):
    made = create(api, workspace)
    assert verb(api, made, "pause").json()["status"] == "paused"
    assert verb(api, made, "pause").json()["status"] == "paused"
    answer = verb(api, made, "resume").json()
    assert (answer["status"], answer["status_reason"], answer["paused_until"]) == ("active", "", None)
    assert verb(api, made, "resume").status_code == 200


@pytest.mark.parametrize("status", ["disabled", "needs_reauth", "credential_error"])
def test_a_pause_does_not_hide_another_hold(api, workspace, status):
    made = create(api, workspace)
    Connection.objects.update(status=status)
    assert verb(api, made, "pause").status_code == 409
    assert row(made).status == status
    assert verb(api, made, "resume").json()["status"] == "active"


def test_verbs_take_no_fields(api, workspace):
    made = create(api, workspace)
    assert mistakes(post(api, f"{PATH}/{made['id']}/pause", {"until": 5})) == {"/until": "unknown_field"}
    assert row(made).status == "active"


def test_deletion_leaves_a_tombstone_without_secrets(api, workspace):
    made = create(api, workspace, config={"url": URL + "?key=abc"}, credentials={"token": CANARY})
    assert api.delete(f"{PATH}/{made['id']}").status_code == 204
    assert not SealedDocument.objects.filter(connection=row(made)).exists()
    tombstone = api.get(f"{PATH}/{made['id']}").json()
    assert (tombstone["status"], tombstone["credentials"], tombstone["config"]["url"]) == ("deleted", {}, URL)
    assert tombstone["name"] == "Hook"
    assert tombstone["deleted_at"] is not None
    assert api.get(PATH).json()["data"] == []
    assert api.delete(f"{PATH}/{made['id']}").status_code == 204
    assert patch(api, made, name="New").status_code == 404
    for name in ("test", "pause", "resume", "rotate-secret"):
        assert verb(api, made, name).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_each_change_is_announced_after_its_commit(changes, workspace):
    api = caller()
    made = create(api, workspace)
    pk = row(made).pk
    assert changes == [pk]
    patch(api, made, name="New")
    verb(api, made, "pause")
    verb(api, made, "pause")
    verb(api, made, "resume")
    verb(api, made, "rotate-secret")
    api.delete(f"{PATH}/{made['id']}")
    api.delete(f"{PATH}/{made['id']}")
    assert changes == [pk] * 6
    patch(api, made, config={"url": "https://10.0.0.1/"})
    assert len(changes) == 6


# --- test -----------------------------------------------------------------------------------------------------------


def test_a_test_sends_a_signed_event_and_shows_it_without_secrets(api, workspace, endpoint):
    made = create(api, workspace, config={"url": endpoint.url}, credentials={"token": CANARY})
    endpoint.answer(200, {"X-Echo": CANARY}, b"thanks, " + CANARY.encode())
    answer = verb(api, made, "test")
    (got,) = endpoint.got
    event = standardwebhooks.Webhook(made["signing_secret"]).verify(got.body, got.headers)
    assert event["type"] == "meshes.test"
    assert got.headers["authorization"] == f"Bearer {CANARY}"
    assert CANARY not in answer.content.decode()
    shown = answer.json()
    assert (shown["ok"], shown["outcome"], shown["error"], shown["status"]) == (True, "delivered", "", "active")
    assert ["authorization", "Bearer ••••"] in shown["request"]["headers"]
    assert shown["response"]["status"] == 200
    assert shown["response"]["body"] == "thanks, ••••"
    assert AccessRecord.objects.get(owner_id=row(made).pk, purpose="test").granted


@pytest.mark.parametrize("status", ["disabled", "needs_reauth", "credential_error"])
def test_a_successful_test_ends_what_held_the_connection(api, workspace, endpoint, status):
    made = create(api, workspace, config={"url": endpoint.url})
    Connection.objects.update(status=status, status_reason="gone")
    assert verb(api, made, "test").json()["status"] == "active"
    assert row(made).status_reason == ""


def test_a_successful_test_leaves_a_user_s_pause(api, workspace, endpoint):
    made = create(api, workspace, config={"url": endpoint.url})
    verb(api, made, "pause")
    assert verb(api, made, "test").json()["status"] == "paused"


def test_a_failed_test_says_why_and_changes_nothing(api, workspace, endpoint):
    made = create(api, workspace, config={"url": endpoint.url})
    endpoint.answer(410)
    shown = verb(api, made, "test").json()
    assert (shown["ok"], shown["outcome"], shown["error_class"], shown["status"]) == (
        False,
        "broken",
        "gone",
        "active",
    )
    assert shown["error"] == "The receiver says that this address is gone for good (410)."


def test_an_address_that_is_not_allowed_is_not_dialled(api, workspace, endpoint, settings):
    made = create(api, workspace, config={"url": endpoint.url})
    settings.MESHES_OUTBOUND_ALLOW_NETS = []
    shown = verb(api, made, "test").json()
    assert (shown["ok"], shown["error_class"], shown["response"]) == (False, "address_refused", None)
    assert "127.0.0.1" not in shown["error"]
    assert endpoint.got == []


def test_credentials_that_do_not_open_send_nothing_and_hold_the_connection(api, workspace, endpoint):
    made = create(api, workspace, config={"url": endpoint.url})
    spoil(made)
    Connection.objects.update(status="active")
    shown = verb(api, made, "test").json()
    assert (shown["ok"], shown["error_class"], shown["status"]) == (False, "credential_error", "credential_error")
    assert endpoint.got == []
    assert not AccessRecord.objects.get(owner_id=row(made).pk, purpose="test").granted


# --- secrets --------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_any_answer_log_or_row(api, workspace, endpoint, caplog):
    caplog.set_level(logging.DEBUG)
    made = create(api, workspace, config={"url": endpoint.url}, credentials={"token": CANARY})
    secret = made.pop("signing_secret")
    seen = [json.dumps(made)]
    for answer in (
        api.get(PATH),
        api.get(f"{PATH}/{made['id']}"),
        patch(api, made, name="New"),
        patch(api, made, credentials={"token": CANARY, "username": CANARY}),
        patch(api, made, credentials={"token": CANARY + "\n"}),
        verb(api, made, "test"),
        verb(api, made, "pause"),
        verb(api, made, "resume"),
    ):
        seen.append(answer.content.decode())
    with database.cursor() as cursor:
        for table in ("connections", "sealed_documents", "access_records"):
            cursor.execute(f"SELECT coalesce(string_agg({table}::text, ''), '') FROM {table}")
            seen.append(cursor.fetchone()[0])
    written = "".join([*seen, caplog.text, repr(row(made)), repr(sealed(made))])
    for needle in (CANARY, CANARY.encode().hex(), secret, secret.removeprefix("whsec_")):
        assert needle not in written


def test_each_mistake_has_a_place_even_with_odd_names(api, workspace):
    answer = post(api, PATH, body(workspace, credentials={"a/b": "••••1234"}))
    assert mistakes(answer) == {"/credentials/a~1b": "mask"}


def test_a_column_joins_the_connections_by_one_line_of_the_body(api, workspace, monkeypatch, schemas):
    """Beside the name, or among the limits, where its name may be another."""
    for each in (ConnectionIn, ConnectionChangeIn):
        monkeypatch.setitem(each._declared_fields, "account_name", serializers.CharField(required=False))
    column = serializers.CharField(required=False, allow_null=True, max_length=9, source="account_id")
    monkeypatch.setitem(LimitsIn._declared_fields, "tier", column)
    made = post(api, PATH, body(workspace, account_name="Acme", limits={"tier": "gold", "rate": 2.5})).json()
    assert (made["account_name"], made["limits"]) == (
        "Acme", {"in_flight": None, "rate": 2.5, "timeout": None, "tier": "gold"}
    )  # fmt: skip
    path = f"{PATH}/{made['id']}"
    change = {"account_name": "Ada", "limits": {"tier": "tin"}}
    changed = api.patch(path, json.dumps(change), content_type="application/json").json()
    assert (changed["account_name"], changed["limits"]) == ("Ada", made["limits"] | {"tier": "tin"})
    row = Connection.objects.get()
    assert (row.account_name, row.account_id, row.rate) == ("Ada", "tin", 2.5)
    described = schemas()
    assert all("account_name" in described[name]["properties"] for name in ("ConnectionInRequest", "ConnectionOut"))
    assert all("tier" in described[name]["properties"] for name in ("LimitsInRequest", "LimitsOut"))


def test_a_name_that_is_no_column_is_not_answered_as_if_it_were_stored(api, workspace):
    made = lifecycle.prepare_create(workspace.pk, "webhook", name="Hook", config={"url": URL})().connection
    with pytest.raises(FieldDoesNotExist):
        lifecycle.edit(made, actor="a test", name="Other", colour="red")
    assert Connection.objects.get().name == "Hook"
