"""Week 10's measurement: one list of requests through every engine, side by side; then arrivals by a schedule; then images.

What to expect is in the package's docstring. Order: the engine starts; the best static batch is found; every engine's tokens are
held to a float32 reference; then static batch and engine take turns, block by block; then open-loop load at shares of what the
engine can do; the other rows follow once each, the one that compiles for a minute last of all. Images go through Triton in
the same way, and then static batch and vLLM take turns on random weights of Llama-8B's shape. What is not installed is said,
and nothing stands in for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from workloads import checkpoint, machine, measure
from workloads.spec import Context, Observed
from workloads.week10_serving import PARITY, REQUESTS, THROUGHPUT, TPOT, TTFT, client, encoder, engines, infer, processes
from workloads.week10_serving.client import bodies_of, drive
from workloads.week10_serving.engines import Tokens
from workloads.week10_serving.processes import NotInstalled, NotStarted, Service, running, starting
from workloads.week10_serving.story import CONTINUOUS, GATEWAY, STATIC, VLLM, Decoding, EngineRow, LoadRow, Story, observed
from workloads.week10_serving.traffic import Ask, Lengths, arrivals, asks, tokens_of

OF_VLLM = tuple(target.name for target in (THROUGHPUT, PARITY, TTFT, TPOT))
MODEL_VARIABLE = "LLM_MODEL"
ENGINE_READY_S = 240.0
BUDGET_S = 500.0  # nothing further begins after this; a full run ends within ten minutes
SHAPED_BY_S = 400.0  # later than this, random weights of 8B's shape find no time: vLLM alone needs 100 s to start
SHAPED_BATCH, SHAPED_LENGTHS = 128, Lengths(128, 512, 48, 128)
WORDS = "the quick brown fox jumps over the lazy dog and then it "


class EngineFailed(RuntimeError):
    """The engine answered wrongly, or not; the text is one line."""


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
    through_gateway: int
    gateway_share: float  # of capacity: a gateway in Python passes on fewer chunks a second than vLLM writes
    images: int


FULL = Sizes(Lengths(128, 512, 64, 192), requests=256, batches=(32, 128, 256), alone=4, checked=64, rounds=6, shares=(0.25, 0.5, 0.75, 0.9),
             load_s=8.0, most_load=2000, least_load=300, clients=6, through_gateway=300, gateway_share=0.25, images=1500)
SMOKE = Sizes(Lengths(8, 24, 6, 12), requests=8, batches=(2, 4), alone=8, checked=8, rounds=6, shares=(0.75,), load_s=0.1, most_load=8,
              least_load=8, clients=1, through_gateway=20, gateway_share=2.0, images=0)


def run(ctx: Context) -> Observed:
    began = time.monotonic()
    sizes = SMOKE if ctx.smoke else FULL
    measure.lone_thread(ctx.device)
    named = checkpoint.named(MODEL_VARIABLE)  # first of all: a wrong path ends the run before anything is measured
    story = Story(ctx.device, model=f"the checkpoint of {MODEL_VARIABLE}")

    def late(by_s: float = BUDGET_S) -> bool:
        return time.monotonic() - began > by_s

    with tempfile.TemporaryDirectory(prefix="serving-") as scratch:
        at = Path(scratch)
        last: Callable[[], None] | None = None
        try:
            folder = named or _stand_alone(ctx, at / "model", story)
        except checkpoint.NoCheckpoint as error:
            story.miss(str(error), *OF_VLLM)
        else:
            last = _text(ctx, sizes, folder, at, story, late)
        story.ceilings = machine.ceilings(ctx.device)
        _images(ctx, sizes, at, story, late)
        _shaped(ctx, sizes, at, story, late)
        if last:
            last()
    if ctx.device == "cpu":
        _must_agree(story)
    _write_requests(ctx.out / REQUESTS, story)
    return observed(story)


def _stand_alone(ctx: Context, target: Path, story: Story) -> Path:
    """SmolLM2 from its package, or tiny random weights where this is a smoke run. Raises NoCheckpoint."""
    if ctx.smoke:
        story.model = "tiny random Llama"
        return engines.save_random(target, engines.TINY)
    story.model = "SmolLM2-135M-Instruct"
    return checkpoint.save_smollm2(target)


# ---------------------------------------------------------------------------------------------------- text


@contextlib.contextmanager
def _engine(ctx: Context, folder: Path, at: Path, story: Story) -> Iterator[Service]:
    """vLLM, or where it is not installed or this is no GPU transformers' continuous batching, under its own name; not yet ready."""
    port = processes.free_port()
    command = processes.module("llm", str(folder), "--device", ctx.device, "--port", str(port))
    story.engine = CONTINUOUS
    if ctx.device == "cuda":
        try:
            command, story.engine = processes.vllm_command(folder, port, memory_share=0.4, most_tokens=2048), VLLM
        except NotInstalled as error:
            story.miss(str(error), *OF_VLLM)
            ctx.progress(f"{error}; its rows stay empty")
    else:
        story.miss("vLLM needs a GPU", *OF_VLLM)
    with starting(story.engine, command, f"http://127.0.0.1:{port}", at / "engine.log") as service:
        yield service


