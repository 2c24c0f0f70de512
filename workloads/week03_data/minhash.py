"""Near-duplicates by MinHash: shingles of pictures and captions, signatures on the device, candidates by LSH, pairs that hold.

A signature is the least of each of K random permutations over a set; two agree in a place with probability J, their Jaccard
similarity (Broder 1997). Cut into b bands of r rows, a pair becomes a candidate with probability 1 - (1 - J^r)^b (Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, 3.4). Signatures here are those of datasketch's scheme affine32, bit for bit.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from datasketch import MinHash, MinHashLSH
from torch import Tensor

PERMUTATIONS = 128
SCHEME = "affine32"
SIDE, BLOCK, STRIDE = 64, 16, 8  # thumbnails are SIDE wide; blocks of BLOCK every STRIDE pixels
FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2))  # whose signs make a block's two words
BITS = 3  # signs a word: more tell pictures apart better, fewer survive a crop better
# A picture is looked for as it is, and as four crops of its own: with their corners at these shares of a side, no crop by 5% is
# further than 1.25% of a side from one of them, and a shift of 1.25% leaves most blocks' signs alone.
CROP, CORNERS = 0.95, ((0.0125, 0.0125), (0.0125, 0.0375), (0.0375, 0.0125), (0.0375, 0.0375))
GRAM = 5  # characters of a text shingle
IMAGE_THRESHOLD, TEXT_THRESHOLD = 0.35, 0.7
# Of a candidate pair of pictures the signs of fourteen frequencies of every block are compared, as in a perceptual hash: there are so
# many unrelated pairs that some have signatures that agree as well as a crop's.
SIGN_FREQUENCIES = tuple((down, across) for down in range(5) for across in range(5) if 0 < down + across <= 4)
SIGNS_ALIKE = 0.8
LUMA = (0.299, 0.587, 0.114)
MASK = 2**32 - 1
AT_ONCE = 4096  # pairs whose marks are compared at a time
ROOM_BYTES = 2**28  # of the largest tensor held while signatures are taken

Pairs = set[tuple[int, int]]  # of indices, the smaller first


def views(picture: Tensor) -> list[Tensor]:
    """(3, H, W), and its four crops, views of the same memory."""
    height, width = picture.shape[1:]
    tall, wide = round(CROP * height), round(CROP * width)
    corners = [(round(top * height), round(left * width)) for top, left in CORNERS]
    return [picture, *(picture[:, top:top + tall, left:left + wide] for top, left in corners)]


def image_shingles(thumbnails: Tensor) -> Tensor:
    """(N, 98) int64 words of (N, 3, SIDE, SIDE) uint8 pictures: where a block is, and the signs of its lowest DCT frequencies.

    Signs withstand compression, size and colour. Of a picture and its mirror image the one whose left half is brighter is
    taken, so a flip changes nothing; a crop shifts the blocks and costs most of the words, wherefore there are `views`.
    """
    signs = _signs(thumbnails, FREQUENCIES)
    codes = (signs.unflatten(-1, (-1, BITS)).long() << torch.arange(BITS, device=signs.device)).sum(-1).flatten(1)
    return (torch.arange(codes.shape[1], device=codes.device) << BITS) + codes


def image_signs(thumbnails: Tensor) -> Tensor:
    """(N, 686) booleans of (N, 3, SIDE, SIDE) uint8 pictures: of each block the signs of fourteen DCT frequencies."""
    return _signs(thumbnails, SIGN_FREQUENCIES).flatten(1)


def _signs(thumbnails: Tensor, frequencies: Sequence[tuple[int, int]]) -> Tensor:
    """(N, blocks, frequencies) booleans, of each picture or its mirror image."""
    luma = (thumbnails.float() * torch.tensor(LUMA, device=thumbnails.device)[:, None, None]).sum(1)
    half = SIDE // 2
    mirrored = luma[:, :, :half].mean((1, 2)) < luma[:, :, half:].mean((1, 2))
    luma = torch.where(mirrored[:, None, None], luma.flip(-1), luma)
    blocks = luma.unfold(1, BLOCK, STRIDE).unfold(2, BLOCK, STRIDE)
    places = (torch.arange(BLOCK, device=luma.device) + 0.5) * (math.pi / BLOCK)
    waves = torch.stack([torch.cos(places * k) for k in range(1 + max(max(pair) for pair in frequencies))])
    dct = torch.einsum("ka,nxyab,lb->nxykl", waves, blocks, waves)
    return torch.stack([dct[..., k, m] > 0 for k, m in frequencies], -1).flatten(1, 2)


def text_shingles(texts: Sequence[str]) -> Tensor:
    """(N, L) int64 CRC-32 of every run of GRAM characters, case and punctuation apart; rows are filled up with their first word,
    which changes no set."""
    plain = [" ".join(re.findall(r"[a-z0-9]+", text.lower())).ljust(GRAM) for text in texts]
    rows = [sorted({zlib.crc32(text[i:i + GRAM].encode()) for i in range(len(text) - GRAM + 1)}) for text in plain]
    longest = max(map(len, rows))
    return torch.tensor([row + row[:1] * (longest - len(row)) for row in rows])


def signatures(words: Tensor) -> Tensor:
    """(N, PERMUTATIONS) int64 of (N, L) words below 2^32, on their device: MinHash of affine32.

    Words are mixed by MurmurHash3's finaliser, then permuted by a h + b modulo 2^32; a product in int64 wraps modulo 2^64, so its
    low 32 bits are right.
    """
    h = words & MASK
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = ((h ^ (h >> shift)) * factor) & MASK
    a, b = (torch.from_numpy(np.asarray(p).astype(np.int64)).to(words.device) for p in MinHash(PERMUTATIONS, scheme=SCHEME).permutations)
    some = max(1, ROOM_BYTES // (8 * PERMUTATIONS * words.shape[1]))
    return torch.cat([((part[:, :, None] * a + b) & MASK).amin(1) for part in h.split(some)])


def by_datasketch(words: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same signatures, by datasketch."""
    rows = []
    for row in words.tolist():
        sketch = MinHash(PERMUTATIONS, scheme=SCHEME, hashfunc=int)
        sketch.update_batch(row)
        rows.append(sketch.hashvalues.astype(np.int64))
    return np.stack(rows)


