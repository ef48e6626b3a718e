"""The services' role in PostgreSQL owns the database and is no superuser; older clusters start as before."""

import os
import subprocess
import sys
from urllib.parse import urlsplit

import psycopg2
import pytest

from meshes.dev import embedded
from meshes.dev.stack import SUPERUSER_WORDS, Stack
from meshes.dev.stack_folder import StackFolder
from meshes.environment import PROJECT
from tests.meshes.dev.test_embedded import running_postgres, scalar
from tests.polling import eventually

RIGHTS = (
    "SELECT ARRAY[rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls] FROM pg_roles WHERE rolname = "
)
FORBIDDEN = [
    "SET session_replication_role = replica",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "COPY (SELECT 1) TO '/tmp/meshes-was-here'",
    "SELECT pg_read_file('/etc/hostname')",
    "ALTER SYSTEM SET log_statement = 'all'",
    "CREATE ROLE another",
    "CREATE DATABASE another",
    "CREATE FUNCTION f() RETURNS int AS 'libc', 'getpid' LANGUAGE c",
    "SET ROLE postgres",
    "ALTER ROLE meshes SUPERUSER",
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """As `make up` makes it, migrated."""
    with running_postgres(tmp_path_factory.mktemp("roles") / "postgres") as (postgres, _child):
        assert manage(postgres.url, "migrate", "--verbosity=0").returncode == 0
        yield postgres


def manage(url, *arguments):
    command = [sys.executable, "manage.py", *arguments]
    env = os.environ | {"DATABASE_URL": url}
    return subprocess.run(command, check=False, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=600)


def test_it_owns_the_database_and_has_no_right_beside(cluster):
    assert scalar(cluster.url, "SELECT current_user::text") == "meshes"
    assert scalar(cluster.url, f"{RIGHTS} 'meshes'") == [False] * 5
    assert scalar(cluster.url, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'meshes'") == "meshes"
    assert (
        scalar(cluster.url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tableowner <> 'meshes'")
        == 0
    )
    assert urlsplit(cluster.administrator_url).username == "postgres"
    assert scalar(cluster.administrator_url, f"{RIGHTS} current_user") == [True] * 5


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_it_may_not(cluster, statement):
    connection = psycopg2.connect(cluster.url)
    connection.autocommit = True
    with connection.cursor() as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cursor.execute(statement)
    connection.close()


def test_the_sweeper_makes_and_drops_partitions_with_it(cluster):
    partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'access_records'::regclass"
    oldest = "SELECT min(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'access_records'::regclass"
    before = scalar(cluster.url, partitions)
    scalar(cluster.url, f"DROP TABLE {scalar(cluster.url, oldest)}; COMMIT; SELECT 1")
    assert scalar(cluster.url, partitions) == before - 1
    swept = manage(cluster.url, "sweep", "--once")
    assert swept.returncode == 0, swept.stderr
    assert "permission denied" not in swept.stderr
    assert scalar(cluster.url, partitions) == before


@pytest.mark.parametrize(("role", "told"), [("url", False), ("administrator_url", True)])
def test_check_deploy_tells_a_superuser(cluster, role, told):
    checked = manage(getattr(cluster, role), "check", "--deploy")
    assert ("(meshes.W005) The role postgres of DATABASE_URL is a superuser" in checked.stderr) is told
    assert ("meshes.W005" in checked.stderr) is told


def test_a_cluster_of_an_older_version_starts_as_before_and_says_what_it_is(tmp_path, monkeypatch, capsys):
    folder = StackFolder(tmp_path / "data")
    monkeypatch.setattr(embedded, "ADMINISTRATOR", "meshes")
    with running_postgres(folder.path / "postgres") as (postgres, _child):
        scalar(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer; COMMIT; SELECT 1")
    monkeypatch.undo()
    folder.update_env({"FERNET_KEYS": "A" * 43})
    stack = Stack(folder, {}, port=0, durable=False, report=print, only_database=True)
    try:
        stack.start()
        assert stack.administrator_url == stack.environment["DATABASE_URL"]
        assert scalar(stack.administrator_url, "SELECT answer FROM kept") == 42
        assert SUPERUSER_WORDS in capsys.readouterr().out
        assert scalar(stack.administrator_url, "SELECT array_agg(rolname::text) FROM pg_roles WHERE rolcanlogin") == [
            "meshes"
        ]
    finally:
        stack.stop()


def test_a_start_that_was_cut_short_is_taken_up(tmp_path):
    """PostgreSQL ran, and its role was made, but not the database."""
    with running_postgres(tmp_path / "postgres") as (postgres, _child):
        maintenance = postgres.administrator_url.rpartition("/")[0] + "/postgres"
        connection = psycopg2.connect(maintenance)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("DROP DATABASE meshes")
        connection.close()
        postgres.wait_until_ready(lambda: True)
        assert scalar(postgres.url, "SELECT current_user::text") == "meshes"


# --- the container's ------------------------------------------------------------------------------------------------

ROLE = PROJECT / "postgres" / "role.sql"
PASSWORD = "a'b\"c\\d /#?$x`;%s"


def refuses(postgres, role, password):
    try:
        psycopg2.connect(host=str(postgres.sockets), dbname="meshes", user=role, password=password).close()
    except psycopg2.OperationalError as error:
        return str(error)
    return ""


def test_the_script_of_the_container_makes_the_role_with_any_password_and_leaves_the_superuser_without(tmp_path):
    with running_postgres(tmp_path / "postgres") as (postgres, _child):
        administrator = psycopg2.connect(postgres.administrator_url.rpartition("/")[0] + "/postgres")
        administrator.autocommit = True
        with administrator.cursor() as cursor:  # as the image leaves it
            cursor.execute("DROP DATABASE meshes")
            cursor.execute("DROP ROLE meshes")
            cursor.execute("CREATE DATABASE meshes")
            cursor.execute("ALTER ROLE postgres PASSWORD %s", [PASSWORD])
            command = [postgres.binaries / "psql", "-v", "ON_ERROR_STOP=1", "--no-password", "--no-psqlrc", "-f", ROLE]
            made = subprocess.run(
                [*command, postgres.administrator_url], env=os.environ | {"POSTGRES_PASSWORD": PASSWORD},
                check=False, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert made.returncode == 0, made.stderr
            (postgres.folder / "pg_hba.conf").write_text("local all all scram-sha-256\n")
            cursor.execute("SELECT pg_reload_conf()")
            eventually(lambda: "authentication failed" in refuses(postgres, "meshes", "wrong"))
            assert refuses(postgres, "meshes", PASSWORD) == ""
            assert "authentication failed" in refuses(postgres, "postgres", PASSWORD)
            cursor.execute(f"{RIGHTS} 'meshes'")
            assert cursor.fetchone() == ([False] * 5,)
            cursor.execute("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'meshes'")
            assert cursor.fetchone() == ("meshes",)
        administrator.close()
