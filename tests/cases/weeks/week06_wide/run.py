"""A fixture: the ranks of torchrun add up what each of them holds, and the first tells."""

import torch
import torch.distributed as dist

from workloads.spec import Context, Estimate, Observed

from . import SUM


def run(ctx: Context) -> Observed | None:
    dist.init_process_group("gloo")
    held = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(held)
    rank = dist.get_rank()
    dist.destroy_process_group()
    if ctx.batch == 13 and rank == 1:
        raise RuntimeError("the second rank has no luck")
    value = held.item()
    return Observed((SUM.measured(Estimate("exact", value, value, value, (value,))),)) if rank == 0 else None
