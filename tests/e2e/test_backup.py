"""The commands of docs/backup.md, as printed: a dump and a base backup are restored, and a drill with a running stack.

The drill loses everything but a dump, the keys, the journal and the heads of the seals, and then asks of each event and
each delivery what became of it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing

import psutil
import psycopg2
import pytest

from meshes.dev.binaries import postgres_binaries
from meshes.dev.children import Child, stop_together
from meshes.dev.embedded import EmbeddedServers, Postgres, private_folder
from tests.e2e.running import OURS, PROJECT, RunningUp
from tests.polling import eventually, patient
from tests.receivers import Answer, receiver
from workspaces.installation import HELD_WORDS

PAGE = PROJECT / "docs" / "backup.md"
IS_HELD = "SELECT held_at IS NOT NULL FROM installation"
OWNERS = "SELECT array_agg(DISTINCT tableowner::text) FROM pg_tables WHERE schemaname = 'public'"
STATISTICS = "SELECT count(DISTINCT tablename) FROM pg_stats WHERE schemaname = 'public'"


def block(words):
    """The one fenced block of the page with these words after its fence."""
    (code,) = re.findall(rf"^ *```{re.escape(words)}\n(.*?)^ *```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return code


def configuration(beginning):
    (code,) = (each for each in re.findall(r"```ini\n(.*?)```", PAGE.read_text(), re.DOTALL) if beginning in each)
    return code


def run(script, folder, **environment):
    """A script of the page in a folder that looks like the project's; what it printed. It must end with 0."""
    path = f"{postgres_binaries()}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    done = subprocess.run(
        ["bash", "-c", f"set -eu -o pipefail\n{script}"],
        cwd=folder,
        env=kept | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=patient(120),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(url, statement):
    with closing(psycopg2.connect(url)) as database, database.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def manage(url, *arguments):
    """A command of `manage.py` on this database; what it logged."""
    environment = os.environ | {"DATABASE_URL": url}
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True, text=True).stderr


@pytest.fixture
def server():
    """Its URLs, as a script has them. The services' role makes no databases, as elsewhere but in tests."""
    servers = EmbeddedServers()
    servers.start()
    urls = {"DATABASE_URL": servers.postgres.url, "ADMINISTRATOR_URL": servers.postgres.administrator_url}
    with closing(psycopg2.connect(urls["ADMINISTRATOR_URL"])) as database, database, database.cursor() as cursor:
        cursor.execute("ALTER ROLE meshes NOCREATEDB")
    yield urls
    servers.stop()


def test_a_dump_is_restored_twice_without_an_error_and_with_statistics(server, tmp_path):
    url = server["DATABASE_URL"]
    manage(url, "migrate", "--verbosity=0")
    with closing(psycopg2.connect(url)) as database, database, database.cursor() as cursor:
        cursor.execute(
            "INSERT INTO workspaces (id, name, created_at, updated_at) VALUES (gen_random_uuid(), 'Kept', now(), now())"
        )
    migrations = ask(url, "SELECT count(*) FROM django_migrations")
    run(block("sh norun: another host"), tmp_path, **server)
    for _ in range(2):
        run(block("sh restore"), tmp_path, **server)
        assert ask(url, "SELECT array_agg(name::text) FROM workspaces") == ["Kept"]
        assert ask(url, "SELECT count(*) FROM django_migrations") == migrations
        assert ask(url, STATISTICS) > 0
        assert ask(url, OWNERS) == ["meshes"]
        assert ask(url, "SELECT reltuples FROM pg_class WHERE relname = 'django_migrations'") == migrations
        assert ask(url, IS_HELD) is False


