"""`bench doctor`: what is amiss with the repository on GitHub, and how that and the machine's half (runner.doctor) are shown.

What GitHub said (facts) and what that means (findings) are apart. What a token may not see is amber: it may be well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from bot.errors import HubError, HubRefused
from bot.hub import ActionsSettings, Branch, Hub, Overview, Runner, WorkflowFile
from bot.kickoff import kickoff
from workloads.plan import WEEKS
from workloads.spec import Finding

# What bench.yml asks of a runner.
RUNNER_LABELS = frozenset({"self-hosted", "linux", "x64", "gpu"})
NEEDED = ("bench.yml", "kickoff.yml", "sweep.yml")
BESIDE = ("ci.yml", "pages.yml")
BRANCH_VARIABLE = "SPRINTBENCH_BRANCH"
# Rules that refuse a commit which the report job writes straight to the branch with the workflow's token.
REFUSING = frozenset({"pull_request", "update", "required_status_checks", "required_deployments", "required_signatures", "merge_queue",
                      "file_path_restriction", "workflows", "code_scanning"})
COLOURS = {"green": "green", "amber": "yellow", "red": "red"}
ADMINISTER = "run it with the token of an administrator: GITHUB_TOKEN=$(gh auth token) bench doctor"


@dataclass(frozen=True, slots=True)
class Facts:
    """What GitHub shows of the repository at `home`, its page. `branch_said` and `branch_set` are SPRINTBENCH_BRANCH here and as a
    variable of the repository, "" and None where it is not set; `target` is the branch that results go to, None where there is
    none; what else is None may not be seen."""

    home: str
    overview: Overview
    branch_said: str
    branch_set: str | None
    target: Branch | None
    actions: ActionsSettings | None
    fork_approval: str | None
    labels: frozenset[str]
    runners: Sequence[Runner] | None
    workflows: Sequence[WorkflowFile] | None

    @property
    def branch(self) -> str:
        return self.branch_said or self.branch_set or self.overview.default_branch


def look(hub: Hub, home: str, branch_said: str) -> tuple[Finding, ...]:
    """What is found on the repository; where GitHub does not let it be seen at all, that."""
    try:
        return findings(gather(hub, home, branch_said))
    except HubError as error:
        status = error.status if isinstance(error, HubRefused) else 0
        if status == 401:
            told = "the token is not valid (any more)"
        elif status == 404:
            told = f"there is no {home} that this token may see"
        else:
            return (_red("repository", f"GitHub gave no usable answer: {error}", "look at https://www.githubstatus.com, then try again"),)
        return (_red("repository", told, "see to GITHUB_REPOSITORY and GITHUB_TOKEN: gh auth status"),)


def gather(hub: Hub, home: str, branch_said: str) -> Facts:
    overview = hub.overview()
    branch_set = hub.variable(BRANCH_VARIABLE)
    return Facts(home, overview, branch_said, branch_set, hub.branch(branch_said or branch_set or overview.default_branch),
                 hub.actions_settings(), hub.fork_approval(), hub.labels(), hub.runners(), hub.workflows())


def findings(facts: Facts) -> tuple[Finding, ...]:
    return (_token(facts.overview), *_repository(facts), _results_branch(facts), *_actions(facts), *_forks(facts), _labels(facts.labels),
            _runners(facts), *_workflows(facts))


def _green(what: str, told: str) -> Finding:
    return Finding("repository", "green", what, told)


def _amber(what: str, told: str, fix: str) -> Finding:
    return Finding("repository", "amber", what, told, fix)


def _red(what: str, told: str, fix: str) -> Finding:
    return Finding("repository", "red", what, told, fix)


def skipped() -> Finding:
    return _amber("repository", "not looked at: GITHUB_REPOSITORY and GITHUB_TOKEN are not both set",
                  "GITHUB_REPOSITORY=owner/name GITHUB_TOKEN=$(gh auth token) bench doctor")


def _token(overview: Overview) -> Finding:
    if "admin" in overview.may:
        return _green("token", "may administer the repository, so all of it is seen")
    if "push" in overview.may:
        return _amber("token", "may write, and not administer: settings and runners are not seen", ADMINISTER)
    if overview.may:
        return _amber("token", "may read only: settings and runners are not seen", ADMINISTER)
    return _amber("token", "GitHub does not say what it may, as of a workflow's own token", ADMINISTER)


def _repository(facts: Facts) -> Iterator[Finding]:
    overview, general = facts.overview, f"{facts.home}/settings"
    if overview.archived:
        yield _red("repository", "archived: nothing can be written", f"{general} > Danger Zone > Unarchive")
    else:
        yield _green("repository", f"{'public' if overview.public else 'private'}, its default branch is {overview.default_branch}")
    if not overview.has_issues:
        yield _red("issues", "off, as in a fresh fork: there is nothing to comment on", f"{general} > Features > Issues")


def _results_branch(facts: Facts) -> Finding:
    what, branch, target = "results branch", facts.branch, facts.target
    variables = f"{facts.home}/settings/variables/actions: {BRANCH_VARIABLE}"
    if target is None:
        return _red(what, f"{branch} does not exist", f"git push origin {facts.overview.default_branch}:{branch}")
    refusing = sorted(target.rules & REFUSING)
    elsewhere = f"git push origin {branch}:results, then {variables} = results"
    if refusing:
        return _red(what, f"{branch} refuses the report job's commits: rule {', '.join(refusing)}", elsewhere)
    if facts.branch_said and facts.branch_set and facts.branch_said != facts.branch_set:
        return _amber(what, f"{branch} here, and {facts.branch_set} in the workflows", f"{variables}, or that variable here")
    if target.protected:
        return _amber(what, f"{branch} is protected: if that asks for reviews or checks, it refuses the report job's commits", elsewhere)
    return _green(what, f"{branch} takes the report job's commits")


def _actions(facts: Facts) -> Iterator[Finding]:
    settings, page = facts.actions, f"{facts.home}/settings/actions"
    if settings is None:
        yield _amber("Actions", "their settings cannot be seen with this token", ADMINISTER)
        return
    if not settings.enabled:
        yield _red("Actions", "off, as in a fresh fork: no command is heard", f"{page} > Allow all actions")
    elif settings.allowed == "local_only":
        yield _red("Actions", "only this repository's own actions may run, and the workflows use GitHub's", f"{page} > Allow all actions")
    elif settings.allowed == "selected":
        yield _amber("Actions", "only selected actions may run", f"{page} > see that 'actions created by GitHub' are allowed")
    else:
        yield _green("Actions", "on")
    if settings.rights == "write":
        yield _amber("workflow token", "may write by default, and each job asks for what it needs", f"{page} > Workflow permissions > Read")
    elif settings.approves:
        yield _amber("workflow token", "may approve pull requests, and needs not", f"{page} > Workflow permissions > no approving")
    else:
        yield _green("workflow token", "may read by default; each job asks for what it needs")


def _forks(facts: Facts) -> Iterator[Finding]:
    """A private repository lets nobody propose a workflow who may not write it."""
    if not facts.overview.public:
        return
    if facts.fork_approval == "all_external_contributors":
        yield _green("fork pull requests", "wait for approval")
    elif facts.fork_approval is not None:
        yield _amber("fork pull requests", "run without approval once somebody has contributed: they may ask for the GPU machine",
                     f"{facts.home}/settings/actions > Require approval for all external contributors")
    elif facts.actions is not None:
        yield _amber("fork pull requests", "whether they wait for approval cannot be seen", f"{facts.home}/settings/actions")


def _labels(held: frozenset[str]) -> Finding:
    missing = sorted({label for week in WEEKS for label in kickoff(week, None).labels} - held)
    if missing:
        return _amber("labels", f"missing: {', '.join(missing)}. The kickoff of a week makes those it needs", "gh workflow run kickoff.yml")
    return _green("labels", "all there")


def _runners(facts: Facts) -> Finding:
    what, page = "GPU runners", f"{facts.home}/settings/actions/runners"
    wanted = ", ".join(sorted(RUNNER_LABELS))
    if facts.runners is None:
        return _amber(what, "cannot be seen with this token", ADMINISTER)
    if not facts.runners:
        return _red(what, "none is registered", f"{page}/new, with the label gpu")
    fitting = [runner for runner in facts.runners if runner.labels >= RUNNER_LABELS]
    if not fitting:
        return _red(what, f"{len(facts.runners)} registered, none with the labels that bench.yml asks for: {wanted}", f"{page} > labels")
    online = [runner for runner in fitting if runner.online]
    if not online:
        return _red(what, f"{len(fitting)} with the labels {wanted}, and none is online", f"start it; {page} shows when it is")
    return _green(what, f"{len(online)} of {len(fitting)} online with the labels {wanted}, {sum(runner.busy for runner in online)} busy")


def _workflows(facts: Facts) -> Iterator[Finding]:
    if facts.workflows is None:
        yield _amber("workflows", "cannot be seen with this token", ADMINISTER)
        return
    states = {workflow.path.rpartition("/")[2]: workflow.state for workflow in facts.workflows}
    for name in (*NEEDED, *BESIDE):
        state, bad = states.get(name), _red if name in NEEDED else _amber
        if state is None:
            yield bad(name, f"is not on {facts.overview.default_branch}", f"commit .github/workflows/{name} there")
        elif state != "active":
            yield bad(name, state.replace("_", " "), f"gh workflow enable {name}")
        else:
            yield _green(name, "active")


# ---------------------------------------------------------------------------------------------------- shown to people


def show(found: Sequence[Finding]) -> str:
    """The findings as text for a terminal, each fix below what it mends, and the sum of it."""
    width = max((len(one.what) for one in found), default=0)
    lines: list[str] = []
    for part in ("machine", "repository"):
        of_part = [one for one in found if one.part == part]
        lines += [*([""] if lines else []), click.style(part.capitalize(), bold=True)] if of_part else []
        for one in of_part:
            lines.append(f"  {click.style(f'{one.level:5}', fg=COLOURS[one.level])}  {one.what:{width}}  {one.told}")
            lines += [f"  {'':5}  {'':{width}}  fix: {one.fix}"] if one.fix else []
    counts = [(sum(one.level == level for one in found), level) for level in ("green", "amber", "red")]
    return "\n".join((*lines, "", ", ".join(f"{count} {level}" for count, level in counts)))
