"""A job's folder: filled from the registration without showing it, the runner's files out of the job's reach, emptied afterwards."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from runner.setup import job_folder

SCRIPT = Path(job_folder.__file__)
ME = pwd.getpwuid(os.geteuid()).pw_name
SETTINGS = {".runner": b'{"ephemeral": true}', ".credentials": b"{}", ".credentials_rsaparams": b"secret-of-one-job"}


def encode(files: object) -> str:
    return b64encode(json.dumps(files).encode()).decode()


REGISTRATION = encode({name: b64encode(raw).decode() for name, raw in SETTINGS.items()})


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "installed" / "bin").mkdir(parents=True)
    (tmp_path / "installed" / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "installed" / "bin" / "Runner.Listener").write_text("a program")
    (tmp_path / "installed" / "latest").symlink_to("bin")
    (tmp_path / "job").mkdir()
    (tmp_path / "registration").write_text(REGISTRATION)
    (tmp_path / "environment").write_text("SPRINTBENCH_SPOOL=/var/spool/sprintbench\n")
    return tmp_path


def call(machine: Path, action: str, *more: str) -> subprocess.CompletedProcess[str]:
    options = {"prepare": ["--installed", "installed", "--registration", "registration", "--user", ME],
               "unpack": ["--registration", "registration"], "empty": []}
    return subprocess.run([sys.executable, str(SCRIPT), action, "--job", "job", *options[action], *more], cwd=machine,
                          capture_output=True, text=True, umask=0o077, check=False)  # as in the unit


def test_a_folder_is_filled_and_the_registration_used_up(machine: Path) -> None:
    done = call(machine, "prepare", "--environment", "environment")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    job = machine / "job"
    assert {name: (job / name).read_bytes() for name in SETTINGS} == SETTINGS
    assert {(job / name).stat().st_mode & 0o777 for name in SETTINGS} == {0o600}
    assert (job / ".env").read_text() == "SPRINTBENCH_SPOOL=/var/spool/sprintbench\n"
    assert (job / ".env").stat().st_mode & 0o777 == 0o644
    assert (job / "run.sh").stat().st_ino == (machine / "installed" / "run.sh").stat().st_ino, "linked, not copied"
    assert (job / "latest").is_symlink()
    assert (job / "_work").is_dir()
    assert not (machine / "registration").exists()


def test_what_the_last_job_left_is_gone(machine: Path) -> None:
    (machine / "job" / "_work").mkdir()
    (machine / "job" / "_work" / "theirs").write_text("x")
    (machine / "job" / "run.sh").write_text("an evil runner")
    (machine / "job" / "away").symlink_to(machine / "installed")
    assert call(machine, "prepare").returncode == 0
    assert (machine / "job" / "run.sh").read_text() == "#!/bin/sh\n"
    assert list((machine / "job" / "_work").iterdir()) == []
    assert not (machine / "job" / "away").exists()
    assert not (machine / "job" / ".env").exists()


def test_emptied_without_following_links(machine: Path) -> None:
    assert call(machine, "prepare").returncode == 0
    (machine / "job" / "_work" / "link").symlink_to(machine / "installed")
    (machine / "job" / "link").symlink_to(machine / "installed")
    assert call(machine, "empty").returncode == 0
    assert list((machine / "job").iterdir()) == []
    assert (machine / "installed" / "bin" / "Runner.Listener").read_text() == "a program"


def test_in_a_container_the_settings_alone(machine: Path) -> None:
    (machine / "registration").write_text(REGISTRATION + "\n")
    assert call(machine, "unpack").returncode == 0
    assert {path.name: path.read_bytes() for path in (machine / "job").iterdir()} == SETTINGS
    assert not (machine / "registration").exists()


def test_across_disks_files_are_copied(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")
    monkeypatch.setattr(job_folder.os, "link", refuse)
    job_folder.prepare(machine / "installed", machine / "job", machine / "registration", None, ME)
    assert (machine / "job" / "bin" / "Runner.Listener").read_text() == "a program"
    assert (machine / "job" / "run.sh").stat().st_ino != (machine / "installed" / "run.sh").stat().st_ino


NOT_GITHUBS = "the registration is not in GitHub's form: update the runner and these scripts"
FORBIDDEN = "the registration would write files that are no settings of a runner"


@pytest.mark.parametrize(("registration", "message"), [
    ("", NOT_GITHUBS), ("%%%", NOT_GITHUBS), (b64encode(b"no json").decode(), NOT_GITHUBS), (encode([]), NOT_GITHUBS),
    (encode({}), NOT_GITHUBS), (encode({".runner": 7}), NOT_GITHUBS), (encode({".runner": "%"}), NOT_GITHUBS),
    (encode({"../run.sh": "eA=="}), FORBIDDEN), (encode({"run.sh": "eA=="}), FORBIDDEN), (encode({".env": "eA=="}), FORBIDDEN),
])
@pytest.mark.parametrize("action", ["prepare", "unpack"])
def test_a_strange_registration_writes_nothing(machine: Path, action: str, registration: str, message: str) -> None:
    (machine / "registration").write_text(registration)
    (machine / "job" / "kept").write_text("x")
    done = call(machine, action)
    assert (done.returncode, done.stderr) == (1, f"{action}: {message}\n")
    assert [path.name for path in (machine / "job").iterdir()] == ["kept"]


def test_no_message_quotes_the_registration(machine: Path) -> None:
    (machine / "registration").write_text(REGISTRATION[:-3])
    done = call(machine, "prepare")
    assert done.returncode == 1
    assert REGISTRATION[:20] not in done.stderr


@pytest.mark.parametrize(("remove", "message"), [
    ("registration", "prepare: registration: No such file or directory\n"),
    ("job", "prepare: job: No such file or directory\n"),
])
def test_what_is_missing_is_named(machine: Path, remove: str, message: str) -> None:
    path = machine / remove
    path.rmdir() if path.is_dir() else path.unlink()
    assert call(machine, "prepare").stderr == message


def test_an_unknown_user_is_named(machine: Path) -> None:
    assert call(machine, "prepare", "--user", "nobody-of-that-name").stderr == (
        "prepare: getpwnam(): name not found: 'nobody-of-that-name'\n")


def test_bytes_that_are_no_text(machine: Path) -> None:
    (machine / "registration").write_bytes(b"\xff\xfe")
    assert call(machine, "prepare").stderr == "prepare: job: not readable\n"
