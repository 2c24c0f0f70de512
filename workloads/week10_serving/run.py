"""Week 10's measurement: one list of requests through every engine, side by side; then arrivals by a schedule; then images.

What to expect is in the package's docstring. Order: all that takes a minute to start does so side by side (vLLM twice, Triton, what
compiles, the static batches' first time), and nothing is timed before the last of them is ready or ended. Then what is judged: the
best static batch is found; tokens are held to a float32 reference; static batch and engine take turns, block by block; open-loop
load at the judged share of what the engine can do; images through Triton in the same way; static batch and vLLM in turns on random
weights of Llama-8B's shape. The other rows follow once each while time is left. What is not installed is said, and nothing stands
in for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import signal
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from workloads import checkpoint, machine, measure
from workloads.spec import Context, Observed
from workloads.week10_serving import (
    EMBEDDING,
    IMAGE,
    PARITY,
    REQUESTS,
    SHAPED,
    THROUGHPUT,
    TPOT,
    TTFT,
    client,
    compiled,
    encoder,
    engines,
    infer,
    processes,
)
from workloads.week10_serving.client import Clients, Load, bodies_of
from workloads.week10_serving.engines import Agreement, Tokens
from workloads.week10_serving.processes import NotInstalled, NotStarted, Service, Together
from workloads.week10_serving.story import (
    COMPILED,
    CONTINUOUS,
    GATEWAY,
    JUDGED_SHARE,
    STATIC,
    VLLM,
    Decoding,
    EngineRow,
    LoadRow,
    Story,
    observed,
)
from workloads.week10_serving.traffic import Ask, Lengths, arrivals, asks, tokens_of

OF_VLLM = tuple(target.name for target in (THROUGHPUT, PARITY, TTFT, TPOT))
OF_TRITON = tuple(target.name for target in (IMAGE, EMBEDDING))
MODEL_VARIABLE = "LLM_MODEL"

# Seconds from the start of the run. A run that is stopped loses everything, so this one ends by itself, well within eight minutes.
READY_BY_S = 260.0  # vLLM needs 100 s on an idle machine; what is not ready by then is ended, for nothing may start beside a timing
BUDGET_S = 395.0  # nothing further begins after this
SHAPED_BY_S = 330.0  # later than this 8B's shape, which takes more than a minute, finds no time
OVER_S = 420.0  # whatever still runs is left, and what was measured is kept
GRACE_S = 20.0  # what only fills a row is waited for so long
CLIENT_LIMIT_S = 30.0

TEXT_SERVERS = 4  # processes that write vLLM's streams
TEXT_GRAPH_TOKENS = 2048  # of a step
TEXT_CACHE_BYTES = 8 * 2**30  # 370,000 tokens of SmolLM2: four times what 512 requests hold
SHAPED_CACHE_BYTES = 8 * 2**30  # 65,000 tokens of Llama-8B: twice what 128 requests hold
SHAPED_BATCH, SHAPED_LENGTHS = 128, Lengths(128, 512, 32, 96)
CHECKED_A_SECOND = 100.0  # requests, where answers are checked as they arrive
SEARCH_TOKENS = 64  # of each answer, where static batches are compared: every step of one costs the same, nearly
WORDS = "the quick brown fox jumps over the lazy dog and then it "


class EngineFailed(RuntimeError):
    """The engine answered wrongly, or not; the text is one line."""


class OutOfTime(BaseException):
    """The run is over, wherever it is; no handler for errors is meant to take it."""


# What a part of the run may die of without taking the others along; EngineFailed, NotStarted and CUDA's errors are RuntimeErrors.
FAILURES = (RuntimeError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ImportError, httpx.HTTPError)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything: the full run on a GPU, or the smoke test on a CPU."""

    lengths: Lengths
    requests: int
    batches: tuple[int, ...]  # static batches to choose the best from
    alone: int  # requests one at a time
    checked: int  # requests held to the float32 reference
    rounds: int
    shares: tuple[float, ...]  # of capacity
    load_s: float  # how long requests arrive at each share
    most_load: int
    least_load: int  # below 72 no p95 has an interval
    clients: int
    sustained: int  # requests that capacity is taken from
    users: int  # who send them, each the next one when the last is answered
    image_users: int
    through_gateway: int
    gateway_share: float  # of capacity: a gateway in Python passes on fewer chunks a second than vLLM writes
    images: int


