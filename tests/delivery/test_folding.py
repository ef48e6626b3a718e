"""An erasure finds an address however it was typed, and can be tried without changing anything."""

import pytest

from delivery.folding import fold_addresses
from delivery.matching import compile_filter
from delivery.models import Event, Payload
from tests.factories import make_event, make_workspace

pytestmark = pytest.mark.django_db
TYPED = " Ada@Example.COM\t"


def matches(document, payload):
    return fold_addresses(compile_filter(document)).matches({"payload": payload, "event": {}, "workspace": {}})


@pytest.mark.parametrize(
    ("document", "payload", "is_found"),
    [
        ({"payload.email": "ada@example.com"}, {"email": TYPED}, True),
        ({"payload.email": " ADA@example.com"}, {"email": "ada@example.com"}, True),
        ({"payload.email": "ada@example.com"}, {"email": "eve@example.com"}, False),
        ({"payload.email": "ada@example.com"}, {"email": ["eve@example.com", TYPED]}, True),
        ({"payload.email": {"$in": ["eve@example.com", "ada@example.com"]}}, {"email": TYPED}, True),
        ({"payload.email": {"$neq": "ada@example.com"}}, {"email": TYPED}, False),
        ({"payload.email": {"$nin": ["ada@example.com"]}}, {"email": TYPED}, False),
        ({"payload.email": {"$endsWith": "@example.com"}}, {"email": TYPED}, True),
        ({"payload.emails": {"$contains": "ada@example.com"}}, {"emails": [TYPED]}, True),
        ({"$or": [{"payload.a": "x"}, {"payload.email": "ada@example.com"}]}, {"email": TYPED}, True),
        ({"payload.email": {"$not": {"$eq": "ada@example.com"}}}, {"email": TYPED}, False),
        ({"payload.name": "ada"}, {"name": "Ada"}, False),
        ({"payload.n": 1}, {"n": 1}, True),
    ],
)
def test_addresses_are_compared_without_spaces_and_case(document, payload, is_found):
    assert matches(document, payload) is is_found


def test_a_dry_run_counts_and_changes_nothing(api):
    workspace = make_workspace()
    for email in (TYPED, "ada@example.com", "eve@example.com"):
        make_event(workspace, {"email": email})
    path, asked = f"/workspaces/{workspace.public_id}/erasures", {"match": {"payload.email": "ada@example.com"}}
    dry = api.post(path, asked | {"dry_run": True}).json()
    assert (dry["dry_run"], dry["count"], dry["erased"], dry["scanned"]) == (True, 2, 0, 3)
    assert not Payload.objects.exclude(erased_at=None).exists()
    done = api.post(path, asked).json()
    assert (done["dry_run"], done["count"], done["erased"], done["scanned"]) == (False, 2, 2, 3)
    assert Payload.objects.exclude(erased_at=None).count() == 2
    named = [event.public_id for event in Event.objects.all()]
    assert api.post(path, {"events": named, "dry_run": True}).json()["count"] == 3
