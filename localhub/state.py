"""What a local hub knows: people, labels, milestones, issues, comments, reactions, workflow runs and a project; in memory, one
repository."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import yaml

from localhub.repository import BRANCH, Person, Repository

Role = Literal["admin", "maintain", "write", "triage", "read"]
State = Literal["open", "closed"]
REACTIONS = ("+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes")
BODY_CHARS = 65_536  # GitHub's own limit for an issue's or a comment's body
WORKFLOWS = ".github/workflows"


class Invalid(Exception):
    """GitHub's 422 Validation Failed: `code` and `field` as in its errors list."""

    def __init__(self, resource: str, code: str, field_name: str, message: str | None = None) -> None:
        super().__init__(message or f"{resource} {field_name}: {code}")
        self.error = {"resource": resource, "code": code, "field": field_name} | ({"message": message} if message else {})


class Forbidden(Exception):
    """GitHub's 403."""


class Absent(Exception):
    """GitHub's 404."""


@dataclass(frozen=True, slots=True)
class User:
    """An account; `kind` as GitHub's `type`."""

    login: str
    id: int
    kind: Literal["User", "Bot"] = "User"

    @property
    def person(self) -> Person:
        return Person(self.login, f"{self.id}+{self.login}@users.noreply.github.com")


BOT = User("github-actions[bot]", 41_898_282, "Bot")


@dataclass(slots=True)
class Label:
    """A label; `color` is six hexadecimal digits."""

    id: int
    name: str
    color: str = "ededed"
    description: str | None = None


@dataclass(slots=True)
class Milestone:
    """A milestone; numbered within the repository."""

    id: int
    number: int
    title: str
    creator: User
    created: datetime
    description: str | None = None
    state: State = "open"


@dataclass(frozen=True, slots=True)
class Reaction:
    """One person's reaction to one comment or issue."""

    id: int
    user: User
    content: str
    created: datetime


@dataclass(slots=True)
class Comment:
    """A comment; its id is unique in the hub."""

    id: int
    issue: int
    user: User
    body: str
    created: datetime
    updated: datetime
    reactions: list[Reaction] = field(default_factory=list)


@dataclass(slots=True)
class Issue:
    """An issue with its thread; `labels` and `milestone` are those of the hub. A pull request is one too, on GitHub as here."""

    id: int
    number: int
    title: str
    body: str | None
    user: User
    created: datetime
    updated: datetime
    labels: list[Label] = field(default_factory=list)
    milestone: Milestone | None = None
    state: State = "open"
    closed: datetime | None = None
    locked: bool = False
    comments: list[Comment] = field(default_factory=list)
    reactions: list[Reaction] = field(default_factory=list)
    pull_request: bool = False


@dataclass(frozen=True, slots=True)
class Input:
    """One input that a workflow's dispatch takes."""

    name: str
    description: str
    required: bool
    default: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow file of the default branch; `jobs` are (id, name) of its jobs."""

    id: int
    path: str
    name: str
    triggers: tuple[str, ...]
    inputs: tuple[Input, ...]
    jobs: tuple[tuple[str, str], ...]

    @property
    def file(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Job:
    """How one job of a run ended, or how far it is, and what it printed."""

    name: str
    conclusion: Literal["success", "failure", "skipped", "cancelled", "queued", "in_progress"]
    log: str = ""
    duration_s: float = 0.0
    started: datetime | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """A self-hosted runner."""

    id: int
    name: str
    labels: tuple[str, ...]
    status: Literal["online", "offline"] = "online"
    busy: bool = False


@dataclass(slots=True)
class Settings:
    """What an administrator has set, as GitHub's API names it. `rules` and `protected` are by branch, `disabled` holds names of
    workflow files."""

    actions: bool = True
    allowed_actions: Literal["all", "local_only", "selected"] = "all"
    workflow_rights: Literal["read", "write"] = "read"
    may_approve: bool = False
    fork_approval: Literal["first_time_contributors_new_to_github", "first_time_contributors",
                           "all_external_contributors"] = "all_external_contributors"
    variables: dict[str, str] = field(default_factory=dict)
    protected: set[str] = field(default_factory=set)
    rules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    disabled: set[str] = field(default_factory=set)
    private: bool = False
    archived: bool = False
    has_issues: bool = True


@dataclass(slots=True)
class Run:
    """One run of one workflow at one commit; the conclusion comes with status "completed". `artifacts` are zips by name."""

    id: int
    number: int
    workflow: Workflow
    event: str
    payload: dict[str, Any]
    actor: User
    sha: str
    title: str
    created: datetime
    status: Literal["queued", "in_progress", "completed"] = "queued"
    conclusion: Literal["success", "failure", "cancelled"] | None = None
    jobs: tuple[Job, ...] = ()
    log: str = ""
    note: str = ""
    finished: datetime | None = None
    attempt: int = 1
    started: datetime | None = None
    artifacts: dict[str, bytes] = field(default_factory=dict)
    head_repository: int = 1  # this one; a fork's pull request runs at another's commit


@dataclass(slots=True)
class Item:
    """An issue on a project's board; `content` is its node id, `status` the option of the field Status that it has."""

    id: int
    content: str
    status: str | None = None
    archived: bool = False


