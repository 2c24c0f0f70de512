"""The untrusted zip: what a good one gives, and that each way of lying is turned away with words for people."""

import dataclasses
import gzip
import json
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sample_week import COMMIT, REQUEST, TRACE, WEEK01, files, observed, result

from bot import artifact
from bot.artifact import Rejected, open_artifact, open_directory
from workloads.spec import Estimate, Failure, Metric, Observed, Price, Request, Result, Retry, Telemetry, Unit, dumps

OBSERVED = observed()
RESULT = result()


def good() -> dict[str, bytes]:
    return files(RESULT)


def of(result: Result, **more: bytes) -> dict[str, bytes]:
    return {"result.json": dumps(result).encode(), **more}


def pack(path: Path, held: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    return path


def unpack(path: Path, request: Request = REQUEST, run: str = "c7", commit: str = COMMIT) -> artifact.Checked:
    return open_artifact(path, WEEK01, request, run, commit)


def test_a_good_artifact(tmp_path: Path) -> None:
    checked = unpack(pack(tmp_path / "result.zip", good()))
    assert checked.result == RESULT
    assert checked.files == {"trace.json.gz": TRACE}


def test_pairs_that_were_asked_for_are_checked_like_the_rest(tmp_path: Path) -> None:
    request = dataclasses.replace(REQUEST, vs=3)
    paired = dataclasses.replace(RESULT, request=request, observed=(OBSERVED,) * 6, baseline=(OBSERVED,) * 6, baseline_commit="1" * 40)
    packed = pack(tmp_path / "result.zip", {**good(), "result.json": dumps(paired).encode()})
    assert open_artifact(packed, WEEK01, request, RESULT.run, RESULT.commit, "1" * 40).result == paired
    with pytest.raises(Rejected, match="the result is beside another commit"):
        open_artifact(packed, WEEK01, request, RESULT.run, RESULT.commit, "2" * 40)


def test_a_failed_run_is_a_result(tmp_path: Path) -> None:
    failed = dataclasses.replace(RESULT, status="crashed", failure=Failure("signal 11"), observed=(), files=())
    assert failed == unpack(pack(tmp_path / "result.zip", of(failed))).result


@pytest.mark.parametrize(("asked", "words"), [
    ({"run": "c8"}, "another run"),
    ({"request": Request("bench", "week01", batch=64)}, "another request"),
    ({"commit": "f" * 40}, "another commit"),
])
def test_it_answers_what_was_asked(asked: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=words):
        unpack(pack(tmp_path / "result.zip", good()), **asked)


def edited(**fields: Any) -> dict[str, bytes]:
    plain = json.loads(dumps(RESULT))
    plain.update(fields)
    return {**good(), "result.json": json.dumps(plain).encode()}


def scaled(name: str, unit: Unit, value: float) -> dict[str, bytes]:
    extra = Metric(name, "an extra number", unit, "higher", Estimate("exact", value, value, value, (value,)))
    observed = dataclasses.replace(OBSERVED, metrics=(*OBSERVED.metrics, extra))
    return of(dataclasses.replace(RESULT, observed=(observed,)), **{"trace.json.gz": TRACE})


def with_telemetry(memory_mib: int) -> dict[str, bytes]:
    telemetry = Telemetry(0.5, 10, 1980, 1980, 1980, 50, 400.0, 600.0, memory_mib, (), 0)
    return of(dataclasses.replace(RESULT, telemetry=telemetry), **{"trace.json.gz": TRACE})


COSTLY = dataclasses.replace(RESULT, gpu_seconds=12.5, price=Price(2.49, "USD"), retry=Retry(("GPU at 91 C",), 3.0, "ran again"))
UNMEASURED = dataclasses.replace(RESULT, observed=(Observed(OBSERVED.metrics[1:]),))
NAN = dumps(RESULT).replace('"duration_s": 12.5', '"duration_s": NaN').encode()
DEEP = "".join(f"[{n}," for n in range(50_000)).encode()
LIES: dict[str, tuple[dict[str, bytes], str]] = {
    "no result": ({"trace.json.gz": TRACE}, "no result.json"),
    "a further file": ({**good(), "install.sh": b"#"}, "a file that week01 does not make"),
    "a path upwards": ({**good(), "../trace.json.gz": TRACE}, "a file that week01 does not make"),
    "an absolute path": ({**good(), "/etc/passwd": b"root"}, "a file that week01 does not make"),
    "a folder": ({**good(), "folder/": b""}, "no plain file"),
    "many entries": ({**good(), **{f"f{n}.json": b"{}" for n in range(40)}}, "more than 32 entries"),
    "a bomb": ({**good(), "result.json": b" " * 1_000_000}, "packed too tightly"),
    "a large result": ({**good(), "result.json": b" " * 1_000_001}, "result.json is above 1.0 MB"),
    "a large trace": ({**good(), "trace.json.gz": bytes(1_500_001)}, "trace.json.gz is above 1.5 MB"),
    "a trace that is no gzip": ({**good(), "trace.json.gz": b"{}"}, "trace.json.gz is no gzip"),
    "half a trace": ({**good(), "trace.json.gz": TRACE[:-20]}, "trace.json.gz is no gzip"),
    "a trace that is no JSON": ({**good(), "trace.json.gz": gzip.compress(b"<html>")}, "trace.json.gz is no JSON"),
    "a trace without an end": ({**good(), "trace.json.gz": gzip.compress(b"[" * 5000)}, "packed too tightly"),
    "a deep trace": ({**good(), "trace.json.gz": gzip.compress(DEEP)}, "trace.json.gz is no JSON"),
    "a trace that unpacks without end": ({**good(), "trace.json.gz": gzip.compress(bytes(10**7))}, "packed too tightly"),
    "a file unnamed in the result": (of(dataclasses.replace(RESULT, files=()), **{"trace.json.gz": TRACE}), "not those it names"),
    "a named file that is not there": (of(RESULT), "not those it names"),
    "a baseline nobody asked for": (edited(baseline_commit="1" * 40, baseline=json.loads(good()["result.json"])["observed"]),
                                    "a baseline where --vs asks for one, and only there"),
    "no JSON": ({**good(), "result.json": b"not json"}, "not JSON"),
    "NaN": ({**good(), "result.json": NAN}, "NaN is not a measurement"),
    "infinity": ({**good(), "result.json": NAN.replace(b"NaN", b"1e999")}, "too large"),
    "a key twice": ({**good(), "result.json": b'{"run": "c7", "run": "c8"}'}, "run given twice"),
    "a hostile key twice": ({**good(), "result.json": b'{"@team `x` <i>": 1, "@team `x` <i>": 2}'}, r"\?team \?x\? \?i\? given twice"),
    "a link for a key": ({**good(), "result.json": b'{"www.evil.example": 1, "www.evil.example": 2}'}, "no details"),
    "endless nesting": ({**good(), "result.json": DEEP}, "not JSON"),
    "an unknown field": (edited(note="x"), "1 unknown fields"),
    "more GPU time than there was": (edited(gpu_seconds=12.8), "more GPU time than its GPUs had"),
    "a price beyond all": (edited(price={"gpu_hour": 1e6 + 1, "currency": "USD"}), "price of a GPU-hour is beyond"),
    "a price in no currency": (edited(price={"gpu_hour": 2.49, "currency": "<b>"}), "three capital letters"),
    "a rest without end": (edited(retry={"first": ["GPU at 91 C"], "waited_s": 13.0, "then": "ran again"}), "outlasts the run"),
    "a retry with a link": (edited(retry={"first": ["see www.evil.example"], "waited_s": 1.0, "then": "ran again"}), "hold no link"),
    "another week": (edited(request={**json.loads(dumps(REQUEST)), "week": "week02"}), "another week"),
    "a missing target": (of(UNMEASURED, **{"trace.json.gz": TRACE}), "must be measured, or not measured with a reason"),
    "a run of eight days": (edited(duration_s=8 * 86400), "more than a week"),
    "a billion TFLOP/s": (scaled("peak", "TFLOP/s", 1e9), "peak is beyond what any machine can do"),
    "less than no time": (scaled("step", "ms", -1.0), "step is beyond what any machine can do"),
    "more memory than there is": (with_telemetry(81560), "more GPU memory was in use"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_rejected(lie: str, tmp_path: Path) -> None:
    held, words = LIES[lie]
    with pytest.raises(Rejected, match=words) as rejected:
        unpack(pack(tmp_path / "result.zip", held))
    assert re.fullmatch(r"[A-Za-z0-9 ._,;:()+/%=^?-]+", str(rejected.value))


@pytest.mark.parametrize("held", [scaled("delta", "%", -3.5), with_telemetry(81559), of(COSTLY, **{"trace.json.gz": TRACE})])
def test_what_is_possible_is_accepted(held: dict[str, bytes], tmp_path: Path) -> None:
    assert unpack(pack(tmp_path / "result.zip", held)).files == {"trace.json.gz": TRACE}


def test_a_second_entry_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "result.zip", "w") as archive:
        archive.writestr("result.json", good()["result.json"])
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("result.json", b"{}")
    with pytest.raises(Rejected, match="one name"):
        unpack(tmp_path / "result.zip")


def test_a_symbolic_link(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("trace.json.gz")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "result.zip", "w") as archive:
        archive.writestr("result.json", good()["result.json"])
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(Rejected, match="no plain file"):
        unpack(tmp_path / "result.zip")


def broken(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = pack(folder / "result.zip", good(), zipfile.ZIP_STORED)
        path.write_bytes(change(path.read_bytes()))
        return path

    return write


@pytest.mark.parametrize("change", [
    lambda raw: b"not a zip" + raw[:0],
    lambda raw: raw.replace(b"c7", b"c8", 1),  # the checksum
    lambda raw: re.sub(rb"PK\x01\x02(....)..", lambda m: b"PK\x01\x02" + m[1] + struct.pack("<H", 1), raw, flags=re.DOTALL),  # encrypted
    lambda raw: re.sub(rb"PK\x01\x02(.{6})..", lambda m: b"PK\x01\x02" + m[1] + struct.pack("<H", 99), raw, flags=re.DOTALL),  # compression
    lambda raw: raw[: len(raw) // 2],
], ids=["no zip", "wrong sum", "encrypted", "exotic", "half"])
def test_a_broken_zip(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="no readable zip"):
        unpack(broken(change)(tmp_path))


def test_a_large_artifact_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "result.zip"
    with path.open("wb") as file:
        file.truncate(20 * 2**20 + 1)
    with pytest.raises(Rejected, match="above 20 MiB"):
        unpack(path)


def test_a_kind_of_file_without_a_check_is_not_published(tmp_path: Path) -> None:
    deliverable = dataclasses.replace(WEEK01.deliverables[1], files=("plot.svg",))
    week = dataclasses.replace(WEEK01, deliverables=(WEEK01.deliverables[0], deliverable))
    held = of(dataclasses.replace(RESULT, files=("plot.svg",)), **{"plot.svg": b"<svg/>"})
    with pytest.raises(Rejected, match=r"plot.svg is of a kind that is not published"):
        open_artifact(pack(tmp_path / "result.zip", held), week, REQUEST, "c7", COMMIT)


# ---------------------------------------------------------------------------------------------------- a directory


def lay(folder: Path, held: Mapping[str, bytes]) -> Path:
    for name, content in held.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_directory(tmp_path: Path) -> None:
    checked = open_directory(lay(tmp_path, good()), WEEK01)
    assert (checked.result, checked.files) == (RESULT, {"trace.json.gz": TRACE})


def test_a_directory_without_a_result(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(Rejected, match=r"no result.json"):
            open_directory(folder, WEEK01)


def test_a_directory_with_a_link(tmp_path: Path) -> None:
    lay(tmp_path, {"result.json": good()["result.json"]})
    (tmp_path / "trace.json.gz").symlink_to("/etc/hostname")
    with pytest.raises(Rejected, match="no plain file"):
        open_directory(tmp_path, WEEK01)


def test_a_directory_with_a_large_file(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="above"):
        open_directory(lay(tmp_path, {**good(), "trace.json.gz": bytes(1_500_001)}), WEEK01)