FULL = Sizes(Lengths(128, 512, 64, 192), requests=256, batches=(256, 128, 32), alone=3, checked=64, rounds=6, shares=(0.25, 0.5, 0.75, 0.9),
             load_s=6.0, most_load=2000, least_load=300, clients=8, sustained=1024, users=256,
             image_users=64, through_gateway=300, gateway_share=0.25, images=1000)
SMOKE = Sizes(Lengths(8, 24, 6, 12), requests=8, batches=(2, 4), alone=8, checked=8, rounds=6, shares=(0.75,), load_s=0.1, most_load=8,
              least_load=8, clients=1, sustained=8, users=4, image_users=4, through_gateway=20, gateway_share=2.0, images=0)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every part of the run has at hand."""

    ctx: Context
    sizes: Sizes
    at: Path
    story: Story
    together: Together
    clients: Clients
    began: float

    def age_s(self) -> float:
        return time.monotonic() - self.began

    def part(self, what: str, work: Callable[[], object], *targets: str, by_s: float = BUDGET_S) -> None:
        """Do one part of the run, unless it is late. What it fails of is told, and the other parts go on; a smoke run stops."""
        if self.age_s() > by_s:
            self.story.miss("no time was left", *targets)
            self.story.notes.append(f"No time was left for {what}")
            return
        try:
            work()
        except FAILURES as error:
            if self.ctx.smoke:
                raise
            said = "out of memory" if isinstance(error, torch.OutOfMemoryError) else f"{type(error).__name__}: {_first_line(error)}"
            self.story.miss(f"{what}: {said}", *targets)
            self.story.notes.append(f"{what} failed: {said}")
            self.ctx.progress(self.story.notes[-1])
        measure.free(self.ctx.device)

    def ready(self, service: Service, health: str, *targets: str) -> bool:
        """Whether a service is ready in time; if not it is ended, and the end of its log is shown."""
        try:
            processes.wait(service, health, max(1.0, READY_BY_S - self.age_s()))
        except NotStarted as error:
            self.story.miss(str(error), *targets)
            self.ctx.progress("\n    ".join([str(error), *service.lines(60)]))
            service.stop(processes.TOGETHER_S)
            return False
        self.ctx.progress(f"{service.name} is ready")
        return True


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:300]


@contextlib.contextmanager
def _over_after(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in here once `seconds` are over, also out of a wait for another process."""
    def end(*_: object) -> None:
        raise OutOfTime

    handler = signal.signal(signal.SIGALRM, end)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def run(ctx: Context) -> Observed:
    began = time.monotonic()
    sizes = SMOKE if ctx.smoke else FULL
    measure.lone_thread(ctx.device)
    named = checkpoint.named(MODEL_VARIABLE)  # first of all: a wrong path ends the run before anything is measured
    story = Story(ctx.device, model=f"the checkpoint of {MODEL_VARIABLE}")
    with tempfile.TemporaryDirectory(prefix="serving-", ignore_cleanup_errors=True) as scratch, Together() as together, \
            Clients(sizes.clients) as clients:
        try:
            with _over_after(OVER_S) if ctx.device == "cuda" else contextlib.nullcontext():
                _measure(Bench(ctx, sizes, Path(scratch), story, together, clients, began), named)
        except OutOfTime:
            story.notes.append(f"The run was over after {OVER_S:.0f} s, in the middle of something")
            ctx.progress(story.notes[-1])
    if ctx.device == "cpu":
        _must_agree(story)
    story.loads.sort(key=_place)
    story.images.sort(key=_place)
    _write_requests(ctx.out / REQUESTS, story)
    return observed(story)


def _place(row: LoadRow) -> tuple[str, bool, float]:
    return row.engine, row.arrivals == "open", row.share


