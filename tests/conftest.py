"""The one `localhub` fixture: a GitHub on 127.0.0.1 with state and a real bare repository, whose every exchange is judged.

`browser` is Chromium, `page` a tab in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, Page, sync_playwright

from localhub.contract import Judge
from localhub.repository import Person, Repository
from localhub.server import Fault, Logged, Service, served
from localhub.state import BOT, Comment, Hub, Issue, Role, User

TOKEN = "ghs_workflow"
WEEKS_TOOLS = {"test_lm", "test_training", "test_corpus", "test_measure", "test_machine"}
WORKFLOWS = {"test_act", "test_demo"}  # hundreds of processes, each of which would load the tracer; what they run is tested elsewhere, too
# xdist hands out a file at a time, in this order: what takes minutes first, so that no worker ends long after the others.
SLOWEST = ("test_weeks", "test_act", "test_demo", "test_setup", "test_week10", "test_runner", "test_week02", "test_plot", "test_week13",
           "test_faults", "test_sweep", "test_publish", "test_measure", "test_fuzz", "test_minter", "test_control", "test_week01",
           "test_spec", "test_spool", "test_store", "test_week14")

# Before any test imports torch, and for the processes that tests start: on tiny tensors its threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How fast a machine is says nothing of whether the code is right.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@dataclass(frozen=True, slots=True)
class LocalHub:
    """What a test holds: where the hub is (`url`, `token`, `hub_args` for bot.hub.Hub), and its state, to set up and to look at.

    People: `sprinter` (owner, admin, id 1001), `member` (write, 1002), `stranger` (an account without a role, 1003); their tokens are
    ghp_<login>. `token` is the workflows' own and acts as github-actions[bot].
    """

    url: str
    hub: Hub
    service: Service
    token: str = TOKEN

    @property
    def repo(self) -> str:
        return self.hub.name

    @property
    def hub_args(self) -> tuple[str, str, str]:
        """(repository, token, address of the API)."""
        return (self.repo, self.token, self.url)

    @property
    def git(self) -> Repository:
        """The bare repository: `git.path`, `git.head()`, `git.read(revision, path)`, `git.log(revision)`..."""
        return self.hub.git

    @property
    def requests(self) -> list[Logged]:
        """Every API request so far, oldest first."""
        return self.service.requests

    @property
    def violations(self) -> list[str]:
        return self.service.violations

    def add_user(self, login: str, number: int, role: Role | None = None) -> User:
        return self.hub.add_user(login, number, role, token=f"ghp_{login}")

    def open_issue(self, title: str, body: str = "", labels: tuple[str, ...] = (), login: str = "sprinter") -> Issue:
        with self.hub.lock:
            return self.hub.add_issue(self.hub.users[login], title, body, labels)

    def comment_as(self, login: str, issue: int, body: str) -> Comment:
        """A comment by a person, or by `github-actions[bot]`."""
        with self.hub.lock:
            return self.hub.add_comment(self.hub.users[login], issue, body)

    def put(self, files: Mapping[str, bytes | None], message: str = "Someone else was here", login: str = "sprinter") -> str:
        """A commit on the default branch by a person; its sha."""
        with self.hub.lock:
            return self.git.put(files, message, self.hub.users[login].person)

    def fault(self, method: str, path: str, *, times: int = 1, status: int | None = None, headers: Mapping[str, str] | None = None,
              message: str = "Server Error", apply: bool = False, reset: bool = False, html: bool = False, delay_s: float = 0.0) -> None:
        """Breaks the next `times` requests of `method` whose path holds the regex `path`; see localhub.server.Fault."""
        self.service.faults.append(Fault(method, path, times, status, headers or {}, message, apply, reset, html, delay_s))


# ---------------------------------------------------------------------------------------------------- coverage: of bot/ and runner/


def is_untraced(path: Path) -> bool:
    """Whether a file of tests adds nothing to the coverage of bot/ and runner/: to it coverage is only a tracer that slows it down."""
    return path.stem in WEEKS_TOOLS | WORKFLOWS or path.stem.startswith("test_week")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """A worker is no process that a test starts: pytest-cov measures it, and nothing else need."""
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """In a worker pytest-cov is started as in a controller first, and then as in a worker; a pause of the second would resume the first."""
    if hasattr(session.config, "workerinput"):
        pause(session.config)


def pause(config: pytest.Config) -> Callable[[], None]:
    """Stops tracing; what is returned goes on with it."""
    controller = getattr(config.pluginmanager.getplugin("_cov"), "cov_controller", None)
    if controller is None:
        return lambda: None
    controller.pause()
    return lambda: controller.resume()


@contextlib.contextmanager
def untraced_if(is_so: bool, config: pytest.Config) -> Iterator[None]:
    resume = pause(config) if is_so else lambda: None
    try:
        yield
    finally:
        resume()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The weeks' imports, torch among them, are most of what there is to collect."""
    with untraced_if(isinstance(collector, pytest.Module) and is_untraced(collector.path), collector.config):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    with untraced_if(is_untraced(item.path), item.config):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    with untraced_if(is_untraced(item.path), item.config):
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_untraced(item.path):
            item.add_marker("no_cover")
    items.sort(key=lambda item: SLOWEST.index(item.path.stem) if item.path.stem in SLOWEST else len(SLOWEST))


# ---------------------------------------------------------------------------------------------------- options and fixtures


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.md anew; the review is the diff")
    parser.addoption("--fuzz-minutes", type=float, default=0.0, help="how long test_fuzz.py goes on with new random input")


@pytest.fixture(scope="session")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="session")
def one_commit(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with one commit, to copy: git would take ten processes each time."""
    repository = Repository.create(tmp_path_factory.mktemp("first") / "sprint.git")
    repository.put({"README.md": b"# A sprint\n"}, "First", Person("sprinter", "1001+sprinter@users.noreply.github.com"))
    return repository


@pytest.fixture
def localhub(tmp_path: Path, judge: Judge, one_commit: Repository) -> Iterator[LocalHub]:
    """A hub of its own for each test. A test fails where an exchange was not as GitHub's OpenAPI description says."""
    hub = Hub("sprinter/sprint", Repository(shutil.copytree(one_commit.path, tmp_path / "sprint.git")))
    service = Service(hub, judge=judge)
    hub.tokens[TOKEN] = BOT
    with served(service) as url:
        local = LocalHub(url, hub, service)
        for login, number, role in (("sprinter", 1001, "admin"), ("member", 1002, "write"), ("stranger", 1003, None)):
            local.add_user(login, number, role)  # type: ignore[arg-type]
        yield local
    assert local.violations == []


@pytest.fixture(scope="module")  # while it is there nothing else in its process can run an event loop
def browser() -> Iterator[Browser]:
    """Headless Chromium. A machine without one skips what needs it, but never in CI."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        why = "no Chromium here: apt-get install -y chromium"
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)
    with sync_playwright() as playwright:
        # Chromium's own sandbox needs rights that a container's root lacks; it opens nothing but pages of this machine.
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(20_000)
    yield page
    page.close()
