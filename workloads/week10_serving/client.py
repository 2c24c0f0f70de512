"""The load: a process of its own that sends requests when they are due, and writes down when each was answered.

Open loop: when a request is sent follows from the schedule alone. A process is given its share of the requests as one line of
JSON and answers with one, schedule after schedule; several share one, so that no client's Python is what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal

import httpx
import numpy as np

from workloads.clock import clock_s
from workloads.week10_serving import processes
from workloads.week10_serving.goals import Served
from workloads.week10_serving.infer import SIDE, infer_answer, infer_request
from workloads.week10_serving.traffic import Ask

Protocol = Literal["completions", "chat", "http", "grpc"]
REQUEST_S = 60.0
LIMIT_S = 90.0  # after the last request was due every answer is there or failed, or the clients hang
HEAD_START_S = 0.2  # from when a client is told to begin to its schedule's start


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


COLUMNS = ("due", "sent", "first", "last", "tokens", "error")


def rows_of(load: Load) -> list[list[Any]]:
    """Every request in COLUMNS, times in seconds from when the first one was due, to a microsecond."""
    start = load.served[0].due
    return [[*(round(moment - start, 6) for moment in (one.due, one.sent, one.first, one.last)), one.tokens, one.error]
            for one in load.served]


def load_of(rows: Sequence[Sequence[Any]], client_busy: float) -> Load:
    """The load that `rows_of` wrote down."""
    return Load(tuple(Served(*row) for row in rows), client_busy)


class Clients:
    """Processes that take one schedule after another. A new one costs seconds of imports, which a schedule would wait for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.workers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Clients:
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def _start(self) -> None:
        self.workers = [subprocess.Popen(processes.module("client"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                        for _ in range(self.count)]

    def _stop(self) -> None:
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                with contextlib.suppress(BrokenPipeError):  # what was still to be written has no reader
                    if pipe:
                        pipe.close()

    def drive(self, url: str, protocol: Protocol, bodies: Sequence[tuple[dict[str, Any], int]], due: Sequence[float], *,
              users: int = 0, limit_s: float = LIMIT_S, around: contextlib.AbstractContextManager[object] | None = None) -> Load:
        """Send each body (with the tokens its answer must have) `due` seconds after the start.

        With `users` the loop is closed: so many requests are in flight at most, at least one from each client, and one that has to
        wait for another's answer is due once that is there. `around` is entered at the schedule's start, when every client has its
        order, and left once the last one is done.
        Raises RuntimeError where a client ends without an answer, as all do `limit_s` seconds after the last request was due; new
        ones are started then. A request that fails is Served with its error, never dropped.
        """
        overdue = threading.Timer(max(due, default=0.0) + limit_s, self._kill)
        overdue.start()
        try:
            answers = self._answers(url, protocol, bodies, due, users, around or contextlib.nullcontext())
        except (OSError, RuntimeError, ValueError) as error:
            self._stop()
            self._start()
            raise RuntimeError(f"the load clients failed: {error}") from error
        finally:
            overdue.cancel()
        served = sorted((Served(**one) for answer in answers for one in answer["served"]), key=lambda one: one.due)
        return Load(tuple(served), max(answer["busy"] for answer in answers))

    def _kill(self) -> None:
        for worker in self.workers:
            worker.kill()

    def _answers(self, url: str, protocol: Protocol, bodies: Sequence[tuple[dict[str, Any], int]], due: Sequence[float], users: int,
                 around: contextlib.AbstractContextManager[object]) -> list[Any]:
        for i, worker in enumerate(self.workers):
            mine = slice(i, None, self.count)
            of_mine = max(1, len(range(i, users, self.count))) if users else 0
            _tell(worker, json.dumps({"url": url, "protocol": protocol, "bodies": bodies[mine], "due": due[mine], "users": of_mine}))
        for worker in self.workers:
            if _heard(worker) != "ready\n":
                raise RuntimeError("a client did not start")
        began = clock_s() + HEAD_START_S
        for worker in self.workers:
            _tell(worker, repr(began))
        time.sleep(max(0.0, began - clock_s()))
        with around:
            lines = [_heard(worker) for worker in self.workers]
        return [json.loads(line) for line in lines]


def _tell(worker: subprocess.Popen[str], line: str) -> None:
    assert worker.stdin
    worker.stdin.write(f"{line}\n")
    worker.stdin.flush()


def _heard(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"one ended with {worker.wait()}")
    return line


def drive(url: str, protocol: Protocol, bodies: Sequence[tuple[dict[str, Any], int]], due: Sequence[float], clients: int) -> Load:
    """One schedule through `clients` new processes; see Clients.drive."""
    with Clients(clients) as started:
        return started.drive(url, protocol, bodies, due)


def main() -> None:
    """One client: reads an order, says "ready", reads when to begin, prints what it saw, and reads the next."""
    asyncio.run(_orders())


async def _orders() -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await _all(json.loads(line))), flush=True)  # noqa: T201  this process's answer


