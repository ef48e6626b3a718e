"""What a stack started by ``up`` or ``demo`` keeps in its folder (``.meshes/`` for ``up``): secrets, state, logs, data.

Imports nothing of Django: the secrets must be there before the settings are loaded.
"""

import base64
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from meshes.environment import RUN_ID, data_folder, parse_variables
from meshes.kit.files import write_private

PREDECESSOR_SECONDS = 10.0
"""How long what a killed supervisor left may take to end by itself: PostgreSQL writes a checkpoint."""

LOG_BYTES = 20_000_000
"""A log that has grown longer is rotated, while the stack runs."""
LOGS_KEPT = 3
"""Of each service, beside the one that is written: `.1` is the newest."""


class FolderInUseError(Exception):
    """Another process runs a stack in this folder."""


class LostKeysError(Exception):
    """The folder has a database, and the keys that sealed its credentials are gone."""


NEW_KEYS = "--new-keys"
"""The option of `up` that goes on without them."""
LOST_KEYS_WORDS = (
    "{file} has no FERNET_KEYS, the keys that sealed the credentials in {database}. Put {file} back from your backup"
    " (docs/backup.md), or set FERNET_KEYS in the environment. To begin anew with an empty database, move {folder}"
    " away. To keep the database and give up the credentials in it, start it by `make up NEW_KEYS=1`."
)


def prepare_for(command: str) -> None:
    """Make the secrets of ``up`` and ``demo`` before the settings ask for them; ``demo`` gets a folder of its own."""
    if command == "demo":
        os.environ["MESHES_DATA_DIR"] = tempfile.mkdtemp(prefix="meshes-demo-")
    if command in {"up", "demo"}:
        try:
            folder = StackFolder(data_folder())
            folder.ensure_secrets(os.environ, new_keys=NEW_KEYS in sys.argv)
            folder.withdraw_stale()
        except LostKeysError as error:
            sys.exit(f"Meshes cannot start: {error}")
        except PermissionError as error:
            sys.exit(f"{error.filename} is another user's; MESHES_DATA_DIR names another folder.")
        except OSError as error:
            sys.exit(f"{data_folder()} cannot be written: {error.strerror}.")