@pytest.mark.parametrize("command", [("sweep", "--once"), ("migrate", "--verbosity=0")])
def test_who_comes_first_to_a_restored_database_holds_it(server, tmp_path, command):
    """Nobody has to think of it: the dump names another database than the one that it is in now."""
    url = server["DATABASE_URL"]
    manage(url, "migrate", "--verbosity=0")
    assert HELD_WORDS not in manage(url, *command)
    run(block("sh norun: another host"), tmp_path, **server)
    run(block("sh restore"), tmp_path, **server)
    assert HELD_WORDS in manage(url, *command)
    assert ask(url, IS_HELD) is True
    assert HELD_WORDS not in manage(url, *command)  # it is said once


# --- point-in-time recovery -----------------------------------------------------------------------------------------


class Cluster:
    """A PostgreSQL of the test's own in ``folder``, configured by lines of the page."""

    def __init__(self, folder, place, archive):
        self.postgres = Postgres(folder, private_folder(place), place / f"{folder.name}.log", durable=False)
        self.archive = archive
        self._child = None

    @property
    def url(self):
        return self.postgres.url

    def configure(self, lines):
        with (self.postgres.folder / "postgresql.conf").open("a") as file:
            file.write(lines.replace("/archive", str(self.archive)))

    def start(self):
        self._child = child = Child(self.postgres.program)
        self.postgres.wait_until_ready(lambda: child.exit_code() is None, patient(60))

    def stop(self):
        if self._child is not None:
            stop_together([self._child])


def give(path, account):
    if account is not None:
        for each in (path, *path.rglob("*")):
            os.chown(each, account.uid, account.gid)


def test_a_base_backup_and_the_archive_restore_a_moment(tmp_path):
    place = private_folder()  # where PostgreSQL's account may go, as root's own folders are closed to it
    archive = place / "archive"
    archive.mkdir()
    first, second = (Cluster(place / name, place, archive) for name in ("first", "second"))
    give(archive, first.postgres.account)
    try:
        first.postgres.prepare()
        first.configure(configuration("archive_command"))
        first.start()
        manage(first.url, "migrate", "--verbosity=0")
        urls = {"DATABASE_URL": first.url, "ADMINISTRATOR_URL": first.postgres.administrator_url}
        run(block("sh base"), tmp_path, **urls)
        moments = [insert_at(first.url, name) for name in ("before", "after")]
        written = ask(urls["ADMINISTRATOR_URL"], "SELECT pg_walfile_name(pg_switch_wal())")
        eventually((archive / written).exists, 60)
        first.stop()
        shutil.copytree(tmp_path / "base", second.postgres.folder)
        (second.postgres.folder / "recovery.signal").touch()
        second.configure(re.sub(r"'2026-[^']*'", f"'{moments[0]}'", configuration("recovery_target_time")))
        second.postgres.folder.chmod(0o700)
        give(second.postgres.folder, second.postgres.account)
        second.start()
        eventually(lambda: not ask(second.url, "SELECT pg_is_in_recovery()"), 60)
        assert ask(second.url, "SELECT array_agg(name::text) FROM workspaces") == ["before"]
    finally:
        first.stop()
        second.stop()
        shutil.rmtree(place, ignore_errors=True)


def insert_at(url, name):
    """A workspace, and a moment after it."""
    with closing(psycopg2.connect(url)) as database, database, database.cursor() as cursor:
        cursor.execute(
            "INSERT INTO workspaces (id, name, created_at, updated_at) VALUES (gen_random_uuid(), %s, now(), now())",
            [name],
        )
    return ask(url, "SELECT clock_timestamp()::text")


# --- the drill ------------------------------------------------------------------------------------------------------

KEPT = ("stack.env", "journal", "seal-heads")
"""What is left of the data folder; and the dump."""


class Destinations:
    """One endpoint with a path for each connection: `good`, `dead` refuses the body, `slow` answers when it is told."""

    def __init__(self, here):
        self.base = here.url.removesuffix("/hook")
        self.got = here.got
        self.answers_slow = threading.Event()
        here.answers = self.answer

    def answer(self, got):
        if got.path == "/slow":
            self.answers_slow.wait(patient(60))
        return Answer(422 if got.path == "/dead" else 200)

    def ids(self, path):
        return [got.headers["webhook-id"] for got in self.got if got.path == f"/{path}"]

    def forms(self):
        """The bodies under which each id has come."""
        forms = {}
        for got in self.got:
            forms.setdefault(got.headers["webhook-id"], set()).add(got.body)
        return forms


