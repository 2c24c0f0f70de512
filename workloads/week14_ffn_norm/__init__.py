"""Week 14: whether SwiGLU and RMSNorm are better than GELU and LayerNorm at the same parameters and the same latency.

The physics. A gated feed-forward has three matrices instead of two, so at 8/3 of the width instead of 4 it has the parameters and
the operations of the plain one; what it adds is one elementwise product, which a compiler folds into the pass that applies the
activation. RMSNorm leaves out the mean and the bias: one reduction fewer, but a fused norm is bound by the bytes it moves, and
those are the same: 2 a value read and written, 4 with the residual addition, at 3 TB/s on an H100. So quality must decide, and
it is small: Shazeer (2020) saw 0.04 nats for SwiGLU over GELU at equal parameters, and RMSNorm's authors none for the norm.
Arms are compared seed by seed, each at its own best learning rate: a rate that suits one arm is how such comparisons usually go
wrong. Differences between seeds are said to be of 0.003-0.005 nats at this size, but after 60-100M tokens, and a first run showed
how much that matters: its steps waited for the host, so each of 68 trainings ended after 7M tokens, where seeds differ by 0.05
nats; all arms were best at 1e-3 with neighbours three times away, and none diverged up to 1e-1.

So a step of an arm is recorded as a CUDA graph, and six and a half minutes of trainings are spent in two parts, whatever the GPU: a
quarter on short ones, each arm over a grid up to a rate of 1 and half-way to the neighbours of its best rate; three quarters on 42 long
ones at that rate, twelve seeds for the judged pair and three for the others. At 4M tokens/s that is some 24M tokens for each of the
long ones. The first run in this form had five seeds; more of them narrow the pair's interval about as much as the same share of more
tokens would (0.05 nats between seeds at 7M tokens, 0.023 at 24M), and need no longer trainings of the other arms.

Margins, stated before any run: perplexity counts as "equal or better" where the ratio's high end is at most 1.002 (0.002 nats),
latency as "the same" where it is at most 1.02. Divergence: a loss that is no number, ends above the untrained network's, or a nat
above the run's own lowest. A spike: a gradient norm four times the median of the fifty steps before.

Expected before the first run in this form, which had five seeds and a rate that ended at a tenth: SwiGLU + RMSNorm 0.97-0.99x the
perplexity, its deviation between seeds 0.005-0.010 nats, so that the interval reaches about 0.01 to each side (it was 0.023, and
0.03; twelve seeds of that deviation would reach 0.015, and a rate that ends at 0 should narrow it); the norm alone within 0.005 nats
of nothing; ReLU^2, a fifth ahead in an earlier form, a few percent ahead. All arms best between 6e-4 and 3e-3 and diverging at 1,
RMSNorm no less stable. Prefill 0.93-0.94x and decode 0.99x the time, as in that form. Our Triton norm within 5% of the copy ceiling,
like the compiled one. Our training loop at half of the matmul ceiling or more, a plain transformers Trainer at a third of our rate.
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
