"""Week 02: the attention hot path, from the S x S matrix in memory to one fused kernel, and what that is worth to a network.

The physics. softmax(Q K^T / sqrt(D)) V does 4 B H S^2 D operations (half with a causal mask; the backward pass 2.5 times the
forward). Written as three operators it also writes the B H S^2 scores to memory and reads them back, at least four passes in
bf16, so each score costs 8 bytes for 4 D operations: 64 operations a byte at D = 128, 32 at D = 64. An H100 needs about 270 to
keep its tensor cores busy (798 TFLOP/s of bf16 product and 3.0 TB/s of copy as reached; 989 and 3.35 by its data sheet), so the
unfused form is bound by memory at every length. A fused kernel keeps running maxima and sums in registers, moves only Q, K, V
and the output, and is bound by the tensor cores, and by exponentials beside them: 16 an SM and clock, a quarter to a half of
the products' own time.

Expected before measuring, on an H100, forward and full: naive 50-90 TFLOP/s, FlashAttention-2 about 350 (it waits for each
Hopper product before the next), cuDNN 630-670, which is also what default SDPA takes, FlexAttention 350-450, our Triton kernel
400-550, its fp8 form 500-750 without quantising. So fused over naive is 3 x at S = 197 and 6-12 x from 2,048 on, and best over
FlashAttention-2 about 1.9 x. At 16,384 the naive backward pass does not fit in 80 GB. Networks gain less (Amdahl): 1.1-1.3 x
for a ViT step at 196 patches, 2-3 x for a decoder at 4,096. Task metrics do not move: bf16 rounds the same everywhere, and
e4m3 with a scale a head costs well under 1%.

Judged: the fastest right fused bf16 kernel over naive, at the worst shape and direction of the sweep. What it gains over
FlashAttention-2 and over default SDPA at that shape is shown beside it.
"""

from workloads.plan import planned
from workloads.spec import Deliverable, Target, Workload

PLAN = planned(2)
ABLATION = "ablation.json"

SPEEDUP = Target("kernel_speedup", "attention kernel speedup over naive, worst shape of the sweep", ">=", 1.5, "x", proof="error_ratio")
ERROR = Target("error_ratio", "error to fp64 over that of the naive path, worst fused bf16 backend", "<=", 2.0, "")
EVALUATED = Target("metric_delta", "task metric delta of one trained network, worst backend and task", "<=", 1.0, "%")
TRAINED = Target("trained_delta", "task metric delta between networks trained fused and naive, worst task and seed", "<=", 1.0, "%")

WORKLOAD = Workload(
    plan=PLAN, name="attention", targets=(SPEEDUP, ERROR, EVALUATED, TRAINED), headline=SPEEDUP,
    deliverables=(Deliverable(PLAN.deliverables[0], by=(EVALUATED, TRAINED)),
                  Deliverable(PLAN.deliverables[1], by=(SPEEDUP, ERROR), files=(ABLATION,))))
