"""An erasure finds an address however it was typed, and can be tried without changing anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.models import Event, Payload
from delivery.rules.conditions import fold
from delivery.rules.filters import compile_filter
from tests.factories import make_event, make_workspace

pytestmark = pytest.mark.django_db
TYPED = " Ada@Example.COM\t"


def matches(document, payload):
    return compile_filter(document, folds_addresses=True).matches({"payload": payload, "event": {}, "workspace": {}})


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


PEOPLE = ["bob@other.org", "", "a", "example.com", "Ada@Example.com ", "example"]
MANY = [f"person{number}@example.net" for number in range(39)]


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({"$in": ["ada@example.com", "zoe@example.com"]}, ["Ada@Example.com "]),
        ({"$nin": ["ada@example.com", "zoe@example.com"]}, ["bob@other.org", "", "a", "example.com", "example"]),
        ({"$in": [*MANY, "BOB@other.org", " ada@Example.com "]}, ["bob@other.org", "Ada@Example.com "]),
        ({"$in": ["ada@example.com", "A"]}, ["Ada@Example.com "]),
        ({"$not": {"$in": ["ada@example.com"]}}, ["bob@other.org", "", "a", "example.com", "example"]),
        ({"$or": [{"$in": ["bob@OTHER.org", 5]}, {"$eq": "a"}]}, ["bob@other.org", "a"]),
        ({"$in": ["", None]}, [""]),
    ],
)
def test_an_erasure_by_a_list_empties_what_it_names_and_nothing_else(api, condition, found):
    workspace = make_workspace()
    events = {make_event(workspace, {"email": email}).pk: email for email in PEOPLE}
    asked = {"match": {"payload.email": condition}}
    done = api.post(f"/workspaces/{workspace.public_id}/erasures", asked).json()
    assert (done["count"], done["erased"], done["scanned"]) == (len(found), len(found), len(PEOPLE))
    erased = Payload.objects.exclude(erased_at=None).order_by("pk").values_list("pk", flat=True)
    assert [events[pk] for pk in erased] == found


LONG = f"{'a' * 240}@example.com"


@pytest.mark.parametrize(
    ("condition", "value", "is_found"),
    [
        (LONG, LONG.upper(), True),
        (LONG[:-1] + "n", LONG.upper(), False),
        ({"$eq": ["ada@example.com"]}, [TYPED], True),
        ({"$eq": ["ada@example.com"]}, '["ADA@example.com"]', False),
        ({"$eq": ["ada@example.com", "Bob"]}, [TYPED, "bob"], False),
        ({"$eq": {"to": "ada@example.com", "n": 1}}, {"to": TYPED, "n": 1.0}, True),
        ({"$eq": {"to": "ada@example.com", "n": 1}}, {"to": TYPED, "n": True}, False),
        ({"$neq": {"to": "ada@example.com"}}, {"to": TYPED}, False),
        ({"$neq": {"to": "ada@example.com"}}, '{"to":"ada@example.com"}', True),
        (["ada@example.com"], ["eve@example.com", TYPED], True),
        ({"$startsWith": " Ada@"}, TYPED, True),
        ({"$startsWith": "ada@example.com "}, "ada@example.community", False),
        ({"$startsWith": "ada@"}, ["x ada@", "Ada@"], True),
        ({"$endsWith": "@example.com "}, TYPED, True),
        ({"$endsWith": " ada@example.com"}, "xada@example.com", False),
        ({"$contains": "a@EXAMPLE"}, TYPED, True),
        ({"$contains": "ada@example.com "}, "ada@example.community", False),
        ({"$contains": "ada@example.com"}, [["ada@example.com"]], False),
        ({"$contains": "ADA@example.com"}, {"ada@example.com": 1}, False),
        ({"$regex": "ada@example"}, TYPED, False),
        ({"$gt": "ada@example.com"}, "ADA@EXAMPLE.COM", False),
        ({"$lte": "ada@example.com"}, "ada@example.com ", False),
        ({"$exist": True}, TYPED, True),
        ({"$eq": None}, None, True),
        ({"$in": [None, 5, "ada@example.com"]}, 5, True),
        ({"$in": [None, 5, "ada@example.com"]}, "5", False),
        ({"$in": [True, "ada@example.com"]}, 1, False),
    ],
)
def test_every_operator_folds_addresses_only(condition, value, is_found):
    assert matches({"payload.email": condition}, {"email": value}) is is_found


TEXT = st.sampled_from(
    ["", "a", "A", " a", "a@b", " A@b", "a@B ", "A@B", "b", "a@bc", "xa@b", "@", " @", '["a@b"]', "ß@b", "SS@b"]
)
SCALAR = TEXT | st.sampled_from([None, True, False, 0, 1, 1.0])
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=5,
)
OPERATION = (
    st.tuples(st.sampled_from(["$eq", "$neq"]), VALUE)
    | st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(SCALAR, min_size=1, max_size=4))
    | st.tuples(st.sampled_from(["$startsWith", "$endsWith", "$contains"]), TEXT.map(str.strip).filter(bool))
    | st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), SCALAR.filter(lambda each: isinstance(each, str)))
    | st.tuples(st.just("$exist"), st.booleans())
)


def fold_all(value):
    """A JSON value with every address in it as addresses are compared."""
    if isinstance(value, dict):
        return {name: fold_all(member) for name, member in value.items()}
    if isinstance(value, list):
        return [fold_all(member) for member in value]
    return fold(value) if isinstance(value, str) and "@" in value else value


@given(OPERATION, VALUE)
def test_folding_finds_what_the_plain_filter_finds_among_folded_addresses(operation, value):
    name, operand = operation
    found = matches({"payload.v": {name: operand}}, {"v": value})
    assert matches({"$not": {"payload.v": {name: operand}}}, {"v": value}) is not found
    plain = compile_filter({"payload.v": {name: operand}}).matches({"payload": {"v": value}})
    if (fold_all(operand) == operand and "@" not in str(operand)) or name.startswith(("$gt", "$lt", "$ex")):
        assert found is plain
    else:
        among_folded = compile_filter({"payload.v": {name: fold_all(operand)}})
        assert found is among_folded.matches({"payload": {"v": fold_all(value)}})


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