@dataclass(slots=True)
class Project:
    """A project (v2); `options` are those of its field Status, None where it has no such field."""

    owner: str
    number: int
    kind: Literal["user", "organization"] = "user"
    options: tuple[str, ...] | None = ("Todo", "In Progress", "Done")
    items: list[Item] = field(default_factory=list)


Listener = Callable[[str, dict[str, Any], User], None]


@dataclass(slots=True)
class Hub:
    """One repository with everything around it. Its methods are called under `lock`, except where they only read one value."""

    name: str
    git: Repository
    users: dict[str, User] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    tokens: dict[str, User] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    milestones: list[Milestone] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)
    project: Project | None = None
    settings: Settings = field(default_factory=Settings)
    listeners: list[Listener] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(492_700_400))
    run_ids: Iterator[int] = field(default_factory=lambda: itertools.count(19_600_000_001))
    created: datetime = field(default_factory=lambda: now())

    def __post_init__(self) -> None:
        self.users[BOT.login] = BOT
        # What the bot may do is what its job's `permissions:` say, so it is no collaborator.
        for name, color in (("bug", "d73a4a"), ("documentation", "0075ca"), ("enhancement", "a2eeef"), ("question", "d876e3")):
            self.add_label(name, color)

    # ------------------------------------------------------------------------------------------------ people

    def add_user(self, login: str, number: int, role: Role | None = None, token: str | None = None) -> User:
        """A new account, collaborator in `role` where one is given, and known by `token`."""
        user = User(login, number)
        self.users[login] = user
        if role:
            self.roles[login] = role
        if token:
            self.tokens[token] = user
        return user

    def role(self, login: str) -> Role:
        """The role of a known account; of anyone else's, in a public repository, "read". Raises Absent for no such account."""
        found = next((known for known in self.users if known.lower() == login.lower()), None)
        if found is None:
            raise Absent
        return self.roles.get(found, "read")

    def may_push(self, user: User) -> bool:
        return user == BOT or self.roles.get(user.login) in ("admin", "maintain", "write")

    # ------------------------------------------------------------------------------------------------ labels, milestones

    def add_label(self, name: str, color: str = "ededed", description: str | None = None) -> Label:
        if name.lower() in self.labels:
            raise Invalid("Label", "already_exists", "name")
        label = self.labels[name.lower()] = Label(next(self.ids), name, color, description)
        return label

    def ensure_labels(self, names: Sequence[str]) -> list[Label]:
        """GitHub makes a label that an issue is given and that is not there yet."""
        return [self.labels.get(name.lower()) or self.add_label(name) for name in dict.fromkeys(names)]

    def add_milestone(self, title: str, creator: User, description: str | None = None, state: State = "open") -> Milestone:
        if any(m.title == title for m in self.milestones):
            raise Invalid("Milestone", "already_exists", "title")
        self.milestones.append(Milestone(next(self.ids), len(self.milestones) + 1, title, creator, now(), description, state))
        return self.milestones[-1]

    def milestone(self, number: int) -> Milestone:
        if not 1 <= number <= len(self.milestones):
            raise Absent
        return self.milestones[number - 1]

    # ------------------------------------------------------------------------------------------------ issues, comments

    def add_issue(self, user: User, title: str, body: str | None = None, labels: Sequence[str] = (), milestone: int | None = None) -> Issue:
        check_body("Issue", body)
        if milestone is not None and not 1 <= milestone <= len(self.milestones):
            raise Invalid("Issue", "invalid", "milestone")
        moment = now()
        issue = Issue(next(self.ids), len(self.issues) + 1, title, body, user, moment, moment, self.ensure_labels(labels),
                      self.milestone(milestone) if milestone is not None else None)
        self.issues.append(issue)
        self.tell("issues", "opened", user, issue)
        return issue

    def add_pull_request(self, user: User, title: str) -> Issue:
        """A pull request as far as its thread goes: there are no commits in it."""
        moment = now()
        self.issues.append(Issue(next(self.ids), len(self.issues) + 1, title, None, user, moment, moment, pull_request=True))
        return self.issues[-1]

    def issue(self, number: int) -> Issue:
        if not 1 <= number <= len(self.issues):
            raise Absent
        return self.issues[number - 1]

    def set_state(self, issue: Issue, state: State) -> None:
        issue.state = state
        issue.closed = now() if state == "closed" else None

    def add_comment(self, user: User, number: int, body: str) -> Comment:
        issue = self.issue(number)
        if issue.locked and not self.may_push(user):
            raise Forbidden("Unable to create comment because issue is locked.")
        if not body.strip():
            raise Invalid("IssueComment", "missing_field", "body")
        check_body("IssueComment", body)
        moment = now()
        comment = Comment(next(self.ids), number, user, body, moment, moment)
        issue.comments.append(comment)
        issue.updated = moment
        self.tell("issue_comment", "created", user, issue, comment)
        return comment

    def comment(self, number: int) -> Comment:
        found = next((c for issue in self.issues for c in issue.comments if c.id == number), None)
        if found is None:
            raise Absent
        return found

    def edit_comment(self, comment: Comment, body: str) -> None:
        check_body("IssueComment", body)
        comment.body, comment.updated = body, now()

    def react(self, target: Comment | Issue, user: User, content: str) -> tuple[Reaction, bool]:
        """The reaction, and whether it is a new one: a person reacts once in each way."""
        if content not in REACTIONS:
            raise Invalid("Reaction", "invalid", "content")
        for reaction in target.reactions:
            if (reaction.user, reaction.content) == (user, content):
                return reaction, False
        target.reactions.append(Reaction(next(self.ids), user, content, now()))
        return target.reactions[-1], True

    def tell(self, event: str, action: str, sender: User, issue: Issue, comment: Comment | None = None) -> None:
        """Fires an event. What the workflows' own token does starts no workflow, on GitHub as here."""
        if sender != BOT:
            for listener in self.listeners:
                listener(event, {"action": action, "issue": issue, "comment": comment}, sender)

    # ------------------------------------------------------------------------------------------------ workflows

    def workflows(self) -> tuple[Workflow, ...]:
        """The workflow files of the default branch, read anew each time."""
        if self.git.resolve(BRANCH) is None:
            return ()
        files = {e.path: e.sha for e in self.git.entries(BRANCH, f"{WORKFLOWS}/") if e.path.endswith((".yml", ".yaml"))}
        return tuple(read_workflow(1_000 + place, path, self.git.blob(sha)) for place, (path, sha) in enumerate(sorted(files.items())))

    def workflow(self, key: str) -> Workflow:
        """By id or file name. Raises Absent."""
        found = next((w for w in self.workflows() if key in (str(w.id), w.file)), None)
        if found is None:
            raise Absent
        return found

    def dispatch(self, workflow: Workflow, inputs: dict[str, str], actor: User) -> None:
        """Fires workflow_dispatch. Raises Invalid for inputs that the workflow does not take, as GitHub does."""
        if "workflow_dispatch" not in workflow.triggers:
            raise Invalid("Workflow", "invalid", "ref", "Workflow does not have 'workflow_dispatch' trigger")
        known = {i.name: i for i in workflow.inputs}
        unknown = [name for name in inputs if name not in known]
        if unknown:
            raise Invalid("Workflow", "invalid", "inputs", f"Unexpected inputs provided: {unknown}")
        for name, one in known.items():
            if one.required and not inputs.get(name) and not one.default:
                raise Invalid("Workflow", "missing_field", "inputs", f"Required input '{name}' not provided")
        full = {name: inputs.get(name, one.default) for name, one in known.items()}
        for listener in self.listeners:
            listener("workflow_dispatch", {"workflow": workflow, "inputs": full}, actor)

    def add_run(self, workflow: Workflow, event: str, payload: dict[str, Any], actor: User, title: str) -> Run:
        number = 1 + sum(run.workflow.path == workflow.path for run in self.runs)
        self.runs.append(Run(next(self.run_ids), number, workflow, event, payload, actor, self.git.head(), title, now()))
        return self.runs[-1]

    def cancel(self, run: Run) -> None:
        """What waits is over at once; what runs ends as cancelled when whoever runs it has stopped it."""
        run.conclusion = "cancelled"
        if run.status != "in_progress":
            run.status, run.finished = "completed", now()

    def rerun(self, run: Run, actor: User) -> None:
        """The same event at the same commit once more, as the next attempt of the same run."""
        run.status, run.conclusion, run.finished, run.jobs, run.note = "queued", None, None, (), ""
        run.attempt, run.started = run.attempt + 1, now()
        for listener in self.listeners:
            listener("rerun", {"run": run}, actor)

    def run(self, number: int) -> Run:
        found = next((run for run in self.runs if run.id == number), None)
        if found is None:
            raise Absent
        return found


def read_workflow(number: int, path: str, text: bytes) -> Workflow:
    """A workflow file as far as a hub needs to know it."""
    parsed = yaml.safe_load(text)
    triggers = parsed.get("on", parsed.get(True))  # YAML 1.1 reads a bare `on` as true
    events = {triggers: None} if isinstance(triggers, str) else dict.fromkeys(triggers) if isinstance(triggers, list) else triggers
    inputs = ((events.get("workflow_dispatch") or {}).get("inputs") or {}).items()
    return Workflow(number, path, str(parsed.get("name", path)), tuple(events), tuple(
        Input(name, str(one.get("description", "")), bool(one.get("required", False)), str(one.get("default", "")),
              tuple(str(option) for option in one.get("options", ()))) for name, one in inputs),
        tuple((job, str(one.get("name", job))) for job, one in parsed["jobs"].items()))


def check_body(resource: str, body: str | None) -> None:
    if body is not None and len(body) > BODY_CHARS:
        raise Invalid(resource, "unprocessable", "data", f"Body is too long (maximum is {BODY_CHARS} characters)")


def now() -> datetime:
    return datetime.now(UTC)
