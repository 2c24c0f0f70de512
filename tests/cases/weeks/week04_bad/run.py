"""A fixture: one function for each way in which a run goes wrong; BEHAVIOUR names it."""

import atexit
import ctypes
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from workloads.spec import Context, Estimate, Observed

from . import FAST

TIMES = (2.0,) * 6
RATIO = Estimate("ratio", 3.0, 3.0, 3.0, TIMES, tuple(3 * t for t in TIMES))
GOOD = Observed((FAST.measured(RATIO),))


def raises(ctx: Context) -> Observed:
    raise RuntimeError("shapes | differ <b>\nsecond line")


def raises_nothing_said(ctx: Context) -> Observed:
    raise KeyError


def exits(ctx: Context) -> Observed:
    sys.exit(0)


def exits_hard_after_its_report(ctx: Context) -> Observed:
    atexit.register(os._exit, 3)
    Path(ctx.out, "notes.txt").write_text("notes\n")
    return GOOD


def segfaults(ctx: Context) -> Observed:
    ctypes.string_at(0)
    return GOOD


def is_killed(ctx: Context) -> Observed:
    os.kill(os.getpid(), signal.SIGKILL)
    return GOOD


def takes_all_memory(ctx: Context) -> Observed:
    bytearray(2**62)
    return GOOD


def takes_all_gpu_memory(ctx: Context) -> Observed:
    class OutOfMemoryError(RuntimeError):
        """torch.OutOfMemoryError by its name: the child must know it without importing torch."""

    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def writes_to_a_full_device(ctx: Context) -> Observed:
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")
    return GOOD


def fills_the_disk(ctx: Context) -> Observed:
    with Path(ctx.out, "notes.txt").open("wb") as file:
        while True:
            file.write(bytes(2**16))


def hangs(ctx: Context) -> Observed:
    ctx.progress(f"hanging as process {os.getpid()}")
    time.sleep(600)
    return GOOD


def leaves_a_worker(ctx: Context) -> Observed:
    worker = subprocess.Popen(["sleep", "600"])
    ctx.progress(f"worker {worker.pid}")
    Path(ctx.out, "notes.txt").write_text("notes\n")
    return GOOD


def fails_the_second_time(ctx: Context) -> Observed:
    notes = Path(ctx.out, "notes.txt")
    assert not notes.exists(), "the second time fails"
    notes.write_text("notes\n")
    return GOOD


def fails_on_the_second_try(ctx: Context) -> Observed:
    """What the first try left in the folder is gone by then, so the mark is elsewhere."""
    Path(os.environ["MARK"]).touch(exist_ok=False)
    Path(ctx.out, "notes.txt").write_text("notes\n")
    return GOOD


def returns_nothing(ctx: Context) -> Observed:
    return None  # type: ignore[return-value]  # that is the lie


def measures_nothing(ctx: Context) -> Observed:
    return Observed(())


def measures_nan(ctx: Context) -> Observed:
    return Observed((FAST.measured(Estimate("exact", float("nan"), 0, 1, (float("nan"),))),))


def hides_nan(ctx: Context) -> Observed:
    ratio = dataclasses.replace(RATIO)
    object.__setattr__(ratio, "value", float("nan"))
    return Observed((FAST.measured(ratio),))


def claims_more_than_its_samples(ctx: Context) -> Observed:
    ratio = dataclasses.replace(RATIO)
    object.__setattr__(ratio, "value", 30.0)
    object.__setattr__(ratio, "high", 30.0)
    return Observed((FAST.measured(ratio),))


def measures_twice(ctx: Context) -> Observed:
    return Observed((FAST.measured(RATIO), FAST.measured(RATIO)))


def measures_in_another_unit(ctx: Context) -> Observed:
    return Observed((dataclasses.replace(FAST.measured(RATIO), unit="ms"),))


def excuses_what_it_measured(ctx: Context) -> Observed:
    return Observed((FAST.measured(RATIO),), not_measured=(("fast", "no time"),))


def leaves_no_file(ctx: Context) -> Observed:
    return GOOD


def leaves_an_empty_file(ctx: Context) -> Observed:
    Path(ctx.out, "notes.txt").touch()
    return GOOD


def leaves_a_link(ctx: Context) -> Observed:
    Path(ctx.out, "notes.txt").symlink_to("/etc/passwd")
    return GOOD


def leaves_more_files(ctx: Context) -> Observed:
    Path(ctx.out, "notes.txt").write_text("notes\n")
    Path(ctx.out, "more").mkdir()
    Path(ctx.out, "more", "core.bin").write_text("core\n")
    return GOOD


def writes_the_result_itself(ctx: Context) -> Observed:
    Path(ctx.out, "notes.txt").write_text("notes\n")
    Path(ctx.out, "result.json").write_text('{"status": "ok"}')
    return GOOD


def removes_its_folder(ctx: Context) -> Observed:
    shutil.rmtree(ctx.out)
    return GOOD


def run(ctx: Context) -> Observed:
    behaviour: Callable[[Context], Observed] = globals()[os.environ["BEHAVIOUR"]]
    return behaviour(ctx)