def _measure(bench: Bench, named: Path | None) -> None:
    """All starts first, then what is judged, then the rest while time is left."""
    story, part = bench.story, bench.part
    shaped, triton = _start_shaped(bench), _start_triton(bench)
    text: Text | None = None
    try:
        folder = named or _stand_alone(bench.ctx, bench.at / "model", story)
    except checkpoint.NoCheckpoint as error:
        story.miss(str(error), *OF_VLLM)
    else:
        text = _start_text(bench, folder)
    if triton and bench.ready(triton.service, "/v2/health/ready", *OF_TRITON):
        part("the check of embeddings", partial(_check_embeddings, bench, triton), *OF_TRITON)
    else:
        triton = None
    if text:
        part("the warm-up of static batches", partial(_warm, bench, text))
        _ready_text(bench, text)
    if shaped and not bench.ready(shaped, "/health", SHAPED.name):
        shaped = None
    if text:
        _ready_compiled(bench, text)
        part("text, in turns", partial(_turns, bench, text), *OF_VLLM)
        if text.ready:
            part("text under load", partial(_judged_load, bench, text), TTFT.name, TPOT.name)
    if triton:
        part("images", partial(_images, bench, triton, "http", (JUDGED_SHARE,)), IMAGE.name)
    if text and text.right:
        part(COMPILED, partial(_compiled_row, bench, text))
    if shaped:
        part("8B's shape", partial(_shaped, bench, shaped), SHAPED.name, by_s=SHAPED_BY_S)
    part("the ceilings", partial(_ceilings, bench))
    others = [share for share in bench.sizes.shares if share != JUDGED_SHARE]
    if text and text.capacity:
        for share in others:
            part(f"{share:.0%} of capacity", partial(_share, bench, text, share))
    if triton:
        part("images through gRPC", partial(_images, bench, triton, "grpc", (JUDGED_SHARE, *others)))
    if text and text.capacity:
        part("the gateway", partial(_through_gateway, bench, text))
    if text and text.right:
        alone = text.requests[:bench.sizes.alone]
        part("one at a time", partial(_row, bench, "generate, one at a time", "batch 1", 1, alone,
                                      partial(engines.in_batches, text.model, alone, 1), text.right))
    if triton:
        part("images through HTTP", partial(_images, bench, triton, "http", others))
    if text and text.right:
        part(f"{CONTINUOUS}, no HTTP", partial(_continuous_row, bench, text))


def _ceilings(bench: Bench) -> None:
    bench.story.ceilings = machine.ceilings(bench.ctx.device)


def _stand_alone(ctx: Context, target: Path, story: Story) -> Path:
    """SmolLM2 from its package, or tiny random weights where this is a smoke run. Raises NoCheckpoint."""
    if ctx.smoke:
        story.model = "tiny random Llama"
        return engines.save_random(target, engines.TINY)
    story.model = "SmolLM2-135M-Instruct"
    folder = checkpoint.save_smollm2(target)
    ctx.progress(f"{story.model} is converted")
    return folder


# ---------------------------------------------------------------------------------------------------- text


@dataclass(slots=True)
class Text:
    """One model, the requests to it, and what serves it; `right` are the static batch's answers, once there are."""

    folder: Path
    engine: Service
    gateway: Service
    compiled: Service | None
    model: Any
    requests: tuple[Ask, ...]
    ready: bool = False
    batch: int = 0
    right: Sequence[Tokens] = ()
    capacity: float = 0.0

    @property
    def vocabulary(self) -> int:
        return int(self.model.config.vocab_size)


def _start_text(bench: Bench, folder: Path) -> Text:
    """Engine, gateway and what compiles, started; the model on the host, for no service is ready yet."""
    ctx, sizes, together = bench.ctx, bench.sizes, bench.together
    engine = _start_engine(bench, folder)
    port = processes.free_port()
    gateway = together.start(GATEWAY, processes.module(
        "gateway", "--engine-url", engine.url, "--encoder-url", "http://127.0.0.1:9", "--port", str(port)),
        f"http://127.0.0.1:{port}", bench.at / "gateway.log")
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    requests = asks(sizes.requests, sizes.lengths, vocabulary, ctx.seed)
    return Text(folder, engine, gateway, _start_compiled(bench, folder, requests),
                engines.load(folder, "cpu", torch.bfloat16 if ctx.device == "cuda" else torch.float32), requests)


def _start_engine(bench: Bench, folder: Path) -> Service:
    """vLLM, or where it is not installed or this is no GPU transformers' continuous batching, under its own name; not yet ready."""
    ctx, story = bench.ctx, bench.story
    port = processes.free_port()
    command = processes.module("llm", str(folder), "--device", ctx.device, "--port", str(port))
    story.engine = CONTINUOUS
    if ctx.device == "cuda":
        try:
            command = text_command(folder, port)
            story.engine = VLLM
        except NotInstalled as error:
            story.miss(str(error), *OF_VLLM)
            ctx.progress(f"{error}; its rows stay empty")
    else:
        story.miss("vLLM needs a GPU", *OF_VLLM)
    return bench.together.start(story.engine, command, f"http://127.0.0.1:{port}", bench.at / "engine.log")


