"""The text: what counts as a copy, how the split stays honest, lossless tokens, and batches that a seed decides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workloads import corpus
from workloads.corpus import Corpus, Manifest, Part, Shelf, TooLittleText

BODY = "\n".join(f"def function_number_{i}(argument):\n    return argument + {i} * some_long_constant_name" for i in range(20))


def shelve(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def small(stream: list[int], starts: list[int], held_out: tuple[list[int], ...] = ()) -> Corpus:
    return Corpus(np.array(stream, dtype=np.uint16), np.array(starts), tuple(np.array(d, dtype=np.uint16) for d in held_out), 3.0,
                  Manifest((), (), 0, ""))


# ---------------------------------------------------------------------------------------------------- documents


def test_a_file_comes_once_whatever_its_trailing_blanks_and_its_package(tmp_path: Path) -> None:
    shelve(tmp_path / "a", {"one.py": BODY, "copy.py": BODY.replace("\n", "  \n"), "other.py": BODY + "\nmore = 1\n"})
    shelve(tmp_path / "b", {"one.py": BODY, "own.py": BODY.upper()})
    shelf = Shelf()
    first, part = shelf.take("a", "1.0", tmp_path / "a", 10**9)
    second, its = shelf.take("b", "2.0", tmp_path / "b", 10**9)
    assert (len(first), part.files, part.copies) == (2, 2, 1)
    assert second == [BODY.upper()]
    assert (its.files, its.copies, its.bytes) == (1, 1, len(BODY))


def test_what_is_no_text_and_what_is_next_to_nothing_is_left_out(tmp_path: Path) -> None:
    shelve(tmp_path, {"empty.py": "", "latin.py": b"# caf\xe9 " * 100, "good.py": BODY, "notes.txt": BODY * 2,
                      "huge.py": "x = 1\n" * (corpus.MOST_BYTES // 6 + 1)})
    documents, _ = Shelf().take("a", "1", tmp_path, 10**9)
    assert documents == [BODY]


def test_the_order_of_files_and_the_checksum_are_no_accident_of_the_machine(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"{name}.py": BODY + name for name in ("b", "a", "c/d", "c.d")}
    shelve(tmp_path / "x", files)
    shelve(tmp_path / "y", dict(reversed(files.items())))
    (one, part), (two, same) = (Shelf().take("p", "1", tmp_path / name, 10**9) for name in "xy")
    assert (one, part) == (two, same)
    shelve(tmp_path / "y", {"a.py": BODY + "A"})
    assert Shelf().take("p", "1", tmp_path / "y", 10**9)[1].sha256 != part.sha256


def test_a_limit_ends_the_reading(tmp_path: Path) -> None:
    shelve(tmp_path, {f"{i}.py": BODY + str(i) for i in range(5)})
    documents, part = Shelf().take("p", "1", tmp_path, len(BODY) + 10)
    assert len(documents) == part.files == 2


def test_a_vendored_file_is_known_by_its_lines() -> None:
    edited = BODY.replace("def function_number_3(", "def renamed_number_3(") + "\n# vendored, and changed in this one line here\n"
    own = BODY.replace("function", "method").replace("constant", "variable")
    assert corpus.without_seen([edited, own, "x = 1\n"], ["", BODY]) == ([own, "x = 1\n"], 1)


def test_the_manifest_says_what_differs_from_the_pins() -> None:
    one, other = Part("torch", "2.0", 1, 0, 10, "aa"), Part("sympy", "1.14.0", 1, 0, 10, "bb")
    manifest = Manifest((one,), (other,), 0, "cc")
    assert manifest.unpinned("sympy==1.14.0\ntorch==2.0\n") == ()
    assert manifest.unpinned("sympy==1.14.0\ntorch==2.1\n") == ("torch",)
    assert manifest.unpinned("") == ("torch", "sympy")
    assert manifest.sha256 != replace(manifest, training=(replace(one, sha256="dd"),)).sha256
    assert json.loads(manifest.json())["sha256"] == manifest.sha256


def test_every_package_of_the_text_is_pinned_and_no_package_is_on_both_sides() -> None:
    names = [package for package, _ in (*corpus.TRAINING, *corpus.HELD_OUT)]
    assert len(set(names)) == len(names)
    pinned = {line.lower().split("==")[0] for line in corpus.CONSTRAINTS.read_text().split()}
    assert set(names) <= pinned


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(TooLittleText, match="no-such is part of the text and not installed: pip install no-such"):
        corpus._installed("no-such", "no_such_folder")


# ---------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("text", [BODY, "", "   \t\n\n    x", "naïve café 漢字 🎉 \x00 \r\n", "<|end|>"])
def test_tokens_are_lossless(text: str) -> None:
    ids = corpus.encode(text)
    assert corpus.decode(ids) == text or text == "<|end|>"  # which text may say, and which then is the token itself
    assert all(0 <= i < corpus.VOCABULARY for i in ids)


def test_the_tokenizer_is_of_the_size_it_says_and_packs_code() -> None:
    assert corpus.tokenizer().get_vocab_size() == corpus.VOCABULARY
    assert corpus.tokenizer().token_to_id("<|end|>") == corpus.END
    text = Path(corpus.__file__).read_text(encoding="utf-8")
    assert len(text.encode()) / len(corpus.encode(text)) > 2.5


def test_a_tokenizer_trained_anew_is_lossless_too() -> None:
    trained = corpus.train_tokenizer([Path(corpus.__file__).read_text(encoding="utf-8")])
    assert trained.token_to_id("<|end|>") == corpus.END
    assert trained.decode(trained.encode(BODY).ids) == BODY
    assert len(trained.encode(BODY).ids) < len(BODY)


# ---------------------------------------------------------------------------------------------------- batches


def test_windows_are_of_the_stream_and_follow_from_the_seed() -> None:
    text = small(list(range(100)), [0, 40])
    one, again, other = (next(text.windows(9, 4, seed)) for seed in (1, 1, 2))
    assert one.shape == (4, 10) and one.dtype == np.int64
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert (np.diff(one, axis=1) == 1).all()


def test_whole_windows_stay_within_a_document_and_reach_all_of_it() -> None:
    text = small(list(range(100)), [0, 40, 45])  # documents of 40, 5 and 55
    draws = text.windows(9, 64, 0, whole=True)
    seen = np.concatenate([next(draws) for _ in range(20)])
    first, last = seen[:, 0], seen[:, -1]
    assert (((first < 40) == (last < 40)) & ((first < 40) | (first >= 45))).all()
    assert {int(first.min()), int(last.max())} == {0, 99}
    assert 0.3 < (first < 40).mean() < 0.5  # 31 of 77 places


def test_text_that_is_too_short_is_said() -> None:
    text = small(list(range(100)), [0, 50], ([1, 2, 3],))
    with pytest.raises(TooLittleText, match="no document of 61 tokens"):
        next(text.windows(60, 1, 0, whole=True))
    with pytest.raises(TooLittleText, match="no text of 201 tokens"):
        next(text.windows(200, 1, 0))
    with pytest.raises(TooLittleText, match="no held-out document has 4 tokens"):
        text.long_documents(4, 10)


def test_long_documents_are_cut_and_drawn_the_same_each_time() -> None:
    text = small([], [0], tuple([i] * n for i, n in enumerate((3, 9, 5, 7))))
    rows = text.long_documents(5, 10)
    assert rows.shape == (3, 5) and set(rows[:, 0].tolist()) == {1, 2, 3}
    assert np.array_equal(text.long_documents(5, 2), rows[:2])


def test_the_real_text_loads() -> None:
    text = corpus.load(most_bytes=30_000)
    assert [part.package for part in text.manifest.training] == [package for package, _ in corpus.TRAINING]
    assert all(part.files and len(part.sha256) == 64 for part in (*text.manifest.training, *text.manifest.held_out))
    assert (text.stream[text.starts[1:] - 1] == corpus.END).all() and text.stream[-1] == corpus.END
    assert all(document[-1] == corpus.END for document in text.held_out)
    assert 2 < text.bytes_per_token < 5
    assert "import" in corpus.decode(text.stream[:3000].tolist())


# ---------------------------------------------------------------------------------------------------- pass keys


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_key_stands_where_it_should_and_is_asked_for_at_the_end(depth: float) -> None:
    row = np.full(200, 5, dtype=np.int64)
    corpus.plant_key(row, "90210", depth)
    told, asked = corpus.key_sentence("90210"), corpus.key_question("90210")
    at = round(depth * (200 - len(told) - len(asked)))
    assert row[at:at + len(told)].tolist() == told and row[-len(asked):].tolist() == asked
    assert (row == 5).sum() == 200 - len(told) - len(asked)
    assert corpus.decode(asked).endswith("The pass key is 90210")
    assert [corpus.decode([int(i)]) for i in row[-corpus.KEY_DIGITS:]] == list("90210")


def test_a_row_too_short_for_a_key_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="the row has 20"):
        corpus.plant_key(np.zeros(20, dtype=np.int64), "12345", 0.5)


def test_keys_go_into_a_share_of_the_rows() -> None:
    rows = (np.full((50, 120), 5) for _ in range(20))
    batches = list(corpus.with_keys(rows, 0.1, seed=3))
    told = np.concatenate([(batch != 5).any(axis=1) for batch in batches])
    assert 0.06 < told.mean() < 0.14


@pytest.mark.parametrize(("length", "most"), [(120, 1), (129, 2), (1025, 16), (4097, 16)])
def test_a_rows_keys_stand_in_equal_parts_each_with_its_own_question(length: int, most: int) -> None:
    (batch,) = corpus.with_keys(iter([np.full((200, length), 5)]), 1.0, seed=4)
    head = corpus.key_question("0" * 5)[:-corpus.KEY_DIGITS]
    counts, wide = set(), []
    numerals = {corpus.encode(digit)[0] for digit in "0123456789"}
    for row in batch.tolist():
        told = corpus.key_sentence("0" * 5)
        mark, digits = told[:told.index(corpus.encode("0")[0])], corpus.KEY_DIGITS

        def after(words: list[int], row: list[int] = row, digits: int = digits) -> list[tuple[int, list[int]]]:
            return [(i, row[i + len(words):i + len(words) + digits]) for i in range(length) if row[i:i + len(words)] == words]

        keys, answers = after(mark), after(head)
        assert [key for _, key in keys] == [answer for _, answer in answers], "each question is of the key told last"
        assert all(k < a for (k, _), (a, _) in zip(keys, answers, strict=True))
        counts.add(len(keys))
        wide += [not set(key) <= numerals for _, key in keys]
    assert counts == {n for n in (1, 2, 4, 8, 16) if n <= most}
    assert 0.35 < np.mean(wide) < 0.65, "digits, and any tokens"


def test_keys_repeat_with_their_seed() -> None:
    one, again, other = (next(corpus.with_keys(iter([np.full((8, 300), 5)]), 1.0, seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_an_eighth_of_a_row_is_said_once_more() -> None:
    rows = np.arange(161)[None] + 1000 * np.arange(400)[:, None]
    (batch,) = corpus.with_repeats(iter([rows.copy()]), 0.5, seed=1)
    changed = (batch != rows).any(axis=1)
    assert 0.4 < changed.mean() < 0.6
    for row, plain in zip(batch[changed], rows[changed], strict=True):
        (places,) = np.nonzero(row != plain)
        assert len(places) == 20 and places[-1] - places[0] == 19, "one stretch, not over its own source"
        source = row[places] - plain[0]
        assert source[-1] < places[0] and np.array_equal(np.diff(source), np.ones(19))
