"""Commands of the docs run as they are printed: in a copy of the project, beside one running stack.

A fenced block ```` ```sh ```` is run; ```` ```sh norun: <why> ```` is not, and says why by one of `REASONS`. Those of
the README with a name of their own are run by `test_readme` and `test_demo`.
"""

import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jwt
import psycopg2
import pytest
import requests
from django.core.management import get_commands
from django.db import connection as database
from standardwebhooks import Webhook, WebhookVerificationError

from connections.models import Connection, ConnectionHealth
from delivery.dispatch import connection_health
from delivery.dispatch.replays import CURRENT, ORIGINAL
from delivery.events.setting_aside import CAUSES
from delivery.models import Replay
from delivery.search import EVENT_STATUSES, OUTCOMES, STATES
from delivery.serializers import ROUTING_RESULTS
from meshes.console import timeline
from meshes.dev.embedded import EmbeddedServers, free_port
from tests.e2e.running import OURS, PROJECT, RunningUp
from tests.polling import eventually, patient
from workspaces.keys import SCOPES
from workspaces.models import ApiKey

PAGES = sorted(
    path.relative_to(PROJECT)
    for pattern in ("README.md", "docs/*.md", "docs/integrations/*.md", "*/*/README.md", "meshes/dev/*/README.md")
    for path in PROJECT.glob(pattern)
)
DECISIONS = sorted(path.relative_to(PROJECT) for path in PROJECT.glob("docs/adr/*.md"))
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
REASONS = {
    "docker": re.compile(r"^docker "),
    "another host": re.compile(r'"\$DATABASE_URL"'),
    "endless": re.compile(r"^(\w+=\S+ )*make up\b"),  # until Ctrl-C
    "it runs the test that runs these commands": re.compile(r"^make test "),
    "it installs what is not among the locked packages": re.compile(r"\bpip install "),
    "it needs a user": re.compile(r"manage\.py (reset_second_factor|end_sessions) "),
    "it needs the checkouts that are named below": re.compile(r"^make test-vendors FROM="),
}
"""All that may keep a block from being run, and what a block has of which that is so."""
RUN_ELSEWHERE = {
    "README.md": {"up", "endpoint", "tour", "demo"},  # by `test_readme`; `test_demo` runs what `make demo` runs
    "docs/local-development.md": {"vendors"},  # by the fixture of this name
    "docs/rotation.md": {  # by `tests/test_rotation_docs.py`
        *("setup", "secret-key", "secret-key-end", "fernet-known", "fernet-first", "fernet-reseal", "fernet-end"),
        *("database", "postgres-password", "valkey", "flower", "account-key"),
    },
    "docs/backup.md": {"restore", "after", "release", "tools", "base"},  # by `test_backup`
}
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".meshes", "*_cache", "__pycache__")
COMMAND = re.compile(r"(?:python3?|manage\.py|make|docker|curl|pg_\w+|pip|\.venv/bin/\S+|[A-Z_]+=\S+ make) ")
SECONDS = 120
NOT_RUN = [
    ("README.md", "norun: it runs the test that runs these commands"),
    ("docs/admin.md", "norun: it needs a user"),
    ("docs/admin.md", "norun: it needs a user"),
    ("docs/backup.md", "norun: another host"),
    ("docs/backup.md", "norun: docker"),
    ("docs/backup.md", "norun: endless"),
    ("docs/local-development.md", "norun: endless"),
    ("docs/local-development.md", "norun: endless"),
    ("docs/outbound.md", "norun: endless"),
    ("docs/performance.md", "norun: it installs what is not among the locked packages"),
    ("docs/rotation.md", "norun: docker"),
    ("docs/rotation.md", "norun: docker"),
    ("docs/running.md", "norun: endless"),
    ("docs/running.md", "norun: endless"),
    ("docs/running.md", "norun: endless"),
    ("docs/running.md", "norun: docker"),
    ("docs/running.md", "norun: docker"),
    ("tests/judges/README.md", "norun: it needs the checkouts that are named below"),
]
"""Every block that is not run, in the order of pages."""


@dataclass(frozen=True)
class Block:
    """A fenced block: the words after the fence, and what stands in it."""

    page: Path
    info: str
    code: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def words(self) -> str:
        return self.info.partition(" ")[2]


def text_of(page: str | Path) -> str:
    return (PROJECT / page).read_text()


