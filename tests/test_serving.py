"""benchmarks.serving: how its arms differ, what is kept of a load, and the table."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.serving import ARMS, RATES, ROUNDS, Seen, command_of, main, read, sustained, table, write
from workloads import machine
from workloads.week10_serving import PARITY, processes
from workloads.week10_serving.client import Load
from workloads.week10_serving.engines import Agreement
from workloads.week10_serving.goals import Served

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def load(count: int, first_s: float, errors: int = 0) -> Load:
    """Ten requests a second, eleven tokens each, 5 ms a token; the last `errors` lost."""
    due = [100.0 + i / 10 for i in range(count)]
    lost = count - errors
    return Load(tuple(Served(t, t, t + first_s, t + first_s + 0.05, 11, "lost" if i >= lost else "") for i, t in enumerate(due)), 0.25)


def seen() -> list[Seen]:
    arms = (("slow", 0.3), ("quick", 0.02))
    return [Seen(arm, rate, load(100, first_s)) for _ in range(2) for arm, first_s in arms for rate in (0.0, 90.0)]


AGREEMENT = {"quick": Agreement(4336, 4336, 0.12), "slow": Agreement(3400, 4336, 7.5)}


def test_arms_differ_in_what_their_names_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda _: True)
    commands = {name: command_of(arm, tmp_path, 1) for name, arm in ARMS.items()}
    graphs = {name: json.loads(words[words.index("--compilation-config") + 1]) if "--compilation-config" in words else None
              for name, words in commands.items()}
    own, whole, alone, careless = graphs.values()
    assert own is None and whole == alone and min(whole["cudagraph_capture_sizes"]) > processes.GRAPH_REQUESTS
    assert careless == {"cudagraph_mode": "FULL", "max_cudagraph_capture_size": max(whole["cudagraph_capture_sizes"])}
    kernels = [words[words.index("--attention-backend") + 1] if "--attention-backend" in words else None for words in commands.values()]
    assert kernels == [None, "TRITON_ATTN", "TRITON_ATTN", "FLASH_ATTN"]
    assert ["--api-server-count" in words for words in commands.values()] == [True, True, False, True]


def test_loads_are_read_as_written(tmp_path: Path) -> None:
    write(tmp_path, machine.describe(), AGREEMENT, [*seen(), Seen("slow", 180.0, load(100, 0.3, errors=3))])
    agreement, found = read(tmp_path / "serving.json.gz")
    assert agreement == AGREEMENT and [one.load.errors for one in found] == [0] * 8 + [3]
    assert table(agreement, found[:8]) == table(AGREEMENT, seen())


def test_the_table_has_both_rounds_and_counts_from_when_a_request_was_due() -> None:
    head, _, quick, slow = table(AGREEMENT, seen()).splitlines()
    assert head == ("| engine | tokens within a tie of float32 | worst token, nats | requests/s from users "
                    "| first token p95 at 90/s, ms | each token p95 at 90/s, ms |")
    assert quick == "| quick | 4,336 of 4,336 | 0.12 | 10, 10 | 20, 20 | 5, 5 |"
    assert slow == "| slow | 3,400 of 4,336 | 7.50 | 10, 10 | 300, 300 | 5, 5 |"


def test_too_few_requests_have_no_tail() -> None:
    assert table({"quick": AGREEMENT["quick"]}, [Seen("quick", 0.0, load(20, 0.02)), Seen("quick", 90.0, load(20, 0.02))]).endswith(
        "| too few | too few |")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_it_says_what_to_do() -> None:
    told = CliRunner().invoke(main, [])
    assert told.exit_code == 2 and "add --smoke" in told.stderr


def test_on_a_gpu_whole_graphs_were_quick_and_right_and_with_flash_attention_3_quick_and_wrong() -> None:
    """The loads on an H200, kept as evidence: what the pages say is held against them."""
    agreement, found = read(BENCHMARKS / "results" / "serving-h200.json.gz")
    own, whole, alone, careless = ARMS
    assert [agreement[arm].right == agreement[arm].total for arm in (own, whole, alone)] == [True] * 3
    assert agreement[careless].share < PARITY.bound and agreement[careless].worst_nats > 10
    assert Counter((one.arm, one.rate) for one in found) == {(arm, rate): ROUNDS for arm in ARMS for rate in (0.0, *RATES)}
    assert not sum(one.load.errors for one in found)
    rates = {arm: [sustained(one.load) for one in found if one.arm == arm and not one.rate] for arm in ARMS}
    assert min(rates[whole]) > 1.75 * max(rates[own]) and min(rates[whole]) > 1.3 * max(rates[alone])
    assert table(agreement, found) in (BENCHMARKS / "README.md").read_text(encoding="utf-8")
