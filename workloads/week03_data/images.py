"""Realistic JPEGs with known answers: labelled shapes over photo crops, captions, and near-duplicates of every kind, planted.

Photographs come from scikit-image's wheel. A JPEG's size, and with it the time to decode it, is that of its detail: sensor grain
brings 500 x 375 pixels at quality 90 to the 60-110 kB of a photograph, where flat colour would be 5 kB and decode too fast.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import skimage
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional as F

from workloads import scenes

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
          "brick.png", "grass.png", "gravel.png", "ihc.png")
SUBJECTS = ("an astronaut", "a cat", "a cup of coffee", "distant galaxies", "a motorcycle", "a retina", "a rocket", "a brick wall",
            "grass", "gravel", "stained tissue")
EDITS = ("exact", "re-encoded", "resized", "cropped", "flipped", "recoloured")
CAPTION_EDITS = ("same", "recased", "one word changed", "reordered")
QUALITY = 90
GRAIN = (0.03, 0.065)  # standard deviation of the grain, as a share of white
COLOUR_GRAIN = 0.3  # of the grain: a camera smooths colour more than brightness
AT_ONCE = 64  # pictures rendered together: each holds a photograph of its own in float32

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Picture:
    """One sample. `source` is the key of the picture it is a near-duplicate of, "" for an original; `edit` and `caption_edit` say
    how it was made from that one."""

    key: str
    jpeg: bytes
    label: int
    caption: str
    height: int
    width: int
    source: str = ""
    edit: str = ""
    caption_edit: str = ""


def photographs(side: int, device: str) -> Tensor:
    """The photographs as (P, 3, side, side) float32 in [0, 1], squeezed into squares."""
    folder = Path(skimage.__file__).parent / "data"
    squares = [Image.open(folder / name).convert("RGB").resize((side, side), Image.Resampling.LANCZOS) for name in PHOTOS]
    return torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2).to(device).float() / 255


def originals(count: int, height: int, width: int, seed: int, photos: Tensor) -> tuple[Tensor, list[int], list[int]]:
    """`count` pictures, (N, height, width, 3) uint8 on the CPU, with the shape drawn on each and the photograph behind it.

    A crop of any place, angle and scale of a photograph, a shape and its texture over it, then grain. Landscape where height < width.
    """
    made, labels, behind = [], [], []
    for first in range(0, count, AT_ONCE):
        some = min(AT_ONCE, count - first)
        pixels, shapes, chosen = _some(some, height, width, seed + first, photos)
        made.append(pixels.cpu())
        labels += shapes.tolist()
        behind += chosen.tolist()
    return torch.cat(made), labels, behind


def _some(count: int, height: int, width: int, seed: int, photos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    device = photos.device
    random = torch.Generator(device).manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, device=device) * (high - low) + low

    chosen = torch.randint(len(photos), (count,), generator=random, device=device)
    angle, zoom = uniform(0, 2 * math.pi, count), uniform(0.35, 0.7, count)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    shift = uniform(-0.3, 0.3, count, 2)
    affine = torch.stack((torch.stack((cos, -sin, shift[:, 0]), 1), torch.stack((sin, cos, shift[:, 1]), 1)), 1)
    grid = F.affine_grid(affine, [count, 3, height, width], align_corners=False)
    photo = F.grid_sample(photos[chosen], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    photo = (photo * uniform(0.8, 1.2, count, 3, 1, 1) + uniform(-0.08, 0.08, count, 3, 1, 1))

    side = max(height, width)
    drawn = scenes.render(count, side, seed, device.type)
    top, left = (side - height) // 2, (side - width) // 2
    shape = drawn.images[:, :, top:top + height, left:left + width] * 0.22 + 0.5
    inside = (drawn.masks[:, top:top + height, left:left + width] > 0)[:, None]
    image = torch.where(inside, 0.85 * shape + 0.15 * photo, photo)
    grey, coloured = (torch.randn(count, planes, height, width, generator=random, device=device) for planes in (1, 3))
    image = image + (grey + COLOUR_GRAIN * coloured) * uniform(*GRAIN, count, 1, 1, 1)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1), drawn.labels, chosen


def encode(pixels: Pixels, quality: int = QUALITY) -> bytes:
    """A baseline JPEG, chroma at half resolution, of (H, W, 3) pixels."""
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", quality=quality, subsampling="4:2:0")
    return held.getvalue()


def decode(jpeg: bytes) -> Pixels:
    """(H, W, 3) pixels, by PIL."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))


