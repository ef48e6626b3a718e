"""Become a command that dies with its parent: ``python die_with_parent.py PARENT SIGNAL UID:GID COMMAND…``

A step between fork and exec, and a program of its own because Python code between the two is unsafe where threads run.
Linux sends SIGNAL when the *thread* that started this process ends, so children are started from a main thread.
``UID:GID`` is the account to change to, or ``-``. See prctl(2), PR_SET_PDEATHSIG.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, death_signal: int, account: str, command: list[str]) -> None:
    if account != "-":
        uid, gid = (int(part) for part in account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After the change of account, which clears the setting.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("The parent ended before its child began.")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # ignored ones are inherited, for example from a shell's background job
    os.execvp(command[0], command)  # noqa: S606  there is no shell to start


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
