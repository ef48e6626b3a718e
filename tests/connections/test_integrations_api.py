from connections import providers
from tests.workspaces.callers import caller

CONFIG_FIELDS = ["url", "method", "body", "headers", "oauth_token_url", "oauth_scope"]


def test_the_catalogue_lists_every_provider(api):
    answer = api.get("/api/v1/integrations")
    assert answer.status_code == 200
    assert answer.json() == {
        "data": [provider.describe() for provider in providers.all()],
        "next": None,
        "previous": None,
    }


def test_one_integration_describes_itself(api):
    answer = api.get("/api/v1/integrations/webhook")
    assert answer.status_code == 200
    described = answer.json()
    assert [field["key"] for field in described["config_fields"]] == CONFIG_FIELDS
    assert described["actions"] == [
        {
            "slug": "send",
            "name": "Send the event",
            "idempotent": True,
            "help": "Receivers drop repeats by their webhook-id.",
            "fields": [],
            "is_open": False,
            "steps": [],
            "default_mapping": [],
        }
    ]
    assert {field["key"]: field["generated"] for field in described["credential_fields"]} == {
        "signing_secret": True,
        "username": False,
        "password": False,
        "token": False,
        "oauth_client_id": False,
        "oauth_client_secret": False,
    }


def test_an_unknown_integration_is_not_found(api):
    assert api.get("/api/v1/integrations/pigeon").status_code == 404


def test_the_catalogue_needs_a_key(client, db):
    assert client.get("/api/v1/integrations").status_code == 401


def test_writing_events_is_not_reading_the_catalogue(db):
    assert caller(scopes=["events:write"]).get("/api/v1/integrations").status_code == 403
