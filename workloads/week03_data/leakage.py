"""What leaked duplicates do to a test score: a small network that remembers its pictures, tested with and without their near-copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads import scenes
from workloads.week03_data.augment import normalised


@dataclass(frozen=True, slots=True)
class Leak:
    """Accuracies in percent of one network, and the size of its tests: on a test half of which has near-duplicates in the training
    set; on what is left of it without those that MinHash found; and without those that were planted."""

    leaky: float
    cleaned: float
    clean: float
    tested: int
    removed: int
    planted: int


@dataclass(frozen=True, slots=True)
class Split:
    """Indices of pictures: training, and a test of as many planted near-duplicates of training pictures as others."""

    train: Tensor
    test: Tensor
    planted: Tensor  # (test,) bool


def split(sources: Sequence[int], most: int, seed: int) -> Split:
    """`sources[i]` is the index of the picture that i is a near-duplicate of, or -1; at most `most` pictures are trained on."""
    random = torch.Generator().manual_seed(seed)
    source = torch.tensor(sources)
    copies = torch.nonzero(source >= 0)[:, 0]
    copies = copies[torch.randperm(len(copies), generator=random)][:most // 2]
    copied = torch.zeros(len(source), dtype=torch.bool)
    copied[source[source >= 0]] = True
    free = torch.nonzero((source < 0) & ~copied)[:, 0]
    free = free[torch.randperm(len(free), generator=random)]
    rest = max(0, min(len(free) - len(copies), most - len(copies)))
    train = torch.cat((source[copies], free[:rest]))
    others = free[rest:rest + len(copies)]
    return Split(train, torch.cat((copies, others)), torch.cat((torch.ones(len(copies)), torch.zeros(len(others)))).bool())


def leak(thumbnails: Tensor, labels: Tensor, sources: Sequence[int], cluster: Sequence[int], *, most: int, steps: int, seed: int) -> Leak:
    """Train once on (N, 3, S, S) uint8 thumbnails. `cluster` is what MinHash put together; a test picture in a cluster with a
    training picture is removed."""
    parts = split(sources, most, seed)
    torch.manual_seed(seed)
    device = thumbnails.device
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(128 * 16, 256), nn.ReLU(), nn.Linear(256, scenes.CLASSES)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, targets = normalised(thumbnails[parts.train.to(device)]), labels[parts.train.to(device)]
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        some = torch.randint(len(images), (min(128, len(images)),), generator=random).to(device)
        F.cross_entropy(model(images[some]), targets[some]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    right = _right(model, thumbnails[parts.test.to(device)], labels[parts.test.to(device)])
    known = {cluster[i] for i in parts.train.tolist()}
    found = torch.tensor([cluster[i] in known for i in parts.test.tolist()])
    kept, clean = right[~found], right[~parts.planted]
    leaky, cleaned, alone = (100 * float(part.float().mean()) for part in (right, kept, clean))
    return Leak(leaky, cleaned, alone, len(right), int(found.sum()), int(parts.planted.sum()))


@torch.no_grad()
def _right(model: nn.Module, thumbnails: Tensor, labels: Tensor) -> Tensor:
    return torch.cat([(model(normalised(some)).argmax(1) == truth).cpu()
                      for some, truth in zip(thumbnails.split(512), labels.split(512), strict=True)])
