"""What each process spends: CPU seconds and memory by name, over whole process trees."""

import os
from collections.abc import Mapping

import psutil


def cpu_seconds(roots: Mapping[str, int]) -> dict[str, float]:
    """User and system time of each named process with all its descendants, ended ones included."""
    return {name: _tree(pid) for name, pid in roots.items()}


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Seconds between two readings."""
    return {name: after[name] - before[name] for name in after if name in before}


def resident_bytes(roots: Mapping[str, int]) -> dict[str, int]:
    """Memory by name: each process's own pages, and its part of what it shares."""
    return {name: sum(_pss(process) for process in _processes(pid)) for name, pid in roots.items()}


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2)


def _processes(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _tree(pid: int) -> float:
    total = 0.0
    for process in _processes(pid):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue  # ended meanwhile: its parent reports it
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
