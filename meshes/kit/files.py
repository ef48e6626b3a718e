"""Files whose lines are on disk before whoever wrote them goes on, and files that only their owner reads."""

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path


def append_line(path: str, line: str) -> None:
    """Add a line to the file, which only its owner reads, and return when it is on disk. Raises OSError.

    Several processes may write at once. A line that a crash or a full volume has cut short is ended first, so that it
    spoils no other.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        left = memoryview((b"\n" if is_torn else b"") + line.encode() + b"\n")
        try:
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):  # a file that may only grow stays as it is
                os.ftruncate(descriptor, size)
            raise
        if size == 0:  # so that the new file is found again after a crash
            folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Replace a file, or leave it as it was: whatever a full volume cuts short is removed. Raises OSError.

    mkstemp makes it readable by its owner alone.
    """
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
