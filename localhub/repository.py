"""The bare git repository behind a local hub: objects, refs, trees and comparisons, all by git itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

BRANCH = "main"
SHA = re.compile(r"[0-9a-f]{40}")
GIT = shutil.which("git") or "git"
# git reads no configuration of the machine's user: the same commits come out everywhere.
GIT_ENV = {"PATH": f"{Path(GIT).parent}{os.pathsep}{os.defpath}", "HOME": os.devnull, "LANG": "C.UTF-8",
           "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}


class GitError(Exception):
    """git refused; the text is git's own."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who a commit is by."""

    name: str
    email: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a tree: `size` is None for a tree."""

    mode: str
    kind: Literal["blob", "tree", "commit"]
    sha: str
    path: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as git stores it; `when` is UTC."""

    sha: str
    tree: str
    parents: tuple[str, ...]
    author: Person
    when: datetime
    message: str


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs between two commits; `sha` is None where it went away."""

    path: str
    status: Literal["added", "removed", "modified"]
    sha: str | None
    additions: int
    deletions: int


@dataclass(frozen=True, slots=True)
class Repository:
    """A bare repository at `path`. Every method raises GitError where git fails."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> Repository:
        """An empty bare repository whose default branch is `main`."""
        path.mkdir(parents=True)
        repository = cls(path)
        repository.git("init", "--bare", "--quiet", f"--initial-branch={BRANCH}")
        repository.git("config", "uploadpack.allowAnySHA1InWant", "true")  # a checkout asks for the commit of its run, as on GitHub
        repository.git("config", "pack.window", "0")  # to look for likeness between files would take longer than the checkout
        return repository

    def git(self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
        whole = GIT_ENV | dict(env or {})
        done = subprocess.run([GIT, *arguments], cwd=self.path, input=stdin, env=whole, capture_output=True, check=False)
        if done.returncode:
            raise GitError(done.stderr.decode(errors="replace").strip() or f"git {arguments[0]} ended with {done.returncode}")
        return done.stdout

    def told(self, *arguments: str, of: Sequence[str]) -> bytes:
        """git's output, which is not asked for again where all revisions it is `of` are full shas: of those it stays the same."""
        return _lasting(self, arguments) if all(map(SHA.fullmatch, of)) else self.git(*arguments)

    def text(self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> str:
        return self.git(*arguments, stdin=stdin, env=env).decode(errors="replace").strip()

    # ------------------------------------------------------------------------------------------------ refs

    def resolve(self, revision: str, kind: Literal["commit", "tree", "blob"] = "commit") -> str | None:
        """The full sha of a branch, a tag or a sha; None where there is none of that kind."""
        if revision.startswith("-"):
            return None
        try:
            told = self.told("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{{kind}}}", of=[revision])
            return told.decode().strip()
        except GitError:
            return None

    def head(self) -> str:
        """The sha of the default branch."""
        return self.text("rev-parse", "--verify", f"refs/heads/{BRANCH}")

    def refs(self, prefix: str) -> dict[str, str]:
        """Full ref name -> sha, for the refs whose name starts with `prefix`."""
        lines = self.text("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return {name: sha for name, sha in (line.split() for line in lines) if name.startswith(prefix)}

    def is_ancestor(self, old: str, new: str) -> bool:
        try:
            self.git("merge-base", "--is-ancestor", old, new)
        except GitError:
            return False
        return True

    def set_ref(self, name: str, sha: str) -> None:
        self.git("update-ref", name, sha)

    def delete_ref(self, name: str) -> None:
        self.git("update-ref", "-d", name)

    # ------------------------------------------------------------------------------------------------ objects

    def blob(self, sha: str) -> bytes:
        return self.told("cat-file", "blob", sha, of=[sha])

    def write_blob(self, content: bytes) -> str:
        return self.text("hash-object", "-w", "--stdin", stdin=content)

    def entries(self, tree: str, path: str = "", *, recursive: bool = False) -> tuple[Entry, ...]:
        """What a tree holds, under `path` where one is given."""
        options = ["-r", "-t"] if recursive else []
        lines = self.told("ls-tree", "-z", "--long", *options, tree, *(["--", path] if path else []), of=[tree]).decode().split("\0")
        found = []
        for line in filter(None, lines):
            facts, name = line.split("\t", 1)
            mode, kind, sha, size = facts.split()
            assert kind in ("blob", "tree", "commit"), kind
            found.append(Entry(mode, kind, sha, name, None if size == "-" else int(size)))  # type: ignore[arg-type]
        return tuple(found)

    def entry(self, revision: str, path: str) -> Entry | None:
        """The file or folder at `path`, or None."""
        return next(iter(self.entries(revision, path.strip("/"))), None)

    def read(self, revision: str, path: str) -> bytes | None:
        """The bytes of a file, or None where there is no such file."""
        found = self.entry(revision, path)
        return self.blob(found.sha) if found and found.kind == "blob" else None

    def write_tree(self, base: str | None, changes: Sequence[tuple[str, str, str | None]]) -> str:
        """`base` with (path, mode, sha) put in its place, or taken away where the sha is None."""
        with tempfile.TemporaryDirectory() as folder:
            env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self.git("read-tree", *([base] if base else ["--empty"]), env=env)
            lines = "".join(f"{mode if sha else '0'} {sha or '0' * 40}\t{path}\0" for path, mode, sha in changes)
            self.git("update-index", "-z", "--index-info", stdin=lines.encode(), env=env)
            return self.text("write-tree", env=env)

    def write_commit(self, tree: str, parents: Sequence[str], message: str, author: Person, when: datetime | None = None) -> str:
        moment = f"{int((when or datetime.now(UTC)).timestamp())} +0000"
        env = {"GIT_AUTHOR_NAME": author.name, "GIT_AUTHOR_EMAIL": author.email, "GIT_AUTHOR_DATE": moment,
               "GIT_COMMITTER_NAME": author.name, "GIT_COMMITTER_EMAIL": author.email, "GIT_COMMITTER_DATE": moment}
        before = [part for parent in parents for part in ("-p", parent)]
        return self.text("commit-tree", tree, *before, "-F", "-", stdin=message.encode(), env=env)

    def commit(self, sha: str) -> Commit:
        form = "--format=%H%x00%T%x00%P%x00%an%x00%ae%x00%at%x00%B"
        shown = self.told("show", "--no-patch", form, sha, of=[sha]).decode(errors="replace")
        own, tree, parents, name, email, moment, message = shown.split("\0")
        when = datetime.fromtimestamp(int(moment), UTC)
        return Commit(own, tree, tuple(parents.split()), Person(name, email), when, message.rstrip("\n"))

    # ------------------------------------------------------------------------------------------------ history

    def log(self, revision: str, path: str = "") -> tuple[str, ...]:
        """Shas of the commits that a revision reaches, newest first; only those that touched `path` where one is given."""
        return tuple(self.text("rev-list", revision, *(["--", path] if path else [])).split())

    def between(self, base: str, head: str) -> tuple[str, ...]:
        """Shas that `head` reaches and `base` does not, oldest first."""
        return tuple(self.text("rev-list", "--reverse", f"{base}..{head}").split())

    def merge_base(self, one: str, other: str) -> str | None:
        try:
            return self.text("merge-base", one, other)
        except GitError:
            return None

    def changes(self, base: str, head: str) -> tuple[Change, ...]:
        """What differs from `base` to `head`, path by path."""
        command = ("diff-tree", "-r", "-z", "--no-renames")
        raw = self.told(*command, base, head, of=(base, head)).decode().split("\0")
        numbers = {}
        for line in filter(None, self.told(*command, "--numstat", base, head, of=(base, head)).decode().split("\0")):
            added, removed, path = line.split("\t", 2)
            numbers[path] = tuple(0 if n == "-" else int(n) for n in (added, removed))  # "-" stands for a binary file
        words: dict[str, Literal["added", "removed", "modified"]] = {"A": "added", "D": "removed"}
        found = []
        for facts, path in zip(raw[0:-1:2], raw[1::2], strict=True):
            _, _, _, sha, letter = facts.split()
            found.append(Change(path, words.get(letter, "modified"), None if letter == "D" else sha, *numbers[path]))
        return tuple(found)

    def put(self, files: Mapping[str, bytes | None], message: str, author: Person) -> str:
        """One commit on the default branch that writes (or, for None, removes) `files`; its sha."""
        branch = f"refs/heads/{BRANCH}"
        parent = self.refs(branch).get(branch)
        changes = [(path, "100644", None if content is None else self.write_blob(content)) for path, content in files.items()]
        sha = self.write_commit(self.write_tree(parent, changes), [parent] if parent else [], message, author)
        self.set_ref(branch, sha)
        return sha


@lru_cache(256)
def _lasting(repository: Repository, arguments: tuple[str, ...]) -> bytes:
    return repository.git(*arguments)
