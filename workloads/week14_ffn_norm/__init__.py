"""Week 14: whether SwiGLU and RMSNorm are better than GELU and LayerNorm at the same parameters and the same latency.

The physics. A gated feed-forward has three matrices instead of two, so at 8/3 of the width instead of 4 it has the parameters and
the operations of the plain one; what it adds is one elementwise product, which a compiler folds into the pass that applies the
activation. RMSNorm leaves out the mean and the bias: one reduction fewer, but a fused norm is bound by the bytes it moves, and
those are the same: 2 a value read and written, 4 with the residual addition, at 3 TB/s on an H100. So quality must decide, and
it is small: Shazeer (2020) saw 0.04 nats for SwiGLU over GELU at equal parameters, and RMSNorm's authors none for the norm.
Differences between seeds are of 0.003-0.005 nats at this size, so arms are compared seed by seed, each at its own best learning
rate: a rate that suits one arm is how such comparisons usually go wrong.

Margins, stated before any run: perplexity counts as "equal or better" where the ratio's high end is at most 1.002 (0.002 nats),
latency as "the same" where it is at most 1.02. Divergence: a loss that is no number, ends above the untrained network's, or a nat
above the run's own lowest. A spike: a gradient norm four times the median of the fifty steps before.

Expected before measuring: SwiGLU + RMSNorm 0.97-0.99x the perplexity, prefill 0.98-1.03x and decode 0.97-1.02x the time; all arms
best at a rate of 3e-3 to 1e-2 and diverging at 1e-1, RMSNorm no less stable. Our Triton norm within 5% of the copy ceiling,
like the compiled one. Our training loop at half of the matmul ceiling, a plain transformers Trainer at a third of our rate.
"""

from workloads.plan import planned
from workloads.spec import Deliverable, Target, Workload

PLAN = planned(14)

PARAMETERS = Target("parameters", "parameters, SwiGLU + RMSNorm over GELU + LayerNorm", "<=", 1.0, "x")
PPL = Target("ppl_ratio", "perplexity, SwiGLU + RMSNorm over GELU + LayerNorm, each at its best rate, paired seeds", "<=", 1.002, "x")
PREFILL = Target("prefill", "prefill time over the baseline, compiled against compiled", "<=", 1.02, "x", proof="ppl_ratio")
DECODE = Target("decode", "decode time over the baseline, compiled against compiled", "<=", 1.02, "x", proof="ppl_ratio")
STABLE = Target("stable", "steps without a gradient spike, SwiGLU + RMSNorm at its best rate, all seeds", ">=", 0.99, "")

WORKLOAD = Workload(
    plan=PLAN, name="ffn_norm", targets=(PARAMETERS, PPL, PREFILL, DECODE, STABLE), headline=PPL,
    deliverables=(Deliverable(PLAN.deliverables[0], by=(PARAMETERS, PPL, PREFILL, DECODE, STABLE), files=("sweep.json", "corpus.json")),))
