"""The load: a process of its own that sends requests when they are due, and writes down when each was answered.

Open loop: when a request is sent follows from the schedule alone. A process is given its share of the requests as one line of
JSON and answers with one; several share a schedule, so that no client's Python is what is measured.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import httpx
import numpy as np

from workloads.clock import clock_s
from workloads.week10_serving import processes
from workloads.week10_serving.goals import Served
from workloads.week10_serving.infer import SIDE, infer_answer, infer_request
from workloads.week10_serving.traffic import Ask

Protocol = Literal["completions", "chat", "http", "grpc"]
REQUEST_S = 120.0
HEAD_START_S = 0.2  # from when a client is told to begin to its schedule's start: connections are made meanwhile


@dataclass(frozen=True, slots=True)
class Load:
    """What came back: every request, and the busiest client's share of one core (above 0.9 the client is the bottleneck)."""

    served: tuple[Served, ...]
    client_busy: float

    @property
    def answered(self) -> tuple[Served, ...]:
        return tuple(one for one in self.served if not one.error)

    @property
    def errors(self) -> int:
        return len(self.served) - len(self.answered)

    @property
    def wall_s(self) -> float:
        return max(max(one.last, one.due) for one in self.served) - min(one.due for one in self.served)


def drive(url: str, protocol: Protocol, bodies: Sequence[tuple[dict[str, Any], int]], due: Sequence[float], clients: int) -> Load:
    """Send each body (with the tokens its answer must have) `due` seconds after the start, from `clients` processes.

    Raises RuntimeError where a client ends without an answer. A request that fails is Served with its error, never dropped.
    """
    workers = [subprocess.Popen(processes.module("client"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
               for _ in range(clients)]
    try:
        for i, worker in enumerate(workers):
            mine = slice(i, None, clients)
            assert worker.stdin and worker.stdout
            worker.stdin.write(json.dumps({"url": url, "protocol": protocol, "bodies": bodies[mine], "due": due[mine]}) + "\n")
            worker.stdin.flush()
        for worker in workers:
            assert worker.stdout and worker.stdout.readline() == "ready\n", "a client did not start"
        began = clock_s() + HEAD_START_S
        for worker in workers:
            assert worker.stdin
            worker.stdin.write(f"{began!r}\n")
            worker.stdin.close()
        answers = []
        for worker in workers:
            assert worker.stdout
            line = worker.stdout.readline()
            if worker.wait() != 0 or not line:
                raise RuntimeError(f"a load client ended with {worker.returncode}")
            answers.append(json.loads(line))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe and not pipe.closed:
                    pipe.close()
    served = sorted((Served(**one) for answer in answers for one in answer["served"]), key=lambda one: one.due)
    return Load(tuple(served), max(answer["busy"] for answer in answers))


def main() -> None:
    """One client: reads its order, says "ready", reads when to begin, and prints what it saw."""
    order = json.loads(sys.stdin.readline())
    print("ready", flush=True)  # noqa: T201  this process's answer
    print(json.dumps(asyncio.run(_all(order, float(sys.stdin.readline())))), flush=True)  # noqa: T201  as above


async def _all(order: dict[str, Any], began: float) -> dict[str, Any]:
    used_s = _cpu_s()
    async with httpx.AsyncClient(timeout=REQUEST_S, limits=httpx.Limits(max_connections=None), trust_env=False) as client:
        grpc = _Grpc(order["url"]) if order["protocol"] == "grpc" else None

        async def one(body: dict[str, Any], tokens: int, after: float) -> Served:
            due = began + after
            await asyncio.sleep(max(0.0, due - clock_s()))
            sent = clock_s()
            try:
                if grpc:
                    first = last = await grpc.embed(body["seed"])
                    return Served(due, sent, first, last, tokens)
                if order["protocol"] == "http":
                    first = last = await _embed(client, order["url"], body["seed"])
                    return Served(due, sent, first, last, tokens)
                return await _stream(client, order["url"], order["protocol"], body, tokens, due, sent)
            except (httpx.HTTPError, ValueError, KeyError, RuntimeError) as error:
                now = clock_s()
                return Served(due, sent, now, now, 0, f"{type(error).__name__}: {error}"[:160])

        planned = zip(order["bodies"], order["due"], strict=True)
        served = await asyncio.gather(*(one(body, tokens, after) for (body, tokens), after in planned))
        if grpc:
            await grpc.client.close()
    return {"served": [asdict(one) for one in served],
            "busy": (_cpu_s() - used_s) / max(clock_s() - began, 1e-9)}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _stream(client: httpx.AsyncClient, url: str, protocol: str, body: dict[str, Any], tokens: int, due: float, sent: float) -> Served:
    path = "/v1/chat/completions" if protocol == "chat" else "/v1/completions"
    first = last = 0.0
    count, done = 0, False
    async with client.stream("POST", url + path, json=body) as answer:
        if answer.status_code != 200:
            await answer.aread()
            raise RuntimeError(f"status {answer.status_code}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                done = True
                continue
            if '"usage":{' in line or '"usage": {' in line or '"error"' in line:
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError("the stream ended in an error")
                count = event["usage"]["completion_tokens"]
                if not event["choices"]:
                    continue
            last = clock_s()
            first = first or last
    if not done or (tokens and count != tokens):
        raise RuntimeError(f"{count} of {tokens} tokens, {'done' if done else 'broken off'}")
    return Served(due, sent, first, last, count)


def pixels_of(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One random image (1, 224, 224, 3); every request has its own."""
    return np.random.default_rng(seed).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)


async def _embed(client: httpx.AsyncClient, url: str, seed: int) -> float:
    infer_answer(await client.post(f"{url}/v2/models/encoder/infer", **infer_request(pixels_of(seed))))
    return clock_s()


class _Grpc:
    """Triton's own gRPC client."""

    def __init__(self, address: str) -> None:
        from tritonclient.grpc import InferInput
        from tritonclient.grpc.aio import InferenceServerClient

        self.input, self.client = InferInput, InferenceServerClient(address)

    async def embed(self, seed: int) -> float:
        pixels = pixels_of(seed)
        given = self.input("IMAGE", list(pixels.shape), "UINT8")
        given.set_data_from_numpy(pixels)
        (await self.client.infer("encoder", [given])).as_numpy("EMBEDDING")
        return clock_s()


def bodies_of(requests: Sequence[Ask]) -> list[tuple[dict[str, Any], int]]:
    return [(ask.body(stream=True), ask.new_tokens) for ask in requests]
