"""The canary for the stream race of torchvision's CUDA decoder: does decoding overwrite memory that queued kernels still read?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

HOLD_CYCLES = 150_000_000  # of the SM clock: about 90 ms in which everything queued behind has to wait
MARK = 7


def corrupted(decode: Callable[[Sequence[Tensor]], object], jpegs: Sequence[Tensor], picture_bytes: int, rounds: int) -> tuple[int, int]:
    """In how many rounds decoding changed tensors of the current stream that were freed while a copy of them was still queued, and how
    many rounds count: those in which that copy was still held up when decoding began.

    Each round fills as many tensors as there are JPEGs, of the size of one decoded picture, with one value; makes the stream busy;
    queues their copy behind that, in few launches, for where many are queued the host waits; frees them, so that the allocator may
    hand the same memory to the decoder; and decodes.
    """
    wrong = counted = 0
    for _ in range(rounds):
        held = [torch.full((picture_bytes,), MARK, dtype=torch.uint8, device="cuda") for _ in jpegs]
        over = torch.cuda.Event()
        torch.cuda.synchronize()
        torch.cuda._sleep(HOLD_CYCLES)
        over.record()
        copied = torch.stack(held)
        del held
        in_time = not over.query()
        decoded = decode(jpegs)
        torch.cuda.synchronize()
        counted += in_time
        wrong += in_time and bool((copied != MARK).any())
        del decoded
    return wrong, counted
