import json
import re

import pytest

from connections.messages import Request
from connections.providers.base import Account, InvalidFields, NotAuthorized, Unsendable
from connections.providers.customerio import PROVIDER
from meshes.kit import ids
from tests.connections.providers.exchanges import judged, reply, shaped
from tests.connections.providers.shipments import as_secrets, shipment

ROOT = "https://track.customer.io"
BASIC = ("authorization", "Basic c2l0ZTprZXk=")
"""`printf site:key | base64`"""
HEADERS = (("content-type", "application/json"), BASIC)
ADA = {"id": "a@b.co", "email": "a@b.co", "first_name": "A", "plan": {"name": "pro"}, "phone": None}
REFUSED = ("rejected", "rejected", None)


def of(action: str = "upsert_person", fields: dict | None = None, **changes):
    values = {
        "config": {"region": "us"},
        "frozen": {},
        "credentials": as_secrets({"site_id": "site", "api_key": "key"}),
    }
    return shipment(action=action, body=json.dumps(ADA if fields is None else fields), **{**values, **changes})


def error(status: int, message: str = "m"):
    return reply(status, {"meta": {"error": message}})


def test_a_person_is_put_with_attributes():
    assert PROVIDER.build_request(of()) == Request(
        "PUT",
        f"{ROOT}/api/v1/customers/a%40b.co",
        HEADERS,
        b'{"email":"a@b.co","first_name":"A","plan":{"name":"pro"},"phone":null}',
    )


def test_an_event_carries_the_delivery_s_id_by_which_a_second_one_is_dropped():
    fields = {"id": "a@b.co", "name": "lead.created", "data": {"source": "web"}}
    assert PROVIDER.build_request(of("track_event", fields)) == Request(
        "POST",
        f"{ROOT}/api/v1/customers/a%40b.co/events",
        HEADERS,
        b'{"name":"lead.created","id":"01H455VB4PEX5VSKNK084SN02Q","timestamp":1772600760,"data":{"source":"web"}}',
    )
    bare = json.loads(PROVIDER.build_request(of("track_event", {"id": 7, "name": "x"})).body)
    assert bare["data"] == {}


def test_every_delivery_s_id_makes_a_ulid():
    for _ in range(100):
        delivery = ids.encode(ids.DELIVERY, ids.uuid7())
        request = PROVIDER.build_request(of("track_event", {"id": 7, "name": "x"}, delivery_id=delivery))
        assert re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", json.loads(request.body)["id"])


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("u-1", "u-1"),
        (7, "7"),
        ("../accounts/region", "..%2Faccounts%2Fregion"),
        ("a?b#c", "a%3Fb%23c"),
        ("jürgen@b.co", "j%C3%BCrgen%40b.co"),
    ],
)
def test_an_identifier_stays_inside_its_part_of_the_path(value, part):
    assert PROVIDER.build_request(of(fields={"id": value})).url == f"{ROOT}/api/v1/customers/{part}"
    event = of("track_event", {"id": value, "name": "x"})
    assert PROVIDER.build_request(event).url == f"{ROOT}/api/v1/customers/{part}/events"


@pytest.mark.parametrize("action", ["upsert_person", "track_event"])
@pytest.mark.parametrize("value", [None, "", " ", "..", ".", True, ["x"], "x" * 1001])
def test_an_identifier_is_needed(action, value):
    with pytest.raises(Unsendable):
        PROVIDER.build_request(of(action, {"id": value, "name": "x"}))


def test_an_event_has_a_name():
    with pytest.raises(Unsendable, match="name"):
        PROVIDER.build_request(of("track_event", {"id": "x", "name": ""}))


@pytest.mark.parametrize("data", [["x"], "x", 7])
def test_an_event_s_data_is_an_object(data):
    with pytest.raises(Unsendable, match="data"):
        PROVIDER.build_request(of("track_event", {"id": "x", "name": "x", "data": data}))


