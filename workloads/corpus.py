"""Real text for language models: the Python sources of installed packages, without duplicates, split by package, as tokens.

What is read. `TRAINING` and `HELD_OUT` name the packages; all of them come with the weeks' own requirements, so
constraints.txt pins the text too, and `Manifest` records what was in fact read: versions, bytes and checksums.

What keeps the split honest
- by package: nothing of a held-out project is ever trained on.
- by hash: a file whose lines were seen before (trailing blanks aside) is left out, held-out files first in line, so that a
  copy of one of them never reaches training.
- by line: a held-out file half of whose long lines stand in training files as well is left out: vendored, then edited.

Tokens are byte-level BPE of 4,096 entries, `corpus_tokenizer.json`, trained once by `train_tokenizer` on up to 250 files of each
training package, of pip and of setuptools, and on nothing held out. It is lossless, so nats a token turn into bits a byte. `END`
follows each document.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

Tokens = npt.NDArray[np.uint16]

# (name known to pip, folder known to import)
TRAINING = (("torch", "torch"), ("transformers", "transformers"), ("sympy", "sympy"), ("numpy", "numpy"), ("timm", "timm"),
            ("torchvision", "torchvision"), ("fonttools", "fontTools"))
HELD_OUT = (("networkx", "networkx"), ("matplotlib", "matplotlib"), ("mpmath", "mpmath"))

VOCABULARY = 4096
END = 0  # the token after each document
TOKENIZER = Path(__file__).with_name("corpus_tokenizer.json")
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"

LEAST_BYTES = 200  # files shorter than this are mostly empty __init__.py
MOST_BYTES = 2_000_000  # and longer than this generated tables
LONG_LINE = 40  # shorter lines are everybody's: "return self", "else:"
SEEN_SHARE = 0.5
AT_ONCE = 256  # documents through the tokenizer at a time


class TooLittleText(RuntimeError):
    """There is less text here than was asked for; the message says what to install."""


# ---------------------------------------------------------------------------------------------------- documents


@dataclass(frozen=True, slots=True)
class Part:
    """What one package gave: files kept, files left out as copies, bytes kept, and the SHA-256 over the kept files in order."""

    package: str
    version: str
    files: int
    copies: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a corpus was made from; `edited_copies` are held-out files left out because most of their lines are trained on."""

    training: tuple[Part, ...]
    held_out: tuple[Part, ...]
    edited_copies: int
    tokenizer_sha256: str

    @property
    def sha256(self) -> str:
        """One checksum for the whole: equal where two runs read the same text with the same tokenizer."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def unpinned(self, constraints: str) -> tuple[str, ...]:
        """Packages whose version is not the one that `constraints` (the text of constraints.txt) names."""
        pins = dict(line.lower().split("==") for line in constraints.split() if "==" in line)
        return tuple(part.package for part in (*self.training, *self.held_out) if pins.get(part.package) != part.version)

    def json(self) -> str:
        return json.dumps({"sha256": self.sha256, **asdict(self)}, indent=1) + "\n"


def sources(folder: Path) -> list[Path]:
    """The Python files under `folder`, in an order that no machine changes."""
    return sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix())


class Shelf:
    """Documents as they are taken in: remembers what was seen, so that none comes twice."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def take(self, package: str, version: str, folder: Path, most_bytes: int) -> tuple[list[str], Part]:
        """The new documents of `folder`, at most about `most_bytes` of them."""
        documents: list[str] = []
        copies = size = 0
        digest = hashlib.sha256()
        for path in sources(folder):
            if size >= most_bytes:
                break
            raw = path.read_bytes()
            if not LEAST_BYTES <= len(raw) <= MOST_BYTES:
                continue
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError:  # test files in other encodings
                continue
            key = hashlib.sha256("\n".join(line.rstrip() for line in text.splitlines()).encode()).digest()
            if key in self._seen:
                copies += 1
                continue
            self._seen.add(key)
            digest.update(hashlib.sha256(raw).digest())
            documents.append(text)
            size += len(raw)
        return documents, Part(package, version, len(documents), copies, size, digest.hexdigest())


def long_lines(text: str) -> set[int]:
    """Hashes of the lines long enough to be somebody's own."""
    return {hash(line) for line in map(str.strip, text.splitlines()) if len(line) >= LONG_LINE}