def _text(ctx: Context, sizes: Sizes, folder: Path, at: Path, story: Story, late: Callable[[], bool]) -> Callable[[], None]:
    """What is judged, and the quick rows; returns the row that compiles for a minute, for where time is left at the end."""
    with _engine(ctx, folder, at, story) as engine:
        # Not on the GPU yet: vLLM ends where memory comes and goes while it measures what is free.
        model = engines.load(folder, "cpu", torch.bfloat16 if ctx.device == "cuda" else torch.float32)
        ready = True
        try:
            processes.wait(engine, "/health", ENGINE_READY_S)
        except NotStarted as error:
            ready = False
            story.miss(str(error), *OF_VLLM)
        ctx.progress(f"{story.engine} is ready" if ready else story.missed[OF_VLLM[0]])
        model.to(ctx.device)
        requests = asks(sizes.requests, sizes.lengths, model.config.vocab_size, ctx.seed)
        story.decoding = Decoding(
            engines.weight_bytes(model), engines.cache_bytes_a_token(model.config, model.dtype.itemsize), len(requests),
            statistics.fmean(len(ask.prompt) + ask.new_tokens / 2 for ask in requests))
        batch = _best_batch(ctx, (ctx.batch,) if ctx.batch else sizes.batches, model, requests)
        static = partial(engines.in_batches, model, requests, batch)
        right = static()
        if ready:
            try:
                _beside_engine(ctx, sizes, folder, at, engine, static, right, batch, requests, model.config.vocab_size, story, late)
            except (EngineFailed, httpx.HTTPError) as error:
                if ctx.smoke:
                    raise
                story.miss(f"{story.engine} failed: {error}", *OF_VLLM)
                ctx.progress(f"{story.engine} failed: {error}")
    alone, first = requests[:sizes.alone], requests[:batch]
    _row(ctx, "generate, one at a time", "batch 1", alone, partial(engines.in_batches, model, alone, 1), right, story, late)
    _row(ctx, f"{CONTINUOUS}, no HTTP", "continuous", requests, partial(engines.continuous, model, requests), right, story, late)
    return partial(_row, ctx, "generate, static cache + compile", f"static batch of {batch}", first,
                   partial(engines.in_batches, model, first, batch, "static"), right, story, late, warm=ctx.device == "cuda")