class Drill:
    """A stack in a folder of its own, and what is asked of it."""

    def __init__(self, place, destinations):
        self.place = place
        self.folder = place / "project" / ".meshes"
        (place / "project").mkdir()
        (place / "project" / ".venv").symlink_to(sys.prefix)
        for name in ("manage.py", "meshes"):
            (place / "project" / name).symlink_to(PROJECT / name)
        self.to = destinations
        self.up = self.stack("--loopback")
        self.connections = {}
        self.events = {}

    def stack(self, *options):
        return RunningUp(self.folder, None, *options)

    def call(self, method, path, status, **body):
        answer = self.up.call(method, f"/api/v1/{path}", **({"json": body} if body else {}))
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else {}

    def run(self, *blocks):
        return run("\n".join(blocks), self.folder.parent, MESHES_DATA_DIR=str(self.folder))

    def manage(self, *arguments):
        return self.run(f".venv/bin/python manage.py {' '.join(arguments)}")

    def connect(self, workspace, name):
        config = {"url": f"{self.to.base}/{name}"}
        made = self.call(
            "POST", "connections", 201,
            workspace=workspace, type="webhook", name=name, config=config, limits={"timeout": 30},
        )  # fmt: skip
        self.connections[name] = made["id"]
        self.call("POST", "rules", 201, workspace=workspace, connection=made["id"], event=f"{name}.*")
        return made["id"]

    def post(self, workspace, name, number):
        events = [{"workspace": workspace, "event": f"{name}.it", "payload": {"n": n}} for n in range(number)]
        results = self.call("POST", "events/bulk", 202, events=events)["results"]
        return [result["event"]["id"] for result in results]

    def statuses(self, name):
        rows = self.up.get(f"/api/v1/deliveries?limit=200&connection={self.connections[name]}").json()["data"]
        return Counter(row["status"] for row in rows)

    def until(self, name, **wanted):
        eventually(lambda: self.statuses(name) == wanted, 60)

    def dump(self):
        self.run(block("sh tools"), block("sh norun: another host"))

    def lose_everything(self):
        """But the dump and `KEPT`. The machine is gone: nothing was stopped in order."""
        for victim in (psutil.Process(self.up.running_process.pid), *self.up.processes()):
            victim.kill()
        self.up.running_process.communicate()
        kept = {name: (self.folder / name).read_bytes() for name in KEPT}
        shutil.rmtree(self.folder)
        self.folder.mkdir(mode=0o700)
        for name, content in kept.items():
            (self.folder / name).write_bytes(content)

    def restore(self):
        """By the commands of the page, with PostgreSQL alone; what `after_restore` has listed."""
        self.up = self.stack("--only-database")
        self.up.start()
        self.run(block("sh tools"), block("sh restore"))
        listed = self.run(block("sh after"))
        self.up.send(signal.SIGINT)
        self.up = self.stack("--loopback")
        self.up.start()
        return listed


@pytest.fixture
def drill(tmp_path):
    with receiver() as here:
        drill = Drill(tmp_path, Destinations(here))
        try:
            yield drill
        finally:
            drill.to.answers_slow.set()
            drill.up.end()


def set_up(drill):
    """Four connections of one workspace, one of another, and 200 events: delivered, in flight, held and dead."""
    drill.up.start()
    for name in ("acme", "gone"):
        drill.call("POST", "workspaces", 201, name=name, external_id=name)
    for name in ("good", "dead", "slow", "held"):
        drill.connect("acme", name)
    drill.connect("gone", "gone")
    for name in ("held", "gone"):
        drill.call("POST", f"connections/{drill.connections[name]}/pause", 200)
    made = {"good": 110, "dead": 40, "held": 30, "slow": 10}
    drill.events = {name: drill.post("acme", name, number) for name, number in made.items()}
    drill.events["gone"] = drill.post("gone", "gone", 10)
    drill.until("good", succeeded=110)
    drill.until("dead", dead=40)
    drill.until("held", held=30)
    drill.until("gone", held=10)
    eventually(lambda: drill.statuses("slow")["in_flight"] > 0, 60)
    assert sum(map(len, drill.events.values())) == 200


