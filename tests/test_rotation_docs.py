"""The commands of docs/rotation.md, run as they are printed."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest
from django.db import connection
from psycopg2 import OperationalError

from tests.conftest import key_named
from tests.e2e.test_docs import Block, blocks_of
from tests.factories import make_connection, make_workspace
from tests.polling import eventually
from workspaces.vault import stored_keys, vault
from workspaces.vault.secret import is_strong, is_well_formed

PROJECT = Path(__file__).resolve().parent.parent
PAGE = Path("docs/rotation.md")
NAMED = {block.words: block for block in blocks_of(PAGE) if block.words and not block.words.startswith("norun")}


class Shell:
    """Runs blocks of the page in a folder that has a stack.env and `.venv`, the first block before each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / ".meshes" / "stack.env"
        self.file.parent.mkdir()
        self.write(SECRET_KEY="s" * 60, FERNET_KEYS=key_named("old"), MESHES_PORT="0")
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "manage.py").symlink_to(PROJECT / "manage.py")

    def write(self, **values: str) -> None:
        self.file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    def read(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.file.read_text().splitlines())

    def run(self, *names: str, **environment: str) -> str:
        blocks: list[Block] = [NAMED[name] for name in ("setup", *names)]
        kept = {name: value for name, value in os.environ.items() if name not in ("SECRET_KEY", "FERNET_KEYS")}
        done = subprocess.run(
            ["bash", "-euc", "\n".join(block.code for block in blocks)], check=False, capture_output=True, text=True,
            cwd=self.folder, env=kept | {"MESHES_DATA_DIR": str(self.file.parent)} | environment, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        shown = [name for name, value in self.read().items() if len(value) > 20 and value in done.stdout + done.stderr]
        assert shown == [name for name in ("POSTGRES_PASSWORD",) if "postgres-password" in names]
        return done.stdout


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


def test_every_named_block_is_run_here():
    text = Path(__file__).read_text()
    assert [name for name in NAMED if f'"{name}"' not in text] == []


def test_the_secret_key(shell):
    before = shell.read()
    shell.run("secret-key")
    after = shell.read()
    assert after["SECRET_KEY_FALLBACKS"] == before["SECRET_KEY"] != after["SECRET_KEY"]
    assert len(after["SECRET_KEY"]) == 64
    assert after.keys() - before.keys() == {"SECRET_KEY_FALLBACKS"}
    assert shell.file.stat().st_mode & 0o777 == 0o600
    shell.run("secret-key-end")
    assert shell.read() == {name: value for name, value in after.items() if name != "SECRET_KEY_FALLBACKS"}


@pytest.mark.django_db(transaction=True)
def test_the_sealing_keys(shell, use_keys):
    use_keys("old")
    made = [make_connection(make_workspace(), secret={"token": f"token-{number}"}) for number in range(3)]
    server = urlsplit(os.environ["DATABASE_URL"])
    database = urlunsplit(server._replace(path=f"/{connection.settings_dict['NAME']}"))
    shell.run("fernet-known")
    old, new = shell.read()["FERNET_KEYS"].split(",")
    assert old == key_named("old")
    assert is_well_formed(new)
    assert is_strong(new)
    shell.run("fernet-first")
    assert shell.read()["FERNET_KEYS"] == f"{new},{old}"
    told = shell.run("fernet-reseal", DATABASE_URL=database)
    assert "3 of 3 re-sealed; 0 do not open" in told
    assert "Every document is sealed with the newest key." in told
    shell.run("fernet-end")
    assert shell.read()["FERNET_KEYS"] == new
    use_keys()
    vault.sealing._FIELD.__dict__["keys"] = [new]
    assert stored_keys.count_to_reseal() == 0
    owner = {"workspace_id": made[0].workspace_id, "owner_kind": "connection", "owner_id": made[0].pk}
    opened = vault.open(**owner, kind=vault.CREDENTIALS, actor="a test", purpose="testing")
    assert opened.secret["token"].reveal() == "token-0"


@pytest.fixture
def place():
    """The database of the tests, and its server as an administrator."""
    parameters = connection.get_connection_params()
    server = psycopg2.connect(host=parameters["host"], dbname=connection.settings_dict["NAME"], user="postgres")
    server.autocommit = True
    with server.cursor() as cursor:
        yield {"host": parameters["host"], "dbname": connection.settings_dict["NAME"]}, cursor
    server.close()


@pytest.fixture
def role(place):
    """A role that has to give its password, and a function that says whether one lets it in."""
    address, cursor = place

    def is_let_in(password: str) -> bool:
        try:
            psycopg2.connect(**address, user="rotated", password=password).close()
        except OperationalError as error:
            if "password authentication failed" not in str(error):
                raise
            return False
        return True

    cursor.execute("CREATE ROLE rotated LOGIN PASSWORD 'before'")
    cursor.execute("SELECT pg_backend_pid()")
    rules = Path(f"/proc/{cursor.fetchone()[0]}/cwd/pg_hba.conf")  # the server runs in the folder of its data
    before = rules.read_text()
    rules.write_text("local all rotated scram-sha-256\n" + before)
    cursor.execute("SELECT pg_reload_conf()")
    eventually(lambda: not is_let_in("wrong"))
    yield f"postgresql://rotated:before@/{address['dbname']}?host={address['host']}", is_let_in
    rules.write_text(before)
    cursor.execute("SELECT pg_reload_conf()")
    cursor.execute("DROP ROLE rotated")


@pytest.mark.django_db(transaction=True)
def test_the_databases_password(shell, role):
    url, is_let_in = role
    assert is_let_in("before")
    shell.write(DATABASE_URL=url, SECRET_KEY="kept")
    shell.run("database")
    kept = shell.read()
    password = urlsplit(kept["DATABASE_URL"]).password
    assert kept == {"SECRET_KEY": "kept", "DATABASE_URL": url.replace("before", password)}
    assert (is_let_in(password), is_let_in("before"), len(password)) == (True, False, 32)


@pytest.mark.parametrize(
    ("block", "names"),
    [
        ("postgres-password", {"POSTGRES_PASSWORD"}),
        ("valkey", {"VALKEY_PASSWORD"}),
        ("flower", {"FLOWER_BASIC_AUTH", "MESHES_FLOWER_PASSWORD"}),
        ("account-key", set()),
    ],
)
def test_other_secrets_are_replaced_and_the_rest_stays(shell, block, names):
    before = shell.read()
    shell.file.write_text(shell.file.read_text() + "MESHES_ACCOUNT_KEY=mesh_key\n")
    shell.run(block)
    after = shell.read()
    assert after.keys() - before.keys() - {"MESHES_ACCOUNT_KEY"} == names
    assert all(after[name] == value for name, value in before.items())
    assert ("MESHES_ACCOUNT_KEY" in after) == (block != "account-key")