def without_seen(documents: Sequence[str], others: Iterable[str]) -> tuple[list[str], int]:
    """`documents` less those of whose long lines more than half stand in `others`, and how many those were."""
    known: set[int] = set()
    for text in others:
        known |= long_lines(text)
    kept = [text for text in documents if len((lines := long_lines(text)) & known) <= SEEN_SHARE * len(lines)]
    return kept, len(documents) - len(kept)


# ---------------------------------------------------------------------------------------------------- tokens


def train_tokenizer(documents: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of `VOCABULARY` entries: lossless, its first entry `END`, every single byte among the next 256."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|end|>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False))
    return tokenizer


@functools.cache
def tokenizer() -> Tokenizer:
    """The tokenizer that every run shares."""
    return Tokenizer.from_file(str(TOKENIZER))


def encode(text: str) -> list[int]:
    ids: list[int] = tokenizer().encode(text, add_special_tokens=False).ids
    return ids


def decode(ids: Sequence[int]) -> str:
    text: str = tokenizer().decode(list(ids), skip_special_tokens=False)
    return text


def _encoded(documents: Sequence[str]) -> list[Tokens]:
    found: list[Tokens] = []
    for first in range(0, len(documents), AT_ONCE):
        for encoding in tokenizer().encode_batch_fast(list(documents[first:first + AT_ONCE]), add_special_tokens=False):
            found.append(np.array([*encoding.ids, END], dtype=np.uint16))
    return found


# ---------------------------------------------------------------------------------------------------- the corpus


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents as tokens: one stream to train on, with the place where each document starts, and held-out documents apart.

    `bytes_per_token` is that of the held-out text: nats a token / ln 2 / bytes_per_token = bits a byte.
    """

    stream: Tokens
    starts: npt.NDArray[np.int64]
    held_out: tuple[Tokens, ...]
    bytes_per_token: float
    manifest: Manifest

    def windows(self, length: int, batch: int, seed: int, *, whole: bool = False) -> Iterator[npt.NDArray[np.int64]]:
        """Batches without end of (batch, length + 1) tokens, the same for the same seed: windows anywhere in the stream, or,
        with `whole`, windows that lie within one document (each as likely as it is long).

        Raises TooLittleText where no document, or not even the stream, is that long.
        """
        draw = np.random.default_rng(seed)
        ends = np.append(self.starts[1:], len(self.stream))
        firsts = self.starts if whole else np.array([0])
        room = (ends - self.starts if whole else np.array([len(self.stream)])) - length
        if not (room > 0).any():
            raise TooLittleText(f"no {'document' if whole else 'text'} of {length + 1} tokens to train on: install more of "
                                f"{', '.join(package for package, _ in TRAINING)}")
        firsts, room = firsts[room > 0], room[room > 0]
        share = room / room.sum()
        while True:
            chosen = draw.choice(len(room), size=batch, p=share)
            at = firsts[chosen] + (draw.random(batch) * room[chosen]).astype(np.int64)
            yield np.stack([self.stream[i:i + length + 1] for i in at]).astype(np.int64)

    def long_documents(self, length: int, most: int) -> npt.NDArray[np.int64]:
        """The first `length` tokens of held-out documents that are so long, at most `most` of them, drawn by a fixed seed.

        Raises TooLittleText where there is none.
        """
        long = [document[:length] for document in self.held_out if len(document) >= length]
        if not long:
            raise TooLittleText(f"no held-out document has {length} tokens: install {', '.join(package for package, _ in HELD_OUT)}")
        order = np.random.default_rng(0).permutation(len(long))[:most]
        return np.stack([long[i] for i in order]).astype(np.int64)


def load(*, most_bytes: int | None = None) -> Corpus:
    """Read the installed packages; `most_bytes` of each package where that is given.

    Raises TooLittleText where a package is missing.
    """
    shelf = Shelf()
    limit = most_bytes or 10**12
    held_out: list[str] = []
    held_parts, training_parts = [], []
    for package, folder in HELD_OUT:  # first, so that a copy of theirs is a copy where it would be trained on
        documents, part = shelf.take(package, *_installed(package, folder), limit)
        held_out += documents
        held_parts.append(part)
    training: list[str] = []
    for package, folder in TRAINING:
        documents, part = shelf.take(package, *_installed(package, folder), limit)
        training += documents
        training_parts.append(part)
    kept, edited_copies = without_seen(held_out, training)
    encoded = _encoded(training)
    tested = _encoded(kept)
    return Corpus(
        stream=np.concatenate(encoded), starts=np.cumsum([0, *(len(document) for document in encoded[:-1])]).astype(np.int64),
        held_out=tuple(tested), bytes_per_token=sum(len(text.encode()) for text in kept) / sum(map(len, tested)),
        manifest=Manifest(tuple(training_parts), tuple(held_parts), edited_copies, hashlib.sha256(TOKENIZER.read_bytes()).hexdigest()))


def _installed(package: str, folder: str) -> tuple[str, Path]:
    """The version of `package` and where its sources lie; nothing of it is imported."""
    found = importlib.util.find_spec(folder)
    places = list(found.submodule_search_locations or ()) if found else []
    if not places:
        raise TooLittleText(f"{package} is part of the text and not installed: pip install {package}")
    return importlib.metadata.version(package), Path(places[0])


# ---------------------------------------------------------------------------------------------------- repeats and pass keys

KEY_DIGITS = 5
KEY_PARTS = 16  # a training row holds at most so many keys
WIDE_SHARE = 1 / 2
KEY_ROOM = 64  # tokens for one of them, at least


Key = str | Sequence[int]  # digits, or any tokens: KEY_DIGITS of them


def key_sentence(key: Key) -> list[int]:
    """A line that tells `key`; its digits are single tokens, whatever stands around them."""
    return [*encode("\n# The pass key is "), *_tokens(key), *encode(". Remember it.\n")]


def key_question(key: Key) -> list[int]:
    """A line that asks for the key and answers it: the last `KEY_DIGITS` tokens are the answer."""
    return [*encode("\n# What was the pass key? The pass key is "), *_tokens(key)]


def plant_key(row: npt.NDArray[np.int64], key: Key, depth: float) -> None:
    """Write a key into `row` of tokens at `depth` (0: start, 1: as late as can be) and its question at the end, in place."""
    told, asked = key_sentence(key), key_question(key)
    last = len(row) - len(told) - len(asked)
    assert last >= 0, f"a key and its question take {len(told) + len(asked)} tokens, and the row has {len(row)}"
    at = round(depth * last)
    row[at:at + len(told)] = told
    row[len(row) - len(asked):] = asked


def with_keys(batches: Iterable[npt.NDArray[np.int64]], share: float, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """`batches`, a `share` of their rows with keys told and asked for: the skill is taught at the training length, so that a test
    beyond it shows what the positions do, and not whether so small a model learnt to copy.

    Such a row is one part, or 2, 4, ... up to `KEY_PARTS` equal ones, each with its own key at any depth and its question at the
    end. Five digits in a row of thousands are too faint a signal to learn from in minutes: near keys are learnt first, and far ones
    follow from them; and `WIDE_SHARE` of the keys are any tokens, for a key of 8 nats a token is worth copying before a network
    knows which of the many digits around to copy."""
    draw = np.random.default_rng([seed, 1])
    for batch in batches:
        most = max(1, min(KEY_PARTS, batch.shape[1] // KEY_ROOM))
        for row in np.flatnonzero(draw.random(len(batch)) < share):
            for part in np.array_split(batch[row], 2 ** int(draw.integers(most.bit_length()))):  # views
                wide = draw.random() < WIDE_SHARE
                key: Key = draw.integers(END + 1, VOCABULARY, size=KEY_DIGITS).tolist() if wide else random_key(draw)
                plant_key(part, key, float(draw.random()))
        yield batch


def with_repeats(batches: Iterable[npt.NDArray[np.int64]], share: float, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """`batches`, in a `share` of whose rows an eighth of the row is said once more, anywhere later in it. Source code repeats
    itself, but whole stretches seldom within one window; a network that is trained for minutes learns from them to look back."""
    draw = np.random.default_rng([seed, 2])
    for batch in batches:
        length = batch.shape[1]
        stretch = length // 8
        for row in np.flatnonzero(draw.random(len(batch)) < share):
            first = int(draw.integers(length - 2 * stretch + 1))
            again = int(draw.integers(first + stretch, length - stretch + 1))
            batch[row, again:again + stretch] = batch[row, first:first + stretch]
        yield batch


def random_key(draw: np.random.Generator) -> str:
    return "".join(map(str, draw.integers(10, size=KEY_DIGITS)))


def _tokens(key: Key) -> list[int]:
    return [encode(digit)[0] for digit in key] if isinstance(key, str) else list(key)