class StackFolder:
    """The folder at ``path``, made if need be, readable by nobody else."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs = self.path / "logs"
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self._lock = FileLock(self.path / "lock")

    def lock(self) -> None:
        """Hold the folder until ``unlock`` or the end of this process. Raises FolderInUseError."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise FolderInUseError(f"Another stack is running in {self.path}; MESHES_DATA_DIR names another.") from None

    @property
    def is_locked(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock.is_locked

    def unlock(self) -> None:
        self._lock.release()

    # --- stack.env: what the settings fall back to

    def read_env(self) -> dict[str, str]:
        """The variables in ``stack.env``."""
        try:
            return parse_variables((self.path / "stack.env").read_text())
        except FileNotFoundError:
            return {}

    def update_env(self, changes: Mapping[str, str | None]) -> None:
        """Set variables in ``stack.env``; None removes one."""
        merged = {name: value for name, value in (self.read_env() | dict(changes)).items() if value is not None}
        head = "# Secrets of this stack. Whoever reads them is its administrator.\n"
        self._write_private("stack.env", head + "".join(f"{name}={value}\n" for name, value in merged.items()))

    def ensure_secrets(self, given: Mapping[str, str] | None = None, *, new_keys: bool = False) -> None:
        """Generate what is not there yet. FERNET_KEYS seal credentials: whoever loses them loses those.

        So none are made where the environment has them (`given`), and over a database that others have sealed only by
        the word for it (`new_keys`). Raises LostKeysError.
        """
        present = self.read_env()
        has_keys = bool(present.get("FERNET_KEYS") or (given or {}).get("FERNET_KEYS"))
        if not has_keys and not new_keys and (self.path / "postgres" / "PG_VERSION").exists():
            raise LostKeysError(self._lost_keys_words())
        generated = {
            "SECRET_KEY": secrets.token_urlsafe(48),
            "FERNET_KEYS": base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "MESHES_ADMIN_PASSWORD": secrets.token_urlsafe(18),
            "MESHES_FLOWER_PASSWORD": secrets.token_urlsafe(18),
        }
        if has_keys:
            del generated["FERNET_KEYS"]
        missing = {name: value for name, value in generated.items() if name not in present}
        if missing:
            self.update_env(missing)

    def _lost_keys_words(self) -> str:
        file, database = self.path / "stack.env", self.path / "postgres"
        return LOST_KEYS_WORDS.format(file=file, database=database, folder=self.path)

    # --- run.env: the settings that a running stack was started with

    def write_run_env(self, environment: Mapping[str, str]) -> None:
        """Keep them until ``withdraw``, for commands in a second terminal; they win over ``stack.env``."""
        kept = {name: " ".join(value.splitlines()) for name, value in environment.items() if is_setting(name)}
        head = "# The settings of the running stack, some of them secret.\n"
        self._write_private("run.env", head + "".join(f"{name}={value}\n" for name, value in kept.items()))

    # --- stack.json: what scripts read while the stack is ready

    def publish(self, state: Mapping[str, object]) -> None:
        self._write_private("stack.json", json.dumps(state, indent=2) + "\n")

    def withdraw_stale(self) -> None:
        """Remove the state of a killed run at once, before whoever waits for the next one reads it."""
        try:
            self.lock()
        except FolderInUseError:
            return
        self.withdraw()
        self.unlock()

    def withdraw(self) -> None:
        for name in ("stack.json", "run.env"):
            (self.path / name).unlink(missing_ok=True)

    # --- run.json: what a successor must clear

    def begin_run(self, sockets: Path) -> str:
        """Note the start of a run and return its id, which all its processes carry in their environment."""
        run_id = secrets.token_hex(16)
        self._write_private("run.json", json.dumps({"run_id": run_id, "sockets": str(sockets)}))
        return run_id

    def end_run(self) -> None:
        """Wait for, then kill, what is left of the last run, and remove its traces. Call it with the lock held."""
        self.withdraw()
        try:
            last = json.loads((self.path / "run.json").read_text())
        except (FileNotFoundError, ValueError):
            return
        deadline = time.monotonic() + PREDECESSOR_SECONDS
        while left := processes_of_run(last["run_id"]):
            if time.monotonic() > deadline:
                for process in left:
                    process.kill()
            time.sleep(0.1)
        shutil.rmtree(last["sockets"], ignore_errors=True)
        (self.path / "run.json").unlink()

    def fresh_log(self, name: str) -> Path:
        """The path of a log to append to; that of the run before is kept beside it as ``.1``."""
        log = self.logs / f"{name}.log"
        if log.exists():
            log.replace(self._made_room(log))
        return log

    def rotate_logs(self, most_bytes: int = LOG_BYTES) -> None:
        """Copy each log that has grown too long to ``.1`` and empty it: whoever writes it goes on appending to it.

        A line that is written between the two is lost. A log that there is no space to copy is left as it is.
        """
        for log in self.logs.glob("*.log"):
            if log.stat().st_size <= most_bytes:
                continue
            copy = self._made_room(log)
            try:
                shutil.copyfile(log, copy)
            except OSError:
                copy.unlink(missing_ok=True)
                continue
            os.truncate(log, 0)

    def _made_room(self, log: Path) -> Path:
        """The path of ``log``'s newest predecessor, when the older ones have moved on by one."""
        older = [log.with_name(f"{log.name}.{number}") for number in range(1, LOGS_KEPT + 1)]
        for before, after in reversed(list(pairwise(older))):
            if before.exists():
                before.replace(after)
        return older[0]

    def _write_private(self, name: str, text: str) -> None:
        write_private(self.path / name, text)


def is_setting(name: str) -> bool:
    """Whether a variable of a stack's environment is read by ``meshes.settings``; its folder is where it is."""
    named = {"SECRET_KEY", "FERNET_KEYS", "DATABASE_URL", "REDIS_URL", "WEB_CONCURRENCY"}
    return (name in named or name.startswith("MESHES_")) and name not in {"MESHES_DATA_DIR", RUN_ID}


def processes_of_run(run_id: str) -> list[psutil.Process]:
    """The processes whose environment names this run; this one excepted."""
    return [process for process in psutil.process_iter() if _belongs(process, run_id)]


def _belongs(process: psutil.Process, run_id: str) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(RUN_ID) == run_id
    except (psutil.Error, OSError):
        return False  # ended meanwhile, or another user's
