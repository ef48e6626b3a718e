"""What the files of the project pin: packages by version and hashes, images by tag and digest."""

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SERVED_LOCK = PROJECT / "requirements" / "flower.txt"
"""What both images have: image.txt, and Flower."""
IMAGE_FILES = (PROJECT / "compose.yaml", PROJECT / "Dockerfile")
_PIN = re.compile(
    r"^([a-z0-9][a-z0-9.-]*)==(\S+) \\\n((?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)((?: {4}#.*\n?)*)", re.MULTILINE
)
IMAGE = re.compile(r"\b([a-z0-9./-]+):([\w.-]+)@sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Package:
    """`needed_by`: names of packages, and of the project itself."""

    name: str
    version: str
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...]


def packages(lock: Path = SERVED_LOCK) -> list[Package]:
    return [
        Package(
            name,
            version,
            tuple(re.findall(r"sha256:([0-9a-f]{64})", hashes)),
            tuple(re.findall(r"^ {4}#(?: via|  ) {1,2}([a-z][\w.-]*)", comments, re.M)),
        )
        for name, version, hashes, comments in _PIN.findall(lock.read_text())
    ]


def images() -> list[tuple[str, str, str]]:
    """Name, tag and digest of each image that is built on or run."""
    return sorted({found for path in IMAGE_FILES for found in IMAGE.findall(path.read_text())})