def _beside_engine(ctx: Context, sizes: Sizes, folder: Path, at: Path, engine: Service, static: Callable[[], list[Tokens]],
                   right: Sequence[Tokens], batch: int, requests: Sequence[Ask], vocabulary: int, story: Story,
                   late: Callable[[], bool]) -> None:
    """Static batch and engine: correctness, turns, energy; then the engine under load."""
    continuous = partial(_answers, engine.url, requests)
    answers = {STATIC: right, story.engine: continuous()}
    _hold_to_reference(ctx, sizes, folder, requests, answers, story)
    story.blocks = _take_turns({STATIC: static, story.engine: continuous, f"{story.engine} again": continuous}, sizes.rounds)
    for name, policy in ((STATIC, f"static batch of {batch}"), (story.engine, "continuous, over HTTP")):
        same = engines.identical(answers[STATIC], answers[name])
        story.engines.append(EngineRow(name, policy, tokens_of(requests), story.blocks[name], same))
        ctx.progress(story.engines[-1].line())
    for name, call in ((STATIC, static), (story.engine, continuous)):
        if not late() and (joules := measure.energy_j(call, seconds=2.0)) is not None:
            story.joules[name] = 1000 * joules / tokens_of(requests)
    _load(ctx, sizes, engine, at, vocabulary, story, late)


def _best_batch(ctx: Context, candidates: Sequence[int], model: Any, requests: Sequence[Ask]) -> int:
    """The static batch that writes most tokens a second, from one batch of each size, after one of warm-up."""
    engines.generated(model, [Ask(requests[0].prompt, 2)])
    rates: dict[int, float] = {}
    for size in candidates:
        part = requests[:size]
        try:
            _, seconds = measure.seconds(partial(engines.generated, model, part))
        except torch.OutOfMemoryError:
            ctx.progress(f"static batch of {size}: out of memory")
            measure.free(ctx.device)
            continue
        rates[size] = tokens_of(part) / seconds
        ctx.progress(f"static batch of {size}: {rates[size]:.0f} tok/s")
    if not rates:
        raise RuntimeError(f"no static batch of {', '.join(map(str, candidates))} fits in memory")
    return max(rates, key=rates.__getitem__)


def _answers(url: str, requests: Sequence[Ask]) -> list[Tokens]:
    """All requests at once over HTTP, each answered in one piece. Raises EngineFailed unless every answer is whole."""
    async def all_of_them() -> list[Tokens]:
        async with httpx.AsyncClient(timeout=client.REQUEST_S, limits=httpx.Limits(max_connections=None), trust_env=False) as http:
            async def one(ask: Ask) -> Tokens:
                answer = await http.post(f"{url}/v1/completions", json=ask.body(stream=False))
                answer.raise_for_status()
                try:
                    return tuple(answer.json()["choices"][0]["token_ids"])
                except (ValueError, LookupError, TypeError):
                    raise EngineFailed("an answer without the ids of its tokens") from None
            return list(await asyncio.gather(*map(one, requests)))

    found = asyncio.run(all_of_them())
    short = sum(len(tokens) != ask.new_tokens for tokens, ask in zip(found, requests, strict=True))
    if short:
        raise EngineFailed(f"{short} of {len(requests)} answers have not the tokens that were asked for")
    return found


def _hold_to_reference(ctx: Context, sizes: Sizes, folder: Path, requests: Sequence[Ask], answers: Mapping[str, Sequence[Tokens]],
                       story: Story) -> None:
    reference = engines.load(folder, ctx.device, torch.float32)
    for name, tokens in answers.items():
        story.agreement[name] = engines.agreeing(reference, requests[:sizes.checked], tokens[:sizes.checked])
        ctx.progress("{}: {} of {} tokens as the float32 reference has them".format(name, *story.agreement[name]))
    del reference
    measure.free(ctx.device)


def _take_turns(arms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, ...]]:
    """Seconds of each arm, round by round, in an order shuffled each round, as `measure.time_interleaved` does for short calls."""
    taken: dict[str, list[float]] = {name: [] for name in arms}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(arms), len(arms)):
            taken[name].append(measure.seconds(arms[name])[1])
    return {name: tuple(seconds) for name, seconds in taken.items()}


