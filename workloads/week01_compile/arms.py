"""The rungs of the ladder as callables: one training step or one inference call, eager, compiled, or replayed from a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from workloads import measure, scenes
from workloads.week01_compile.models import LAYOUTS, Study, build

Regime = Literal["train", "throughput", "latency"]
REGIMES: tuple[Regime, ...] = ("train", "throughput", "latency")
Rung = Literal["default", "reduce-overhead", "max-autotune"]
RUNGS: tuple[Rung, ...] = ("default", "reduce-overhead", "max-autotune")
# mode="max-autotune" less what takes minutes a network (H200, nine processes on one GPU: 120 to 250 s): Triton convolutions,
# launch shapes of every pointwise kernel, coordinate descent. What is left searches matrix products and records CUDA graphs.
MAX_AUTOTUNE: dict[str, str | int | bool | Callable[..., Any]] = {
    "max_autotune_gemm": True, "max_autotune_conv_backends": "ATEN", "triton.cudagraphs": True}
Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # images, labels -> loss, logits


def set_up(device: measure.Device) -> None:
    """The settings of every process that compiles. Inductor's cache keys on the float32 precision: where the process that
    compiles ahead and the one that measures differ in it, each graph is compiled again and no compile is warm."""
    torch.set_float32_matmul_precision("high")
    measure.lone_thread(device)


def compiled(function: Callable[..., Any], rung: Rung, device: str) -> Any:
    """`function` through torch.compile, whole graph or not at all. On a CPU the graph is traced and run as it is, with no code
    generated: Inductor's C++ would take a minute for a smoke test."""
    if device == "cpu":
        return torch.compile(function, backend="eager", fullgraph=True, dynamic=False)
    if rung == "max-autotune":
        return torch.compile(function, options=MAX_AUTOTUNE, fullgraph=True, dynamic=False)
    return torch.compile(function, mode=rung, fullgraph=True, dynamic=False)


def data(study: Study, count: int, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Images (count, 3, S, S), and labels: (count,) classes, or (count, S, S) where every pixel has one."""
    scene = scenes.render(count, study.side, seed, device, colour_cue=0.7)
    return scene.images, scene.masks if study.dense else scene.labels


class Trainer:
    """A network, its optimiser and one batch; `forward` is the eager loss, `step` a whole training step through any forward.

    The tuned eager baseline is the default: bf16 autocast, the study's memory layout, fused AdamW, gradients freed between steps,
    and cudnn.benchmark as run() sets it. `bf16` switches it back for the rungs below.
    """

    def __init__(self, study: Study, device: str, batch: int, seed: int, *, smoke: bool, bf16: bool = True) -> None:
        self.study, self.device, self.bf16 = study, device, bf16
        layout = LAYOUTS[study.train_layout]
        self.model: nn.Module = build(study, device, smoke=smoke, seed=seed).to(memory_format=layout).train()
        on_gpu = device == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=study.learning_rate, fused=on_gpu, capturable=on_gpu)
        images, self.labels = data(study, batch, seed, device)
        self.images = images.contiguous(memory_format=layout)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            logits = self.model(images)
        return nn.functional.cross_entropy(logits.float(), labels), logits

    def step(self, forward: Forward) -> Tensor:
        """One optimisation step on the held batch; returns the loss as a tensor, since reading it would wait for the GPU.

        Detached: a loss kept alive keeps the gradient accumulators of its stream, and a later graph capture on another
        stream then fails.
        """
        if self.device == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        self.optimizer.zero_grad(set_to_none=True)
        loss, _ = forward(self.images, self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.model.parameters() if p.grad is not None]


class Inferencer:
    """A network in bf16 weights and eval mode, and one batch; the tuned eager baseline for inference."""

    def __init__(self, study: Study, device: str, batch: int, seed: int, *, smoke: bool) -> None:
        self.study, self.device = study, device
        layout = LAYOUTS[study.infer_layout]
        self.model: nn.Module = build(study, device, smoke=smoke, seed=seed).to(torch.bfloat16).to(memory_format=layout).eval()
        images, self.labels = data(study, batch, seed, device)
        self.images = images.to(torch.bfloat16).contiguous(memory_format=layout)

    def call(self, model: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits of the held batch."""
        if self.device == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode():
            return model(self.images)


V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Graph(Generic[V]):
    """Recorded work: `replay()` does it again, and `value`, what it returned while recorded, then holds the new result.

    `work` is kept so that the tensors it reads live as long: a graph knows addresses, not owners.
    """

    replay: Callable[[], None]
    value: V
    work: Callable[[], V]


def capture(work: Callable[[], V]) -> Graph[V]:
    """`work` as one CUDA graph: its kernels unchanged, launched together.

    Warm-up runs go to a side stream first (PyTorch docs, "CUDA Graphs", whole-network capture).
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = work()
    return Graph(graph.replay, value, work)


@dataclass(frozen=True, slots=True)
class Work:
    """What one call asks of the machine: floating-point operations, and the bytes its operators read and write when none
    is fused with another."""

    flops: float
    unfused_bytes: float


def work_of(call: Callable[[], object]) -> Work:
    """Count one eager `call`. A compiled call does the same operations in fewer bytes, which is where its speed comes from."""
    bytes_moved, flops = _Bytes(), FlopCounterMode(display=False)
    with flops, bytes_moved:
        call()
    return Work(float(flops.get_total_flops()), float(bytes_moved.total))


class _Bytes(TorchDispatchMode):
    """Bytes of every tensor that operators take and give; a view moves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's own signature
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            self.total += sum(t.numel() * t.element_size() for t in tensors)
        return out