def index(threshold: float) -> MinHashLSH:
    """An empty index whose bands and rows (`b`, `r`) datasketch chose for this threshold."""
    return MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)


def candidates(sketches: Tensor, lsh: MinHashLSH) -> Pairs:
    """Pairs of which one, in any of its views, shares a band of `lsh` with the other as it is; of (N, V, PERMUTATIONS) signatures,
    those of each item as it is first."""
    permutations = MinHash(PERMUTATIONS, scheme=SCHEME).permutations
    rows = [[MinHash(hashvalues=values, permutations=permutations, scheme=SCHEME) for values in views]
            for views in sketches.cpu().numpy().astype(np.uint32)]
    for key, row in enumerate(rows):
        lsh.insert(key, row[0], check_duplication=False)
    return {(min(key, other), max(key, other)) for key, row in enumerate(rows) for view in row for other in lsh.query(view) if other != key}


def alike(marks: Tensor, pairs: Pairs, threshold: float) -> Pairs:
    """Those pairs of which one, in any of its views, agrees with the other as it is in at least a share `threshold` of (N, V, M) marks.

    The agreement of signatures estimates J with a standard error of at most 0.5 / sqrt(PERMUTATIONS) = 0.044.
    """
    if not pairs:
        return set()
    flat = np.fromiter(itertools.chain.from_iterable(pairs), np.int64, 2 * len(pairs))  # there are millions
    both = torch.from_numpy(flat).view(-1, 2).to(marks.device)

    def agreement(viewed: Tensor, plain: Tensor) -> Tensor:
        return (marks[viewed] == marks[plain, :1]).float().mean(-1).amax(1)

    kept = torch.cat([torch.maximum(agreement(one, other), agreement(other, one)) >= threshold
                      for one, other in (some.unbind(1) for some in both.split(AT_ONCE))])
    return {(first, second) for first, second in both[kept].tolist()}


def clusters(count: int, pairs: Pairs) -> list[int]:
    """For each of `count` items the least index that pairs connect it with (union-find)."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return [root(item) for item in range(count)]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Of `trials` pairs with Jaccard similarity `similarity`, how many became candidates, and the share that theory expects."""

    similarity: float
    hits: int
    trials: int
    theory: float


def s_curve(lsh: MinHashLSH, trials: int, seed: int, device: str) -> list[CurvePoint]:
    """Candidates by similarity on pairs of random sets made to measure, against 1 - (1 - J^r)^b."""
    random = torch.Generator(device).manual_seed(seed)
    size, points = 100, []
    for wanted in np.linspace(0.05, 0.95, 19):
        shared = round(2 * size * float(wanted) / (1 + float(wanted)))
        words = torch.randint(2**32, (trials, 2 * size - shared), generator=random, device=device)
        one, other = signatures(words[:, :size]), signatures(words[:, size - shared:])
        same = (one == other)[:, :lsh.b * lsh.r].view(trials, lsh.b, lsh.r)
        similarity = shared / (2 * size - shared)
        points.append(CurvePoint(similarity, int(same.all(2).any(1).sum()), trials, 1 - (1 - similarity**lsh.r) ** lsh.b))
    return points
