"""The commands of docs/backup.md: what was dumped from a running stack is whole after a restore elsewhere."""

import os
import subprocess
from pathlib import Path

import psycopg2
import pytest

from meshes.binaries import postgres_binaries
from meshes.embedded import EmbeddedServers
from tests.e2e.running import RunningUp

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backup.md"
FACTS = """
SELECT (SELECT count(*) FROM django_migrations),
       (SELECT array_agg(name) FROM workspaces),
       (SELECT count(*) FROM api_keys)
"""


def command(beginning: str) -> str:
    """The one command of the page that begins so."""
    (found,) = (line.strip() for line in PAGE.read_text().splitlines() if line.strip().startswith(beginning))
    return found


def run(shell: str, url: str, folder: Path) -> None:
    environment = os.environ | {"DATABASE_URL": url, "PATH": f"{postgres_binaries()}:{os.environ['PATH']}"}
    subprocess.run(shell, shell=True, check=True, cwd=folder, env=environment)  # noqa: S602  as the page has it


def facts(url: str):
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(FACTS)
            return cursor.fetchone()
    finally:
        connection.close()


@pytest.fixture
def empty():
    servers = EmbeddedServers()
    servers.start()
    yield servers.postgres.url
    servers.stop()


def test_a_dump_of_a_running_stack_restores_into_an_empty_database(tmp_path, empty):
    up = RunningUp(tmp_path / "data")
    try:
        up.start()
        up.call("POST", "/api/v1/workspaces", json={"name": "Kept"})
        url = up.state["database_url"]
        run(command("pg_dump"), url, tmp_path)
        run(command("pg_restore"), empty, tmp_path)
        assert facts(empty) == facts(url)
        assert facts(empty)[1:] == (["Kept"], 1)
    finally:
        up.end()
