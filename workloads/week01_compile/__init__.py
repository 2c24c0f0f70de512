"""Week 01: what torch.compile buys, model by model, and what it costs first.

The physics. A training step spends its time in matrix products and convolutions, which cuDNN and cuBLAS already run near
the tensor cores' rate, and between them in normalisations, activations and additions, which only move bytes: each reads
and writes its whole tensor through memory. Inductor fuses the second kind into few kernels, so the gain is bounded by the
bytes it saves: large for the UNet (GroupNorm and SiLU after every convolution), smaller for ResNet50, smallest for ViT-B,
whose attention is already one fused kernel. At batch 1 the GPU waits for Python to launch kernels, and a CUDA graph, not
fusion, is what helps.

Expected before measuring, on an H100 (989 TFLOP/s bf16 and 3.35 TB/s by its data sheet; a run measures what is reached):
training 1.2-1.3x for ResNet50 and ViT-B and 1.8x for the UNet; batch-1 latency 4-8x. Training is the judged regime: the
month is about training efficiency, and it is where the target is hardest to meet. All three regimes are published.
"""

from workloads.plan import planned
from workloads.spec import Deliverable, Target, Workload

PLAN = planned(1)
JUDGED = "train"

SAME = Target("parity", "argmax agreement with eager, worst of three models", ">=", 0.999, "")
LOSS = Target("loss_gap", "final-loss gap to eager over seed spread, worst of three models", "<=", 1.0, "")
BEST = Target("best_speedup", "training speedup by compile, best of three models", ">=", 1.5, "x", proof="parity")
WORST = Target("worst_speedup", "training speedup by compile, worst of three models", ">=", 1.2, "x", proof="parity")

WORKLOAD = Workload(
    plan=PLAN, name="compile", targets=(BEST, WORST, SAME, LOSS), headline=BEST,
    deliverables=(Deliverable(PLAN.deliverables[0], by=(BEST, WORST, SAME, LOSS)),
                  Deliverable(PLAN.deliverables[1], files=("trace.json.gz",))))
