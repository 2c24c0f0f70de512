"""Week 01's three networks and what each is asked: a convolutional classifier, a transformer and a dense predictor."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import timm
import torch
from torch import Tensor, nn

from workloads import scenes

Layout = Literal["contiguous", "channels_last"]
LAYOUTS: dict[Layout, torch.memory_format] = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True, slots=True)
class Study:
    """One network: its name in tables and metrics, image side in pixels, batch sizes, and whether it labels every pixel.

    `coupled` says that images of a batch influence each other (batch normalisation), so a reference takes them all at once. Every
    arm has its activations in `train_layout` or `infer_layout`; run.py sets both to what the eager baseline is faster in.
    """

    key: str
    title: str
    side: int
    train_batch: int
    infer_batch: int
    dense: bool
    learning_rate: float
    coupled: bool = False
    train_layout: Layout = "channels_last"
    infer_layout: Layout = "channels_last"


FULL = (
    Study("resnet50", "ResNet50", 224, 128, 256, False, 1e-3, coupled=True),
    Study("vit_b16", "ViT-B/16", 224, 128, 256, False, 1e-4),
    Study("unet", "UNet c64", 256, 16, 64, True, 3e-4),
)
SMOKE = (
    Study("resnet50", "ResNet tiny", 32, 4, 4, False, 1e-3, coupled=True),
    Study("vit_b16", "ViT 2 layers", 32, 4, 4, False, 1e-4),
    Study("unet", "UNet c8", 16, 2, 2, True, 3e-4),
)


def build(study: Study, device: str, *, smoke: bool, seed: int) -> nn.Module:
    """The untrained network, float32; the same weights for the same seed on one device. Weights do not change speed."""
    torch.manual_seed(seed)
    with torch.device(device):  # drawing the weights of ViT-B on a CPU takes seconds
        return _network(study, smoke)


def _network(study: Study, smoke: bool) -> nn.Module:
    match study.key:
        case "resnet50":
            return timm.create_model("test_resnet" if smoke else "resnet50", num_classes=scenes.CLASSES)
        case "vit_b16":
            depth, width, heads = (2, 64, 2) if smoke else (12, 768, 12)
            return timm.create_model("vit_base_patch16_224", num_classes=scenes.CLASSES, img_size=study.side, depth=depth,
                                     embed_dim=width, num_heads=heads)
        case _:
            return UNet(width=8 if smoke else 64, classes=scenes.CLASSES + 1)


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with GroupNorm and SiLU as diffusion models use it: four levels,
    (N, 3, S, S) -> (N, classes, S, S), S a multiple of 8."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 8 * width)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise((width, *widths)))
        self.shrink = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_block(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips = []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < len(self.shrink):
                skips.append(x)
                x = self.shrink[level](x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](torch.cat((skips[level], self.grow[level](x)), dim=1))
        return self.head(x)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
                         nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU())
