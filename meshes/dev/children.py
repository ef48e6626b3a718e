"""Child processes that never outlive this one: each leads a process group of its own and dies with its parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")


@dataclass(frozen=True, slots=True)
class Account:
    """An operating system account by its numbers."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run. ``environment`` is all of it. Both output streams are appended to ``log``; without one, ours.

    Where the log cannot be opened, as on a full volume, the program runs all the same and its output is dropped.
    """

    name: str
    command: tuple[str, ...]
    cwd: Path
    log: Path | None
    environment: Mapping[str, str]
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    orphan_signal: signal.Signals = signal.SIGKILL
    """Sent by the kernel when this process dies without having stopped its children."""


class Child:
    """A running program. Start it from the main thread: it dies with the thread that started it."""

    def __init__(self, program: Program) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("Children are started from the main thread: they die with the thread that starts them.")
        self.program = program
        self.started_at = time.monotonic()
        account = f"{program.account.uid}:{program.account.gid}" if program.account else "-"
        bound = (str(DIE_WITH_PARENT), str(os.getpid()), str(int(program.orphan_signal)), account)
        with _open_log(program.log) if program.log else nullcontext() as log:
            self._process = subprocess.Popen(
                (sys.executable, "-I", "-S", *bound, *program.command),
                cwd=program.cwd,
                env=dict(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; else its code, negative for a signal. What it left in its process group is killed."""
        if self._process.returncode is None and self._has_ended():
            # Before the leader is reaped: until then nobody else can be given the group's number.
            self._signal_group(signal.SIGKILL)
            self._process.wait()
        return self._process.returncode

    def ask_to_stop(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(self.program.stop_signal)

    def kill(self) -> None:
        """Kill the whole process group at once, and wait for the leader's end."""
        if self._process.returncode is None:
            self._signal_group(signal.SIGKILL)
            self._process.wait()

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # only the ended leader is left, or, between fork and setsid, no group yet


def stop_together(children: Iterable[Child]) -> None:
    """Ask all of them to stop, wait for each as long as its program says, then kill."""
    waiting = list(children)
    for child in waiting:
        child.ask_to_stop()
    began = time.monotonic()
    while waiting:
        waiting = [child for child in waiting if child.exit_code() is None]
        for child in waiting:
            if time.monotonic() - began > child.program.stop_seconds:
                child.kill()
        time.sleep(0.02)


def run(program: Program) -> None:
    """Run a program to its end. Raises subprocess.CalledProcessError, with the end of its log, when it fails."""
    child = Child(program)
    try:
        while (code := child.exit_code()) is None:
            time.sleep(0.01)
    finally:
        child.kill()
    if code != 0:
        raise subprocess.CalledProcessError(
            code, program.command, stderr=log_tail(program.log) if program.log else None
        )


def stop_on_signals() -> None:
    """SIGINT, SIGTERM and, unless ignored, SIGHUP raise KeyboardInterrupt, once."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means: outlive the terminal
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Only the first: the second ends this process at once, and the kernel then ends the children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def log_tail(log: Path, size: int = 2_000) -> str:
    """The last ``size`` bytes of a log, for an error message; empty where there is none."""
    try:
        return log.read_bytes()[-size:].decode(errors="replace")
    except OSError:
        return ""


def _open_log(log: Path) -> BinaryIO:
    try:
        return log.open("ab")
    except OSError:
        return open(os.devnull, "ab")