def live_on(drill, key):
    """After the dump: 100 events more, held ones and those in flight are delivered, and some things end for ever."""
    later = drill.post("acme", "good", 80) + drill.post("acme", "dead", 20)
    drill.call("POST", f"connections/{drill.connections['held']}/resume", 200)
    drill.to.answers_slow.set()
    drill.until("good", succeeded=190)
    drill.until("dead", dead=60)
    drill.until("held", succeeded=30)
    drill.until("slow", succeeded=10)
    drill.call("POST", "workspaces/acme/erasures", 200, events=drill.events["good"][:1])
    drill.call("DELETE", f"api-keys/{key['id']}", 204)
    drill.call("DELETE", "workspaces/gone", 204)
    drill.manage("sweep", "--once")  # so that the access log is sealed beyond what the dump has
    return later


def test_the_drill(drill):
    set_up(drill)
    key = drill.call("POST", "api-keys", 201, name="Leaked", kind="account", scopes=["config"])
    drill.manage("sweep", "--once")
    drill.dump()
    later = live_on(drill, key)
    first = {name: drill.to.ids(name) for name in ("slow", "held")}
    drill.lose_everything()

    listed = drill.restore()
    assert "1  events erased" in listed
    assert "1  workspaces deleted" in listed
    assert "1  API keys revoked" in listed
    assert f"{drill.connections['held']} held (webhook, paused)" in listed
    before = len(drill.to.got)
    new = drill.post("acme", "good", 1)
    assert drill.up.get("/readyz").json()["checks"]["restore"].startswith("this database was restored")
    drill.manage("sweep", "--once")
    assert drill.up.get(f"/api/v1/events/{new[0]}").json()["status"] == "accepted"
    assert len(drill.to.got) == before

    drill.run(block("sh release"))
    drill.until("good", succeeded=111)
    drill.until("slow", succeeded=10)
    drill.until("held", held=30)
    drill.call("POST", f"connections/{drill.connections['held']}/resume", 200)
    drill.until("held", succeeded=30)
    drill.until("dead", dead=40)
    check_each_end(drill, later, key, first)


def check_each_end(drill, later, key, first):
    statuses = {each: drill.up.get(f"/api/v1/events/{each}").status_code for each in later}
    assert set(statuses.values()) == {404}
    for name in ("slow", "held"):  # sent twice, under the ids that they had
        assert sorted(drill.to.ids(name)) == sorted([*first[name], *set(first[name])])
    assert {len(forms) for forms in drill.to.forms().values()} == {1}
    assert drill.to.ids("gone") == []
    assert drill.up.get(f"/api/v1/events/{drill.events['good'][0]}/payload").status_code == 410
    assert drill.up.get(f"/api/v1/events/{drill.events['good'][1]}/payload").json() == {"n": 1}
    assert drill.up.get("/api/v1/workspaces/gone").json()["deleted_at"] is not None
    tested = drill.call("POST", f"connections/{drill.connections['good']}/test", 200)
    assert tested["ok"] is True  # its sealed document opens
    assert drill.up.get("/readyz").json()["checks"]["restore"] == "ok"
    drill.manage("sweep", "--once")
    verified = drill.manage("verify_access_log", "--log", ".meshes/seal-heads")
    assert "The sealed access log is whole." in verified
    assert "the log tells of a restore" in verified
    keys = {each["id"]: each for each in drill.up.get("/api/v1/api-keys?limit=200").json()["data"]}
    assert keys[key["id"]]["revoked_at"] is not None
