"""Week 10's engine with the CUDA graphs that vLLM records by itself, and with one graph for each of its steps.

The arms serve SmolLM2 from one GPU, one at a time, in turns, with week 10's requests and its load clients: first as many users as
week 10 has, each of whom waits for an answer before asking again, which shows how much can be kept up; then Poisson arrivals at the
same rates for every arm, so that their tails can be compared. Told is what week 10 judges: p95 of the time to first token and of the
time per output token. Before, each arm's answers are held to the float32 model, asked at once and as they arrive: a graph that is
replayed for a batch unlike the one it was recorded with may compute something else, and be no slower for it.
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from workloads import checkpoint, machine
from workloads.spec import Estimate, Machine
from workloads.week10_serving import client, engines, processes, story
from workloads.week10_serving.client import Clients, Load, bodies_of
from workloads.week10_serving.engines import Agreement
from workloads.week10_serving.run import FULL, SMOKE, TEXT_GRAPH_TOKENS, TEXT_SERVERS, ask_all, text_command, worse_agreement
from workloads.week10_serving.traffic import arrivals, asks

READY_S = 300.0
ROUNDS = 2
SUSTAINED = 768  # requests that show capacity
LOAD_S = 5.0


@dataclass(frozen=True, slots=True)
class Arm:
    """How vLLM is started: tokens of a step that is one graph (0: as it does by itself), processes that write its streams, and
    whether graphs are recorded as vLLM would, with FlashAttention 3, which `processes.whole_graphs` says to be wrong."""

    graph_tokens: int
    api_servers: int
    careless: bool = False


ARMS: Mapping[str, Arm] = {
    "vLLM's own graphs": Arm(0, TEXT_SERVERS),
    "one graph a step": Arm(TEXT_GRAPH_TOKENS, TEXT_SERVERS),
    "one graph a step, one API server": Arm(TEXT_GRAPH_TOKENS, 1),
    "one graph a step, FlashAttention 3": Arm(TEXT_GRAPH_TOKENS, TEXT_SERVERS, careless=True),
}
RATES = (90.0, 180.0)  # requests a second


@dataclass(frozen=True, slots=True)
class Seen:
    """One load on one arm: `rate` requests a second by a Poisson process, or from users who wait for their answers (rate 0)."""

    arm: str
    rate: float
    load: Load


def table(agreement: Mapping[str, Agreement], seen: Sequence[Seen]) -> str:
    """Arm by arm, as in `agreement`: how good its answers are; then, round after round, what users got, and the two p95 at each rate."""
    rates = sorted({one.rate for one in seen if one.rate})
    head = ["engine", "tokens within a tie of float32", "worst token, nats", "requests/s from users",
            *(f"first token p95 at {rate:g}/s, ms" for rate in rates),
            *(f"each token p95 at {rate:g}/s, ms" for rate in rates)]
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    for arm, agreed in agreement.items():
        mine = [one for one in seen if one.arm == arm]
        cells = [f"{agreed.right:,} of {agreed.total:,}", f"{agreed.worst_nats:.2f}"]
        cells += [", ".join(f"{sustained(one.load):.0f}" for one in mine if not one.rate)]
        cells += [", ".join(_shown(story.tail(one.load, "ttft_ms")) for one in mine if one.rate == rate) for rate in rates]
        cells += [", ".join(_shown(story.tail(one.load, "tpot_ms")) for one in mine if one.rate == rate) for rate in rates]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sustained(load: Load) -> float:
    """Answered requests a second."""
    return len(load.answered) / load.wall_s


def _shown(tail: Estimate | None) -> str:
    return f"{tail.value:.3g}" if tail else "too few"


def read(path: Path) -> tuple[dict[str, Agreement], list[Seen]]:
    """What `table` takes, from a file that this benchmark wrote."""
    told = json.loads(gzip.decompress(path.read_bytes()))
    return ({arm: Agreement(**agreed) for arm, agreed in told["agreement"].items()},
            [Seen(one["arm"], one["rate"], client.load_of(one["requests"], one["client_busy"])) for one in told["seen"]])


def write(out: Path, here: Machine, agreement: Mapping[str, Agreement], seen: Sequence[Seen]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    told = {"machine": asdict(here), "agreement": {arm: asdict(agreed) for arm, agreed in agreement.items()}, "columns": client.COLUMNS,
            "seen": [{"arm": one.arm, "rate": one.rate, "client_busy": one.load.client_busy, "requests": client.rows_of(one.load)}
                     for one in seen]}
    (out / "serving.json.gz").write_bytes(gzip.compress(json.dumps(told, allow_nan=False).encode(), mtime=0))


def command_of(arm: Arm, folder: Path, port: int) -> list[str]:
    """vLLM as week 10 starts it, but for what the arm changes. Raises NotInstalled."""
    command = text_command(folder, port, api_servers=arm.api_servers, graph_tokens=arm.graph_tokens)
    if arm.careless:
        graphs = {"cudagraph_mode": "FULL", "max_cudagraph_capture_size": arm.graph_tokens}
        command[command.index("--compilation-config") + 1] = json.dumps(graphs)
        command[command.index("--attention-backend") + 1] = "FLASH_ATTN"
    return command


def _checked(folder: Path, urls: Mapping[str, str], vocabulary: int, *, smoke: bool) -> dict[str, Agreement]:
    """How many tokens of each arm's answers are as good as the float32 model's best."""
    sizes = SMOKE if smoke else FULL
    requests = asks(sizes.checked, sizes.lengths, vocabulary, 0)
    reference = engines.load(folder, "cpu" if smoke else "cuda", torch.float32)
    found = {}
    for name, url in urls.items():
        found[name] = worse_agreement(reference, url, requests, ask_all(url, requests), 0)
        click.echo(f"{name}: {found[name].right} of {found[name].total} tokens are right", err=True)
    return found


def _loads(clients: Clients, url: str, arm: str, vocabulary: int, seed: int, *, smoke: bool) -> list[Seen]:
    """All loads of one round on one arm; the same requests for every arm."""
    sizes = SMOKE if smoke else FULL
    count = sizes.sustained if smoke else SUSTAINED
    users = bodies_of(asks(count, sizes.lengths, vocabulary, seed))
    seen = [Seen(arm, 0.0, clients.drive(url, "completions", users, [0.0] * count, users=sizes.users))]
    for rate in RATES:
        count = sizes.least_load if smoke else int(rate * LOAD_S)
        some = bodies_of(asks(count, sizes.lengths, vocabulary, seed + 1))
        seen.append(Seen(arm, rate, clients.drive(url, "completions", some, arrivals(rate, count, seed + 1))))
    return seen


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Where serving.json.gz with every request goes.")
@click.option("--smoke", is_flag=True, help="Tiny, on the CPU, with transformers' engine as every arm. The figures mean nothing.")
def main(out: Path | None, smoke: bool) -> None:
    """vLLM's own CUDA graphs beside one graph a step, under the same load. Some six minutes on a GPU."""
    if not smoke and not torch.cuda.is_available():
        raise click.UsageError("no CUDA GPU here: add --smoke for the tiny CPU version, or run this on a GPU machine")
    here = machine.describe()
    seen: list[Seen] = []
    sizes = SMOKE if smoke else FULL
    with tempfile.TemporaryDirectory(prefix="sprintbench-serving-") as scratch, processes.Together() as together, \
            Clients(sizes.clients) as clients:
        at = Path(scratch)
        try:
            folder = engines.save_random(at / "model", engines.TINY) if smoke else checkpoint.save_smollm2(at / "model")
            services = {}
            for name, arm in ARMS.items():
                port = processes.free_port()
                command = processes.module("llm", str(folder), "--device", "cpu", "--port", str(port)) if smoke else \
                    command_of(arm, folder, port)
                services[name] = together.start(name, command, f"http://127.0.0.1:{port}", at / f"{port}.log")
            for service in services.values():
                processes.wait(service, "/health", READY_S)
                click.echo(f"{service.name}: ready", err=True)
        except (checkpoint.NoCheckpoint, processes.NotInstalled, processes.NotStarted) as error:
            raise click.ClickException(str(error)) from None
        vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        agreement = _checked(folder, {name: service.url for name, service in services.items()}, vocabulary, smoke=smoke)
        warm = bodies_of(asks(sizes.requests, sizes.lengths, vocabulary, 1))
        for service in services.values():  # untimed
            clients.drive(service.url, "completions", warm, [0.0] * len(warm))
        order = random.Random(0)
        for number in range(ROUNDS):
            for name in order.sample(list(ARMS), len(ARMS)):
                seen += _loads(clients, services[name].url, name, vocabulary, 10 * (number + 1), smoke=smoke)
                click.echo(f"round {number + 1} of {ROUNDS}, {name}: {sustained(seen[-1 - len(RATES)].load):.0f} requests/s from users",
                           err=True)
                if out:  # after each, so that what stops the benchmark takes one arm with it
                    write(out, here, agreement, seen)
    click.echo(f"{here.gpu or here.cpu}\n\n{table(agreement, seen)}")


if __name__ == "__main__":
    main()