def text_command(folder: Path, port: int, *, api_servers: int = TEXT_SERVERS, graph_tokens: int = TEXT_GRAPH_TOKENS) -> list[str]:
    """vLLM as it is judged. Raises NotInstalled."""
    return processes.vllm_command(folder, port, memory_share=0.1, most_tokens=2048, cache_bytes=TEXT_CACHE_BYTES, neutral=True,
                                  api_servers=api_servers, graph_tokens=graph_tokens)


def _start_compiled(bench: Bench, folder: Path, requests: Sequence[Ask]) -> Service | None:
    """`generate` with a static cache in a process of its own, where it compiles: on a GPU."""
    if bench.ctx.device == "cpu":
        return None
    batch = max(_batches(bench))
    at = bench.at / "compiled"
    at.mkdir()
    compiled.write_order(at, requests[:batch], batch)
    return bench.together.start(COMPILED, processes.module("compiled", str(folder), str(at), "--device", bench.ctx.device), "",
                                bench.at / "compiled.log")


def _batches(bench: Bench) -> tuple[int, ...]:
    """The static batches to choose from."""
    return (bench.ctx.batch,) if bench.ctx.batch else bench.sizes.batches


def _warm(bench: Bench, text: Text) -> None:
    """While the engines start: once, untimed, every shape that static batches and single requests will have, for a length of text
    that is new has been seen to cost 60 ms a step. The largest batch is the likeliest to be the best, so its answers are whole."""
    text.model.to(bench.ctx.device)
    batches = sorted(_batches(bench))
    for size in batches[:-1]:
        engines.generated(text.model, _cut(text.requests[:size]))
    engines.in_batches(text.model, text.requests[:bench.sizes.alone], 1)
    text.right = engines.in_batches(text.model, text.requests, batches[-1])
    bench.ctx.progress("static batches are warm")


def _cut(requests: Sequence[Ask]) -> list[Ask]:
    return [Ask(ask.prompt, min(ask.new_tokens, SEARCH_TOKENS)) for ask in requests]


def _ready_text(bench: Bench, text: Text) -> None:
    text.ready = bench.ready(text.engine, "/health", *OF_VLLM)
    text.model.to(bench.ctx.device)
    bench.story.decoding = Decoding(
        engines.weight_bytes(text.model), engines.cache_bytes_a_token(text.model.config, text.model.dtype.itemsize),
        statistics.fmean(len(ask.prompt) + ask.new_tokens / 2 for ask in text.requests))


def _ready_compiled(bench: Bench, text: Text) -> None:
    """It may be a little later than the rest; then it is ended, for it would compile beside what is timed."""
    if not text.compiled:
        return
    until = time.monotonic() + GRACE_S
    while not (bench.at / "compiled" / compiled.READY).exists():
        ended = text.compiled.process.poll() is not None
        if ended or time.monotonic() > until:
            why = text.compiled.tail() if ended else "it was not compiled in time"
            bench.story.notes.append(f"{COMPILED}: {why}")
            bench.ctx.progress("\n    ".join([bench.story.notes[-1], *text.compiled.lines(20)]))
            text.compiled.stop(processes.TOGETHER_S)
            text.compiled = None
            return
        time.sleep(compiled.LOOK_S)
    bench.ctx.progress(f"{COMPILED} is ready")


