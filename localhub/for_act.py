"""A workflow file as act can take it: less what act refuses, and with steps that let a local hub do what act leaves out.

Every job begins with a step that names the job and its concurrency group to the hub, and waits until its turn has come: act knows
no groups. It ends with a step that fails where the hub has cancelled the job, so that what needs it is skipped, and that lets
`needs.<job>.result` say "cancelled", where act would say "failure".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

TURN, END = "localhub-turn", "localhub-end"
CANCELLED = "localhub-cancelled"
# A ticket is a folder: `name` and `group` are the job's, `turn` appears when it may go on, `cancelled` when it must not.
WAIT = """ticket=$(mktemp -d "$LOCALHUB_TICKETS/XXXXXXXX")
printf %s "$NAME" > "$ticket/name"
printf %s "$GROUP" > "$ticket/group"
echo "LOCALHUB_TICKET=$ticket" >> "$GITHUB_ENV"
echo "$ticket"
until [ -e "$ticket/turn" ]; do sleep 0.05; done
[ ! -e "$ticket/cancelled" ]
"""
SAY = f'if [ -e "$LOCALHUB_TICKET/cancelled" ]; then echo "{CANCELLED}=true" >> "$GITHUB_OUTPUT"; exit 1; fi'
EXPRESSION = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
RESULT = re.compile(r"\bneeds\.([\w-]+)\.result\b")
# What GitHub finds true for a job or a step of a run that was cancelled. `!cancelled()` is not.
STAYS = re.compile(r"\balways\(\)|(?<!!)(?<!! )\bcancelled\(\)")


@dataclass(frozen=True, slots=True)
class JobFile:
    """What a hub has to know of one job: `stays` and `steps` (by step id) say what goes on when the run is cancelled."""

    name: str
    self_hosted: bool
    stays: bool
    steps: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class WorkflowFile:
    """The text for act, and the jobs by id in the file's order."""

    text: str
    jobs: Mapping[str, JobFile]


def for_act(text: str) -> WorkflowFile:
    """Works on the parsed nodes, whose scalars keep the spelling that they have in the file."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode), "GitHub starts no workflow that is not a mapping"
    _drop(root, "cache-mode")  # newer than act, which refuses the file for it; here nothing is cached
    for node in _expressions(root):
        bare = EXPRESSION.search(node.value) is None  # an `if:` may do without the brackets
        node.value = _with_cancelled(node.value) if bare else EXPRESSION.sub(lambda found: _with_cancelled(found[0]), node.value)
    for key, job in _get(root, "jobs").value:
        group, steps = _group(job), _get(job, "steps")
        _drop(job, "concurrency")
        if steps is None:
            continue
        name = _get(job, "name")
        steps.value.insert(0, _node({"id": TURN, "name": TURN, "shell": "bash", "run": WAIT,
                                     "env": {"NAME": name.value if name else key.value, "GROUP": group}}))
        steps.value.append(_node({"id": END, "name": END, "if": "always()", "shell": "bash", "run": SAY}))
        _put(_get(job, "outputs") or _put(job, "outputs", {}), CANCELLED, f"${{{{ steps.{END}.outputs.{CANCELLED} }}}}")
    made = yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=10_000)
    return WorkflowFile(made, {job: _job(job, facts) for job, facts in yaml.safe_load(made)["jobs"].items()})


def _with_cancelled(expression: str) -> str:
    return RESULT.sub(rf"(needs.\1.outputs.{CANCELLED} == 'true' && 'cancelled' || needs.\1.result)", expression)


def _job(job: str, facts: dict[str, Any]) -> JobFile:
    steps = {str(step.get("id", place)): stays(step) for place, step in enumerate(facts.get("steps", ()))}
    return JobFile(str(facts.get("name", job)), "self-hosted" in str(facts.get("runs-on")), stays(facts), steps)


def stays(facts: dict[str, Any]) -> bool:
    return STAYS.search(str(facts.get("if", ""))) is not None


def _group(job: Any) -> str:
    concurrency = _get(job, "concurrency")
    if isinstance(concurrency, yaml.MappingNode):
        concurrency = _get(concurrency, "group")
    return str(concurrency.value) if concurrency else ""


def _get(node: Any, key: str) -> Any:
    return next((value for name, value in node.value if name.value == key), None)


def _put(node: Any, key: str, value: Any) -> Any:
    node.value.append((_node(key), _node(value)))
    return node.value[-1][1]


def _drop(node: Any, key: str) -> None:
    node.value = [pair for pair in node.value if pair[0].value != key]


def _node(value: Any) -> Any:
    return yaml.compose(yaml.safe_dump(value, width=10_000, sort_keys=False), Loader=yaml.SafeLoader)


def _expressions(node: Any, key: str = "") -> Iterator[yaml.ScalarNode]:
    """The scalars that act evaluates."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _expressions(value, name.value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _expressions(value)
    elif key == "if" or "${{" in node.value:
        yield node
