"""The spool: results kept outside the job's folder, each whole or not at all, until somebody has taken them over.

A job's folder dies with its runner: a connection lost after an hour of measuring would lose the hour. So `keep` puts a copy of
what was measured into SPOOL/<week>-<run>/, with its request and a list of checksums, and the next job on that machine offers it:
`python -m runner.spool`, whose artifact `spooled-<week>-<run>` is checked like any other. A kill at any moment leaves the earlier
entry, or the new one: an entry is built as .part-<its name>, becomes .whole-<its name> by one rename, and only then takes its name.
Several runners may share a spool: whoever touches it holds its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from runner import folder
from workloads import spec
from workloads.spec import Result

ENTRY = re.compile(rf"(?:{spec.WEEK.pattern})-(?:{spec.RUN.pattern})", re.ASCII)
REQUEST = "request.json"
SUMS = "SHA256SUMS"
LOCK = ".lock"
PART, WHOLE = ".part-", ".whole-"
MOST = 50  # entries; the oldest go first. At some 10 MB each, half a gigabyte at the worst


@contextlib.contextmanager
def held(spool: Path) -> Iterator[None]:
    """The spool for us alone. A kill gives it back."""
    with (spool / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def keep(spool: Path, out: Path, result: Result) -> Path:
    """Copy result.json and its files from `out` into `spool` (made if missing). Raises OSError, with the spool as it was."""
    spool.mkdir(exist_ok=True)
    name = f"{result.week}-{result.run}"  # the weeks of one `/bench all` share a run's name
    part, whole = spool / f"{PART}{name}", spool / f"{WHOLE}{name}"
    with held(spool):
        settle(spool)
        try:
            part.mkdir()
            content = {file: (out / file).read_bytes() for file in (folder.RESULT, *result.files)}
            content[REQUEST] = spec.dumps(result.request).encode()
            for file, raw in content.items():
                folder.write_whole(part / file, raw)
            folder.write_whole(part / SUMS, _sums(content).encode())
            part.rename(whole)
            _sync(spool)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        settle(spool)
        for path in _entries(spool)[:-MOST]:
            shutil.rmtree(path)
    return spool / name


def settle(spool: Path) -> None:
    """Finish what a kill left: whole entries take their names, parts go. For whoever holds the lock, as all that follows."""
    for part in spool.glob(f"{PART}*"):
        shutil.rmtree(part)
    for whole in spool.glob(f"{WHOLE}*"):
        named = spool / whole.name.removeprefix(WHOLE)
        shutil.rmtree(named, ignore_errors=True)
        whole.rename(named)
        _sync(spool)


def offer(spool: Path, out: Path) -> str | None:
    """Copy the oldest undamaged entry's result and files into `out`, a new folder; its name, or None where there is none."""
    for entry in _entries(spool):
        content = _read(entry)
        if content is None:
            click.echo(f"{entry} does not fit its {SUMS}, so it is not offered: look at it, then remove it", err=True)
            continue
        out.mkdir(parents=True)
        for name, raw in content.items():
            if name != REQUEST:
                folder.write_whole(out / name, raw)
        return entry.name
    return None


def forget(spool: Path, name: str) -> None:
    """Remove what others now hold. It loses its name first, so a kill half-way leaves a part, which `settle` clears."""
    entry = spool / name
    if entry.is_dir():
        gone = spool / f"{PART}{name}"
        shutil.rmtree(gone, ignore_errors=True)
        entry.rename(gone)
        shutil.rmtree(gone)


def _entries(spool: Path) -> list[Path]:
    """Those with an entry's name, the oldest first."""
    found = [path for path in spool.iterdir() if ENTRY.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _sums(content: dict[str, bytes]) -> str:
    return "".join(f"{hashlib.sha256(raw).hexdigest()}  {name}\n" for name, raw in content.items())


def _read(entry: Path) -> dict[str, bytes] | None:
    """The entry's files but the list of checksums, or None where the two do not fit."""
    try:
        listed = (entry / SUMS).read_text(encoding="ascii")
        names = [line.partition("  ")[2] for line in listed.splitlines()]
        if not all(spec.FILE.fullmatch(name) for name in names):
            return None
        content = {name: (entry / name).read_bytes() for name in names}
    except (OSError, ValueError):
        return None
    return content if folder.RESULT in content and _sums(content) == listed else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--spool", required=True, metavar="DIR", help='The spool; "" on a machine that has none.')
@click.option("--forget", "handed_over", metavar="WEEK-RUN", help="Remove this entry: its result has been handed over.")
@click.option("--offer", "out", type=click.Path(path_type=Path), metavar="DIR", help="Copy the oldest entry here, a new folder.")
def main(spool: str, handed_over: str | None, out: Path | None) -> None:
    """Clear the spool of what was handed over, and take out one result that was not.

    Prints `entry=<its week>-<its run>`, or `entry=` where there is none: a line for $GITHUB_OUTPUT.
    """
    if handed_over is not None and not ENTRY.fullmatch(handed_over):
        raise click.UsageError("--forget: a week and a run, as in week07-c123")
    entry = None
    try:
        if spool and Path(spool).is_dir():
            with held(Path(spool)):
                settle(Path(spool))
                if handed_over is not None:
                    forget(Path(spool), handed_over)
                if out is not None:
                    entry = offer(Path(spool), out)
    except OSError as error:
        raise click.ClickException(f"the spool {spool} cannot be used: {error.strerror}") from error
    sys.stdout.write(f"entry={entry or ''}\n")


if __name__ == "__main__":
    main()
