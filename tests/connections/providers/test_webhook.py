import base64
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
import standardwebhooks

from connections.providers.base import InvalidFields, NotAuthorized
from connections.providers.webhook import MAX_PREVIOUS, PROVIDER, new_signing_secret
from tests.connections.providers.shipments import NOW, SECRET, as_secrets, shipment
from workspaces.vault.secret import Secret

URL = "https://example.com/hook"


def headers_of(request) -> dict[str, str]:
    return dict(request.headers)


def test_the_specification_s_own_example_is_signed_as_there():
    """github.com/standard-webhooks/standard-webhooks, the test vector of its libraries."""
    request = PROVIDER.build_request(
        shipment(
            delivery_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
            body='{"test": 2432232314}',
            frozen={"body": "raw"},
            now=datetime.fromtimestamp(1614265330, UTC),
        )
    )
    assert headers_of(request)["webhook-timestamp"] == "1614265330"
    assert headers_of(request)["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_wrapped_body_holds_the_payload_character_for_character():
    request = PROVIDER.build_request(shipment(frozen={"body": "wrapped"}))
    assert request.body.decode() == (
        '{"type":"lead.created","timestamp":"2026-03-04T05:06:00.250Z",'
        '"data":{"b": 1,\n "a": "é"},"id":"evt_01h455vb4pex5vsknk084sn02q"}'
    )
    assert json.loads(request.body)["data"] == {"b": 1, "a": "é"}


def test_a_raw_body_is_the_payload():
    assert PROVIDER.build_request(shipment(frozen={"body": "raw"})).body == '{"b": 1,\n "a": "é"}'.encode()


def test_the_body_follows_what_the_delivery_was_routed_with():
    config = {"url": URL, "body": "raw"}
    assert PROVIDER.build_request(shipment(config=config, frozen={"body": "wrapped"})).body.startswith(b'{"type"')
    assert PROVIDER.frozen_config(config) == {"body": "raw"}
    assert PROVIDER.frozen_config({"url": URL}) == {"body": "wrapped"}


def test_body_and_id_stay_over_attempts_and_the_timestamp_moves():
    first = PROVIDER.build_request(shipment())
    later = PROVIDER.build_request(shipment(attempt_number=5, now=NOW + timedelta(hours=5)))
    assert first.body == later.body
    assert headers_of(first)["webhook-id"] == headers_of(later)["webhook-id"] == "dlv_01h455vb4pex5vsknk084sn02q"
    assert int(headers_of(later)["webhook-timestamp"]) - int(headers_of(first)["webhook-timestamp"]) == 5 * 3600
    assert headers_of(first)["webhook-signature"] != headers_of(later)["webhook-signature"]


def test_the_zone_of_now_does_not_matter():
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert PROVIDER.build_request(shipment(now=elsewhere)) == PROVIDER.build_request(shipment())


def test_method_url_and_headers_come_from_the_config():
    config = {"url": URL + "?a=1", "method": "PUT", "headers": {"X-Team": "crm"}}
    request = PROVIDER.build_request(shipment(config=config))
    assert (request.method, request.url) == ("PUT", URL + "?a=1")
    assert [name for name, _ in request.headers] == [
        "content-type", "user-agent", "X-Team", "webhook-id", "webhook-timestamp", "webhook-signature",
        "meshes-attempt",
    ]  # fmt: skip
    assert headers_of(request)["X-Team"] == "crm"
    assert headers_of(request)["content-type"] == "application/json"


def test_basic_authentication_is_utf_8():
    credentials = as_secrets({"signing_secret": SECRET, "username": "ada", "password": "pä:ss"})
    request = PROVIDER.build_request(shipment(credentials=credentials))
    assert headers_of(request)["authorization"] == "Basic " + base64.b64encode("ada:pä:ss".encode()).decode()


def test_a_token_is_sent_as_bearer():
    request = PROVIDER.build_request(shipment(credentials=as_secrets({"signing_secret": SECRET, "token": "t0k3n"})))
    assert headers_of(request)["authorization"] == "Bearer t0k3n"


OAUTH = {"signing_secret": SECRET, "oauth_client_id": "client", "oauth_client_secret": "canary-9f3c"}


def test_a_token_of_the_receiver_s_authorization_server_is_sent_as_bearer():
    request = PROVIDER.build_request(shipment(credentials=as_secrets({**OAUTH, "access_token": "t0k3n"})))
    assert headers_of(request)["authorization"] == "Bearer t0k3n"
    assert "canary-9f3c" not in f"{request.url} {request.headers} {request.body!r}"


def test_without_that_token_nothing_is_sent():
    with pytest.raises(NotAuthorized, match="Check the token URL and the client's credentials"):
        PROVIDER.build_request(shipment(credentials=as_secrets(OAUTH)))


def test_rotation_keeps_that_token():
    rotated = PROVIDER.rotate_secrets(as_secrets({**OAUTH, "access_token": "t0k3n", "previous": []}), NOW)
    assert rotated["access_token"].reveal() == "t0k3n"
    assert rotated["oauth_client_secret"].reveal() == "canary-9f3c"


def test_receivers_verify_with_the_public_package():
    now = datetime.now(UTC)
    secret = new_signing_secret()
    request = PROVIDER.build_request(shipment(credentials=as_secrets({"signing_secret": secret}), now=now))
    assert standardwebhooks.Webhook(secret).verify(request.body, headers_of(request))["type"] == "lead.created"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(new_signing_secret()).verify(request.body, headers_of(request))


def test_a_replaced_secret_signs_for_a_day():
    now = datetime.now(UTC)
    old = PROVIDER.make_secrets()
    rotated = PROVIDER.rotate_secrets(as_secrets(old), now)
    plain = {**rotated, "previous": [{**each, "secret": each["secret"].reveal()} for each in rotated["previous"]]}
    request = PROVIDER.build_request(shipment(credentials=as_secrets(plain), now=now))
    for secret in (old["signing_secret"], rotated["signing_secret"]):
        assert standardwebhooks.Webhook(secret).verify(request.body, headers_of(request))
    assert headers_of(request)["webhook-signature"].count("v1,") == 2

    later = shipment(credentials=as_secrets(plain), now=now + timedelta(hours=24, seconds=1))
    assert headers_of(PROVIDER.build_request(later))["webhook-signature"].count("v1,") == 1


def test_rotating_often_keeps_few_secrets_and_the_newest_first():
    now, current = NOW, as_secrets(PROVIDER.make_secrets())
    made = [current["signing_secret"].reveal()]
    for _ in range(MAX_PREVIOUS + 2):
        now += timedelta(minutes=1)
        rotated = PROVIDER.rotate_secrets(current, now)
        plain = {**rotated, "previous": [_plain(each) for each in rotated["previous"]]}
        current = as_secrets(plain)
        made.append(plain["signing_secret"])
    assert [each["secret"].reveal() for each in current["previous"]] == made[-2 : -MAX_PREVIOUS - 2 : -1]


def _plain(replaced):
    return {key: value.reveal() if isinstance(value, Secret) else value for key, value in replaced.items()}


def test_rotation_keeps_the_owner_s_credentials():
    rotated = PROVIDER.rotate_secrets(as_secrets({"signing_secret": SECRET, "token": "t0k3n"}), NOW)
    assert rotated["token"].reveal() == "t0k3n"
    assert rotated["previous"][0]["expires_at"] == "2026-03-05T05:06:07+00:00"


def test_a_made_secret_has_the_specified_form():
    secret = PROVIDER.make_secrets()["signing_secret"]
    assert secret.startswith("whsec_")
    assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64
    assert secret != PROVIDER.make_secrets()["signing_secret"]


@pytest.mark.parametrize(
    ("config", "pointer", "rule"),
    [
        ({}, "/config/url", "required"),
        ({"url": 3}, "/config/url", "type"),
        ({"url": ""}, "/config/url", "required"),
        ({"url": URL, "method": "GET"}, "/config/method", "options"),
        ({"url": URL, "method": ["POST"]}, "/config/method", "options"),
        ({"url": URL, "body": "xml"}, "/config/body", "options"),
        ({"url": URL, "surprise": 1}, "/config/surprise", "unknown_field"),
        ({"url": URL, "a/b~c": 1}, "/config/a~1b~0c", "unknown_field"),
        ({"url": URL, "headers": ["a"]}, "/config/headers", "type"),
        ({"url": URL, "headers": {"X-A": "b\r\nEvil: 1"}}, "/config/headers/X-A", "header_value"),
        ({"url": URL, "headers": {"X-A": "b\n"}}, "/config/headers/X-A", "header_value"),
        ({"url": URL, "headers": {"X-A": " b"}}, "/config/headers/X-A", "header_value"),
        ({"url": URL, "headers": {"X-A": "é"}}, "/config/headers/X-A", "header_value"),
        ({"url": URL, "headers": {"X-A": 1}}, "/config/headers/X-A", "header_value"),
        ({"url": URL, "headers": {"X-A": "b" * 1025}}, "/config/headers/X-A", "header_value"),
        ({"url": URL, "headers": {"X A": "b"}}, "/config/headers/X A", "header_name"),
        ({"url": URL, "headers": {"X-A:": "b"}}, "/config/headers/X-A:", "header_name"),
        ({"url": URL, "headers": {"X-A\n": "b"}}, "/config/headers/X-A\n", "header_name"),
        ({"url": URL, "headers": {"": "b"}}, "/config/headers/", "header_name"),
        ({"url": URL, "headers": {"Host": "b"}}, "/config/headers/Host", "header_reserved"),
        ({"url": URL, "headers": {"content-LENGTH": "3"}}, "/config/headers/content-LENGTH", "header_reserved"),
        ({"url": URL, "headers": {"Transfer-Encoding": "chunked"}}, "/config/headers/Transfer-Encoding",
         "header_reserved"),
        ({"url": URL, "headers": {"webhook-signature": "v1,x"}}, "/config/headers/webhook-signature",
         "header_reserved"),
        ({"url": URL, "headers": {"Meshes-Replay": "1"}}, "/config/headers/Meshes-Replay", "header_reserved"),
        ({"url": URL, "headers": {"Authorization": "Bearer x"}}, "/config/headers/Authorization", "header_secret"),
        ({"url": URL, "headers": {"X-A": "1", "x-a": "2"}}, "/config/headers/x-a", "header_twice"),
        ({"url": URL, "headers": {f"X-{n}": "1" for n in range(21)}}, "/config/headers", "max_items"),
    ],
)  # fmt: skip
def test_a_config_that_breaks_the_declaration_is_refused(config, pointer, rule):
    with pytest.raises(InvalidFields) as caught:
        PROVIDER.clean_config(config)
    assert [(problem.pointer, problem.rule) for problem in caught.value.problems] == [(pointer, rule)]


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-For", "x-forwarded-host", "X_Forwarded_Proto", "Forwarded", "X-Real-IP", "Metadata",
        "Metadata-Flavor", "X-aws-ec2-metadata-token", "x-google-metadata-request", "X-Metadata-Token", "Via",
        "True-Client-IP", "X-Original-URL", "content_length", "Transfer_Encoding", "Webhook_Id",
    ],
)  # fmt: skip
def test_headers_that_tell_who_asks_are_not_the_owners_to_set(name):
    with pytest.raises(InvalidFields) as caught:
        PROVIDER.clean_config({"url": URL, "headers": {name: "1"}})
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.rule) == (f"/config/headers/{name}", "header_reserved")


