"""Week 13: how far a decoder reads beyond the length it was trained at, by how it is told where a token stands.

The physics. A rotary head compares two tokens by the angles d * w_i of their distance d. Within the trained length the slow
frequencies never complete a turn, so distances beyond it are angles the network has not seen, and the loss explodes.
Interpolation (PI) shrinks every angle back into range and blurs near tokens; NTK-aware scaling shrinks slow frequencies more
than fast ones; YaRN leaves fast ones alone, interpolates those that never turned, and sharpens attention, whose entropy grows
with the number of keys. ALiBi needs no scaling, but its penalty makes far tokens invisible: it cannot get worse with length, and
cannot use it. NoPE learns order from the causal mask alone. A longer context lowers the loss by itself, so the fair question is
not "is the loss low at 8k" but "are the same target tokens predicted as well with 8k of context as by the trained window
sliding over them". Cost on an H100: at 8,192 tokens and width 768 attention is two fifths of the operations, and the ceiling
of 800 TFLOP/s would train 2.8 million tokens a second at 2,048; half of that is good.

Expected before measuring: untouched RoPE at 4 times its length 2x the perplexity or worse; zero-shot YaRN within 5%, PI
at 1.1-1.5x until fine-tuned; after a fine-tuning of some percent of the tokens, YaRN and PI at or below 1.00x. ALiBi at
0.98-1.02x without any, with no pass key found beyond the reach of its slopes. Cached and parallel decoding agree in every
argmax in float32, whatever the method.
"""

from workloads.plan import planned
from workloads.spec import Deliverable, Target, Workload

PLAN = planned(13)

RATIO = Target("ppl_ratio", "8k-context ppl over the 2k baseline, same target tokens, YaRN fine-tuned", "<=", 1.05, "x")
EXACT = Target("exact", "cached decoding has the argmax of the parallel forward, to 4x train length, worst method", ">=", 0.999, "")
PASSKEY = Target("passkey", "pass key decoded exactly at 3x and 4x train length, YaRN fine-tuned", ">=", 0.9, "")

WORKLOAD = Workload(
    plan=PLAN, name="positional", targets=(RATIO, EXACT, PASSKEY), headline=RATIO,
    deliverables=(Deliverable(PLAN.deliverables[0], by=(RATIO, EXACT, PASSKEY), files=("ablation.json", "corpus.json")),))
