"""A week in a process of its own: runs it and tells the parent, through a pipe, what was observed or what was raised."""

from __future__ import annotations

import errno
import faulthandler
import functools
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

import click

from workloads import spec
from workloads.spec import Context, Observed, Request, Status

# torch and its libraries say "out of memory" in several ways, and not always by type.
MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
DISK_WORDS = ("No space left on device",)


@dataclass(frozen=True, slots=True)
class Order:
    """What the parent asks of its child; `report` is where it opens the pipe to answer through, `began` the parent's monotonic
    start."""

    request: Request
    out: str
    device: Literal["cuda", "cpu"]
    report: str
    began: float


@dataclass(frozen=True, slots=True)
class Report:
    """A child's answer: what was observed, or the status and the one sentence of a failure."""

    observed: Observed | None = None
    status: Status = "ok"
    message: str = ""


# Between the answers of several ranks: the first counts.
END = "\0"


def say(began: float, line: str) -> None:
    """One line of progress on stderr, after the seconds since `began`."""
    click.echo(f"{time.monotonic() - began:7.1f} s  {line}", err=True)


def failed(error: BaseException) -> Report:
    """How an exception that a week raised is told: its type and first line, as plain text."""
    lines = str(error).splitlines() or [""]
    message = spec.plain_text(f"{type(error).__name__}: {lines[0]}" if lines[0] else type(error).__name__)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or any(word in str(error) for word in DISK_WORDS):
        return Report(status="disk full", message=message)
    short = isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    if short or any(word in str(error) for word in MEMORY_WORDS):
        return Report(status="out of memory", message=message)
    return Report(status="error", message=message)


def tell(pipe: BinaryIO, report: Report) -> None:
    pipe.write(f"{spec.dumps(report)}{END}".encode())
    pipe.close()


def tell_raised(pipe: BinaryIO, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook of the child: the report to the parent, the traceback to the log."""
    tell(pipe, failed(error))
    sys.__excepthook__(kind, error, trace)


def follow(lifeline: int, end: Callable[[], None]) -> None:
    """Call `end` once the other end of `lifeline` is gone: a parent killed outright must not leave the GPU busy."""
    while os.read(lifeline, 1):
        pass
    end()


def run_week(order: Order) -> Observed | None:
    """Import the week and run it. What it raises passes through; SpecError where it returns anything but an Observed. On several
    GPUs this is one of torchrun's ranks, and only the first tells what was seen: the others return None."""
    week = order.request.week
    assert week is not None, "the parent asks for one week"
    folder = spec.discover()[week].folder
    seen = importlib.import_module(f"workloads.{folder}.run").run(Context(
        out=Path(order.out), device=order.device, smoke=order.request.smoke, batch=order.request.batch, gpus=order.request.gpus,
        profile=order.request.profile, progress=functools.partial(say, order.began)))
    if seen is None and order.request.gpus > 1:
        return None
    spec.check(isinstance(seen, Observed), f"{week}: run(ctx) returns an Observed, not {type(seen).__name__}")
    assert isinstance(seen, Observed)
    return seen


def main() -> None:
    order = spec.loads(Order, sys.argv[1])
    pipe = Path(order.report).open("wb")  # noqa: SIM115  it is closed by what is told, and a worker of the week does not get it
    sys.excepthook = functools.partial(tell_raised, pipe)
    faulthandler.enable()  # a crash, or a hang ended by SIGTERM, leaves its Python stack in the log
    faulthandler.register(signal.SIGTERM, chain=True)
    threading.Thread(target=follow, args=(0, functools.partial(os.killpg, os.getpgrp(), signal.SIGKILL)), daemon=True).start()
    if (observed := run_week(order)) is not None:
        tell(pipe, Report(observed))


if __name__ == "__main__":
    main()