def _row(ctx: Context, name: str, policy: str, part: Sequence[Ask], call: Callable[[], list[Tokens]], right: Sequence[Tokens], story: Story,
         late: Callable[[], bool], *, warm: bool = False) -> None:
    """An engine that nothing is judged by, once: warm where it compiles, and out of memory is a row."""
    if late():
        story.notes.append(f"No time was left for {name}")
        return
    try:
        if warm:
            call()
        found, seconds = measure.seconds(call)
    except torch.OutOfMemoryError:
        story.engines.append(EngineRow(name, policy, 0, (), (0, 0), "out of memory"))
        measure.free(ctx.device)
        return
    story.engines.append(EngineRow(name, policy, tokens_of(part), (seconds,), engines.identical(right[:len(part)], found)))
    ctx.progress(story.engines[-1].line())


def _must_agree(story: Story) -> None:
    """On a CPU, in float32, every form must write the same tokens."""
    wrong = [row.engine for row in story.engines if row.identical[0] != row.identical[1]]
    if wrong:
        raise RuntimeError(f"tokens differ from those of the static batch: {', '.join(wrong)}")


def _load(ctx: Context, sizes: Sizes, engine: Service, at: Path, vocabulary: int, story: Story, late: Callable[[], bool]) -> None:
    """What the engine can do with every request at once, streaming; then arrivals at shares of that; then through the gateway."""
    requests = asks(sizes.requests, sizes.lengths, vocabulary, ctx.seed + 1)
    full = drive(engine.url, "completions", bodies_of(requests), [0.0] * len(requests), sizes.clients)
    if full.errors:
        raise EngineFailed(f"{full.errors} of {len(requests)} requests failed: {next(one.error for one in full.served if one.error)}")
    capacity = len(requests) / full.wall_s
    story.loads.append(LoadRow(story.engine, "closed", 1.0, capacity, full))
    for place, share in enumerate(sizes.shares):
        if late():
            story.notes.append(f"No time was left for {share:.0%} of capacity")
            continue
        rate = share * capacity
        count = int(min(sizes.most_load, max(sizes.least_load, rate * sizes.load_s)))
        seed = ctx.seed + 2 + place
        some = asks(count, sizes.lengths, vocabulary, seed)
        load = drive(engine.url, "completions", bodies_of(some), arrivals(rate, count, seed), sizes.clients)
        story.loads.append(LoadRow(story.engine, "open", share, rate, load))
        ctx.progress(story.loads[-1].line())
    if late():
        return
    port = processes.free_port()
    command = processes.module("gateway", "--engine-url", engine.url, "--encoder-url", "http://127.0.0.1:9", "--port", str(port))
    with running(GATEWAY, command, f"http://127.0.0.1:{port}", "/health", at / "gateway.log", ready_s=60.0) as gateway:
        rate = sizes.gateway_share * capacity
        asked = {"max_tokens": sizes.lengths.new_median, "stream": True}
        chats = [({"messages": [{"role": "user", "content": WORDS * (1 + i % 4)}], **asked}, 0) for i in range(sizes.through_gateway)]
        load = drive(gateway.url, "chat", chats, arrivals(rate, len(chats), ctx.seed), sizes.clients)
        story.loads.append(LoadRow(f"{story.engine} behind the gateway", "open", sizes.gateway_share, rate, load))
        ctx.progress(story.loads[-1].line())
        if load.errors and ctx.smoke:
            raise EngineFailed(f"{load.errors} of {len(chats)} requests failed: {next(one.error for one in load.served if one.error)}")


# ---------------------------------------------------------------------------------------------------- images


def _images(ctx: Context, sizes: Sizes, at: Path, story: Story, late: Callable[[], bool]) -> None:
    targets = ("image_p95", "embedding_error")
    if ctx.smoke:
        story.miss("a smoke run starts no Triton; the tests do", *targets)
        return
    if late():
        story.miss("no time was left", *targets)
        return
    scratch = at / "triton"
    scratch.mkdir()
    ports = encoder.Ports(*(processes.free_port() for _ in range(3)))
    try:
        command = encoder.command(encoder.copied(scratch / "models", encoder.FULL), scratch, ports)
        with running("Triton", command, f"http://127.0.0.1:{ports.http}", "/v2/health/ready", scratch / "log", ready_s=120.0) as triton:
            _images_through(ctx, sizes, triton, ports, story, late)
    except (NotInstalled, NotStarted) as error:
        story.miss(str(error), *targets)
        ctx.progress(str(error))