def extent(jpeg: bytes) -> tuple[int, int]:
    """Height and width, from the header alone."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return image.height, image.width


def edited(jpeg: bytes, edit: str, random: np.random.Generator) -> bytes:
    """A near-duplicate of a JPEG: one of EDITS. Raises ValueError for another name."""
    if edit == "exact":
        return jpeg
    pixels = decode(jpeg)
    image, (height, width) = Image.fromarray(pixels), pixels.shape[:2]
    if edit == "re-encoded":
        return encode(pixels, int(random.integers(50, 96)))
    if edit == "resized":
        factor = 2 ** random.uniform(-1, 1)
        return encode(np.asarray(image.resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC)))
    if edit == "cropped":  # 5% of the height and of the width, from random sides
        top, left = (int(random.integers(0, max(1, round(0.05 * side)) + 1)) for side in (height, width))
        return encode(pixels[top:top + round(0.95 * height), left:left + round(0.95 * width)])
    if edit == "flipped":
        return encode(np.ascontiguousarray(pixels[:, ::-1]))
    if edit == "recoloured":
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = change(image).enhance(random.uniform(0.8, 1.25))
        return encode(np.asarray(image))
    raise ValueError(f"no edit is called {edit!r}: {', '.join(EDITS)}")


# ---------------------------------------------------------------------------------------------------- captions

LIGHTS = ("in soft light", "in hard light", "at dusk", "under a lamp", "in fog", "against the sun", "in the shade", "by candlelight")
VIEWS = ("seen from above", "seen from the side", "close by", "from far away", "through a window", "at an angle")
SYLLABLES = ("ba", "den", "fol", "gri", "hu", "jen", "ka", "lim", "mor", "nes", "pol", "qui", "ras", "sto", "tam", "ul", "vin", "wex",
             "yo", "zel")
MOODS = ("quiet", "busy", "bright", "faded", "sharp", "grainy", "warm", "cold", "plain", "strange")
CAMERAS = ("an old camera", "a phone", "a press camera", "a pinhole", "a drone", "a scanner", "a telescope", "a webcam")


def caption(label: int, photo: int, random: np.random.Generator) -> str:
    """A sentence on a picture: what is in it, and free words, names and numbers, so that two of them seldom agree."""
    def name() -> str:
        return "".join(SYLLABLES[int(random.integers(len(SYLLABLES)))] for _ in range(4)).capitalize()

    pick = [words[int(random.integers(len(words)))] for words in (MOODS, LIGHTS, VIEWS, CAMERAS)]
    return (f"A {pick[0]} picture of a {scenes.SHAPES[label]} in front of {SUBJECTS[photo]}, {pick[1]}, {pick[2]}, taken with {pick[3]} "
            f"by {name()} {name()} in {name()}, roll {random.integers(100, 1000)}, frame {random.integers(100, 1000)}")


def recaptioned(text: str, edit: str, random: np.random.Generator) -> str:
    """A near-duplicate of a caption: one of CAPTION_EDITS. Raises ValueError for another name."""
    if edit == "same":
        return text
    if edit == "recased":
        return text.upper().replace(",", ";")
    if edit == "one word changed":
        return text.replace(next(mood for mood in MOODS if mood in text), MOODS[int(random.integers(len(MOODS)))])
    if edit == "reordered":
        parts = text.split(", ")
        return ", ".join([parts[0], *(parts[i] for i in random.permutation(np.arange(1, len(parts))))])
    raise ValueError(f"no edit of a caption is called {edit!r}: {', '.join(CAPTION_EDITS)}")


def thumbnail(picture: Tensor, side: int) -> Tensor:
    """(3, side, side) uint8 of a decoded planar picture of any size: each pixel the mean of its part."""
    return F.adaptive_avg_pool2d(picture[None].float(), side)[0].round().to(torch.uint8)