def _turns(bench: Bench, text: Text) -> None:
    """The best static batch; then, beside the engine: correctness, turns, energy."""
    ctx, sizes, story = bench.ctx, bench.sizes, bench.story
    text.batch = _best_batch(ctx, _batches(bench), text.model, text.requests)
    static = partial(engines.in_batches, text.model, text.requests, text.batch)
    if not text.right or text.batch != max(_batches(bench)):
        text.right = static()
    if not text.ready:
        return
    checked = text.requests[:sizes.checked]
    answers = {STATIC: text.right, story.engine: ask_all(text.engine.url, text.requests)}
    reference = engines.load(text.folder, ctx.device, torch.float32)
    story.agreement = {STATIC: engines.agreeing(reference, checked, text.right[:len(checked)]),
                       story.engine: worse_agreement(reference, text.engine.url, checked, answers[story.engine][:len(checked)], ctx.seed)}
    for name, agreement in story.agreement.items():
        ctx.progress(f"{name}: {agreement.right} of {agreement.total} tokens as the float32 reference has them, "
                     f"the worst {agreement.worst_nats:.2f} nats below its best")
    del reference
    measure.free(ctx.device)
    _driven(bench, text.engine, text.requests)  # once untimed: what was asked so far did not stream
    busy: list[float] = []
    streamed = _streamed(bench, text.engine, text.requests, busy)
    blocks, joules = _take_turns({STATIC: _timed(static), story.engine: streamed, f"{story.engine} again": streamed}, sizes.rounds)
    story.blocks = blocks
    rows = ((STATIC, f"static batch of {text.batch}", text.batch, None),
            (story.engine, "continuous, streamed over HTTP", len(text.requests), max(busy)))
    for name, policy, at_once, client_busy in rows:
        same = engines.identical(answers[STATIC], answers[name])
        story.engines.append(EngineRow(name, policy, at_once, tokens_of(text.requests), story.blocks[name], same, client_busy=client_busy))
        ctx.progress(story.engines[-1].line())
        if name in joules:
            story.joules[name] = 1000 * joules[name] / tokens_of(text.requests)


def _best_batch(ctx: Context, candidates: Sequence[int], model: Any, requests: Sequence[Ask]) -> int:
    """The static batch that writes most tokens a second, from one batch of each size, warm, its answers cut to SEARCH_TOKENS."""
    rates: dict[int, float] = {}
    for size in candidates:
        part = _cut(requests[:size])
        try:
            seconds = measure.seconds(partial(engines.generated, model, part))[1]
        except torch.OutOfMemoryError:
            ctx.progress(f"static batch of {size}: out of memory")
            measure.free(ctx.device)
            continue
        rates[size] = tokens_of(part) / seconds
        ctx.progress(f"static batch of {size}: {rates[size]:.0f} tok/s, answers cut to {SEARCH_TOKENS}")
    if not rates:
        raise RuntimeError(f"no static batch of {', '.join(map(str, candidates))} fits in memory")
    return max(rates, key=rates.__getitem__)


def ask_all(url: str, requests: Sequence[Ask], due: Sequence[float] = ()) -> list[Tokens]:
    """What the engine writes, over HTTP: to all requests at once, or to each when it is `due` (s); each answered in one piece, with the
    ids of its tokens, and never timed. Raises EngineFailed unless every answer is whole."""
    async def all_of_them() -> list[Tokens]:
        no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the default one reads every root certificate, for plain HTTP
        async with httpx.AsyncClient(timeout=client.REQUEST_S, limits=httpx.Limits(max_connections=None), trust_env=False,
                                     verify=no_tls) as http:
            async def one(ask: Ask, after_s: float) -> Tokens:
                await asyncio.sleep(after_s)
                answer = await http.post(f"{url}/v1/completions", json=ask.body(stream=False))
                answer.raise_for_status()
                try:
                    return tuple(answer.json()["choices"][0]["token_ids"])
                except (ValueError, LookupError, TypeError):
                    raise EngineFailed("an answer without the ids of its tokens") from None
            return list(await asyncio.gather(*map(one, requests, due or [0.0] * len(requests))))

    found = asyncio.run(all_of_them())
    short = sum(len(tokens) != ask.new_tokens for tokens, ask in zip(found, requests, strict=True))
    if short:
        raise EngineFailed(f"{short} of {len(requests)} answers have not the tokens that were asked for")
    return found


def worse_agreement(reference: Any, url: str, requests: Sequence[Ask], at_once: Sequence[Tokens], seed: int) -> Agreement:
    """Of an engine's answers `at_once` and those it gives as requests arrive, the worse: under arrivals a step has few prompts beside
    what decodes, and so other kernels than a burst's."""
    arriving = ask_all(url, requests, arrivals(CHECKED_A_SECOND, len(requests), seed))
    return min((engines.agreeing(reference, requests, answers) for answers in (at_once, arriving)), key=lambda found: found.share)


def _driven(bench: Bench, engine: Service, requests: Sequence[Ask], around: AbstractContextManager[object] | None = None) -> Load:
    """All requests at once, streamed to the load clients. Raises EngineFailed where one failed."""
    load = bench.clients.drive(engine.url, "completions", bodies_of(requests), [0.0] * len(requests), limit_s=_limit_s(bench),
                               around=around)
    if load.errors:
        raise EngineFailed(_failures(load))
    return load


