"""Registers runners that GitHub allows one job, one after another: check the GPU, ask for a registration, start the runner, again.

It holds what may register runners (a GitHub App's key, or a fine-grained token) and runs as root, apart from the user that runs
jobs. Standard library and the openssl command alone. What it holds and what it gets stand in no argument and no log line.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_BYTES = 2**20
LONGEST_PAUSE_S = 600.0
LONGEST_RETRY_AFTER_S = 3600.0
WHAT_TO_DO = {
    301: "the repository has moved: run install.sh again with its new name",
    401: "GitHub does not know the credential: is the App's id its own, has the token expired, is the clock right?",
    403: "GitHub refuses: the credential needs the repository permission Administration (write)",
    404: "GitHub shows no such repository: is it spelled OWNER/NAME, and does the App or token cover it?",
    409: "GitHub already has a runner by that name",
    422: "GitHub does not take the request: is the runner group there, and may this repository use it?",
}


class NotNow(Exception):
    """No runner this time; the text says why and what to do. `wait_s`: what the server asked for."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would take the Authorization header along to wherever it is sent."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class GitHub:
    """Its REST API: `api` is the root, without a slash at the end."""

    api: str
    timeout_s: float

    def ask(self, method: str, path: str, authorization: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that GitHub answers with. Raises NotNow for everything else."""
        request = urllib.request.Request(  # noqa: S310  # main() lets only https and this machine through
            self.api + path, method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {authorization}", "Accept": "application/vnd.github+json",
                     "X-GitHub-Api-Version": "2022-11-28", "User-Agent": "sprintbench-minter", "Content-Type": "application/json"})
        try:
            with urllib.request.build_opener(NoRedirect).open(request, timeout=self.timeout_s) as reply:
                answer = json.loads(reply.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise NotNow(f"{method} {path}: HTTP {error.code}: {WHAT_TO_DO.get(error.code, 'trying again')}",
                             _retry_after(error.headers.get("Retry-After"))) from None
        except (OSError, http.client.HTTPException) as error:  # no network, no answer in time, cut off
            raise NotNow(f"{method} {path}: no answer ({type(error).__name__}); trying again") from None
        except ValueError:
            raise NotNow(f"{method} {path}: the answer is no JSON; trying again") from None
        if not isinstance(answer, dict):
            raise NotNow(f"{method} {path}: the answer is not in GitHub's form; trying again")
        return answer


def _retry_after(header: str | None) -> float:
    return min(float(header), LONGEST_RETRY_AFTER_S) if header and header.isascii() and header.isdecimal() else 0.0


def app_token(app_id: str, key: Path, now: float) -> str:
    """The JSON Web Token by which an App speaks for itself: signed with its key (RS256), good from a minute ago for nine more.
    https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app
    """
    claims = {"iat": int(now) - 60, "exp": int(now) + 540, "iss": app_id}
    signed = b".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
    try:
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", str(key)], input=signed, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise NotNow("the App's key cannot sign: is openssl here, and is that file the .pem that GitHub gave you?") from None
    return (signed + b"." + _base64url(signature)).decode()


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def credential(github: GitHub, repo: str, file: Path, app_id: str) -> str:
    """What may register runners of `repo`: a token as it is, or an hour's token of the App, for this repository and purpose alone."""
    try:
        held = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        raise NotNow(f"the credential {file} cannot be read: run install.sh again with --app-key or --token-file") from None
    if not held.startswith("-----BEGIN"):
        return held
    if not app_id:
        raise NotNow("an App's key needs the App's id: run install.sh again with --app-id")
    ours = app_token(app_id, file, time.time())
    installation = _field(github.ask("GET", f"/repos/{repo}/installation", ours), "id", int)
    asked = {"repositories": [repo.partition("/")[2]], "permissions": {"administration": "write"}}
    return str(_field(github.ask("POST", f"/app/installations/{installation}/access_tokens", ours, asked), "token", str))


def register(github: GitHub, repo: str, token: str, name: str, labels: Sequence[str], group: int) -> str:
    """A registration for one job, as GitHub encodes it."""
    asked = {"name": name, "runner_group_id": group, "labels": list(labels), "work_folder": "_work"}
    answer = github.ask("POST", f"/repos/{repo}/actions/runners/generate-jitconfig", token, asked)
    return str(_field(answer, "encoded_jit_config", str))


def _field(answer: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(answer.get(name), kind):
        raise NotNow(f"GitHub's answer has no {name}; trying again")
    return answer[name]


def put(path: Path, secret: str) -> None:
    """Whole or not at all, and nobody else's to read."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secret)
    part.replace(path)


def runs(unit: str) -> bool:
    """Also while it still cleans up after itself. (`systemctl start --wait` would need D-Bus, which a small machine may lack.)"""
    done = subprocess.run(["systemctl", "show", "--property=ActiveState", "--value", unit], capture_output=True, text=True, check=False)
    return done.stdout.strip() not in ("inactive", "failed")


def say(words: str) -> None:
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


def one_runner(said: argparse.Namespace) -> None:
    """A runner from its registration to its end. Raises NotNow."""
    wanted = said.registration.with_name("wanted")
    if said.unit:
        while runs(said.unit):  # this minter was started anew while a job runs
            time.sleep(said.pause_s)
        if said.gate and subprocess.run(said.gate, check=False).returncode != 0:
            raise NotNow("the GPU is not fit, so no runner is registered")
    else:
        while not wanted.exists():
            time.sleep(min(said.pause_s, 2))
    github = GitHub(said.api, said.timeout_s)
    name = f"{said.name[:55]}-{secrets.token_hex(4)}"  # GitHub takes 64 characters, and each name once
    encoded = register(github, said.repo, credential(github, said.repo, said.credential, said.app_id), name, said.labels, said.group)
    put(said.registration, encoded)
    if not said.unit:
        wanted.unlink(missing_ok=True)
        say(f"{name}: registered for one job, and handed over")
        return
    say(f"{name}: registered for one job; starting {said.unit}")
    began = time.monotonic()
    if subprocess.run(["systemctl", "start", said.unit], check=False).returncode != 0:
        said.registration.unlink(missing_ok=True)
        raise NotNow(f"{said.unit} failed: journalctl -u {said.unit}")
    while runs(said.unit):
        time.sleep(min(said.pause_s, 2))
    if time.monotonic() - began < said.least_s:  # else a runner that cannot start would be registered without end
        raise NotNow(f"{name}: ended at once: journalctl -u {said.unit}")
    say(f"{name}: done")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME")
    parser.add_argument("--credential", type=Path, required=True, metavar="FILE", help="an App's private key (.pem), or a token")
    parser.add_argument("--app-id", default="", metavar="ID", help="the App's id, where the credential is its key")
    parser.add_argument("--registration", type=Path, required=True, metavar="FILE", help="where the registration is put for the runner")
    parser.add_argument("--unit", default="", help="the unit to start with it; without one, each file `wanted` beside it asks for one")
    parser.add_argument("--name", default="sprintbench", help="how the runners' names begin [sprintbench]")
    parser.add_argument("--labels", type=lambda text: [label for label in text.split(",") if label], default=["gpu"], metavar="A,B",
                        help="the runners' labels; self-hosted, linux and x64 are added [gpu]")
    parser.add_argument("--group", type=int, default=1, metavar="ID", help="the id of their group [1, the default group]")
    parser.add_argument("--api", default="https://api.github.com", metavar="URL")
    parser.add_argument("--timeout-s", type=float, default=30, metavar="N", help="how long GitHub may take to answer [30]")
    parser.add_argument("--pause-s", type=float, default=15, metavar="N", help="pause after a failure, doubled each time up to 600 [15]")
    parser.add_argument("--least-s", type=float, default=5, metavar="N", help="a runner that ends sooner has failed [5]")
    parser.add_argument("--once", action="store_true", help="one runner, then end: exit code 1 where it came to nothing")
    parser.add_argument("gate", nargs="*", metavar="-- COMMAND", help="has to end well before a runner is registered")
    said = parser.parse_args(arguments)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9._-]{1,100}", said.repo):
        parser.error("--repo: OWNER/NAME, as in octo-org/sprint")
    if not re.match(r"https://|http://(127\.0\.0\.1|localhost)[:/]", said.api):
        parser.error("--api: an https address")
    said.labels = list(dict.fromkeys(("self-hosted", "linux", "x64", *said.labels)))
    pause_s = said.pause_s
    while True:
        try:
            one_runner(said)
            if said.once:
                return 0
            pause_s = said.pause_s
        except NotNow as reason:
            say(str(reason))
            if said.once:
                return 1
            time.sleep(max(pause_s, reason.wait_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


if __name__ == "__main__":
    sys.exit(main())
