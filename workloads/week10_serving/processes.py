"""The processes of the box: how each is started, when it is ready, and how it ends."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

STOP_S = 40.0


class NotStarted(RuntimeError):
    """A process ended, or was not ready in time; the text is one line."""


class NotInstalled(RuntimeError):
    """What would serve is not on this machine; the text says what brings it."""


@dataclass(slots=True)
class Service:
    """One running process and the URL it answers at."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> int:
        """SIGTERM, and time to drain; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "no output"


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextlib.contextmanager
def starting(name: str, command: list[str], url: str, log: Path) -> Iterator[Service]:
    """`command` as a process that may not be ready yet; it is stopped at the end, whatever happens."""
    with log.open("wb") as out:
        service = Service(name, url, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT), log)
        try:
            yield service
        finally:
            service.stop()


@contextlib.contextmanager
def running(name: str, command: list[str], url: str, health: str, log: Path, *, ready_s: float) -> Iterator[Service]:
    """As `starting`, once `wait` found it ready."""
    with starting(name, command, url, log) as service:
        wait(service, health, ready_s)
        yield service


def wait(service: Service, health: str, ready_s: float) -> None:
    """Until `health` of the service answers 200. Raises NotStarted where the process ends first, or after `ready_s` seconds."""
    until = time.monotonic() + ready_s
    while time.monotonic() < until:
        if (code := service.process.poll()) is not None:
            raise NotStarted(f"{service.name} ended with {code}: {service.tail()}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(service.url + health, timeout=2.0, trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise NotStarted(f"{service.name} was not ready within {ready_s:.0f} s: {service.tail()}")


def module(*arguments: str) -> list[str]:
    """A command of this week's own, as `python -m workloads.week10_serving ...`."""
    return [sys.executable, "-m", "workloads.week10_serving", *arguments]


def vllm_command(folder: Path, port: int, *, memory_share: float, most_tokens: int, random_weights: bool = False) -> list[str]:
    """vLLM's own server. Prefixes are not cached, so nothing is saved by prompts that look alike. Raises NotInstalled."""
    if importlib.util.find_spec("vllm") is None:
        raise NotInstalled("vLLM is not installed: pip install '.[serving]'")
    return ["env", "VLLM_USE_FLASHINFER_SAMPLER=0", "VLLM_NO_USAGE_STATS=1", sys.executable, "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(folder), "--served-model-name", "engine", "--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16",
            "--gpu-memory-utilization", f"{memory_share:.2f}", "--max-model-len", str(most_tokens), "--max-num-seqs", "512",
            "--no-enable-prefix-caching", "--disable-uvicorn-access-log",
            *(["--load-format", "dummy", "--skip-tokenizer-init"] if random_weights else [])]
