"""Comments and artifacts that nobody would think of: each gets a verdict, quickly, and nothing is ever raised but a Rejected.

A short run with a fixed seed is part of the tests. `make fuzz` goes on for ten minutes with new ones.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_week import COMMIT, REQUEST, WEEK01, files, result

from bot.artifact import Rejected, open_artifact
from bot.commands import FORMS, Refusal, parse
from workloads.spec import Request

CASES = [case["comment"] for case in json.loads((Path(__file__).parent / "cases" / "commands.json").read_text())]
GOOD = files(result())
PLAIN = json.loads(GOOD["result.json"])
EXAMPLES = 300

# Pieces of commands, of the cases, and of anything.
words = st.sampled_from([form.usage for form in FORMS] + [option.usage for form in FORMS for option in form.options]) \
    | st.sampled_from(CASES) | st.text(max_size=40) | st.from_regex(r"[ \t\r\n]{0,3}/?(bench|accept|retry|status)", fullmatch=True)
comments = st.lists(words, max_size=6).map(" ".join) | st.lists(words, max_size=4).map("".join)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)


@st.composite
def edited_results(draw: st.DrawFn) -> bytes:
    """A good result with some of its values replaced, at any depth."""
    plain = json.loads(GOOD["result.json"])
    for _ in range(draw(st.integers(1, 3))):
        at: Any = plain
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if not isinstance(at[key], dict | list) or not at[key] or draw(st.booleans()):
                at[key] = draw(json_values)
                break
            at = at[key]
    return json.dumps(plain).encode()


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """An archive with an edited result and odd files, whose own bytes may be damaged too."""
    held = {"result.json": draw(edited_results() | st.binary(max_size=60) | st.just(GOOD["result.json"])),
            "trace.json.gz": draw(st.just(GOOD["trace.json.gz"]) | st.binary(max_size=60))}
    names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
    held.update(draw(st.dictionaries(names, st.binary(max_size=30), max_size=2)))
    packed = io.BytesIO()
    kinds = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with zipfile.ZipFile(packed, "w", draw(st.sampled_from(kinds))) as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    content = bytearray(packed.getvalue())
    for place in draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = draw(st.integers(0, 255))
    return bytes(content[:draw(st.integers(0, len(content)) | st.just(len(content)))])


def for_minutes(minutes: float, check: Callable[[], None]) -> None:
    """Once, with a fixed seed; or again and again with new ones."""
    end = time.monotonic() + 60 * minutes
    again = settings(max_examples=EXAMPLES if not minutes else 5_000, derandomize=not minutes, database=None,
                     suppress_health_check=list(HealthCheck))(check)
    again()
    while time.monotonic() < end:
        again()


@pytest.fixture
def minutes(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--fuzz-minutes")) / 2


@pytest.mark.timeout(0)
def test_any_comment_gets_a_verdict(minutes: float) -> None:
    @given(comments)
    def check(comment: str) -> None:
        began = time.process_time()
        found = parse(comment)
        assert time.process_time() - began < 0.05
        assert found is None or isinstance(found, Request | Refusal)
        if isinstance(found, Request):
            assert comment.lstrip(" \t\r\n").startswith(f"/{found.command}")

    for_minutes(minutes, check)


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_any_artifact_is_a_result_or_rejected(minutes: float, tmp_path: Path) -> None:
    @given(zips())
    def check(packed: bytes) -> None:
        path = tmp_path / "result.zip"
        path.write_bytes(packed)
        try:
            checked = open_artifact(path, WEEK01, REQUEST, "c7", COMMIT)
        except Rejected as reason:
            assert not set(str(reason)) & set("<>`@|\n"), "words for people, with nothing that could act"
        else:
            assert checked.result.run == "c7"
            assert checked.result.request == REQUEST

    for_minutes(minutes, check)