def _sustained(bench: Bench, name: str, url: str, protocol: client.Protocol, bodies: Sequence[tuple[dict[str, Any], int]],
               users: int) -> LoadRow:
    """What so many users get who wait for their answers; its rate is capacity. A burst would show more than can be kept up: all its
    prompts come first, and then every step only decodes, where with arrivals most steps do both. Raises EngineFailed where nothing
    was answered, and in a smoke run where one request failed."""
    load = bench.clients.drive(url, protocol, bodies, [0.0] * len(bodies), users=users, limit_s=_limit_s(bench))
    if load.errors == len(bodies) or (load.errors and bench.ctx.smoke):
        raise EngineFailed(_failures(load))
    row = LoadRow(name, "closed", 1.0, len(load.answered) / load.wall_s, load)
    bench.ctx.progress(f"{name}: {row.rate:.0f} requests/s from {users} users, {load.errors} errors")
    return row


def _failures(load: Load) -> str:
    return f"{load.errors} of {len(load.served)} requests failed: {next(one.error for one in load.served if one.error)}"


Arm = Callable[[AbstractContextManager[object]], float]  # does its work once, inside the meter it is given; the seconds of the work


def _timed(work: Callable[[], object]) -> Arm:
    def arm(meter: AbstractContextManager[object]) -> float:
        with meter:
            return measure.seconds(work)[1]
    return arm


def _streamed(bench: Bench, engine: Service, requests: Sequence[Ask], busy: list[float]) -> Arm:
    """From when all requests were due to the last token, as under load; how busy the clients were goes into `busy`."""
    def arm(meter: AbstractContextManager[object]) -> float:
        load = _driven(bench, engine, requests, meter)
        busy.append(load.client_busy)
        return load.wall_s
    return arm


def _take_turns(arms: Mapping[str, Arm], rounds: int) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """Seconds of each arm, round by round, in an order shuffled each round, as `measure.time_interleaved` does for short calls; and
    the median of its joules, where the GPU counts them.

    Joules are those from the start of the timed work to its end as this process sees it: for clients the schedule's start (their
    head start is left out) and the last client's word, some ms after the last token. The counter moves every 20-100 ms, so of a
    turn of one second they are good to a tenth or so.
    """
    taken: dict[str, list[float]] = {name: [] for name in arms}
    millijoules: dict[str, list[int]] = {name: [] for name in arms}
    order = random.Random(0)
    with measure.energy_counter() as read_mj:
        for _ in range(rounds):
            for name in order.sample(list(arms), len(arms)):
                taken[name].append(arms[name](_metered(read_mj, millijoules[name])))
    return ({name: tuple(seconds) for name, seconds in taken.items()},
            {name: statistics.median(counts) / 1000 for name, counts in millijoules.items() if counts})


@contextlib.contextmanager
def _metered(read_mj: Callable[[], int] | None, into: list[int]) -> Iterator[None]:
    before = read_mj() if read_mj else 0
    yield
    if read_mj:
        into.append(read_mj() - before)


def _row(bench: Bench, name: str, policy: str, at_once: int, part: Sequence[Ask], call: Callable[[], list[Tokens]],
         right: Sequence[Tokens]) -> None:
    """An engine that nothing is judged by, once; out of memory is a row."""
    try:
        found, seconds = measure.seconds(call)
    except torch.OutOfMemoryError:
        bench.story.engines.append(EngineRow(name, policy, at_once, 0, (), (0, 0), "out of memory"))
        return
    _add_row(bench, name, policy, at_once, part, found, seconds, right)


def _add_row(bench: Bench, name: str, policy: str, at_once: int, part: Sequence[Ask], found: Sequence[Tokens], seconds: float,
             right: Sequence[Tokens]) -> None:
    bench.story.engines.append(EngineRow(name, policy, at_once, tokens_of(part), (seconds,), engines.identical(right[:len(part)], found)))
    bench.ctx.progress(bench.story.engines[-1].line())


def _continuous_row(bench: Bench, text: Text) -> None:
    if bench.ctx.device == "cuda":  # its kernels are loaded by then
        engines.continuous(text.model, [Ask(ask.prompt, 2) for ask in text.requests[:8]])
    _row(bench, f"{CONTINUOUS}, no HTTP", "continuous", len(text.requests), text.requests,
         partial(engines.continuous, text.model, text.requests), text.right)