def test_headers_of_the_owners_own_pass():
    headers = {"X-Tenant": "1", "X-Forward": "1", "X-Metadata": "1", "Trace_Id": "1"}
    assert PROVIDER.clean_config({"url": URL, "headers": headers})["headers"] == headers


@pytest.mark.parametrize(
    ("credentials", "pointer", "rule"),
    [
        ({"username": "ada"}, "/credentials/password", "required"),
        ({"password": "x"}, "/credentials/username", "required"),
        ({"username": "ada", "password": None}, "/credentials/password", "required"),
        ({"username": "ada", "password": "x", "token": "t"}, "/credentials/token", "exclusive"),
    ],
)
def test_half_or_double_authentication_is_refused(credentials, pointer, rule):
    (problem,) = PROVIDER.check({"url": URL}, credentials)
    assert (problem.pointer, problem.rule) == (pointer, rule)


TOKEN_URL = {"url": URL, "oauth_token_url": "https://example.com/token"}
CLIENT = {"oauth_client_id": "c", "oauth_client_secret": "s"}


@pytest.mark.parametrize(
    ("config", "credentials", "pointer", "rule"),
    [
        ({"url": URL}, CLIENT, "/config/oauth_token_url", "required"),
        (TOKEN_URL, {"oauth_client_id": "c"}, "/credentials/oauth_client_secret", "required"),
        (TOKEN_URL, {"oauth_client_secret": "s"}, "/credentials/oauth_client_id", "required"),
        (TOKEN_URL, {**CLIENT, "token": "t"}, "/credentials/oauth_client_id", "exclusive"),
        (TOKEN_URL, {**CLIENT, "username": "u", "password": "p"}, "/credentials/oauth_client_id", "exclusive"),
    ],
)
def test_client_credentials_are_whole_and_alone(config, credentials, pointer, rule):
    (problem,) = PROVIDER.check(config, credentials)
    assert (problem.pointer, problem.rule) == (pointer, rule)


