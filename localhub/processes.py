"""Processes of this machine that belong together, from /proc, and their end; on a system without /proc none are seen."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

GRACE_S = 5.0


def children(*roots: int) -> set[tuple[int, str]]:
    """Processes right below any of `roots`, as (id, start time)."""
    return {one for root in roots for one in _by_parent().get(root, ())}


def descendants(*roots: int) -> set[tuple[int, str]]:
    """Processes at any depth below any of `roots`, as (id, start time)."""
    below = _by_parent()
    found: set[tuple[int, str]] = set()
    waiting = list(roots)
    while waiting:
        fresh = below.get(waiting.pop(), [])
        found.update(fresh)
        waiting += [pid for pid, _ in fresh]
    return found


def _by_parent() -> dict[int, list[tuple[int, str]]]:
    found: dict[int, list[tuple[int, str]]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = _fields(stat)
            found.setdefault(int(fields[1]), []).append((int(stat.parent.name), fields[19]))
    return found


def _fields(stat: Path) -> Sequence[str]:
    # The name, in brackets, may hold anything: what comes after the last bracket counts.
    return stat.read_text().rpartition(")")[2].split()


def marked(mark: str) -> set[tuple[int, str]]:
    """Processes that were started with `mark`, "NAME=value", in their environment, whatever became of their parents."""
    found = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in environ.read_bytes().split(b"\0"):
                found.add((int(environ.parent.name), _fields(environ.with_name("stat"))[19]))
    return found


def alive(pid: int, started: str) -> bool:
    """Whether it is still that process, and not a later one with its number."""
    try:
        return _fields(Path(f"/proc/{pid}/stat"))[19] == started
    except OSError:
        return False


def send(number: signal.Signals, processes: Iterable[tuple[int, str]]) -> None:
    """A signal to those of `processes` that are still there."""
    for pid, started in processes:
        with contextlib.suppress(ProcessLookupError):
            if alive(pid, started):
                os.kill(pid, number)


def end_trees(roots: Sequence[subprocess.Popen[str]]) -> None:
    """Asks all `roots` to stop; what is left of their trees after a grace, in any session, is killed."""
    tree = descendants(*(root.pid for root in roots))
    for root in roots:
        with contextlib.suppress(ProcessLookupError):
            root.send_signal(signal.SIGINT)
    last_moment = time.monotonic() + GRACE_S
    for root in roots:
        with contextlib.suppress(subprocess.TimeoutExpired):
            root.wait(timeout=max(last_moment - time.monotonic(), 0.0))
    send(signal.SIGKILL, tree | descendants(*(root.pid for root in roots), *(pid for pid, _ in tree)))
    for root in roots:
        root.kill()