def blocks_of(page: Path) -> list[Block]:
    found = FENCE.finditer(text_of(page))
    return [Block(page, match["info"].strip(), textwrap.dedent(match["code"])) for match in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUNNABLE = sorted({block.page for block in BLOCKS if block.info == "sh"})


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The project as somebody has it who has just fetched it and run `make up`."""
    clone = tmp_path_factory.mktemp("clone") / "meshes"
    shutil.copytree(PROJECT, clone, ignore=NOT_COPIED)
    (clone / ".venv").symlink_to(sys.prefix)
    return clone


@pytest.fixture(scope="module")
def environment(clone):
    return {name: value for name, value in os.environ.items() if name not in OURS} | {"TMPDIR": str(clone.parent)}


@pytest.fixture(scope="module")
def vendors(clone, environment):
    """The page's first terminal: vendors on loopback, as URLs by slug."""
    (block,) = (block for block in BLOCKS if block.info == "sh vendors")
    written = clone / ".meshes" / "vendors.json"
    # They end when their standard input closes.
    server = subprocess.Popen(
        ["bash", "-c", block.code], cwd=clone, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        eventually(lambda: written.exists() and written.read_text().endswith("\n"), 60)
        yield json.loads(written.read_text())
    finally:
        server.communicate()


@pytest.fixture(scope="module")
def up(clone, vendors):
    """`make up LOOPBACK=1` with those vendors, and the tour's workspace with one event."""
    urls = ",".join(f"{slug}={url}" for slug, url in vendors.items())
    up = RunningUp(clone / ".meshes", {"MESHES_VENDOR_URLS": urls}, "--loopback")
    try:
        up.start()
        create(up, "workspaces", name="Acme", external_id="ws_tenant_abc")
        yield up
    finally:
        up.end()


def create(up, kind, **fields):
    """One of the API's things, as it answered."""
    made = up.call("POST", f"/api/v1/{kind}", json=fields)
    assert made.status_code in (201, 202), made.text
    return made.json()


@pytest.fixture(scope="module")
def answers(up):
    """What the API says of an event that one rule filters, one delivers in vain and one cannot shape."""
    given = {"workspace": "ws_tenant_abc", "type": "webhook", "config": {"url": f"http://127.0.0.1:{free_port()}/hook"}}
    connection = create(up, "connections", name="CRM", **given)["id"]
    rule = {"workspace": "ws_tenant_abc", "connection": connection, "event": "lead.created"}
    create(up, "rules", **rule, filter={"payload.score": {"$gte": 50}})
    create(up, "rules", **rule)
    create(up, "rules", **rule, mapping=[{"to": "email", "from": "payload.email", "on_error": "fail"}])
    event = create(up, "events", workspace="ws_tenant_abc", event="lead.created", payload={"score": 10})["id"]

    def attempted():
        found = up.get(f"/api/v1/events/{event}").json()
        return found if any(each["outcome"] == "retry" for each in found["deliveries"]) else None

    return {"event": eventually(attempted, 30), "connection": up.get(f"/api/v1/connections/{connection}").json()}


@pytest.mark.parametrize("page", RUNNABLE, ids=str)
def test_the_commands_of_a_page_run_as_printed(answers, clone, environment, page):
    done = run_script(
        "\n".join(block.code for block in BLOCKS if block.page == page and block.info == "sh"), clone, environment
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_script(script, clone, environment):
    return subprocess.run(
        ["bash", "-c", f"set -eu -o pipefail\n{script}"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=patient(SECONDS),
        check=False,
    )


@pytest.mark.parametrize(
    ("page", "call"),
    [
        ("docs/troubleshooting.md", 'get "$API/events/evt_x"'),
        ("docs/troubleshooting.md", 'get "$API/events" -d workspace=unknown'),
        ("docs/local-development.md", 'call "$API/rules/rule_x"'),
    ],
)
def test_a_refusal_is_shown_by_the_commands_of_a_page(up, clone, environment, page, call):
    begin = next(block.code for block in BLOCKS if block.page == Path(page) and block.info == "sh")
    done = run_script(begin + call, clone, environment)
    assert json.loads(done.stdout)["type"].startswith("urn:meshes:problem:")


def test_no_command_keeps_what_was_answered_where_others_read_or_overwrite_it():
    """`.meshes/` is its owner's alone, and each stack has one."""
    assert [f"{block.page}: {block.code}" for block in BLOCKS if "/tmp" in block.code] == []
    kept = re.findall(r"(?:tee|>) (\S+)", "".join(block.code for block in BLOCKS if block.language == "sh"))
    beside_the_secrets = '"$ENV_FILE.new";'  # its owner's alone too: see `test_rotation_docs`
    assert {path.partition("/")[0] for path in kept} == {".meshes", beside_the_secrets}


def test_no_command_throws_an_answer_away():
    asked = [line for block in BLOCKS if block.language == "sh" for line in block.code.splitlines() if "curl " in line]
    assert len(asked) > 10
    assert [line for line in asked if "--fail " in line] == []


def test_blocks_that_are_not_run_say_why():
    marked = [block for block in BLOCKS if block.language == "sh" and block.info != "sh"]
    named = [block for block in marked if block.words in RUN_ELSEWHERE.get(str(block.page), ())]
    unrun = [(str(block.page), block.words) for block in marked if block not in named]
    assert {block.words for block in named} == set.union(*RUN_ELSEWHERE.values())
    assert unrun == NOT_RUN
    for block in (block for block in marked if block not in named):
        reason = REASONS[block.words.removeprefix("norun: ")]
        assert any(reason.search(line) for line in block.code.splitlines()), block


def test_make_demo_is_the_command_that_test_demo_runs():
    printed = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines()[-1] == "exec .venv/bin/python manage.py demo"


def test_no_command_stands_outside_a_fence():
    """A block that is only indented would not be seen, and so not be run."""
    left = []
    for page in PAGES:
        text = FENCE.sub("", (PROJECT / page).read_text())
        left += [f"{page}: {line}" for line in text.splitlines() if re.match(rf" {{4,}}{COMMAND.pattern}", line)]
    assert left == []


def written_commands(pages):
    """Each command in a line of prose or of a block, as (page, text from its program on)."""
    for page in pages:
        text = (PROJECT / page).read_text()
        spans = INLINE.findall(FENCE.sub("", text))
        shell = [block.code for block in blocks_of(page) if block.language == "sh"]
        lines = [line.strip() for code in shell for line in code.splitlines()]
        yield from ((page, each) for each in [*spans, *lines])


def faults_of(text, *, is_decision=False):
    """What keeps a command from running as it is written."""
    if named := re.search(r"manage\.py (\w+)", text):
        if named[1] not in get_commands():
            yield f"there is no command {named[1]}"
        if not is_decision and not text.startswith((".venv/bin/python manage.py ", "docker compose run ")):
            yield "write .venv/bin/python manage.py"
    targets = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    if (named := re.match(r"(?:[A-Z_]+=\S+ )*make ([\w-]+)", text)) and named[1] not in targets:
        yield f"there is no target {named[1]}"
    if named := re.search(r"python3? -m ([\w.]+)", text):
        if importlib.util.find_spec(named[1]) is None:
            yield f"there is no module {named[1]}"
        is_ours = named[1].partition(".")[0] not in sys.stdlib_module_names
        if is_ours and not is_decision and not text.startswith(".venv/bin/python -m "):
            yield "write .venv/bin/python -m"


def test_every_command_in_the_text_exists_in_a_form_that_runs():
    found = list(written_commands(PAGES))
    assert len([text for _, text in found if "manage.py " in text]) > 15
    assert [f"{page}: {text}: {fault}" for page, text in found for fault in faults_of(text)] == []


def test_what_decisions_were_measured_by_exists():
    found = written_commands(DECISIONS)
    assert [f"{page}: {text}: {fault}" for page, text in found for fault in faults_of(text, is_decision=True)] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("manage.py check", "write .venv/bin/python manage.py"),
        ("python manage.py check", "write .venv/bin/python manage.py"),
        (".venv/bin/python manage.py chek", "there is no command chek"),
        ("make upp", "there is no target upp"),
        ("MESHES_PORT=0 make upp", "there is no target upp"),
        ("python -m bench.lanes", "write .venv/bin/python -m"),
        (".venv/bin/python -m bench.lines", "there is no module bench.lines"),
    ],
)
def test_a_command_that_would_not_run_is_found(text, fault):
    assert list(faults_of(text)) == [fault]


def python_of(page, number=0):
    return [block.code for block in BLOCKS if block.page == Path(page) and block.language == "python"][number]


def run_program(code, names=None):
    """Its names when it has run; those given are there from the beginning."""
    names = names or {}
    exec(code, names)  # noqa: S102 - a program of our own docs
    return names


def test_a_token_made_as_printed_opens_the_api(up):
    made = up.call("POST", "/api/v1/api-keys", json={"name": "Machine", "kind": "account", "scopes": ["config"]}).json()
    code = python_of("docs/authentication.md").replace("mesh_sign_…", made["signing_secret"])
    names = run_program(code.replace("key_01m7zynwkce07tbjd32a4dh28z", made["id"]))
    assert jwt.get_unverified_header(names["token"])["kid"] == made["id"]
    login = {"Authorization": f"Bearer {names['token']}"}
    answer = requests.get(up.state["api_url"] + "/api/v1/workspaces", headers=login, timeout=patient(10))
    assert answer.status_code == 200


def test_lanes_are_controlled_as_printed(up):
    lanes = run_program(python_of("docs/lanes.md"), {"url": up.state["redis_url"]})["lanes"]
    assert lanes.stats("conn.0195c8a2-0d3e-7b1f-9a51-2f0c6d7e8b94").rate == 2.5


def test_a_receiver_verifies_as_printed():
    secret = "whsec_" + base64.b64encode(b"s" * 24).decode()
    body, now = '{"type":"lead.created"}', datetime.now(UTC)
    headers = {"webhook-id": "dlv_1", "webhook-timestamp": str(int(now.timestamp()))}
    headers["webhook-signature"] = Webhook(secret).sign("dlv_1", now, body)
    code = python_of("docs/webhooks.md").replace("whsec_…", secret)
    names = run_program(code, {"raw_body": body, "headers": headers})
    assert names["event"] == {"type": "lead.created"}
    headers["webhook-id"] = "dlv_2"
    with pytest.raises(WebhookVerificationError):
        run_program(code, names)


def test_a_receiver_verifies_by_hand_as_printed():
    is_genuine = run_program(python_of("docs/local-development.md"))["is_genuine"]
    secret, body, now = "whsec_" + base64.b64encode(b"s" * 24).decode(), b'{"type":"lead.created"}', datetime.now(UTC)
    headers = {"webhook-id": "dlv_1", "webhook-timestamp": str(int(now.timestamp()))}
    headers["webhook-signature"] = "v1,b2xk " + Webhook(secret).sign("dlv_1", now, body.decode())
    assert is_genuine(secret, headers, body)
    assert not is_genuine(secret, headers, body + b" ")
    assert not is_genuine("whsec_" + base64.b64encode(b"t" * 24).decode(), headers, body)


def test_a_vendor_on_loopback_is_spoken_to_as_printed():
    assert run_program(python_of("meshes/dev/vendors/README.md"))["hubspot"].calls_to("contacts")


def test_the_provider_that_is_shown_is_one():
    names = run_program(python_of("connections/providers/README.md"))
    assert names["PROVIDER"].slug == "pigeon"
    assert [action.slug for action in names["PROVIDER"].actions] == ["send"]


def test_every_program_that_is_shown_is_run():
    """By one of the tests above."""
    assert {str(block.page) for block in BLOCKS if block.language == "python"} == {
        *("docs/authentication.md", "docs/lanes.md", "docs/local-development.md", "docs/webhooks.md"),
        *("meshes/dev/vendors/README.md", "connections/providers/README.md"),
    }


def anchors_of(text):
    """Of the headings, as they are made where the pages are shown."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    lost = []
    for page in [*PAGES, *DECISIONS]:
        for target in re.findall(r"\]\((?!http)([^)\s]+)\)", INLINE.sub("", text_of(page))):
            file, _, anchor = target.partition("#")
            found = (PROJECT / page).parent / file if file else PROJECT / page
            if not found.exists() or (anchor and anchor not in anchors_of(found.read_text())):
                lost.append(f"{page}: {target}")
    assert lost == []


def test_json_that_is_shown_is_json():
    """One document or several, perhaps after the line of a request."""
    for block in BLOCKS:
        left = re.sub(r"^[A-Z]+ /\S+\n", "", block.code).strip() if block.language == "json" else ""
        while left:
            _, end = json.JSONDecoder().raw_decode(left)
            left = left[end:].strip()


def test_health_is_answered_as_printed(up):
    """But for the moments, of which the pages show two."""
    answered = up.get("/readyz").json()
    for printed in (json_of("docs/monitoring.md")[0], json_of("docs/api.md")[-1]):
        assert printed.pop("sweeps").keys() < answered["sweeps"].keys()
        assert printed == {name: value for name, value in answered.items() if name != "sweeps"}


def json_of(page):
    return [json.loads(block.code) for block in blocks_of(Path(page)) if block.language == "json"]


def without_ids(shown):
    return json.loads(re.sub(r"\b([a-z]+)_[0-9a-z]{26}\b", r"\1_…", json.dumps(shown)))


def test_troubleshooting_shows_what_the_api_answers(answers):
    """Word for word, but for ids and moments."""
    routed, open_delivery, health = json_of("docs/troubleshooting.md")
    event = answers["event"]
    (waiting,) = (each for each in event["deliveries"] if each["status"] == "pending")
    assert routed["routing_summary"] == event["routing_summary"]
    assert without_ids(routed["routing"]) == without_ids(event["routing"])
    assert {**open_delivery, "next_attempt_at": None, "waiting_for": None} == {
        **{name: waiting[name] for name in open_delivery}, "next_attempt_at": None, "waiting_for": None
    }  # fmt: skip
    assert open_delivery["waiting_for"].keys() == waiting["waiting_for"].keys()
    moments = {"since": None, "last_failure_at": None}
    assert health | moments == answers["connection"]["health"] | moments


def test_the_glossary_has_every_word_of_the_api():
    words = {
        *(*STATES, *OUTCOMES, *ROUTING_RESULTS, *EVENT_STATUSES, *CAUSES, *timeline.CAUSES, *connection_health.REASONS),
        *(*connection_health.STATUSES, *Connection.Status.values, *ConnectionHealth.Breaker.values, *SCOPES),
        *(*Replay.Status.values, *ApiKey.Kind.values, ORIGINAL, CURRENT),
    }
    text = (PROJECT / "docs" / "glossary.md").read_text()
    assert sorted(word for word in words if f"`{word}`" not in text) == []


def test_monitoring_shows_lines_that_are_logged():
    """Their words stand in the module whose logger writes them."""
    logged = re.findall(
        r"^\| (?:`([\w.]+)`)? *\| (?:ERROR|WARNING|INFO)[^|]*\| ([^|]+) \|", text_of("docs/monitoring.md"), re.MULTILINE
    )
    module, seen, wrong = "", set(), []
    for logger, lines in logged:
        module = {"": module, "meshes.outbound": "connections.outbound.client"}.get(logger, logger)
        source = (PROJECT / module.replace(".", "/")).with_suffix(".py").read_text()
        assert "getLogger(" in source
        seen.add(module)
        words = [each.strip(" ()") for line in INLINE.findall(lines) for each in line.split("…")]
        wrong += [f"{module}: {each}" for each in words if each.rstrip(".") not in source]
    assert len(seen) > 15
    assert wrong == []


@pytest.mark.django_db
def test_sql_that_is_shown_runs():
    statements = statements_of("docs/monitoring.md")
    with database.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    assert len(statements) == 3


def test_sql_that_makes_the_role_of_the_services_runs():
    """On a server of its own, under other names than those that are there, by its administrator."""
    servers = EmbeddedServers()
    servers.start()
    try:
        with closing(psycopg2.connect(servers.postgres.administrator_url)) as administrator:
            administrator.autocommit = True
            with administrator.cursor() as cursor:
                for statement in statements_of("docs/running.md"):
                    cursor.execute(statement.replace("meshes", "shown"))
                cursor.execute(
                    "SELECT rolsuper FROM pg_roles JOIN pg_database ON datdba = pg_roles.oid WHERE datname = 'shown'"
                )
                assert cursor.fetchone() == (False,)
    finally:
        servers.stop()


def statements_of(page):
    code = ";".join(block.code for block in BLOCKS if block.page == Path(page) and block.language == "sql")
    return [each for each in code.split(";") if each.strip()]


def test_every_statement_of_sql_is_run():
    assert {str(block.page) for block in BLOCKS if block.language == "sql"} == {"docs/monitoring.md", "docs/running.md"}


def test_monitoring_names_metrics_that_flower_has(up):
    state = up.state
    login = (state["flower_user"], state["flower_password"])
    served = requests.get(state["flower_url"] + "/metrics", auth=login, timeout=patient(10)).text
    named = set(re.findall(r"`(flower_[a-z_]+)`", text_of("docs/monitoring.md"))) - state.keys()
    assert len(named) == 6
    assert sorted(name for name in named if f"# HELP {name} " not in served) == []
