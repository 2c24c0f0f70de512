"""Pictures with known answers: anti-aliased shapes over textured clutter, rendered in batches on the device that needs them.

A shape is a signed distance field (Inigo Quilez, "2D distance functions", iquilezles.org/articles/distfunctions2d), so its
edge is known to a fraction of a pixel and a mask comes for free. The same seed gives the same pictures on one device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "pentagon", "hexagon", "star", "ring", "cross")
CLASSES = len(SHAPES)


@dataclass(frozen=True, slots=True)
class Scenes:
    """`images`: (N, 3, S, S) float32, about zero mean and unit variance; `labels`: (N,) int64 in [0, CLASSES), the shape
    drawn; `masks`: (N, S, S) int64, 0 = background, 1 + label where the shape is."""

    images: Tensor
    labels: Tensor
    masks: Tensor


def render(count: int, size: int, seed: int, device: str, *, colour_cue: float = 0.0) -> Scenes:
    """`count` scenes of `size` x `size` pixels, one labelled shape each: any place, angle, scale and colour, over smooth
    texture, a distracting blob and sensor noise. `colour_cue` in [0, 1] mixes a colour of the class into the free one: at
    0 only the form tells the class, near 1 a network learns it in a few hundred steps."""
    random = torch.Generator(device=device).manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, device=device) * (high - low) + low

    labels = torch.randint(CLASSES, (count,), generator=random, device=device)
    axis = torch.linspace(-1, 1, size, device=device)
    y, x = (grid.expand(count, size, size) for grid in torch.meshgrid(axis, axis, indexing="ij"))
    radius, angle = uniform(0.35, 0.6, count, 1, 1), uniform(0, 2 * math.pi, count, 1, 1)
    dx, dy = x - uniform(-0.35, 0.35, count, 1, 1), y - uniform(-0.35, 0.35, count, 1, 1)
    u, v = (dx * angle.cos() + dy * angle.sin()) / radius, (dy * angle.cos() - dx * angle.sin()) / radius
    distance = _distance(u, v, labels) * radius
    cover = torch.sigmoid(-distance * size)  # about one pixel of soft edge

    texture = torch.nn.functional.interpolate(uniform(-1, 1, count, 3, 6, 6), size=(size, size), mode="bicubic")
    blob = (-((x - uniform(-1, 1, count, 1, 1)) ** 2 + (y - uniform(-1, 1, count, 1, 1)) ** 2) / 0.05).exp()
    background = 0.6 * texture + blob[:, None] * uniform(-1, 1, count, 3, 1, 1)
    colour = uniform(0.8, 1.8, count, 3, 1, 1) * torch.where(uniform(0, 1, count, 1, 1, 1) < 0.5, -1.0, 1.0)
    hue = labels[:, None] * (2 * math.pi / CLASSES) + torch.arange(3, device=device) * (2 * math.pi / 3)
    colour = (1 - colour_cue) * colour + colour_cue * 1.8 * hue.cos()[:, :, None, None]
    images = background + (colour - background) * cover[:, None]
    images = images + 0.1 * torch.randn(count, 3, size, size, generator=random, device=device)
    masks = torch.where(distance < 0, labels[:, None, None] + 1, 0)
    return Scenes(images, labels, masks)


def _distance(u: Tensor, v: Tensor, labels: Tensor) -> Tensor:
    """Signed distance to the labelled unit shape at points (u, v), each (N, S, S); negative inside."""
    r = torch.hypot(u, v)
    theta = torch.atan2(v, u)

    def polygon(corners: int) -> Tensor:
        wedge = math.pi / corners
        return r * torch.cos(torch.remainder(theta, 2 * wedge) - wedge) - math.cos(wedge)

    star = r - (0.65 + 0.35 * torch.cos(5 * theta))
    cross = torch.minimum(torch.maximum(u.abs() - 0.95, v.abs() - 0.3), torch.maximum(v.abs() - 0.95, u.abs() - 0.3))
    every = torch.stack((r - 0.85, torch.maximum(u.abs(), v.abs()) - 0.75, polygon(3), polygon(5), polygon(6), star,
                         (r - 0.75).abs() - 0.2, cross))
    return every.gather(0, labels[None, :, None, None].expand(1, *u.shape))[0]