def _compiled_row(bench: Bench, text: Text) -> None:
    """The static cache, warm: by its own process on a GPU, which ends here; on a CPU in this one, for nothing is compiled there."""
    if bench.ctx.device == "cpu":
        first = text.requests[:text.batch]
        _row(bench, COMPILED, f"static batch of {text.batch}", text.batch, first,
             partial(engines.in_batches, text.model, first, text.batch, "static"), text.right)
        return
    if not text.compiled:
        return
    at, until = bench.at / "compiled", time.monotonic() + 2 * GRACE_S
    (at / compiled.GO).touch()
    try:
        while not (at / compiled.ANSWER).exists():
            if text.compiled.process.poll() is not None or time.monotonic() > until:
                raise EngineFailed(f"no answer: {text.compiled.tail()}")
            time.sleep(compiled.LOOK_S)
    finally:
        text.compiled.stop(processes.TOGETHER_S)
    found, seconds = compiled.read_answer(at)
    _add_row(bench, COMPILED, f"static batch of {len(found)}", len(found), text.requests[:len(found)], found, seconds, text.right)


def _must_agree(story: Story) -> None:
    """On a CPU, in float32, every form must write the same tokens."""
    wrong = [row.engine for row in story.engines if row.identical[0] != row.identical[1]]
    if wrong:
        raise RuntimeError(f"tokens differ from those of the static batch: {', '.join(wrong)}")


def _judged_load(bench: Bench, text: Text) -> None:
    """What the engine can keep up, streaming; then arrivals at the judged share of that."""
    sizes = bench.sizes
    requests = asks(sizes.sustained, sizes.lengths, text.vocabulary, bench.ctx.seed + 1)
    full = _sustained(bench, bench.story.engine, text.engine.url, "completions", bodies_of(requests), sizes.users)
    bench.story.loads.append(full)
    text.capacity = full.rate
    _share(bench, text, JUDGED_SHARE)


def _share(bench: Bench, text: Text, share: float) -> None:
    """Poisson arrivals at `share` of capacity."""
    sizes = bench.sizes
    rate = share * text.capacity
    count = int(min(sizes.most_load, max(sizes.least_load, rate * sizes.load_s)))
    seed = bench.ctx.seed + 2 + sizes.shares.index(share)
    some = asks(count, sizes.lengths, text.vocabulary, seed)
    load = bench.clients.drive(text.engine.url, "completions", bodies_of(some), arrivals(rate, count, seed), limit_s=_limit_s(bench))
    bench.story.loads.append(LoadRow(bench.story.engine, "open", share, rate, load))
    bench.ctx.progress(bench.story.loads[-1].line())


def _limit_s(bench: Bench) -> float:
    """A CPU that others use too is given time."""
    return CLIENT_LIMIT_S if bench.ctx.device == "cuda" else client.LIMIT_S


def _through_gateway(bench: Bench, text: Text) -> None:
    sizes = bench.sizes
    processes.wait(text.gateway, "/health", 60.0)
    rate = sizes.gateway_share * text.capacity
    asked = {"max_tokens": sizes.lengths.new_median, "stream": True}
    chats = [({"messages": [{"role": "user", "content": WORDS * (1 + i % 4)}], **asked}, 0) for i in range(sizes.through_gateway)]
    load = bench.clients.drive(text.gateway.url, "chat", chats, arrivals(rate, len(chats), bench.ctx.seed), limit_s=_limit_s(bench))
    bench.story.loads.append(LoadRow(f"{bench.story.engine} behind the gateway", "open", sizes.gateway_share, rate, load))
    bench.ctx.progress(bench.story.loads[-1].line())
    if load.errors and bench.ctx.smoke:
        raise EngineFailed(_failures(load))


# ---------------------------------------------------------------------------------------------------- images


@dataclass(slots=True)
class Triton:
    """The server, and by protocol what it can do, once that was seen."""

    service: Service
    ports: encoder.Ports
    capacity: dict[str, float]


def _start_triton(bench: Bench) -> Triton | None:
    if bench.ctx.smoke:
        bench.story.miss("a smoke run starts no Triton; the tests do", *OF_TRITON)
        return None
    scratch = bench.at / "triton"
    scratch.mkdir()
    ports = encoder.Ports(*(processes.free_port() for _ in range(3)))
    try:
        command = encoder.command(encoder.copied(scratch / "models", encoder.FULL), scratch, ports)
        return Triton(bench.together.start("Triton", command, f"http://127.0.0.1:{ports.http}", scratch / "log"), ports, {})
    except (NotInstalled, OSError) as error:
        bench.story.miss(_first_line(error), *OF_TRITON)
        bench.ctx.progress(str(error))
    return None


