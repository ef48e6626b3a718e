"""`/api/v1/api-keys`."""

from datetime import UTC, datetime, timedelta

import pytest

from meshes.kit import ids
from tests.factories import make_workspace
from tests.workspaces.callers import bearer, caller, issue, post
from workspaces import keys
from workspaces.models import ApiKey

PATH = "/api/v1/api-keys"

pytestmark = pytest.mark.django_db


def errors(answer):
    return [(error["pointer"], error["rule"]) for error in answer.json()["errors"]]


def test_an_account_key_makes_a_tenants_key():
    workspace = make_workspace()
    document = {"name": "Backend", "kind": "workspace", "workspace": workspace.external_id, "scopes": ["config"]}
    answer = post(caller(), PATH, document)
    assert answer.status_code == 201
    made = answer.json()
    assert made["workspace"] == workspace.public_id
    assert made["scopes"] == ["config"]
    assert made["version"] == 1
    assert keys.parse(made["key"]) == ids.decode(ids.KEY, made["id"])
    assert made["signing_secret"].startswith("mesh_sign_")
    assert answer["Cache-Control"] == "no-store"
    assert bearer(made["key"]).get("/api/v1/workspaces").json()["data"][0]["id"] == workspace.public_id


def test_secrets_are_shown_once():
    issued = issue()
    client = bearer(issued.key)
    for answer in (client.get(PATH), client.get(f"{PATH}/{issued.row.public_id}")):
        assert answer.status_code == 200
        text = answer.content.decode()
        assert issued.key.split("_")[3] not in text
        assert issued.signing_secret not in text
        assert "hash" not in text


def test_a_publishable_key_needs_no_scopes():
    workspace = make_workspace()
    document = {
        "name": "Site",
        "kind": "publishable",
        "workspace": workspace.public_id,
        "allowed_origins": ["https://app.example.com", "http://localhost:3000"],
    }
    made = post(caller(), PATH, document).json()
    assert made["scopes"] == ["events:write"]
    assert made["allowed_origins"] == ["https://app.example.com", "http://localhost:3000"]
    assert made["signing_secret"] is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": "root"}, ("/kind", "invalid_choice")),
        ({"scopes": []}, ("/scopes", "min_length")),
        ({"scopes": ["everything"]}, ("/scopes/0", "invalid_choice")),
        ({"scopes": "config"}, ("/scopes", "not_a_list")),
        ({"scopes": None}, ("/scopes", "null")),
        ({"workspace": None}, ("/workspace", "required")),
        ({"workspace": "nobody"}, ("/workspace", "unknown")),
        ({"workspace": 5}, ("/workspace", "unknown")),
        ({"workspace": {"id": "x"}}, ("/workspace", "unknown")),
        ({"kind": "account"}, ("/workspace", "forbidden_for_kind")),
        ({"kind": "publishable"}, ("/scopes", "forbidden_for_kind")),
        ({"expires_at": "2001-01-01T00:00:00Z"}, ("/expires_at", "past")),
        ({"expires_at": "soon"}, ("/expires_at", "date_time")),
        ({"expires_at": 1e9}, ("/expires_at", "type")),
        ({"allowed_origins": ["https://a.example"]}, ("/allowed_origins", "forbidden_for_kind")),
        ({"allowed_origins": ["javascript:alert(1)"]}, ("/allowed_origins/0", "invalid")),
        ({"allowed_origins": ["https://a.example/path"]}, ("/allowed_origins/0", "invalid")),
        ({"allowed_origins": ["*"]}, ("/allowed_origins/0", "invalid")),
        ({"secret": "mine"}, ("/secret", "unknown_field")),
    ],
    ids=str,
)
def test_bad_fields_are_named(changes, expected):
    client, before = caller(), ApiKey.objects.count()
    document = {"name": "k", "kind": "workspace", "workspace": make_workspace().public_id, "scopes": ["config"]}
    answer = post(client, PATH, document | changes)
    assert answer.status_code == 422
    assert errors(answer) == [expected]
    assert ApiKey.objects.count() == before


def test_scopes_are_required_of_other_kinds():
    answer = post(caller(), PATH, {"name": "k", "kind": "account"})
    assert errors(answer) == [("/scopes", "required")]


def test_nobody_gives_away_more_than_he_has():
    client = caller(scopes=["admin", "config"])
    answer = post(client, PATH, {"name": "k", "kind": "account", "scopes": ["config", "events:write"]})
    assert errors(answer) == [("/scopes", "beyond_own_rights")]


def test_a_tenants_admin_makes_keys_of_its_own_workspace_only():
    own, foreign = make_workspace(), make_workspace()
    client = caller("workspace", ["admin", "config"], own)
    document = {"name": "k", "kind": "workspace", "scopes": ["config"]}
    assert post(client, PATH, document | {"workspace": own.public_id}).status_code == 201
    strangers = [foreign.public_id, foreign.external_id, ids.encode(ids.WORKSPACE, ids.uuid7())]
    answers = [post(client, PATH, document | {"workspace": reference}) for reference in strangers]
    assert {answer.status_code for answer in answers} == {422}
    assert len({answer.content for answer in answers}) == 1
    assert errors(post(client, PATH, {"name": "k", "kind": "account", "scopes": ["config"]})) == [
        ("/kind", "beyond_own_rights")
    ]
    assert not ApiKey.objects.filter(workspace=foreign).exists()


