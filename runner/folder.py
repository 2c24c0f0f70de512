"""The --out folder: room kept for the result, what a week may leave in it, and result.json written whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from workloads.spec import Workload, check

RESULT = "result.json"
RESERVE = ".reserve"
RESERVE_BYTES = 4 * 2**20  # a result is refused above 1 MiB; the rest is the file system's own


class Occupied(Exception):
    """The folder cannot be used; the text says why."""


def claim(out: Path) -> None:
    """Make `out`, and keep room in it for a result in case the week fills the disk. Raises Occupied, with nothing written,
    where it is no folder, holds anything, or cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise Occupied(f"{out} is not empty: give a new folder, or empty this one")
        write_whole(out / RESERVE, bytes(RESERVE_BYTES))
    except FileExistsError as error:
        raise Occupied(f"{out} is a file, and a folder is needed") from error
    except OSError as error:
        raise Occupied(f"{out} cannot be written: {error.strerror}") from error


def left(out: Path, workload: Workload) -> tuple[str, ...]:
    """The files that the week left in `out`, all that it promised and no other. Raises SpecError that names what is amiss."""
    found = {path.name: path for path in out.iterdir() if path.name != RESERVE}
    check(not found.keys() - set(workload.files),
          f"{workload.key}: the run left {len(found.keys() - set(workload.files))} files that no deliverable names")
    for name in workload.files:
        path = found.get(name)
        check(path is not None and path.is_file() and not path.is_symlink() and path.stat().st_size > 0,
              f"{workload.key}: a deliverable names {name}, and the run left no such file, or an empty one")
    return workload.files


def clear(out: Path) -> None:
    """Remove all but the reserve: a run that failed leaves its result.json alone."""
    for path in out.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != RESERVE:
            path.unlink()


def write_result(out: Path, text: str) -> Path:
    """Give the reserve back, and write result.json into the room it held."""
    (out / RESERVE).unlink(missing_ok=True)
    return write_whole(out / RESULT, text.encode())


def write_whole(path: Path, content: bytes) -> Path:
    """`content` at `path`, whole or not at all, even if power fails: a temporary file, synced, then renamed."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path
