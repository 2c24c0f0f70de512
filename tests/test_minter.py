"""The minter against a GitHub of four operations: what it asks, how it bears refusals, and that no secret shows anywhere."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest

SETUP = Path(__file__).resolve().parent.parent / "runner" / "setup"
STAND_IN = Path(__file__).resolve().parent / "cases" / "setup" / "stand-ins" / "systemctl"
JIT = "eyJTRUNSRVQtUkVHSVNUUkFUSU9OIjogMX0="
TOKEN = "github_pat_SECRET"
INSTALLATION = "/repos/octo-org/sprint/installation"
TOKENS = "/app/installations/77/access_tokens"
REGISTER = "/repos/octo-org/sprint/actions/runners/generate-jitconfig"

Answer = tuple[int, dict[str, str], bytes]


def ok(body: object, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(body).encode()


@dataclass
class GitHub:
    """What it will answer, by path, and what it was asked."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=lambda: {
        INSTALLATION: ok({"id": 77}), TOKENS: ok({"token": "ghs_SECRET", "expires_at": "2026-11-25T12:00:00Z"}, 201),
        REGISTER: ok({"runner": {"id": 1}, "encoded_jit_config": JIT}, 201)})
    first: list[Answer] = field(default_factory=list)  # for REGISTER, before the answer above
    delay_s: float = 0.0
    asked: list[tuple[str, str, str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def serve() -> Iterator[GitHub]:
    it = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Not on the tests' screen."""

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            it.asked.append((self.command, self.path, self.headers["Authorization"], body))
            time.sleep(it.delay_s)
            status, headers, content = it.first.pop(0) if it.first and self.path == REGISTER else it.answers[self.path]
            if status == 0:  # not what HTTP allows
                self.wfile.write(content)
                return
            with contextlib.suppress(OSError):  # whom it answers has gone
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        do_POST = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        it.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield it
        server.shutdown()
        thread.join()


@pytest.fixture
def github() -> Iterator[GitHub]:
    with serve() as it:
        yield it


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An App's key, as GitHub gives it: RSA in PEM."""
    path = tmp_path_factory.mktemp("key") / "app.pem"
    subprocess.run(["openssl", "genrsa", "-out", str(path), "2048"], capture_output=True, check=True)
    return path


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "systemctl").symlink_to(STAND_IN)
    (tmp_path / "token").write_text(TOKEN + "\n")
    return tmp_path


def command(github: GitHub, *more: str) -> list[str]:
    return [sys.executable, str(SETUP / "minter.py"), "--repo", "octo-org/sprint", "--api", github.url, "--registration", "registration",
            "--name", "h100-gpu0", "--pause-s", "0.05", "--least-s", "0", *more]


def environment(machine: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{machine / 'bin'}:{os.environ['PATH']}", "STAND_IN_STATE": str(machine / "state"), **more}


def mint(machine: Path, github: GitHub, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    more = more if "--credential" in more else ("--credential", "token", *more)
    return subprocess.run(command(github, "--unit", "bench-runner@0.service", "--once", *more), cwd=machine, capture_output=True, text=True,
                          env=environment(machine, **env), timeout=60, check=False)


def calls(machine: Path) -> list[str]:
    path = machine / "state" / "calls"
    return path.read_text().splitlines() if path.exists() else []


# ---------------------------------------------------------------------------------------------------- in fair weather


def test_a_token_registers_one_runner_and_starts_it(machine: Path, github: GitHub) -> None:
    """The stand-in for the unit keeps the registration as the real one finds it: whole, and root's alone."""
    start = "stat -c %a registration >mode; mv registration got"
    done = mint(machine, github, "--labels", "gpu,h100", "--group", "3", STAND_IN_START=start)
    assert done.returncode == 0, done.stderr
    [(method, path, authorization, body)] = github.asked
    assert (method, path, authorization) == ("POST", REGISTER, f"Bearer {TOKEN}")
    name = body.pop("name")
    assert body == {"runner_group_id": 3, "labels": ["self-hosted", "linux", "x64", "gpu", "h100"], "work_folder": "_work"}
    assert name.startswith("h100-gpu0-")
    assert len(name) <= 64
    assert calls(machine) == ["start bench-runner@0.service"]
    assert (machine / "got").read_text() == JIT
    assert (machine / "mode").read_text() == "600\n"
    assert done.stderr.splitlines() == [f"{name}: registered for one job; starting bench-runner@0.service", f"{name}: done"]


def test_an_app_signs_for_an_hours_token_of_this_repository_alone(machine: Path, github: GitHub, key: Path) -> None:
    done = mint(machine, github, "--credential", str(key), "--app-id", "123456")
    assert done.returncode == 0, done.stderr
    assert [asked[:2] for asked in github.asked] == [("GET", INSTALLATION), ("POST", TOKENS), ("POST", REGISTER)]
    assert github.asked[1][3] == {"repositories": ["sprint"], "permissions": {"administration": "write"}}
    assert github.asked[2][2] == "Bearer ghs_SECRET"
    public = subprocess.run(["openssl", "rsa", "-in", str(key), "-pubout"], capture_output=True, text=True, check=True).stdout
    for _, _, authorization, _ in github.asked[:2]:
        signed = authorization.removeprefix("Bearer ")
        claims = jwt.decode(signed, public, algorithms=["RS256"], issuer="123456")  # checks the signature and the times
        assert claims["exp"] - claims["iat"] == 600
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(signed[:-8] + "AAAAAAAA", public, algorithms=["RS256"])


def test_two_runners_have_two_names(machine: Path, github: GitHub) -> None:
    for _ in range(2):
        mint(machine, github)
    assert len({asked[3]["name"] for asked in github.asked}) == 2


def test_one_after_another(machine: Path, github: GitHub) -> None:
    with subprocess.Popen(command(github, "--unit", "u", "--credential", "token"), cwd=machine, env=environment(machine),
                          stderr=subprocess.DEVNULL) as running:
        wait_for(lambda: len(calls(machine)) >= 3)
        running.send_signal(signal.SIGINT)  # Ctrl-C
    assert len(github.asked) >= 3


def wait_for(true: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_runner_that_still_works_is_waited_for(machine: Path, github: GitHub) -> None:
    (machine / "state").mkdir()
    (machine / "state" / "active").touch()  # the stand-in says so once
    assert mint(machine, github, STAND_IN_START="touch state/active").returncode == 0
    assert not (machine / "state" / "active").exists()


# ---------------------------------------------------------------------------------------------------- no secret shows


def test_no_secret_in_an_argument_an_environment_or_a_log(machine: Path, github: GitHub, key: Path) -> None:
    """While the unit runs, every process of this user is looked at, as a job could."""
    look = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' >seen; cat registration >used"
    done = mint(machine, github, "--credential", str(key), "--app-id", "1", STAND_IN_START=look)
    assert done.returncode == 0, done.stderr
    seen = (machine / "seen").read_text(errors="replace") + done.stdout + done.stderr + "\n".join(calls(machine))
    assert (machine / "used").read_text() == JIT
    assert "minter.py" in seen
    for secret in (JIT, "ghs_SECRET", "BEGIN RSA PRIVATE", "BEGIN PRIVATE", github.asked[0][2].removeprefix("Bearer ")):
        assert secret not in seen


# ---------------------------------------------------------------------------------------------------- in foul weather

HTML = (200, {"Content-Type": "text/html"}, b"<html>unicorn</html>")
FOUL = [
    (REGISTER, (401, {}, b"{}"),
     "HTTP 401: GitHub does not know the credential: is the App's id its own, has the token expired, is the clock right?"),
    (REGISTER, (403, {}, b"{}"), "HTTP 403: GitHub refuses: the credential needs the repository permission Administration (write)"),
    (REGISTER, (404, {}, b"{}"),
     "HTTP 404: GitHub shows no such repository: is it spelled OWNER/NAME, and does the App or token cover it?"),
    (REGISTER, (409, {}, b"{}"), "HTTP 409: GitHub already has a runner by that name"),
    (REGISTER, (422, {}, b"{}"), "HTTP 422: GitHub does not take the request: is the runner group there, and may this repository use it?"),
    (REGISTER, (500, {}, b"oops"), "HTTP 500: trying again"),
    (REGISTER, (502, {}, b"<html>"), "HTTP 502: trying again"),
    (REGISTER, (301, {"Location": "/elsewhere"}, b""), "HTTP 301: the repository has moved: run install.sh again with its new name"),
    (REGISTER, HTML, "the answer is no JSON; trying again"),
    (REGISTER, ok([1]), "the answer is not in GitHub's form; trying again"),
    (REGISTER, (0, {}, b"HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{"), "the answer is no JSON; trying again"),
    (REGISTER, (0, {}, b"unicorns\r\n\r\n"), "no answer (BadStatusLine); trying again"),
    (REGISTER, (0, {}, b""), "no answer (RemoteDisconnected); trying again"),
    (REGISTER, ok({"runner": {}}), "GitHub's answer has no encoded_jit_config; trying again"),
]


@pytest.mark.parametrize(("path", "answer", "words"), FOUL, ids=range(len(FOUL)))
def test_a_refusal_is_one_line_that_says_what_to_do(machine: Path, github: GitHub, path: str, answer: Answer, words: str) -> None:
    github.answers[path] = answer
    done = mint(machine, github)
    assert done.returncode == 1
    assert done.stderr.endswith(f"{words}\n")
    assert done.stderr.count("\n") == 1
    assert calls(machine) == []
    assert not (machine / "registration").exists()
    assert len(github.asked) == 1, "a redirect is not followed with the credential in hand"


def test_an_app_that_is_not_installed(machine: Path, github: GitHub, key: Path) -> None:
    github.answers[INSTALLATION] = (404, {}, b"{}")
    done = mint(machine, github, "--credential", str(key), "--app-id", "1")
    assert done.stderr.startswith(f"GET {INSTALLATION}: HTTP 404: GitHub shows no such repository")


def test_no_answer_in_time(machine: Path, github: GitHub) -> None:
    github.delay_s = 1.0
    done = mint(machine, github, "--timeout-s", "0.2")
    assert (done.returncode, done.stderr) == (1, f"POST {REGISTER}: no answer (TimeoutError); trying again\n")


def test_no_network(machine: Path, github: GitHub) -> None:
    github.url = "http://127.0.0.1:9"
    done = mint(machine, github)
    assert (done.returncode, done.stderr) == (1, f"POST {REGISTER}: no answer (URLError); trying again\n")


def test_it_tries_until_it_goes(machine: Path, github: GitHub) -> None:
    github.first = [(500, {}, b""), (403, {"Retry-After": "1"}, b""), (429, {"Retry-After": "Wed, 21 Oct"}, b"")]
    began = time.monotonic()
    with subprocess.Popen(command(github, "--unit", "u", "--credential", "token"), cwd=machine, env=environment(machine),
                          stderr=subprocess.DEVNULL) as running:
        wait_for(lambda: bool(calls(machine)))
        running.send_signal(signal.SIGINT)  # Ctrl-C
    assert time.monotonic() - began >= 1.0, "GitHub asked for a second"
    assert len(github.asked) >= 4


def test_a_unit_that_fails_leaves_no_registration(machine: Path, github: GitHub) -> None:
    done = mint(machine, github, STAND_IN_START="exit 1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "bench-runner@0.service failed: journalctl -u bench-runner@0.service"
    assert not (machine / "registration").exists()


def test_a_runner_that_ends_at_once_has_failed(machine: Path, github: GitHub) -> None:
    """Else one that cannot start would be registered again and again without a pause."""
    done = mint(machine, github, "--least-s", "30")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(": ended at once: journalctl -u bench-runner@0.service")


# ---------------------------------------------------------------------------------------------------- before GitHub is asked


def test_an_unfit_gpu_gets_no_registration(machine: Path, github: GitHub) -> None:
    done = mint(machine, github, "--", "sh", "-c", "echo 'unfit: it is hot' >&2; exit 78")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["unfit: it is hot", "the GPU is not fit, so no runner is registered"]
    assert github.asked == []


def test_a_fit_gpu_does(machine: Path, github: GitHub) -> None:
    assert mint(machine, github, "--", "true").returncode == 0


@pytest.mark.parametrize(("content", "more", "words"), [
    (None, (), "the credential gone cannot be read: run install.sh again with --app-key or --token-file"),
    ("-----BEGIN RSA PRIVATE KEY-----\n", (), "an App's key needs the App's id: run install.sh again with --app-id"),
    ("-----BEGIN RSA PRIVATE KEY-----\nbroken", ("--app-id", "1"),
     "the App's key cannot sign: is openssl here, and is that file the .pem that GitHub gave you?"),
])
def test_a_credential_that_cannot_be_used(machine: Path, github: GitHub, content: str | None, more: tuple[str, ...], words: str) -> None:
    if content:
        (machine / "gone").write_text(content)
    done = mint(machine, github, "--credential", "gone", *more)
    assert (done.returncode, done.stderr) == (1, f"{words}\n")
    assert github.asked == []


@pytest.mark.parametrize(("option", "value", "words"), [
    ("--repo", "sprint", "--repo: OWNER/NAME, as in octo-org/sprint"),
    ("--repo", "a/b?c", "--repo: OWNER/NAME, as in octo-org/sprint"),
    ("--api", "http://github.example", "--api: an https address"),
    ("--api", "http://127.0.0.1.example/", "--api: an https address"),
    ("--api", "file:///etc/passwd", "--api: an https address"),
])
def test_bad_options(machine: Path, github: GitHub, option: str, value: str, words: str) -> None:
    done = mint(machine, github, option, value)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"minter.py: error: {words}"


# ---------------------------------------------------------------------------------------------------- containers


def test_in_containers_each_wish_gets_one_registration(machine: Path, github: GitHub) -> None:
    with subprocess.Popen(command(github, "--credential", "token"), cwd=machine, env=environment(machine),
                          stderr=subprocess.DEVNULL) as running:
        time.sleep(0.5)
        assert github.asked == []
        for turn in (1, 2):
            (machine / "wanted").touch()
            wait_for(lambda: (machine / "registration").exists() and not (machine / "wanted").exists())
            assert (machine / "registration").read_text() == JIT
            (machine / "registration").unlink()
            assert len(github.asked) == turn
        running.send_signal(signal.SIGINT)  # Ctrl-C


def test_the_two_containers_come_to_a_job(machine: Path, github: GitHub) -> None:
    """container-job.sh and the minter, through the folder that they share."""
    job = machine / "job"
    job.mkdir()
    encoded = b64encode(json.dumps({".runner": "e30="}).encode()).decode()
    github.answers[REGISTER] = ok({"encoded_jit_config": encoded}, 201)
    (job / "run.sh").write_text("#!/bin/sh\ncat .runner; ls -A ..\n")
    (job / "run.sh").chmod(0o755)
    (machine / "bin" / "nvidia-smi").symlink_to(STAND_IN.with_name("nvidia-smi"))
    with subprocess.Popen(command(github, "--credential", "token", "--once"), cwd=machine, env=environment(machine),
                          stderr=subprocess.DEVNULL) as running:
        done = subprocess.run([str(SETUP / "container-job.sh")], cwd=job, capture_output=True, text=True, timeout=60, check=False,
                              env=environment(machine, SPRINTBENCH_EXCHANGE=str(machine), SPRINTBENCH_HYGIENE_PYTHON=sys.executable))
        assert running.wait(20) == 0
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{}")
    assert "registration" not in done.stdout