def test_a_tenants_admin_sees_keys_of_its_own_workspace_only():
    own, foreign = make_workspace(), make_workspace()
    mine = issue("workspace", ["admin"], own)
    account, stranger = issue(), issue("workspace", ["admin"], foreign)
    client = bearer(mine.key)
    assert [row["id"] for row in client.get(PATH).json()["data"]] == [mine.row.public_id]
    unknown = ids.encode(ids.KEY, ids.uuid7())
    for key_id in (account.row.public_id, stranger.row.public_id, unknown, "nonsense"):
        assert client.get(f"{PATH}/{key_id}").status_code == 404
        assert client.delete(f"{PATH}/{key_id}").status_code == 404
        assert post(client, f"{PATH}/{key_id}/rotate").status_code == 404
    assert not ApiKey.objects.exclude(revoked_at=None).exists()
    assert set(ApiKey.objects.values_list("version", flat=True)) == {1}


def test_keys_are_listed_by_workspace():
    workspace = make_workspace(external_id="acme")
    made = issue("workspace", ["config"], workspace)
    answer = caller().get(PATH, {"workspace": "acme"})
    assert [row["id"] for row in answer.json()["data"]] == [made.row.public_id]
    assert caller().get(PATH, {"workspace": "nobody"}).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_a_revoked_key_is_refused():
    issued = issue()
    client = bearer(issued.key)
    assert client.get(PATH).status_code == 200
    assert caller().delete(f"{PATH}/{issued.row.public_id}").status_code == 204
    assert client.get(PATH).status_code == 401
    assert caller().delete(f"{PATH}/{issued.row.public_id}").status_code == 204


@pytest.mark.django_db(transaction=True)
def test_rotation_keeps_the_present_key_for_a_while():
    issued = issue()
    answer = post(bearer(issued.key), f"{PATH}/{issued.row.public_id}/rotate", {"overlap_seconds": 3600})
    assert answer.status_code == 200
    rotated = answer.json()
    assert rotated["version"] == 2
    assert rotated["key"] != issued.key
    left = datetime.fromisoformat(rotated["previous_expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert bearer(issued.key).get(PATH).status_code == 200
    assert bearer(rotated["key"]).get(PATH).status_code == 200


def test_a_rotation_without_a_body_overlaps_a_day():
    issued = issue()
    rotated = post(caller(), f"{PATH}/{issued.row.public_id}/rotate").json()
    left = datetime.fromisoformat(rotated["previous_expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)


@pytest.mark.parametrize("seconds", [-1, 604_801, 1.5, "60", True])
def test_other_overlaps_are_refused(seconds):
    issued = issue()
    answer = post(caller(), f"{PATH}/{issued.row.public_id}/rotate", {"overlap_seconds": seconds})
    assert answer.status_code == 422
    assert ApiKey.objects.get(pk=issued.row.pk).version == 1


def test_a_key_with_more_rights_cannot_be_taken_over_by_rotation():
    own = make_workspace()
    stronger = issue("workspace", ["config", "admin"], own)
    answer = post(caller("workspace", ["admin"], own), f"{PATH}/{stronger.row.public_id}/rotate")
    assert answer.status_code == 403
    assert ApiKey.objects.get(pk=stronger.row.pk).version == 1


def test_a_revoked_key_is_not_rotated():
    issued = issue()
    keys.revoke_key(issued.row.pk, datetime.now(UTC))
    assert post(caller(), f"{PATH}/{issued.row.public_id}/rotate").status_code == 409


@pytest.mark.parametrize("scope", ["events:write", "events:read", "config"])
def test_keys_are_for_admins(scope):
    client = caller(scopes=[scope])
    assert client.get(PATH).status_code == 403
    assert post(client, PATH, {"name": "k", "kind": "account", "scopes": [scope]}).status_code == 403
    assert ApiKey.objects.count() == 1


def test_a_workspace_has_so_many_live_keys_and_no_more(settings):
    """So that whoever makes keys for himself multiplies no rate."""
    settings.MESHES_KEYS_PER_WORKSPACE = 3
    workspace, other = make_workspace(), make_workspace()
    own = issue("workspace", ["admin", "config"], workspace)
    ended = issue("workspace", ["config"], workspace, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    document = {"name": "More", "kind": "workspace", "workspace": workspace.public_id, "scopes": ["config"]}
    made = [post(bearer(own.key), PATH, document) for _ in range(3)]
    assert [answer.status_code for answer in made] == [201, 201, 422]
    assert errors(made[2]) == [("/workspace", "limit")]
    assert "MESHES_KEYS_PER_WORKSPACE" in made[2].json()["errors"][0]["detail"]
    assert post(caller(), PATH, document | {"workspace": other.public_id}).status_code == 201
    assert bearer(own.key).delete(f"{PATH}/{made[0].json()['id']}").status_code == 204
    assert post(bearer(own.key), PATH, document).status_code == 201
    assert ApiKey.objects.filter(workspace=workspace, revoked_at=None).exclude(pk=ended.row.pk).count() == 3


def test_account_keys_have_no_such_limit(settings):
    settings.MESHES_KEYS_PER_WORKSPACE = 1
    assert {issue().row.workspace_id for _ in range(3)} == {None}