def test_each_way_to_authenticate_is_enough_and_none_is_needed():
    for config, credentials in (
        ({"url": URL}, {}),
        ({"url": URL}, {"token": "t"}),
        ({"url": URL}, {"username": "u", "password": "p"}),
        (TOKEN_URL | {"oauth_scope": "hooks.write"}, CLIENT),
    ):
        assert PROVIDER.check(config, credentials) == []


def test_a_token_url_without_a_client_is_refused():
    problems = PROVIDER.check(TOKEN_URL, {})
    assert [(problem.pointer, problem.rule) for problem in problems] == [
        ("/credentials/oauth_client_id", "required"),
        ("/credentials/oauth_client_secret", "required"),
    ]


@pytest.mark.parametrize(
    ("credentials", "pointer", "rule"),
    [
        ({"username": "a:b", "password": "x"}, "/credentials/username", "pattern"),
        ({"token": "two words"}, "/credentials/token", "pattern"),
        ({"token": "line\n"}, "/credentials/token", "characters"),
        ({"token": 5}, "/credentials/token", "type"),
        ({"signing_secret": SECRET}, "/credentials/signing_secret", "unknown_field"),
    ],
)
def test_credentials_that_break_the_declaration_are_refused(credentials, pointer, rule):
    with pytest.raises(InvalidFields) as caught:
        PROVIDER.clean_credentials(credentials)
    assert [(problem.pointer, problem.rule) for problem in caught.value.problems] == [(pointer, rule)]
    assert SECRET not in str(caught.value)


def test_defaults_are_filled_in():
    assert PROVIDER.clean_config({"url": URL, "method": None}) == {"url": URL, "method": "POST", "body": "wrapped"}