def test_a_person_has_at_most_300_attributes():
    attributes = {f"a{number}": 1 for number in range(300)}
    assert PROVIDER.build_request(of(fields={"id": "x", **attributes})).method == "PUT"
    with pytest.raises(Unsendable, match="301 attributes"):
        PROVIDER.build_request(of(fields={"id": "x", **attributes, "more": 1}))


@pytest.mark.parametrize("credentials", [{}, {"site_id": "site"}, {"api_key": "key"}])
def test_without_both_credentials_the_connection_must_be_authorized(credentials):
    with pytest.raises(NotAuthorized):
        PROVIDER.build_request(of(credentials=as_secrets(credentials)))


def test_a_site_id_has_no_colon():
    with pytest.raises(InvalidFields):
        PROVIDER.clean_credentials({"site_id": "a:b", "api_key": "key"})


@pytest.mark.parametrize(
    ("answer", "expected", "fix"),
    [
        (error(400, "id is too long"), REFUSED, "Mend the rule's mapping"),
        (error(401), ("broken", "unauthorized", "needs_reauth"), "check the region"),
        (error(403), ("broken", "forbidden", "needs_reauth"), "Give them the permission"),
        *((reply(status), ("broken", "wrong_region", "disabled"), "Set the connection's region")
          for status in (301, 302, 307, 308)),
        (error(404), REFUSED, "404"),
        (error(413), REFUSED, "413"),
        (reply(429), ("retry", "rate_limited", None), "fewer requests"),
        *((reply(status), ("retry", "server_error", None), str(status)) for status in (500, 502, 503, 504)),
    ],
)  # fmt: skip
def test_every_answer_says_what_it_means_and_what_to_do(answer, expected, fix):
    assert judged(PROVIDER, answer) == expected
    assert fix in PROVIDER.classify(answer, "upsert_person").words


def test_the_vendor_s_own_words_stand_beside_ours():
    words = PROVIDER.classify(error(400, "id is too long"), "upsert_person").words
    assert words.endswith("Customer.io: “id is too long”")


@pytest.mark.parametrize("answer", [reply(200, {}), reply(200, b""), reply(204)])
def test_what_is_taken_is_delivered(answer):
    assert judged(PROVIDER, answer) == ("delivered", "", None)


@pytest.mark.parametrize(("region", "root"), [("us", ROOT), ("eu", "https://track-eu.customer.io")])
def test_the_test_asks_where_the_account_is_hosted(region, root):
    expected = Request("GET", f"{root}/api/v1/accounts/region", (BASIC,))
    assert PROVIDER.build_test(of(config={"region": region})) == expected


def test_the_account_is_the_workspace():
    answer = reply(200, {"url": "https://track.customer.io", "region": "us", "environment_id": 3})
    assert PROVIDER.read_account(answer) == Account("3", "Workspace 3")
    assert PROVIDER.read_account(reply(200, {"url": "https://track.customer.io"})) is None


def test_the_default_mapping_takes_the_usual_names():
    payload = {"email": "a@b.co", "first_name": "A", "last_name": "B", "phone": "+1555", "company": "C"}
    assert shaped(PROVIDER, "upsert_person", payload) == {"id": "a@b.co", **payload}
    assert shaped(PROVIDER, "track_event", payload) == {
        "id": "a@b.co", "name": "lead.created", "data": payload,
    }  # fmt: skip


def test_both_actions_may_be_sent_twice():
    assert [action.idempotent for action in PROVIDER.actions] == [True, True]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": "x" * 151}, "id is longer than the 150 bytes"),
        ({"é" * 76: 1}, "name of an attribute is longer than the 150 bytes"),
        ({"bio": "é" * 501}, "bio is longer than the 1,000 bytes"),
    ],
)
def test_what_customer_io_would_drop_after_its_200_is_refused(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(of(fields={"id": "a@b.co", **fields}))


def test_numbers_become_text_where_customer_io_wants_text():
    body = json.loads(PROVIDER.build_request(of(fields={"id": 42, "email": " a@b.co ", "phone": 15551234567})).body)
    assert body == {"email": "a@b.co", "phone": "15551234567"}