def _check_embeddings(bench: Bench, triton: Triton) -> None:
    pixels = np.concatenate([client.pixels_of(i) for i in range(16)])
    found = infer.infer_answer(httpx.post(f"{triton.service.url}/v2/models/encoder/infer", timeout=60.0, trust_env=False,
                                          **infer.infer_request(pixels)))
    bench.story.embedding_error = encoder.worst_error(found, encoder.reference(encoder.FULL, pixels))
    bench.ctx.progress(f"embeddings through Triton: worst relative error {bench.story.embedding_error:.4f}")


def _images(bench: Bench, triton: Triton, protocol: client.Protocol, shares: Sequence[float]) -> None:
    """What the encoder can do, unless that is known, then Poisson arrivals at `shares` of it."""
    bodies: list[tuple[dict[str, Any], int]] = [({"seed": i}, 1) for i in range(bench.sizes.images)]
    url = triton.service.url if protocol == "http" else f"127.0.0.1:{triton.ports.grpc}"
    name = f"Triton, {protocol}"
    if protocol not in triton.capacity:
        full = _sustained(bench, name, url, protocol, bodies, bench.sizes.image_users)
        bench.story.images.append(full)
        triton.capacity[protocol] = full.rate
    for share in shares:
        if bench.age_s() > BUDGET_S:
            bench.story.notes.append(f"No time was left for {name} at {share:.0%} of capacity")
            continue
        rate = share * triton.capacity[protocol]
        load = bench.clients.drive(url, protocol, bodies, arrivals(rate, len(bodies), bench.ctx.seed), limit_s=_limit_s(bench))
        bench.story.images.append(LoadRow(name, "open", share, rate, load))
        bench.ctx.progress(bench.story.images[-1].line())


# ---------------------------------------------------------------------------------------------------- 8B's shape


def _start_shaped(bench: Bench) -> Service | None:
    """vLLM on random weights of its own, which need no checkpoint: first of all, for it is the slowest."""
    if bench.ctx.device == "cpu":
        bench.story.miss("8B's shape needs a GPU", SHAPED.name)
        return None
    folder = bench.at / "shaped"
    engines.LLAMA_8B.save_pretrained(folder)
    port = processes.free_port()
    try:
        command = processes.vllm_command(folder, port, memory_share=0.35, most_tokens=2048, cache_bytes=SHAPED_CACHE_BYTES,
                                         neutral=True, random_weights=True)
    except NotInstalled as error:
        bench.story.miss(str(error), SHAPED.name)
        return None
    return bench.together.start(f"{VLLM}, 8B's shape", command, f"http://127.0.0.1:{port}", bench.at / "shaped.log")


def _shaped(bench: Bench, engine: Service) -> None:
    story = bench.story
    requests = asks(SHAPED_BATCH, SHAPED_LENGTHS, engines.LLAMA_8B.vocab_size, bench.ctx.seed)
    model = engines.random_model(engines.LLAMA_8B, bench.ctx.device, torch.bfloat16)
    static = partial(engines.in_batches, model, requests, len(requests))
    static()  # whole, for every new length of text costs the first time
    _driven(bench, engine, requests)
    busy: list[float] = []
    story.shaped, _ = _take_turns({STATIC: _timed(static), VLLM: _streamed(bench, engine, requests, busy)}, bench.sizes.rounds)
    story.shaped_busy = max(busy)
    story.shaped_tokens = tokens_of(requests)
    story.shaped_batch = len(requests)
    bench.ctx.progress(f"8B's shape: static {tokens_of(requests) / statistics.median(story.shaped[STATIC]):.0f} tok/s, "
                       f"{VLLM} {tokens_of(requests) / statistics.median(story.shaped[VLLM]):.0f} tok/s")


# ---------------------------------------------------------------------------------------------------- what is kept


def _write_requests(path: Path, story: Story) -> None:
    """Every request of every load, what the percentiles were made of; times in seconds from when the first one was due."""
    loads = [{"engine": row.engine, "arrivals": row.arrivals, "share": row.share, "columns": client.COLUMNS,
              "requests": client.rows_of(row.load)} for row in (*story.loads, *story.images)]
    path.write_bytes(gzip.compress(json.dumps(loads).encode(), mtime=0))
