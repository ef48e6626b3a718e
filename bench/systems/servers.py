"""PostgreSQL and Valkey for a baseline: the same binaries with the same settings as the system itself."""

import shutil
from collections.abc import Mapping

from meshes.dev.children import Child, Program, log_tail, stop_together
from meshes.dev.embedded import Postgres, Valkey, private_folder


class Processes:
    """Children by name, in a folder that goes with them."""

    def __init__(self) -> None:
        self.folder = private_folder()
        self._children: dict[str, Child] = {}

    def start(self, program: Program) -> Child:
        child = self._children[program.name] = Child(program)
        return child

    def start_servers(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Start both servers, as durable as in production. Returns DATABASE_URL and REDIS_URL."""
        valkey = Valkey(self.folder / "valkey", self.folder / "valkey.log", environment=environment)
        valkey.prepare()
        started = self.start(valkey.program)
        postgres = Postgres(
            self.folder / "postgres", self.folder, self.folder / "postgres.log", durable=True, environment=environment
        )
        postgres.prepare()
        also_started = self.start(postgres.program)
        valkey.wait_until_ready(lambda: started.exit_code() is None)
        postgres.wait_until_ready(lambda: also_started.exit_code() is None)
        return {"DATABASE_URL": postgres.url, "REDIS_URL": valkey.url}

    def roots(self) -> dict[str, int]:
        return {name: child.pid for name, child in self._children.items()}

    def stop(self) -> None:
        for name, child in self._children.items():
            if name not in {"postgres", "valkey"}:
                child.kill()
        stop_together(self._children.values())
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, name: str) -> str:
        path = self._children[name].program.log
        return log_tail(path, 1_200) if path else ""
