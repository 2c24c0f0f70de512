"""One child process from start to end: its log passed on, its time limited, and one verdict on how it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Literal, TypeAlias

from runner.child import END, Order, Report
from workloads import spec
from workloads.spec import LOG_TAIL_CHARS, Observed, Request, SpecError, Status

Cancelled: TypeAlias = Callable[[], bool]
Stopped: TypeAlias = Literal["timeout", "cancelled"]

LOOK_S = 0.2  # between two looks at the child
TIMEOUT_GRACE_S = 30.0  # between SIGTERM and SIGKILL: time to flush files and free the GPU
CANCEL_GRACE_S = 5.0  # GitHub kills a cancelled job 10 s after it asked, and the result must be written within them
DRAIN_S = 5.0  # for the last of the log; only a process that escaped the group can hold it open


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: `observed` where the status is ok, else one sentence why; and the end of its log."""

    status: Status
    message: str
    log_tail: str
    observed: Observed | None = None


class _Drain:
    """Reads a pipe to its end in a thread, so that its writer never waits; keeps all of it, or the last `keep` bytes."""

    def __init__(self, pipe: IO[bytes], *, keep: int | None = None, copy: BinaryIO | None = None) -> None:
        self.pipe = pipe
        self.keep = keep
        self.copy = copy
        self.content = b""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while chunk := os.read(self.pipe.fileno(), 65536):
            if self.copy:
                with contextlib.suppress(OSError):  # nobody reads our stderr any more: the run goes on
                    self.copy.write(chunk)
                    self.copy.flush()
            content = self.content + chunk
            self.content = content if self.keep is None else content[-self.keep:]

    def text(self) -> str:
        self.thread.join(DRAIN_S)
        return self.content.decode(errors="replace")


def run_child(request: Request, out: Path, device: Literal["cuda", "cpu"], *, root: Path, began: float, timeout_s: float,
              environment: Mapping[str, str], cancelled: Cancelled) -> Ended:
    """Run the week of the checkout `root` in a fresh process (a group of its own), until it ends, takes `timeout_s`, or `cancelled`
    says so. On several GPUs it is torchrun's, with a rank for each; those it has no group of its own for end with their stdin."""
    receive, send = os.pipe()
    # By its name and not inherited: torchrun hands nothing on.
    order = Order(request, str(out.absolute()), device, f"/proc/{os.getpid()}/fd/{send}", began)
    with subprocess.Popen([*_program(request.gpus), spec.dumps(order)], cwd=root, env=dict(environment), bufsize=0,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as child:
        assert child.stdout is not None, "it is piped"
        log = _Drain(child.stdout, keep=4 * LOG_TAIL_CHARS, copy=sys.stderr.buffer)
        with os.fdopen(receive, "rb") as pipe:
            report = _Drain(pipe)
            stopped = wait(child, timeout_s, cancelled)
            _signal_group(child, signal.SIGKILL)  # what the week started ends with it
            os.close(send)
            told, log_tail = report.text(), log.text()[-LOG_TAIL_CHARS:]
    status, message, observed = _verdict(child.returncode, told, stopped, timeout_s)
    return Ended(status, message, log_tail, observed)


def _program(gpus: int) -> list[str]:
    ranks = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus), "-m"] if gpus > 1 else []
    return [sys.executable, "-m", *ranks, "runner.child"]


def wait(child: subprocess.Popen[bytes], timeout_s: float, cancelled: Cancelled, *,
         timeout_grace_s: float = TIMEOUT_GRACE_S, cancel_grace_s: float = CANCEL_GRACE_S) -> Stopped | None:
    """Wait for `child`, a group leader. Past its time, or once cancelled, its group gets SIGTERM, and SIGKILL after the grace.

    Returns why it was stopped; None where it ended by itself.
    """
    last_moment = time.monotonic() + timeout_s
    while child.poll() is None:
        if cancelled():
            _stop(child, cancel_grace_s)
            return "cancelled"
        if time.monotonic() >= last_moment:
            _stop(child, timeout_grace_s)
            return "timeout"
        time.sleep(LOOK_S)  # a handled signal cuts no sleep short, but its handler runs at once
    return None


def _stop(child: subprocess.Popen[bytes], grace_s: float) -> None:
    _signal_group(child, signal.SIGTERM)
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        _signal_group(child, signal.SIGKILL)
        child.wait()


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(child.pid, number)


def _verdict(code: int, told: str, stopped: Stopped | None, timeout_s: float) -> tuple[Status, str, Observed | None]:
    if stopped == "cancelled":
        return "cancelled", "cancelled before it ended", None
    if stopped == "timeout":
        return "timeout", f"not done after {timeout_s / 60:g} minutes", None
    if code == -signal.SIGKILL:
        return "out of memory", "killed from outside (SIGKILL), as the kernel does when memory runs out", None
    if code < 0:
        return "crashed", f"the process died of {signal.Signals(-code).name} ({signal.strsignal(-code)})", None
    try:
        report = spec.loads(Report, told.partition(END)[0])
    except SpecError as error:
        lacking = f"a valid report: {error}" if told else "a report"
        return "error", spec.plain_text(f"the process ended (exit code {code}) without {lacking}"), None
    if report.observed is None:
        return report.status, report.message, None
    if code:
        return "error", f"the process failed (exit code {code}) after its report", None
    return "ok", "", report.observed
