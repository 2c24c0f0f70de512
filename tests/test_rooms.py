"""What may stand where: who imports whom, and the few things that only one room may do; read from the code itself."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for room in ("bot", "runner", "workloads", "localhub") for path in (ROOT / room).rglob("*.py"))
OURS = ("bot", "runner", "workloads", "localhub")

# A clock measures in measure.py, and in clock.py for processes without torch. The runner's deadlines and a sampler's period are
# no measurements: they use monotonic.
MEASURING_CLOCKS = {"perf_counter", "perf_counter_ns", "process_time", "process_time_ns", "thread_time", "thread_time_ns"}
TIMES_OF_DAY = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def runtime(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield child
            yield from runtime(child)


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules that a file imports, in full: `from a import b` counts as a.b."""
    found: set[str] = set()
    for node in runtime(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name(path)}: relative imports hide which room something is from"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def uses(path: Path) -> frozenset[str]:
    """Attributes by the last two parts of how they are written: "os.environ", "datetime.now"; and names imported bare."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            before = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            found.add(f"{before}.{node.attr}")
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def those(wanted: set[str]) -> set[str]:
    """Files that import one of the top-level packages `wanted`."""
    return {name(path) for path in FILES if wanted & {module.split(".")[0] for module in imports(path)}}


def room(path: str) -> str:
    return path.split("/")[0]


def is_week(path: str) -> bool:
    return path.startswith("workloads/week")


# ---------------------------------------------------------------------------------------------------- packages of others


def test_only_the_hub_knows_pygithub() -> None:
    assert those({"github"}) == {"bot/hub.py"}


def test_only_the_plot_knows_matplotlib() -> None:
    assert those({"matplotlib", "pylab", "seaborn"}) == {"bot/plot.py"}


def test_only_the_site_knows_jinja() -> None:
    assert those({"jinja2"}) == {"bot/site/__init__.py"}


def test_only_the_terminal_knows_rich() -> None:
    assert those({"rich"}) == {"bot/terminal.py"}


def test_torch_stays_where_things_are_measured() -> None:
    """In workloads/: measure.py, machine.py, nouns that weeks share, and the weeks themselves, though not in their promise."""
    users = those({"torch", "torchvision", "timm", "triton"})
    assert {path for path in users if room(path) != "workloads" or path.endswith("__init__.py")} == set()


@pytest.mark.parametrize("path", ["workloads/__init__.py", "workloads/spec.py", "workloads/plan.py"])
def test_the_contract_is_standard_library(path: str) -> None:
    others = {module.split(".")[0] for module in imports(ROOT / path)} - set(sys.stdlib_module_names) - set(OURS)
    assert others == set()


def test_a_promise_needs_no_torch() -> None:
    """bot imports every week's __init__, so that may import nothing but the contract and the plan."""
    for path in FILES:
        if is_week(name(path)) and path.name == "__init__.py" and name(path).count("/") == 2:
            assert {module.rpartition(".")[0] for module in imports(path)} <= {"workloads.plan", "workloads.spec"}, name(path)


# ---------------------------------------------------------------------------------------------------- our rooms


def ours(path: Path) -> set[str]:
    return {module for module in imports(path) if module.split(".")[0] in OURS}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_arrows_between_rooms(path: Path) -> None:
    for module in ours(path):
        target, inside = module.split(".")[0], room(name(path))
        if target == inside:
            continue
        match inside:
            case "bot":
                demo = name(path) == "bot/__main__.py" and module == "localhub.demo.main"
                assert demo or module.startswith(("workloads.spec.", "workloads.plan.")), f"{name(path)} imports {module}"
            case "runner":
                assert target == "workloads", f"{name(path)} imports {module}"
            case _:
                pytest.fail(f"{name(path)} imports {module}: {inside} stands alone")


def test_weeks_do_not_know_each_other() -> None:
    for path in FILES:
        if is_week(name(path)):
            own = name(path).split("/")[1]
            assert {m.split(".")[1] for m in ours(path) if m.startswith("workloads.week")} <= {own}, name(path)


def test_no_room_for_leftovers() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "tools", "shared"}
    assert [name(path) for path in FILES if vague & {path.stem, *(part.name for part in path.parents)}] == []


# ---------------------------------------------------------------------------------------------------- what only some may do


def test_the_environment_is_read_at_the_edges() -> None:
    readers = {name(path) for path in FILES if {"os.environ", "os.getenv", "os.environb"} & uses(path)}
    assert {path for path in readers if room(path) != "localhub"} <= {
        "bot/__main__.py", "runner/__main__.py", "workloads/checkpoint.py",
        "workloads/week03_data/engine.py"}  # CUDA has no other way to ask for queues


def test_only_the_edges_catch_everything() -> None:
    catchers = set()
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "BaseException"
                assert caught != "BaseException", f"{name(path)}: not even the edges catch BaseException"
                if caught == "Exception":
                    catchers.add(name(path))
    assert catchers <= {"bot/__main__.py", "runner/__main__.py"}


def test_one_clock_measures() -> None:
    readers = {name(path) for path in FILES if any(used.split(".")[-1] in MEASURING_CLOCKS for used in uses(path))}
    assert readers <= {"workloads/measure.py", "workloads/clock.py"}


def test_the_bot_asks_no_clock() -> None:
    """What the bot writes follows from what it was given, so the same result gives the same bytes tomorrow."""
    clocks = TIMES_OF_DAY | {"time.monotonic", "time.monotonic_ns"}
    assert {name(path) for path in FILES if room(name(path)) == "bot" and clocks & uses(path)} == set()


def test_the_time_of_day_is_read_where_a_run_starts() -> None:
    readers = {name(path) for path in FILES if TIMES_OF_DAY & uses(path)}
    signs = "runner/setup/minter.py"  # an App's token says from when to when it is good
    assert {path for path in readers if room(path) != "localhub"} <= {"runner/__main__.py", signs}


# ---------------------------------------------------------------------------------------------------- every file


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_module_says_what_it_owns(path: Path) -> None:
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree(path)), f"{name(path)} has no docstring"