async def _all(order: dict[str, Any]) -> dict[str, Any]:
    """All that costs time and is no request comes before "ready": libraries, connections' contexts, random pixels."""
    no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the default one reads every root certificate, for plain HTTP
    async with httpx.AsyncClient(timeout=REQUEST_S, limits=httpx.Limits(max_connections=None), trust_env=False, verify=no_tls) as client:
        grpc = _Grpc(order["url"]) if order["protocol"] == "grpc" else None
        if grpc:
            await grpc.connect()
        images = {body["seed"]: pixels_of(body["seed"]) for body, _ in order["bodies"]} if order["protocol"] in ("grpc", "http") else {}
        print("ready", flush=True)  # noqa: T201  this process's answer
        began = float(await asyncio.to_thread(sys.stdin.readline))
        used_s = _cpu_s()
        turn = asyncio.Semaphore(order["users"]) if order["users"] else None

        async def one(body: dict[str, Any], tokens: int, after: float) -> Served:
            due = began + after
            await asyncio.sleep(max(0.0, due - clock_s()))
            if not turn:
                return await sent_at(due, body, tokens)
            async with turn:
                return await sent_at(max(due, clock_s()), body, tokens)

        async def sent_at(due: float, body: dict[str, Any], tokens: int) -> Served:
            sent = clock_s()
            try:
                if grpc:
                    first = last = await grpc.embed(images[body["seed"]])
                    return Served(due, sent, first, last, tokens)
                if order["protocol"] == "http":
                    first = last = await _embed(client, order["url"], images[body["seed"]])
                    return Served(due, sent, first, last, tokens)
                return await _stream(client, order["url"], order["protocol"], body, tokens, due, sent)
            except (httpx.HTTPError, ValueError, KeyError, RuntimeError) as error:
                now = clock_s()
                return Served(due, sent, now, now, 0, f"{type(error).__name__}: {error}"[:160])

        planned = zip(order["bodies"], order["due"], strict=True)
        served = await asyncio.gather(*(one(body, tokens, after) for (body, tokens), after in planned))
        busy = (_cpu_s() - used_s) / max(clock_s() - began, 1e-9)
        if grpc:
            await grpc.client.close()
    return {"served": [asdict(one) for one in served], "busy": busy}


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
                event = json.loads(line[6:])  # a token may read "error" as well
                if "error" in event:
                    raise RuntimeError("the stream ended in an error")
                if event.get("usage"):
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


async def _embed(client: httpx.AsyncClient, url: str, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    infer_answer(await client.post(f"{url}/v2/models/encoder/infer", **infer_request(pixels)))
    return clock_s()


class _Grpc:
    """Triton's own gRPC client; it raises RuntimeError where Triton says no, or is gone."""

    def __init__(self, address: str) -> None:
        from tritonclient.grpc import InferInput
        from tritonclient.grpc.aio import InferenceServerClient
        from tritonclient.utils import InferenceServerException

        self.input, self.failure, self.client = InferInput, InferenceServerException, InferenceServerClient(address)

    async def connect(self) -> None:
        with contextlib.suppress(self.failure):  # each request will say so
            await self.client.is_server_live(client_timeout=REQUEST_S)

    async def embed(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
        given = self.input("IMAGE", list(pixels.shape), "UINT8")
        given.set_data_from_numpy(pixels)
        try:
            (await self.client.infer("encoder", [given], client_timeout=REQUEST_S)).as_numpy("EMBEDDING")
        except self.failure as error:
            raise RuntimeError(str(error)) from None
        return clock_s()


def bodies_of(requests: Sequence[Ask]) -> list[tuple[dict[str, Any], int]]:
    return [(ask.body(stream=True), ask.new_tokens) for ask in requests]
