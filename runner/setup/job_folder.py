"""The folder of one job: the runner's own files, linked, with the settings of a runner that GitHub allows one job; emptied after it.

Root runs it around the runner (`python -I -S`), so what a job leaves is gone whatever became of the job. The files that come out
of the registration are what `run.sh --jitconfig` would write. Written here, they never stand in an argument, an environment or a
log, where each step of the job could read them.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
import pwd
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

SETTING = re.compile(r"\.[a-z_]{1,40}", re.ASCII)
OURS = (".env", ".path")


class CannotPrepare(Exception):
    """One line for the journal: what is amiss with what was given. It never quotes the registration."""


def unpack(encoded: str) -> dict[str, bytes]:
    """The settings in a registration (`encoded_jit_config`): base64 of a JSON object of base64, by file name."""
    try:
        files = json.loads(base64.b64decode(encoded, validate=True))
        if not isinstance(files, dict) or not files:
            raise TypeError
        content = {name: base64.b64decode(value, validate=True) for name, value in files.items()}
    except (binascii.Error, ValueError, TypeError):
        raise CannotPrepare("the registration is not in GitHub's form: update the runner and these scripts") from None
    if not all(SETTING.fullmatch(name) and name not in OURS for name in content):
        raise CannotPrepare("the registration would write files that are no settings of a runner")
    return content


def empty(job: Path) -> None:
    """Remove all that is in `job`; no link in it is followed."""
    for path in job.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def link_or_copy(source: str, target: str) -> None:
    """A hard link: the runner is half a gigabyte, and its files stay root's, so no job can change them. A copy across disks."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def prepare(installed: Path, job: Path, registration: Path, environment: Path | None, user: str) -> None:
    """Fill `job` for one run of the runner, and use the registration up."""
    owner = pwd.getpwnam(user)
    content = unpack(registration.read_text(encoding="ascii").strip())
    empty(job)
    shutil.copytree(installed, job, symlinks=True, copy_function=link_or_copy, dirs_exist_ok=True)
    for folder, _, _ in os.walk(job):
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        Path(folder).chmod(0o700)
    for name in ("home", "_work"):
        (job / name).mkdir(mode=0o700)
        os.chown(job / name, owner.pw_uid, owner.pw_gid)
    if environment:
        shutil.copyfile(environment, job / ".env")
        (job / ".env").chmod(0o644)  # the unit's umask would keep it from the runner
    for name, raw in content.items():
        descriptor = os.open(job / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchown(descriptor, owner.pw_uid, owner.pw_gid)
            file.write(raw)
    registration.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True)
    filled = actions.add_parser("prepare", help="fill it for one job", allow_abbrev=False)
    filled.add_argument("--installed", type=Path, required=True, metavar="DIR", help="the runner as it was unpacked")
    filled.add_argument("--job", type=Path, required=True, metavar="DIR")
    filled.add_argument("--registration", type=Path, required=True, metavar="FILE", help="what the minter got from GitHub")
    filled.add_argument("--environment", type=Path, metavar="FILE", help="becomes the runner's .env")
    filled.add_argument("--user", required=True, help="whom the job runs as")
    settled = actions.add_parser("unpack", help="write the settings alone, in a container that is the job's folder", allow_abbrev=False)
    settled.add_argument("--job", type=Path, required=True, metavar="DIR")
    settled.add_argument("--registration", type=Path, required=True, metavar="FILE")
    emptied = actions.add_parser("empty", help="empty it", allow_abbrev=False)
    emptied.add_argument("--job", type=Path, required=True, metavar="DIR")
    said = parser.parse_args(arguments)
    try:
        match said.action:
            case "prepare":
                prepare(said.installed, said.job, said.registration, said.environment, said.user)
            case "unpack":
                for name, raw in unpack(said.registration.read_text(encoding="ascii").strip()).items():
                    (said.job / name).write_bytes(raw)
                said.registration.unlink()
            case _:
                empty(said.job)
    except (CannotPrepare, KeyError) as reason:
        sys.stderr.write(f"{said.action}: {reason.args[0]}\n")
        return 1
    except (OSError, UnicodeError) as error:
        where = getattr(error, "filename", None) or said.job
        sys.stderr.write(f"{said.action}: {where}: {getattr(error, 'strerror', None) or 'not readable'}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
