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
    """What the parent asks of its child; `report` is the pipe to answer through, `began` the parent's monotonic start."""

    request: Request
    out: str
    device: Literal["cuda", "cpu"]
    report: int
    began: float


@dataclass(frozen=True, slots=True)
class Report:
    """A child's answer: what was observed, or the status and the one sentence of a failure."""

    observed: Observed | None = None
    status: Status = "ok"
    message: str = ""


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


def tell_raised(pipe: BinaryIO, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook of the child: the report to the parent, the traceback to the log."""
    pipe.write(spec.dumps(failed(error)).encode())
    pipe.close()
    sys.__excepthook__(kind, error, trace)


def follow(lifeline: int, end: Callable[[], None]) -> None:
    """Call `end` once the other end of `lifeline` is gone: a parent killed outright must not leave the GPU busy."""
    while os.read(lifeline, 1):
        pass
    end()


def run_week(order: Order) -> Observed:
    """Import the week and run it. What it raises passes through; SpecError where it returns anything but an Observed."""
    week = order.request.week
    assert week is not None, "the parent asks for one week"
    folder = spec.discover()[week].folder
    seen = importlib.import_module(f"workloads.{folder}.run").run(Context(
        out=Path(order.out), device=order.device, smoke=order.request.smoke, batch=order.request.batch, gpus=order.request.gpus,
        profile=order.request.profile, progress=functools.partial(say, order.began)))
    spec.check(isinstance(seen, Observed), f"{week}: run(ctx) returns an Observed, not {type(seen).__name__}")
    assert isinstance(seen, Observed)
    return seen


def main() -> None:
    order = spec.loads(Order, sys.argv[1])
    os.set_inheritable(order.report, False)  # else a worker of the week would keep the pipe open
    pipe = os.fdopen(order.report, "wb")
    sys.excepthook = functools.partial(tell_raised, pipe)
    faulthandler.enable()  # a crash, or a hang ended by SIGTERM, leaves its Python stack in the log
    faulthandler.register(signal.SIGTERM, chain=True)
    threading.Thread(target=follow, args=(0, functools.partial(os.killpg, os.getpgrp(), signal.SIGKILL)), daemon=True).start()
    observed = run_week(order)
    pipe.write(spec.dumps(Report(observed)).encode())
    pipe.close()


if __name__ == "__main__":
    main()
