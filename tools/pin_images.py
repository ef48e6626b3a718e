"""Writes the present digest of each image's tag into compose.yaml and Dockerfile: `make pin`. Needs docker.

Tags are chosen by hand, so that a new version is a decision; a digest is what that version is today.
"""

import subprocess
import sys
from pathlib import Path

from tools.locked import IMAGE, IMAGE_FILES


def digest_of(reference: str) -> str:
    """`sha256:…` of the index of an image for all platforms. Raises subprocess.CalledProcessError."""
    command = ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", reference]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def pin(path: Path) -> None:
    text = path.read_text()
    for name, tag, old in set(IMAGE.findall(text)):
        digest = digest_of(f"{name}:{tag}")
        reference = f"{name}:{tag}@{digest}"
        if not IMAGE.fullmatch(reference):
            sys.exit(f"docker gives no digest of {name}:{tag}, but {digest!r}.")
        text = text.replace(f"{name}:{tag}@sha256:{old}", reference)
        print(reference)
    path.write_text(text)


if __name__ == "__main__":
    for each in IMAGE_FILES:
        pin(each)
