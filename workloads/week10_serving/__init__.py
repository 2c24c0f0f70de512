"""Week 10: what an engine that batches continuously makes of one GPU, beside `generate`, and what its clients wait for.

The physics. A decoding step reads every weight and every live request's keys and values, and computes little: its time is (bytes
of weights + bytes of cache) / bandwidth, nearly the same for one request as for a hundred. So tokens a second grow with the
batch until the cache's bytes outweigh the weights'. A static batch wastes that twice: it pads prompts, and it decodes until its
longest request is done, so with lognormal lengths half of its slots are empty on average. Continuous batching refills a slot at
the step it falls free; paged caches let more requests in; CUDA graphs take away what Python adds to each step. SmolLM2-135M is
269 MB of weights: 0.09 ms a step at the 3.0 TB/s an H100 copies at, where eager Python needs 20-30 ms, so its ratio is mostly
one of overheads. Llama-8B's shape is 16 GB: 5.3 ms a step at least, and there the GPU is what is measured. Open loop means that
requests come when the schedule says, not when the last one is done: a queue that grows is seen, and not hidden.

Expected before measuring, on an H100: 6 x the best static batch on SmolLM2 (first figures: 19,404 against 3,075 tok/s), 2-4 x on
8B's shape, at 40-60% of the bandwidth's ceiling; continuous batching in transformers between the two. At 75% of capacity the
first token within 200 ms and each further one within 10 ms at p95; an image through Triton within 50 ms.

Judged: vLLM against the best static batch; nothing stands in for vLLM under its name. The goals were fixed before any run.
"""

from workloads.plan import planned
from workloads.spec import Deliverable, Target, Workload

PLAN = planned(10)
REQUESTS = "requests.json.gz"

THROUGHPUT = Target("throughput_ratio", "output tok/s of vLLM over the best static batch of generate", ">=", 2.0, "x", proof="parity")
SHAPED = Target("shaped_ratio", "the same on random weights of the shape of Llama-8B", ">=", 2.0, "x")
PARITY = Target("parity", "tokens of vLLM within 0.25 nats of the best of a float32 reference", ">=", 0.99, "")
TTFT = Target("ttft_p95", "time to first token, p95, Poisson arrivals at 75% of capacity", "<=", 200.0, "ms", proof="parity")
TPOT = Target("tpot_p95", "time per output token, p95, Poisson arrivals at 75% of capacity", "<=", 10.0, "ms", proof="parity")
IMAGE = Target("image_p95", "image to embedding through Triton, p95, Poisson arrivals at 75% of capacity", "<=", 50.0, "ms",
               proof="embedding_error")
EMBEDDING = Target("embedding_error", "relative error of embeddings through Triton to float32, worst image", "<=", 0.05, "")

WORKLOAD = Workload(
    plan=PLAN, name="serving", targets=(THROUGHPUT, SHAPED, PARITY, TTFT, TPOT, IMAGE, EMBEDDING), headline=THROUGHPUT,
    deliverables=(Deliverable(PLAN.deliverables[0], by=(THROUGHPUT, SHAPED, PARITY, IMAGE, EMBEDDING)),
                  Deliverable(PLAN.deliverables[1], by=(TTFT, TPOT), files=(REQUESTS,))))
