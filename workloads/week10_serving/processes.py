"""The processes of the box: how each is started, when it is ready, and how it ends."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx

STOP_S = 40.0
TOGETHER_S = 10.0
GRAPH_REQUESTS = 256  # of a step that is one CUDA graph


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

    def stop(self, stop_s: float = STOP_S) -> int:
        """SIGTERM, and time to drain; its exit code. After `stop_s` seconds it is killed, and so is whatever it started: an engine's
        worker must not keep the GPU's memory."""
        self.process.terminate()
        try:
            return self.process.wait(stop_s)
        except subprocess.TimeoutExpired:
            for pid in (*descendants(self.process.pid), self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return self.process.wait()

    def lines(self, most: int) -> list[str]:
        """The last lines of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-most:]

    def tail(self) -> str:
        return next(iter(self.lines(1)), "no output")[:200]


class Together:
    """Services that start side by side, because each takes a minute to be ready, and that all end with the block."""

    def __init__(self) -> None:
        self.services: list[Service] = []

    def __enter__(self) -> Together:
        return self

    def start(self, name: str, command: list[str], url: str, log: Path) -> Service:
        """`command` as a process that is not ready yet."""
        self.services.append(_started(name, command, url, log))
        return self.services[-1]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for service in self.services:
            service.process.terminate()
        until = time.monotonic() + TOGETHER_S
        for service in self.services:
            service.stop(max(0.1, until - time.monotonic()))


def descendants(pid: int) -> list[int]:
    """Every process that `pid` started, directly or not, and that is still its own."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            after_name = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(after_name[1])
    found: list[int] = []
    level = {pid}
    while level := {child for child, parent in parents.items() if parent in level}:
        found += level
    return found


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextlib.contextmanager
def starting(name: str, command: list[str], url: str, log: Path) -> Iterator[Service]:
    """`command` as a process that may not be ready yet; it is stopped at the end, whatever happens."""
    service = _started(name, command, url, log)
    try:
        yield service
    finally:
        service.stop()


def _started(name: str, command: list[str], url: str, log: Path) -> Service:
    with log.open("wb") as out:
        return Service(name, url, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT), log)


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


def whole_graphs(most_tokens: int) -> list[str]:
    """What tells vLLM to record each step, of up to `most_tokens`, as one CUDA graph: prompts in it or not.

    vLLM records a graph of N tokens with N tokens spread evenly over the requests, and replays it for any mixture of prompts and decoding.
    What follows is by the sources: vLLM 0.25.1's v1/worker/gpu/cudagraph_utils.py and v1/attention/ops/triton_unified_attention.py, and
    flash_api.cpp and flash_fwd_combine_launch_template.h in the hopper folder of its FlashAttention.

    vLLM's Triton kernel bears it: it looks up in the step's own tensors which token belongs to whom. It has a second form for steps
    without prompts, which a graph would fix as well, so no graph has as few tokens as requests, and smaller steps are padded.

    FlashAttention 3, vLLM's own choice on Hopper, does not: the most tokens that one request had, one in small graphs, decide at
    recording whether the causal mask is left out (heads up to 64 or beyond 128 wide), how many rows of split keys are added up, and
    how the plan that is made for each step anew is laid out. Without the mask a prompt sees its own future; benchmarks/serving.py
    shows how many tokens are wrong then.
    """
    sizes = (*range(GRAPH_REQUESTS + 16, 512, 16), *range(512, 1024, 64), *range(1024, most_tokens, 128))
    graphs = {"cudagraph_mode": "FULL", "cudagraph_capture_sizes": [*(size for size in sizes if size < most_tokens), most_tokens]}
    return ["--max-num-seqs", str(GRAPH_REQUESTS), "--max-num-batched-tokens", str(most_tokens), "--attention-backend", "TRITON_ATTN",
            "--compilation-config", json.dumps(graphs)]


def vllm_command(folder: Path, port: int, *, memory_share: float, most_tokens: int, cache_bytes: int | None = None,
                 neutral: bool = False, random_weights: bool = False, api_servers: int = 1, graph_tokens: int = 0) -> list[str]:
    """vLLM's own server. Prefixes are not cached, so nothing is saved by prompts that look alike. Raises NotInstalled.

    With `cache_bytes` for keys and values it does not measure what is free, and so bears that others take and free memory of the
    GPU while it starts; `memory_share` of the GPU must be free then, and is no limit. `neutral`: how to sample is said by requests
    alone, and not by a checkpoint that brings, say, a penalty for repetition. `api_servers` processes share the port, and each
    writes the streams of its connections, for one is one Python.

    With `graph_tokens` a step has at most so many tokens, of at most GRAPH_REQUESTS requests; longer prompts come in chunks, and each
    step is one CUDA graph (`whole_graphs`). By itself vLLM has that for steps that only decode; one with prompts in it is launched
    piece by piece from Python, layer after layer, and with a small model that is most of its time
    (https://docs.vllm.ai/en/latest/design/cuda_graphs/).
    """
    if importlib.util.find_spec("vllm") is None:
        raise NotInstalled("vLLM is not installed: pip install '.[serving]'")
    return ["env", "VLLM_USE_FLASHINFER_SAMPLER=0", "VLLM_NO_USAGE_STATS=1", "HF_HUB_OFFLINE=1",
            sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(folder),
            "--served-model-name", "engine", "--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16",
            "--gpu-memory-utilization", f"{memory_share:.2f}", "--max-model-len", str(most_tokens),
            "--no-enable-prefix-caching", "--disable-uvicorn-access-log",
            *(whole_graphs(graph_tokens) if graph_tokens else ["--max-num-seqs", "512"]),
            *(["--api-server-count", str(api_servers)] if api_servers > 1 else []),
            *(["--kv-cache-memory-bytes", str(cache_bytes)] if cache_bytes else []),
            *(["--generation-config", "vllm"] if neutral else []),
            *(["--load-format", "dummy", "--skip-tokenizer-init"] if random_weights else [])]
