"""One refresh at a time, however many need it, in however many processes; and what becomes of those who wait."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from django.conf import settings as project
from django.db import OperationalError
from django.db import connection as database
from django.db import connections as databases

from connections import lifecycle, providers
from connections.messages import Response
from connections.models import OAuthGrant
from connections.oauth import refresh, tokens
from connections.oauth.refresh import DIRECT, KEEP_SECONDS, Authorization, Lost, Renewed, Steps
from connections.oauth.tokens import OURS, NoTokenError
from meshes.environment import PROJECT
from meshes.kit.clock import Reading
from tests.connections.oauth.making import access_token, authorized, expired, need_of, opened
from tests.connections.oauth.vendor import CLIENT_ID, CLIENT_SECRET, Gate, Reply
from tests.factories import create_connection, make_workspace
from tests.faults import raise_sqlstate
from tests.polling import eventually, patient
from workspaces.vault.models import AccessRecord
from workspaces.vault.secret import Secret

pytestmark = pytest.mark.django_db(transaction=True)

FAR = float("inf")


def authorization_of(connection, steps=DIRECT) -> Authorization:
    document = opened(connection)
    return Authorization(
        need_of(connection, document.version),
        providers.get(connection.type),
        connection.config,
        document.secret,
        Reading.take(),
        steps,
    )


def prepared(connection) -> Authorization:
    authorization = authorization_of(connection)
    authorization.prepare(FAR)
    return authorization


def in_thread(function):
    """Run beside the test, with a database connection of its own."""

    def run():
        try:
            done.append(function())
        except Exception as error:  # noqa: BLE001  (asserted on)
            done.append(error)
        finally:
            databases.close_all()

    done = []
    thread = threading.Thread(target=run)
    thread.start()
    return thread, done


# --- many at once ---------------------------------------------------------------------------------------------------


def storm(connection, vendor, processes=2, threads=25, **more) -> list[subprocess.Popen]:
    """Processes full of threads that need a token now."""
    document = opened(connection)
    settings = database.settings_dict
    host = quote(settings["HOST"], safe="")
    url = f"postgresql://{settings['USER']}:{settings['PASSWORD']}@{host}:{settings['PORT']}/{settings['NAME']}"
    plan = {
        "type": connection.type,
        "workspace": str(connection.workspace_id),
        "connection": str(connection.pk),
        "config": connection.config,
        "version": document.version,
        "credentials": {key: value.reveal() for key, value in document.secret.items() if isinstance(value, Secret)},
        "vendor": vendor.url,
        "client": [CLIENT_ID, CLIENT_SECRET],
        "threads": threads,
        "providers": project.MESHES_PROVIDERS,
        **more,
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.connections.oauth.storm", json.dumps(plan)],
            cwd=PROJECT,
            env=os.environ | {"DATABASE_URL": url},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]


def outcomes(processes) -> Counter:
    printed = [process.communicate(timeout=patient(60))[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return Counter(outcome for text in printed for outcome in json.loads(text))


@pytest.mark.parametrize("type", ["hubspot", "rotating"])
def test_fifty_workers_in_two_processes_ask_once(vendor, type):
    """Also where the vendor ends everything when a refresh token is used twice."""
    vendor.rotates = type == "rotating"
    connection = expired(vendor, type)
    processes = storm(connection, vendor)
    got = outcomes(processes)
    assert len(vendor.token_requests) == 1
    assert got == {access_token(connection): 50}
    assert vendor.access_tokens == set(got)
    assert opened(connection).version == 2
    connection.refresh_from_db()
    assert connection.status == "active"


def test_fifty_workers_ask_a_customer_s_own_server_once(vendor):
    config = {"url": f"{vendor.url}/hook", "oauth_token_url": f"{vendor.url}/token"}
    client = {"oauth_client_id": CLIENT_ID, "oauth_client_secret": CLIENT_SECRET}
    connection = create_connection(make_workspace().pk, "webhook", "Hook", config, client).connection
    got = outcomes(storm(connection, vendor))
    assert (len(vendor.token_requests), got) == (1, {access_token(connection): 50})
    vendor.clients.clear()
    lifecycle.edit(connection, actor="a test", credentials={"oauth_client_secret": "another"})
    refused = outcomes(storm(connection, vendor))
    assert (len(vendor.token_requests), sum(refused.values())) == (2, 50)
    assert refused["authorization_ended"] >= 1
    assert set(refused) <= {"authorization_ended", "token_unavailable"}
    connection.refresh_from_db()
    assert connection.status == "needs_reauth"


def test_fifty_workers_meet_one_end(vendor, caplog):
    connection = expired(vendor)
    vendor.refresh_tokens.clear()
    got = outcomes(storm(connection, vendor))
    assert (len(vendor.token_requests), got) == (1, {"authorization_ended": 50})
    connection.refresh_from_db()
    assert connection.status == "needs_reauth"


def test_fifty_workers_meet_one_failure(vendor):
    connection = expired(vendor)
    vendor.before_reply = lambda asked: Reply(503, {})
    got = outcomes(storm(connection, vendor))
    assert (len(vendor.token_requests), got) == (1, {"token_unavailable": 50})
    connection.refresh_from_db()
    assert connection.status == "active"
    assert OAuthGrant.objects.get(connection=connection).refresh_failures == 1


def test_a_holder_that_is_killed_is_followed_when_its_lease_lapses(vendor):
    connection = expired(vendor)
    asked, over = threading.Event(), threading.Event()

    def hang_once(request):
        if len(vendor.token_requests) > 1:
            return None
        asked.set()
        over.wait(30)
        return Reply(500, {})

    vendor.before_reply = hang_once
    (holder,) = storm(connection, vendor, processes=1, threads=1, lease_seconds=2)
    assert asked.wait(30)
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=patient(10))
    leased_until = OAuthGrant.objects.get(connection=connection).lease_until
    got = outcomes(storm(connection, vendor, processes=1, threads=10))
    over.set()
    assert got == {access_token(connection): 10}
    assert len(vendor.token_requests) == 2
    assert OAuthGrant.objects.get(connection=connection).refreshed_at >= leased_until


# --- waiting --------------------------------------------------------------------------------------------------------


def test_who_waits_gets_what_the_holder_got(vendor):
    connection = expired(vendor)
    (lease,) = refresh.begin_refresh([need_of(connection)])
    thread, done = in_thread(lambda: prepared(connection))
    eventually(lambda: thread.is_alive() and vendor.token_requests == [])
    new = tokens.renew(lease.provider, lease.config, lease.credentials, lease.client, 10, asked_at=lease.clock.now())
    refresh.finish_refresh([(lease, new)])
    thread.join(10)
    assert done[0].credentials["access_token"] == new.access
    assert len(vendor.token_requests) == 1


def test_patience_ends(vendor, monkeypatch):
    monkeypatch.setattr(refresh, "WAIT_SECONDS", 0.3)
    connection = expired(vendor)
    refresh.begin_refresh([need_of(connection)])
    with pytest.raises(NoTokenError) as caught:
        prepared(connection)
    assert (caught.value.is_final, caught.value.verdict.words) == (False, refresh.BUSY_MESSAGE)
    assert vendor.token_requests == []


def test_a_token_that_is_good_still_is_not_waited_for(vendor):
    connection = authorized(vendor, left=timedelta(minutes=2))
    refresh.begin_refresh([need_of(connection)])
    before = opened(connection)
    assert prepared(connection).credentials["access_token"] == before.secret["access_token"]
    assert vendor.token_requests == []


def test_what_the_vendor_says_while_time_is_up_is_not_asked(vendor):
    connection = expired(vendor)
    authorization = authorization_of(connection)
    with pytest.raises(NoTokenError):
        authorization.prepare(0.0)
    assert vendor.token_requests == []
    assert OAuthGrant.objects.get(connection=connection).lease_id is None


# --- before use -----------------------------------------------------------------------------------------------------


def test_a_token_with_time_left_is_used_as_it_is(vendor):
    connection = authorized(vendor, left=timedelta(minutes=6))
    authorization = authorization_of(connection)
    authorization.prepare(FAR)
    assert (authorization.version, vendor.token_requests) == (1, [])
    assert not AccessRecord.objects.filter(purpose="oauth refresh").exists()


def test_a_token_with_little_time_left_is_renewed(vendor):
    connection = authorized(vendor, left=timedelta(minutes=4))
    authorization = prepared(connection)
    assert (authorization.version, len(vendor.refreshes)) == (2, 1)
    assert authorization.credentials["access_token"].reveal() == access_token(connection)
    assert [len(each) for each in authorization.opened] == [2, 2]


@pytest.mark.parametrize("reply", [Reply(503, {}), Reply(200, b"<html>"), Reply(400, {"error": "invalid_client"})])
def test_a_failure_while_the_token_is_good_is_none(vendor, reply):
    connection = authorized(vendor, left=timedelta(minutes=4))
    vendor.before_reply = lambda asked: reply
    assert prepared(connection).version == 1
    assert prepared(connection).version == 1
    assert len(vendor.token_requests) == 1  # then the grant rests
    connection.refresh_from_db()
    assert connection.status == "active"


def test_an_end_is_an_end_whatever_is_left(vendor):
    connection = authorized(vendor, left=timedelta(minutes=4))
    vendor.refresh_tokens.clear()
    with pytest.raises(NoTokenError) as caught:
        prepared(connection)
    assert caught.value.is_final
    connection.refresh_from_db()
    assert connection.status == "needs_reauth"


def test_an_answer_without_a_refresh_token_keeps_the_old_one(vendor):
    connection = expired(vendor)
    before = opened(connection).secret["refresh_token"]
    prepared(connection)
    after = opened(connection).secret
    assert (after["refresh_token"], vendor.refresh_tokens >= {before.reveal()}) == (before, True)


def test_a_rotated_refresh_token_is_used_next(vendor):
    vendor.rotates = True
    connection = expired(vendor, "rotating")
    for version in (2, 3, 4):
        vendor.expire_access()
        document = opened(connection)
        renewed = refresh.renew(need_of(connection, document.version), DIRECT, FAR)
        assert renewed.version == version
    assert len(vendor.used_refresh_tokens) == 3
    assert opened(connection).secret["refresh_token"].reveal() in vendor.refresh_tokens


# --- after a refusal ------------------------------------------------------------------------------------------------

REFUSED = Response(401, (), b"", False, 1)


def test_after_a_refusal_a_new_token_is_asked_for_once(vendor):
    connection = authorized(vendor)
    authorization = authorization_of(connection)
    authorization.prepare(FAR)
    assert not authorization.renew_after(Response(500, (), b"", False, 1), FAR)
    assert authorization.renew_after(REFUSED, FAR)
    assert authorization.credentials["access_token"].reveal() == access_token(connection)
    assert not authorization.renew_after(REFUSED, FAR)
    assert len(vendor.token_requests) == 1


def test_after_a_refusal_a_token_that_another_got_is_taken(vendor):
    connection = authorized(vendor)
    late, early = authorization_of(connection), authorization_of(connection)
    early.renew_after(REFUSED, FAR)
    assert late.renew_after(REFUSED, FAR)
    assert late.credentials["access_token"] == early.credentials["access_token"]
    assert len(vendor.token_requests) == 1


def test_what_cannot_be_renewed_is_not(vendor):
    connection = authorized(vendor)
    lifecycle.edit(connection, actor="a test", credentials={"access_token": "pat-na1-1234567890"})
    authorization = authorization_of(connection)
    authorization.prepare(FAR)
    assert not authorization.renew_after(REFUSED, FAR)
    assert vendor.token_requests == []


def test_another_credential_that_changed_is_no_new_token(vendor):
    """A newer document with the same token: it is asked for a new one all the same."""
    connection = authorized(vendor)
    authorization = authorization_of(connection)
    document = opened(connection)
    lifecycle.stored.seal(connection, {**document.secret, "other": "changed"})
    assert authorization.renew_after(REFUSED, FAR)
    assert authorization.version == 3
    assert opened(connection).secret["other"].reveal() == "changed"
    assert len(vendor.token_requests) == 1


# --- what ends meanwhile --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [lambda c: lifecycle.disconnect(c, actor="a test"), lifecycle.delete])
def test_a_disconnect_during_a_refresh_is_not_undone(vendor, end):
    vendor.rotates, vendor.gate = True, Gate()
    connection = expired(vendor)
    thread, done = in_thread(lambda: prepared(connection))
    assert vendor.gate.is_reached()
    connection.refresh_from_db()
    end(connection)
    vendor.gate.open()
    thread.join(10)
    assert isinstance(done[0], NoTokenError)
    assert done[0].is_final
    connection.refresh_from_db()
    assert connection.status in ("needs_reauth", "deleted")
    assert "access_token" not in connection.credential_hints
    if connection.status == "needs_reauth":
        assert "access_token" not in opened(connection).secret
    revoked = {request.form["token"] for request in vendor.revoked}
    assert len(revoked) == 2  # the token that was there, and the one that nobody will ever use
    assert vendor.refresh_tokens == set()


def test_an_authorization_during_a_refresh_stays(vendor):
    vendor.gate = Gate()
    connection = expired(vendor)
    thread, done = in_thread(lambda: prepared(connection))
    assert vendor.gate.is_reached()
    fresh = tokens.read_tokens(vendor.grant("fresh"), providers.get("hubspot").oauth, datetime.now(UTC))
    lifecycle.authorize(connection, fresh, lifecycle.Granted(), client_id="app-1", actor="a test")
    vendor.gate.open()
    thread.join(10)
    assert done[0].credentials["access_token"] == fresh.access
    assert opened(connection).secret["access_token"] == fresh.access
    assert vendor.revoked == []


def test_nothing_is_asked_inside_a_transaction(vendor):
    """While the vendor takes its time, every row can be changed by others."""
    vendor.gate = Gate()
    connection = expired(vendor)
    thread, _ = in_thread(lambda: prepared(connection))
    assert vendor.gate.is_reached()
    with database.cursor() as cursor:
        cursor.execute("SET lock_timeout = '200ms'")
        for table in ("connections", "oauth_grants", "sealed_documents"):
            cursor.execute(f"UPDATE {table} SET workspace_id = workspace_id")
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
        )
        assert cursor.fetchone()[0] == 0
        cursor.execute("RESET lock_timeout")
    vendor.gate.open()
    thread.join(10)
    assert access_token(connection) in vendor.access_tokens


def test_a_database_that_is_away_for_a_moment_loses_no_token(vendor):
    """Nobody else has the new refresh token, and the vendor takes the old one no more."""
    vendor.rotates = True
    connection = expired(vendor)
    tries = []

    def finish(item):
        tries.append(item)
        if len(tries) < 3:
            raise OperationalError("the server is restarting")
        return DIRECT.finish(item)

    authorization = authorization_of(connection, Steps(DIRECT.begin, finish, DIRECT.read))
    authorization.prepare(FAR)
    assert (len(tries), len(vendor.token_requests)) == (3, 1)
    assert opened(connection).secret["refresh_token"].reveal() in vendor.refresh_tokens


@pytest.mark.parametrize("keep_seconds", [KEEP_SECONDS, math.inf], ids=["somebody waits", "a delivery"])
def test_a_database_that_is_away_for_long_loses_no_token_of_a_delivery(vendor, monkeypatch, keep_seconds):
    vendor.rotates = True
    connection = expired(vendor)
    failures = iter(range(5))

    def finish(item):
        if next(failures, None) is not None:
            raise OperationalError("no space left on device")
        return DIRECT.finish(item)

    moments = itertools.count(time.monotonic(), KEEP_SECONDS / 2)
    slow = SimpleNamespace(monotonic=lambda: next(moments), sleep=lambda seconds: None)
    steps = Steps(DIRECT.begin, finish, DIRECT.read, keep_seconds)
    authorization = authorization_of(connection, steps)
    monkeypatch.setattr(refresh, "time", slow)
    if keep_seconds == KEEP_SECONDS:
        with pytest.raises(OperationalError):
            authorization.prepare(math.inf)
        return
    authorization.prepare(math.inf)
    assert len(vendor.token_requests) == 1
    assert opened(connection).secret["refresh_token"].reveal() in vendor.refresh_tokens


def test_a_fault_of_ours_counts_as_no_failure_of_the_token_endpoint(vendor):
    connection = expired(vendor)
    need = need_of(connection)
    lease = DIRECT.begin(need)
    assert DIRECT.finish((lease, OURS)) == Lost.OVERTAKEN
    grant = OAuthGrant.objects.get(connection=connection)
    assert (grant.refresh_failures, grant.not_before, grant.lease_id) == (0, None, None)


def test_a_lost_answer_of_ours_is_read_again(vendor):
    """The commit went through, and we did not hear of it: the token is there, and is used."""
    connection = expired(vendor)

    def finish(item):
        DIRECT.finish(item)
        return Lost.OVERTAKEN

    authorization = authorization_of(connection, Steps(DIRECT.begin, finish, DIRECT.read))
    authorization.prepare(FAR)
    assert authorization.version == 2
    assert len(vendor.token_requests) == 1
    assert isinstance(DIRECT.begin(need_of(connection)), Renewed)


@pytest.mark.parametrize("state", ["57014", "42P01", "XX000"])
def test_a_statement_that_was_cancelled_or_is_a_fault_of_ours_loses_no_token_either(vendor, state):
    vendor.rotates = True
    connection = expired(vendor)
    tries = []

    def finish(item):
        tries.append(item)
        if len(tries) < 3:
            raise_sqlstate(state)
        return DIRECT.finish(item)

    authorization_of(connection, Steps(DIRECT.begin, finish, DIRECT.read)).prepare(FAR)
    assert (len(tries), len(vendor.token_requests)) == (3, 1)
    assert opened(connection).secret["refresh_token"].reveal() in vendor.refresh_tokens