def _images_through(ctx: Context, sizes: Sizes, triton: Service, ports: encoder.Ports, story: Story, late: Callable[[], bool]) -> None:
    pixels = np.concatenate([client.pixels_of(i) for i in range(16)])
    found = infer.infer_answer(httpx.post(f"{triton.url}/v2/models/encoder/infer", timeout=60.0, **infer.infer_request(pixels)))
    story.embedding_error = encoder.worst_error(found, encoder.reference(encoder.FULL, pixels))
    bodies: list[tuple[dict[str, Any], int]] = [({"seed": i}, 1) for i in range(sizes.images)]
    urls: dict[client.Protocol, str] = {"http": triton.url, "grpc": f"127.0.0.1:{ports.grpc}"}
    for protocol, url in urls.items():
        full = drive(url, protocol, bodies, np.linspace(0.0, 0.5, len(bodies)).tolist(), sizes.clients)
        capacity = len(full.answered) / full.wall_s
        story.images.append(LoadRow(f"Triton, {protocol}", "closed", 1.0, capacity, full))
        for share in sizes.shares:
            if not late():
                load = drive(url, protocol, bodies, arrivals(share * capacity, len(bodies), ctx.seed), sizes.clients)
                story.images.append(LoadRow(f"Triton, {protocol}", "open", share, share * capacity, load))
                ctx.progress(story.images[-1].line())


# ---------------------------------------------------------------------------------------------------- 8B's shape


def _shaped(ctx: Context, sizes: Sizes, at: Path, story: Story, late: Callable[[float], bool]) -> None:
    if ctx.device == "cpu":
        story.miss("8B's shape needs a GPU", "shaped_ratio")
        return
    if late(SHAPED_BY_S):
        story.miss("no time was left", "shaped_ratio")
        return
    folder = at / "shaped"
    engines.LLAMA_8B.save_pretrained(folder)
    port = processes.free_port()
    requests = asks(SHAPED_BATCH, SHAPED_LENGTHS, engines.LLAMA_8B.vocab_size, ctx.seed)
    try:
        command = processes.vllm_command(folder, port, memory_share=0.5, most_tokens=2048, random_weights=True)
        with running(VLLM, command, f"http://127.0.0.1:{port}", "/health", at / "shaped.log", ready_s=ENGINE_READY_S) as engine:
            model = engines.random_model(engines.LLAMA_8B, ctx.device, torch.bfloat16)
            static, continuous = partial(engines.in_batches, model, requests, len(requests)), partial(_answers, engine.url, requests)
            engines.generated(model, [Ask(requests[0].prompt, 2)])
            continuous()
            story.shaped = _take_turns({STATIC: static, VLLM: continuous}, sizes.rounds)
            story.shaped_tokens = tokens_of(requests)
            story.shaped_batch = len(requests)
            del model, static
    except torch.OutOfMemoryError:
        story.miss("out of memory", "shaped_ratio")
    except (NotInstalled, NotStarted, EngineFailed, httpx.HTTPError) as error:
        story.miss(str(error), "shaped_ratio")
        ctx.progress(str(error))
    measure.free(ctx.device)


# ---------------------------------------------------------------------------------------------------- what is kept


def _write_requests(path: Path, story: Story) -> None:
    """Every request of every load, what the percentiles were made of; times in seconds from the first one's."""
    loads = []
    for row in (*story.loads, *story.images):
        start = row.load.served[0].due
        loads.append({
            "engine": row.engine, "arrivals": row.arrivals, "share": row.share,
            "columns": ["due", "sent", "first", "last", "tokens", "error"],
            "requests": [[*(round(moment - start, 6) for moment in (one.due, one.sent, one.first, one.last)), one.tokens, one.error]
                         for one in row.load.served]})
    path.write_bytes(gzip.compress(json.dumps(loads).encode(), mtime=0))
