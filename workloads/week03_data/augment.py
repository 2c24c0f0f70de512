"""The random crop: one box and one flip for every picture, and all pictures of a batch resampled, flipped and normalised at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SCALE, ASPECT = (0.25, 1.0), (3 / 4, 4 / 3)  # of a box: share of the picture's area, and width over height
MEAN, DEVIATION = 0.45 * 255, 0.225 * 255


@dataclass(frozen=True, slots=True)
class Boxes:
    """(N, 4) int64 top, left, height and width in pixels, and (N,) whether to mirror."""

    edges: npt.NDArray[np.int64]
    mirrored: npt.NDArray[np.bool_]


def draw(heights: npt.NDArray[np.int64], widths: npt.NDArray[np.int64], random: np.random.Generator) -> Boxes:
    """A box in each picture, as Inception's random resized crop has it (Szegedy et al. 2015); one too large is cut to the picture."""
    count = len(heights)
    area = random.uniform(*SCALE, count) * heights * widths
    aspect = np.exp(random.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), count))
    tall = np.clip(np.sqrt(area / aspect).round().astype(np.int64), 1, heights)
    wide = np.clip(np.sqrt(area * aspect).round().astype(np.int64), 1, widths)
    top, left = random.integers(0, heights - tall + 1), random.integers(0, widths - wide + 1)
    return Boxes(np.stack((top, left, tall, wide), 1), random.random(count) < 0.5)


def normalised(pixels: Tensor) -> Tensor:
    """Levels of 0 to 255 to about zero mean and unit variance."""
    return (pixels.float() - MEAN) / DEVIATION


def resample(flat: Tensor, starts: Tensor, shapes: Tensor, edges: Tensor, mirrored: Tensor, size: int, *, interleaved: bool) -> Tensor:
    """(N, 3, size, size) float32, normalised, of N pictures that lie one behind the other in `flat` (uint8).

    Picture i begins at `starts[i]` and is `shapes[i]` = (height, width) pixels, planar (3, H, W) or `interleaved` (H, W, 3). Its
    box is resized bilinearly, corners not aligned, and mirrored where asked. One kernel where compiled.
    """
    places = torch.arange(size, device=flat.device)

    def line(first: Tensor, length: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, size): the two lines of pixels that an output line lies between, and the weight of the second."""
        place = ((at + 0.5) * length[:, None] / size - 0.5).clamp(min=0)
        low = place.floor().long()
        high = torch.minimum(low + 1, length[:, None] - 1)
        return first[:, None] + low, first[:, None] + high, place - low

    top, bottom, down = line(edges[:, 0], edges[:, 2], places.expand(len(edges), size))
    across = torch.where(mirrored[:, None], size - 1 - places, places)
    left, right, along = line(edges[:, 1], edges[:, 3], across)
    height, width = shapes[:, 0, None, None, None], shapes[:, 1, None, None, None]
    channel = torch.arange(3, device=flat.device)[:, None, None]
    base, step, row = (channel, 3, 3 * width) if interleaved else (channel * height * width, 1, width)
    base = base + starts[:, None, None, None]

    def pixel(y: Tensor, x: Tensor) -> Tensor:
        return flat[base + y[:, None, :, None] * row + x[:, None, None, :] * step].float()

    down, along = down[:, None, :, None], along[:, None, None, :]
    upper = pixel(top, left) * (1 - along) + pixel(top, right) * along
    lower = pixel(bottom, left) * (1 - along) + pixel(bottom, right) * along
    return normalised(upper * (1 - down) + lower * down)


def one_by_one(pictures: Sequence[Tensor], boxes: Boxes, size: int, *, interleaved: bool) -> Tensor:
    """The same, a picture at a time, by torch's own resizing."""
    done = []
    for picture, (top, left, tall, wide), mirror in zip(pictures, boxes.edges.tolist(), boxes.mirrored.tolist(), strict=True):
        planar = picture.permute(2, 0, 1) if interleaved else picture
        part = planar[None, :, top:top + tall, left:left + wide].float()
        resized = torch.nn.functional.interpolate(part, size=(size, size), mode="bilinear", align_corners=False)
        done.append(resized.flip(-1) if mirror else resized)
    return normalised(torch.cat(done))
