"""Week 03: a data engine that never starves the GPU, and the near-duplicates that should not be in its data.

The physics. A training step asks for pictures at the rate at which the GPU eats them, and idles where they come slower. A core
decodes about 960 JPEGs of 500 x 375 pixels a second with libjpeg-turbo, and crops, copies and hands over fewer: 300-500, so 16
cores give 5,000-8,000. A ResNet-18 in bf16 on an H100 takes about as many at 224 pixels and two to three times as many at 128.
nvJPEG decodes batches at 28,000 a second on the same chip, by its JPEG engines where the machine shows them, and what crosses the
bus is 100 kB a picture instead of 150 kB of pixels. Decoding on the GPU may take time from training: so what is judged is what
training loses, not how fast the decoder is.

Three measures of the same thing are shown side by side. R is throughput with the loader over throughput on data that is on the GPU
already, the two in turns: it judges. Input idle is the share of the time in which the training stream waited for a batch, by CUDA
events. NVML's utilisation counts the time in which any kernel ran, and reads 90% on a GPU that starves in bursts: never alone.

Expected before measuring, on an H100: PIL in process 3-5% of the demand, its workers 40-70%, libjpeg-turbo and WebDataset 50-90%;
GPU decoding in the training loop's own thread 50-70%, for nothing overlaps; one kernel for all crops 65-80%; the ring 93-99%, with
under 3% input idle. The network's input size is the largest at which it asks for at least a quarter more than libjpeg-turbo
workers give, for against a consumer that does not starve its baseline the week proves nothing.

Duplicates: MinHash on signs of blocks' lowest frequencies should find re-encoded, resized, mirrored and recoloured copies nearly
always; a crop by 5% shifts every block, so pictures are also looked for as crops of their own, which should find 97%. The worst kind of
edit is judged. A network that remembers its training set gains from leaked copies what it cannot do on new pictures: 10-30 points.
"""

from workloads.plan import planned
from workloads.spec import Deliverable, Target, Workload

PLAN = planned(3)
DASHBOARD, STEPS = "dashboard.json", "steps.json.gz"

DECODED = Target("decode_error", "mean difference of GPU decoding from libjpeg, worst picture, in levels of 255", "<=", 2.0, "")
RATIO = Target("loader_ratio", "training throughput with the loader over that on GPU-resident data", ">=", 0.9, "", proof="decode_error")
IDLE = Target("input_idle", "share of training time in which the GPU waits for input", "<=", 10.0, "%", proof="decode_error")
BUSY = Target("gpu_utilisation", "GPU utilisation during train steps, by NVML", ">=", 90.0, "%", proof="decode_error")
SAME = Target("signatures_same", "share of our MinHash signatures that equal datasketch, bit for bit", ">=", 1.0, "")
PRECISION = Target("duplicate_precision", "share of found duplicate pairs that were planted", ">=", 0.95, "", proof="signatures_same")
RECALL = Target("duplicate_recall", "share of planted pairs found, worst kind of edit", ">=", 0.95, "", proof="signatures_same")

WORKLOAD = Workload(
    plan=PLAN, name="data", targets=(RATIO, IDLE, BUSY, DECODED, PRECISION, RECALL, SAME), headline=RATIO,
    deliverables=(Deliverable(PLAN.deliverables[0], by=(RATIO, IDLE, BUSY, DECODED)),
                  Deliverable(PLAN.deliverables[1], by=(PRECISION, RECALL, SAME), files=(DASHBOARD, STEPS))))
