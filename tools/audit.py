"""Asks the package registry for known holes in what requirements/dev.txt locks, which is all: `make audit`.

Exit code 1 where one is known; SECURITY.md says by when it must be closed. Not every registry answers that question:
where it does not, that is said, and is no failure, as nothing is known to be wrong.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.locked import PROJECT, packages

LOCK = PROJECT / "requirements" / "dev.txt"
"""What the image has, and what `make up` and the tests need."""
COMMAND = ("pip-audit", "--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json")


def ask(lock: Path) -> list[dict[str, Any]]:
    """What `pip-audit` says of each package of a lock; without one, what it says instead of an answer."""
    command = [str(Path(sys.executable).with_name(COMMAND[0])), *COMMAND[1:], "-r", str(lock)]
    asked = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        return list(json.loads(asked.stdout)["dependencies"])
    except ValueError:
        return [{"name": lock.name, "skip_reason": (asked.stderr.strip().splitlines() or ["no answer"])[-1]}]


def answers(folder: Path) -> str:
    """Why the registry does not answer; empty where it does. Asked of one package, so that the others need not be."""
    first = packages()[0]
    lock = folder / "one.txt"
    hashes = "".join(f" --hash=sha256:{each}" for each in first.hashes)
    lock.write_text(f"{first.name}=={first.version}{hashes}\n")
    return str(ask(lock)[0].get("skip_reason", ""))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        if reason := answers(Path(folder)):
            print(f"Not audited: the registry does not tell of known holes ({reason}).")
            return 0
    found = ask(LOCK)
    for each in found:
        for hole in each.get("vulns", ()):
            closed = ", ".join(hole["fix_versions"]) or "no version"
            print(f"{each['name']} {each['version']}: {hole['id']}, closed in {closed}")
    skipped = sorted({each["name"] for each in found if "skip_reason" in each})
    left = f" Not audited: {', '.join(skipped)}." if skipped else ""
    print(f"{len(found) - len(skipped)} packages audited.{left}")
    return int(any(each.get("vulns") for each in found))


if __name__ == "__main__":
    sys.exit(main())
