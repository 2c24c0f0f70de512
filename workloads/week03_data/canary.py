"""The canary for the stream race of torchvision's CUDA decoder: does decoding overwrite memory that queued kernels still read?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

HOLD_CYCLES = 150_000_000  # of the SM clock: about 90 ms in which everything queued behind has to wait
MARK = 7


def corrupted(decode: Callable[[Sequence[Tensor]], object], jpegs: Sequence[Tensor], picture_bytes: int, rounds: int) -> int:
    """In how many of `rounds` decoding changed tensors of the current stream that were freed while sums of them were still queued.

    Each round fills as many tensors as there are JPEGs, of the size of one decoded picture, with one value; makes the stream busy;
    queues their sums behind that; frees them, so that the allocator may hand the same memory to the decoder; and decodes.
    """
    wrong = 0
    for _ in range(rounds):
        held = [torch.full((picture_bytes,), MARK, dtype=torch.uint8, device="cuda") for _ in jpegs]
        sums = torch.zeros(len(held), dtype=torch.int64, device="cuda")
        torch.cuda.synchronize()
        torch.cuda._sleep(HOLD_CYCLES)
        for place, tensor in enumerate(held):
            sums[place] = tensor.sum()
        del held, tensor
        decoded = decode(jpegs)
        torch.cuda.synchronize()
        wrong += int((sums != MARK * picture_bytes).any())
        del decoded
    return wrong
