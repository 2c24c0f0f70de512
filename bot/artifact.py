"""The zip from the GPU job to a checked Result, or a reason for people why not. Nothing in it is believed.

Whoever controls the GPU machine controls every byte here. So names come from the week's own list, sizes are counted while
reading and never taken from the archive, nothing is unpacked to a disk, and what was asked for is what the gate wrote down:
the run, the request and the commit in the result have to agree with it.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import stat
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bot.history import second_name
from workloads.spec import ACTIVE_TEXT, FILE, Request, Result, SpecError, Unit, Workload, check_kept, loads

MIB = 2**20
ARTIFACT_BYTES = 20 * MIB
ENTRIES = 32
# With these two, an artifact cannot hold more than 50 MiB, whatever it claims.
RESULT_BYTES = 1_000_000  # what GitHub's contents API gives in one piece
FILE_BYTES = 1_500_000  # what a repository can carry for every run, for years
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # other unpackers raise errors of their own kinds
UNPACKED_BYTES = 64 * MIB
RATIO = 100
LONGEST_RUN_S = 7 * 24 * 3600

# No machine this bot may meet comes near these; a number above is a broken clock or a lie. Percent and numbers without a
# unit may be negative (a delta), everything else not.
PLAUSIBLE: Mapping[Unit, float] = {
    "": 1e9, "x": 1e5, "%": 1e5, "s": LONGEST_RUN_S, "ms": LONGEST_RUN_S * 1e3, "us": LONGEST_RUN_S * 1e6, "img/s": 1e8, "tok/s": 1e11,
    "TFLOP/s": 1e5, "GB/s": 1e5, "MiB": 1e8, "J": 1e9, "W": 1e5, "steps": 1e12, "count": 1e15}
# In any currency; the dearest GPU of today is under 15 USD, and 1 USD is some 16,000 to 90,000 of the smallest currencies.
DEAREST_GPU_HOUR = 1e6
ROUNDING_S = 0.2
SIGNED: tuple[Unit, ...] = ("", "%")


class Rejected(Exception):
    """The artifact is not what was asked for; the text is plain words without anything taken from the artifact as it was."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A result to be trusted as far as bytes can be, and the files beside it by name."""

    result: Result
    files: dict[str, bytes]


def open_artifact(zip_path: Path, workload: Workload, request: Request, run: str, commit: str, baseline: str = "") -> Checked:
    """What `zip_path` holds, if it is a result of `request` under `run` at `commit`, in turn with `baseline` where that was asked
    for. Raises Rejected."""
    checked = _check(_unzip(zip_path, workload), workload)
    result = checked.result
    _need(result.run == run, "the result is of another run")
    _need(result.request == request, "the result is of another request")
    _need(result.commit == commit, "the result is of another commit")
    _need(result.baseline_commit == baseline or not result.baseline, "the result is beside another commit")
    return checked


def open_second(zip_path: Path, workload: Workload, request: Request, run: str, commit: str) -> Checked | None:
    """The second run of a request, made where the first looked changed. It decides whether a change is confirmed and nothing else,
    so one that is not taken for a result is as good as none; None then, and where it did not end well."""
    try:
        checked = open_artifact(zip_path, workload, request, second_name(run), commit)
    except Rejected as reason:
        sys.stderr.write(f"the second run is left out: {reason}\n")
        return None
    return checked if checked.result.status == "ok" else None


def open_directory(folder: Path, workload: Workload) -> Checked:
    """The same checks for a runner's --out directory on this machine. Raises Rejected."""
    raw: dict[str, bytes] = {}
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    _need(any(path.name == "result.json" for path in paths), "there is no result.json")
    _check_names([path.name for path in paths], workload)
    for path in paths:
        _need(path.is_file() and not path.is_symlink(), "it holds something that is no plain file")
        with path.open("rb") as file:
            raw[path.name] = _capped(file.read(_limit(path.name) + 1), path.name)
    return _check(raw, workload)


def _need(holds: bool, reason: str) -> None:
    if not holds:
        raise Rejected(reason)


# ---------------------------------------------------------------------------------------------------- the archive


