"""The static cache with its compiled step, in a process of its own: it compiles while the engines start, and waits for its turn.

In the folder it is given lie `order.json` (the requests and the batch); it leaves `ready` there, waits for `go`, and leaves `answer.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from workloads import measure
from workloads.week10_serving import engines
from workloads.week10_serving.engines import Tokens
from workloads.week10_serving.traffic import Ask

ORDER, READY, GO, ANSWER = "order.json", "ready", "go", "answer.json"
LOOK_S = 0.05


def write_order(at: Path, requests: Sequence[Ask], batch: int) -> None:
    (at / ORDER).write_text(json.dumps({"batch": batch, "asks": [[ask.prompt, ask.new_tokens] for ask in requests]}), encoding="utf-8")


def read_answer(at: Path) -> tuple[list[Tokens], float]:
    """Each request's tokens, and the seconds they took."""
    found = json.loads((at / ANSWER).read_text(encoding="utf-8"))
    return [tuple(tokens) for tokens in found["tokens"]], found["seconds"]


def work(model_folder: Path, device: Literal["cuda", "cpu"], at: Path) -> None:
    """Warm, then once against the clock, when it is told to."""
    order = json.loads((at / ORDER).read_text(encoding="utf-8"))
    requests = [Ask(tuple(prompt), new_tokens) for prompt, new_tokens in order["asks"]]
    model = engines.load(model_folder, device, torch.bfloat16 if device == "cuda" else torch.float32)
    engines.in_batches(model, requests, order["batch"], "static")
    (at / READY).touch()
    while not (at / GO).exists():
        time.sleep(LOOK_S)
    tokens, seconds = measure.seconds(lambda: engines.in_batches(model, requests, order["batch"], "static"))
    part = at / f"{ANSWER}.part"
    part.write_text(json.dumps({"tokens": tokens, "seconds": seconds}), encoding="utf-8")
    part.rename(at / ANSWER)