def _unzip(zip_path: Path, workload: Workload) -> dict[str, bytes]:
    _need(zip_path.stat().st_size <= ARTIFACT_BYTES, f"the artifact is above {ARTIFACT_BYTES // MIB} MiB")
    raw: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(zip_path) as archive:
            entries = archive.infolist()
            _need(len(entries) <= ENTRIES, f"the artifact has more than {ENTRIES} entries")
            for entry in entries:
                kind = stat.S_IFMT(entry.external_attr >> 16)
                _need(kind in (0, stat.S_IFREG) and not entry.is_dir(), "the artifact holds something that is no plain file")
                _need(entry.compress_type in PACKED, "the artifact is no readable zip")
            _check_names([entry.filename for entry in entries], workload)
            for entry in entries:
                with archive.open(entry) as file:
                    raw[entry.filename] = _capped(file.read(_limit(entry.filename) + 1), entry.filename)
                _need(len(raw[entry.filename]) <= RATIO * max(entry.compress_size, 1), "the artifact is packed too tightly to be a result")
    # RuntimeError: encrypted; NotImplementedError: a zip feature that Python does not have.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise Rejected("the artifact is no readable zip") from error
    return raw


def _check_names(names: list[str], workload: Workload) -> None:
    _need(len(set(names)) == len(names), "two files have one name")
    _need(all(FILE.fullmatch(name) and name in ("result.json", *workload.files) for name in names),
          f"it holds a file that {workload.key} does not make")
    _need("result.json" in names, "there is no result.json")


def _limit(name: str) -> int:
    return RESULT_BYTES if name == "result.json" else FILE_BYTES


def _capped(content: bytes, name: str) -> bytes:
    _need(len(content) <= _limit(name), f"{name} is above {_limit(name) / 1e6:.1f} MB")
    return content


# ---------------------------------------------------------------------------------------------------- what is inside


def _check(raw: dict[str, bytes], workload: Workload) -> Checked:
    try:
        result = loads(Result, raw["result.json"])
        _need(result.week == workload.key, "the result is of another week")
        for observed in result.observed:  # the other commit's week may have promised something else
            check_kept(workload, observed)
    except SpecError as error:
        raise Rejected(f"result.json breaks the contract: {_plain(str(error))}") from error
    files = {name: content for name, content in raw.items() if name != "result.json"}
    _need(set(files) == set(result.files), "the files beside result.json are not those it names")
    for name, content in files.items():
        _check_content(name, content)
    _check_plausible(result)
    return Checked(result, files)


def _plain(text: str) -> str:
    """An error's words with everything out of them that Markdown could act on: they may quote the artifact."""
    harmless = re.sub(r"[^A-Za-z0-9 ._,;:()+%=^-]", "?", text)[:160]
    return "no details" if ACTIVE_TEXT.search(harmless) else harmless


def _check_content(name: str, content: bytes) -> None:
    """Raise Rejected unless the bytes are what the name says: .json is JSON, .json.gz is JSON in gzip. Other kinds of file
    have no check yet, so they are not published."""
    _need(name.endswith((".json", ".json.gz")), f"{name} is of a kind that is not published")
    try:
        json.loads(_unpacked(name, content) if name.endswith(".gz") else content)
    except (ValueError, RecursionError) as error:
        raise Rejected(f"{name} is no JSON") from error


def _unpacked(name: str, content: bytes) -> bytes:
    most = min(UNPACKED_BYTES, RATIO * len(content))
    try:
        with gzip.open(io.BytesIO(content)) as file:
            unpacked = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Rejected(f"{name} is no gzip") from error
    _need(len(unpacked) <= most, f"{name} is packed too tightly to be a trace")
    return unpacked


def _check_plausible(result: Result) -> None:
    _need(result.duration_s <= LONGEST_RUN_S, "the run would have taken more than a week")
    _need(result.gpu_seconds <= result.duration_s * result.machine.gpus + ROUNDING_S, "more GPU time than its GPUs had")
    _need(result.price is None or result.price.gpu_hour <= DEAREST_GPU_HOUR, "the price of a GPU-hour is beyond what any machine costs")
    _need(result.retry is None or result.retry.waited_s <= result.duration_s + ROUNDING_S, "the rest before a second try outlasts the run")
    for observed in (*result.observed, *result.baseline):
        for metric in observed.metrics:
            most = PLAUSIBLE[metric.unit]
            least = -most if metric.unit in SIGNED else 0
            _need(all(least <= v <= most for v in (metric.estimate.low, metric.estimate.value, metric.estimate.high)),
                  f"{metric.name} is beyond what any machine can do")
    if result.telemetry is not None:
        _need(result.telemetry.memory_highest_mib <= result.machine.gpu_memory_mib * max(result.machine.gpus, 1),
              "more GPU memory was in use than the machine has")
