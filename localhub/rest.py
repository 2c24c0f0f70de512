"""GitHub's REST operations on a hub: who may, what is checked, which status; one function for each operation."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlencode

from localhub.replies import JSON, Replies, moment
from localhub.repository import BRANCH, GitError
from localhub.state import BOT, Absent, Comment, Forbidden, Hub, Invalid, Issue, User

SHA = re.compile(r"[0-9a-f]{40}")
RAW = ("application/vnd.github.raw", "application/vnd.github.v3.raw", "application/vnd.github.raw+json")


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and a JSON body; `raw` in its place where the caller asked for a file's bytes."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API, taken apart. `user` is None for someone without a token."""

    hub: Hub
    user: User | None
    method: str
    path: str
    query: Sequence[tuple[str, str]]
    body: Any
    accept: str
    base: str
    at: Mapping[str, str] = field(default_factory=dict)

    @property
    def to(self) -> Replies:
        return Replies(self.hub, self.base)

    @property
    def sent(self) -> JSON:
        if not isinstance(self.body, dict):
            raise Invalid("Request", "invalid", "body", "Problems parsing JSON")
        return self.body

    def asked(self, name: str, default: str = "") -> str:
        return dict(self.query).get(name, default)

    def number(self, name: str) -> int:
        if not self.at[name].isascii() or not self.at[name].isdigit():
            raise Absent
        return int(self.at[name])

    def someone(self) -> User:
        if self.user is None:
            raise Unknown
        return self.user

    def pusher(self) -> User:
        user = self.someone()
        if not self.hub.may_push(user):
            raise Forbidden("Must have push access to repository")
        return user

    def text(self, name: str, resource: str) -> str:
        value = self.sent.get(name)
        if not isinstance(value, str) or not value:
            raise Invalid(resource, "missing_field", name)
        return value

    def paged(self, items: Sequence[Any]) -> Reply:
        """One page of `items`, with the Link header that leads to the others."""
        size, page = min(int(self.asked("per_page", "30")), 100), max(int(self.asked("page", "1")), 1)
        last = max((len(items) + size - 1) // size, 1)
        others = {"first": 1, "prev": page - 1} if page > 1 else {}
        others |= {"next": page + 1, "last": last} if page < last else {}
        rest = [(name, value) for name, value in self.query if name != "page"]
        links = ", ".join(f'<{self.base}{self.path}?{urlencode([*rest, ("page", str(n))])}>; rel="{rel}"' for rel, n in others.items())
        return Reply(200, list(items[(page - 1) * size:page * size]), {"Link": links} if links else {})


class Unknown(Exception):
    """GitHub's 401."""


class Conflict(Exception):
    """GitHub's 409."""


# ---------------------------------------------------------------------------------------------------- people, repository


def get_me(call: Call) -> Reply:
    return Reply(200, call.to.public_user(call.someone()))


def get_user(call: Call) -> Reply:
    if call.at["username"] not in call.hub.users:
        raise Absent
    return Reply(200, call.to.public_user(call.hub.users[call.at["username"]]))


def get_rate_limit(_: Call) -> Reply:
    left = {"limit": 5000, "remaining": 4999, "reset": int(datetime.now(UTC).timestamp()) + 3600, "used": 1}
    return Reply(200, {"resources": {"core": left, "search": left}, "rate": left})


def get_repository(call: Call) -> Reply:
    """The rights are those of an account: GitHub does not say what a workflow's token may."""
    rights = {"permissions": call.to.rights(call.user)} if call.user and call.user != BOT else {}
    return Reply(200, call.to.repository() | rights)


def get_permission(call: Call) -> Reply:
    call.pusher()
    call.hub.role(call.at["username"])
    return Reply(200, call.to.permission(next(u for login, u in call.hub.users.items() if login.lower() == call.at["username"].lower())))


# ---------------------------------------------------------------------------------------------------- issues


def list_issues(call: Call) -> Reply:
    state, labels, milestone = call.asked("state", "open"), call.asked("labels"), call.asked("milestone", "*")
    wanted = {name.lower() for name in labels.split(",") if name}
    found = []
    for issue in call.hub.issues:
        own = str(issue.milestone.number) if issue.milestone else "none"
        if state not in (issue.state, "all") or not wanted <= {one.name.lower() for one in issue.labels}:
            continue
        if call.asked("creator", issue.user.login) == issue.user.login and (milestone in (own, "*")):
            found.append(issue)
    key = "updated" if call.asked("sort") == "updated" else "created"
    # Issues of the same second keep the order of their numbers.
    found.sort(key=lambda one: (getattr(one, key), one.number), reverse=call.asked("direction", "desc") == "desc")
    return call.paged([call.to.issue(issue) for issue in found])


def create_issue(call: Call) -> Reply:
    user = call.someone()
    title = call.text("title", "Issue")
    extras = call.hub.may_push(user)  # GitHub drops an outsider's labels and milestone in silence
    names = [one if isinstance(one, str) else one["name"] for one in call.sent.get("labels", ())]
    issue = call.hub.add_issue(user, title, call.sent.get("body"), names if extras else (), call.sent.get("milestone") if extras else None)
    return Reply(201, call.to.issue(issue))


def get_issue(call: Call) -> Reply:
    return Reply(200, call.to.issue(call.hub.issue(call.number("issue_number"))))


def edit_issue(call: Call) -> Reply:
    user, issue = call.someone(), call.hub.issue(call.number("issue_number"))
    if user != issue.user and not call.hub.may_push(user):
        raise Forbidden("Must have admin rights to Repository.")
    sent = call.sent
    if "body" in sent and sent["body"] is not None and len(sent["body"]) > 65_536:
        raise Invalid("Issue", "unprocessable", "data", "Body is too long (maximum is 65536 characters)")
    if "milestone" in sent:
        issue.milestone = None if sent["milestone"] is None else call.hub.milestone(sent["milestone"])
    issue.title, issue.body = sent.get("title", issue.title), sent.get("body", issue.body)
    if "labels" in sent:
        issue.labels = call.hub.ensure_labels([one if isinstance(one, str) else one["name"] for one in sent["labels"]])
    if "state" in sent and sent["state"] != issue.state:
        call.hub.set_state(issue, sent["state"])
    issue.updated = datetime.now(UTC)
    return Reply(200, call.to.issue(issue))


def list_issue_labels(call: Call) -> Reply:
    return call.paged([call.to.label(one) for one in call.hub.issue(call.number("issue_number")).labels])


def change_issue_labels(call: Call) -> Reply:
    """POST adds, PUT sets."""
    call.pusher()
    issue = call.hub.issue(call.number("issue_number"))
    sent = call.body if isinstance(call.body, list) else call.sent.get("labels", [])
    before = [one.name for one in issue.labels] if call.method == "POST" else []
    issue.labels = call.hub.ensure_labels([*before, *(one if isinstance(one, str) else one["name"] for one in sent)])
    return Reply(200, [call.to.label(one) for one in issue.labels])


def remove_issue_label(call: Call) -> Reply:
    call.pusher()
    issue = call.hub.issue(call.number("issue_number"))
    left = [one for one in issue.labels if one.name.lower() != call.at["name"].lower()]
    if len(left) == len(issue.labels):
        raise Absent
    issue.labels = left
    return Reply(200, [call.to.label(one) for one in left])


# ---------------------------------------------------------------------------------------------------- comments, reactions


def list_comments(call: Call) -> Reply:
    """Of an issue, or of the repository."""
    if "issue_number" in call.at:
        found = list(call.hub.issue(call.number("issue_number")).comments)
    else:
        every = (comment for issue in call.hub.issues for comment in issue.comments)
        key = "updated" if call.asked("sort") == "updated" else "created"
        found = sorted(every, key=lambda c: (getattr(c, key), c.id), reverse=bool(call.asked("sort")) and call.asked("direction") == "desc")
    since = call.asked("since")
    return call.paged([call.to.comment(c) for c in found if not since or str(moment(c.updated)) >= since])


def create_comment(call: Call) -> Reply:
    comment = call.hub.add_comment(call.someone(), call.number("issue_number"), call.text("body", "IssueComment"))
    return Reply(201, call.to.comment(comment), {"Location": call.to.comment(comment)["url"]})


def get_comment(call: Call) -> Reply:
    return Reply(200, call.to.comment(call.hub.comment(call.number("comment_id"))))


def own_comment(call: Call) -> Comment:
    user, comment = call.someone(), call.hub.comment(call.number("comment_id"))
    if user != comment.user and not call.hub.may_push(user):
        raise Forbidden("Must have admin rights to Repository.")
    return comment


def edit_comment(call: Call) -> Reply:
    comment = own_comment(call)
    call.hub.edit_comment(comment, call.text("body", "IssueComment"))
    return Reply(200, call.to.comment(comment))


def delete_comment(call: Call) -> Reply:
    comment = own_comment(call)
    call.hub.issue(comment.issue).comments.remove(comment)
    return Reply(204)


def reacted(call: Call) -> Comment | Issue:
    return call.hub.comment(call.number("comment_id")) if "comment_id" in call.at else call.hub.issue(call.number("issue_number"))


def list_reactions(call: Call) -> Reply:
    content = call.asked("content")
    return call.paged([call.to.reaction(one) for one in reacted(call).reactions if content in ("", one.content)])


def create_reaction(call: Call) -> Reply:
    reaction, new = call.hub.react(reacted(call), call.someone(), call.text("content", "Reaction"))
    return Reply(201 if new else 200, call.to.reaction(reaction))


def delete_reaction(call: Call) -> Reply:
    target = reacted(call)
    found = next((one for one in target.reactions if one.id == call.number("reaction_id")), None)
    if found is None:
        raise Absent
    if found.user != call.someone():
        raise Forbidden("You can only delete your own reactions")
    target.reactions.remove(found)
    return Reply(204)


# ---------------------------------------------------------------------------------------------------- labels, milestones


def list_labels(call: Call) -> Reply:
    return call.paged([call.to.label(one) for one in call.hub.labels.values()])


def create_label(call: Call) -> Reply:
    call.pusher()
    color = str(call.sent.get("color", "ededed"))
    if not re.fullmatch(r"[0-9A-Fa-f]{6}", color):
        raise Invalid("Label", "invalid", "color")
    return Reply(201, call.to.label(call.hub.add_label(call.text("name", "Label"), color, call.sent.get("description"))))


def get_label(call: Call) -> Reply:
    if call.at["name"].lower() not in call.hub.labels:
        raise Absent
    return Reply(200, call.to.label(call.hub.labels[call.at["name"].lower()]))


def list_milestones(call: Call) -> Reply:
    state = call.asked("state", "open")
    return call.paged([call.to.milestone(one) for one in call.hub.milestones if state in (one.state, "all")])


def create_milestone(call: Call) -> Reply:
    user, sent = call.pusher(), call.sent
    made = call.hub.add_milestone(call.text("title", "Milestone"), user, sent.get("description"), sent.get("state", "open"))
    return Reply(201, call.to.milestone(made))


def get_milestone(call: Call) -> Reply:
    return Reply(200, call.to.milestone(call.hub.milestone(call.number("milestone_number"))))


# ---------------------------------------------------------------------------------------------------- git


def get_ref(call: Call) -> Reply:
    name = f"refs/{call.at['ref']}"
    found = call.hub.git.refs(name).get(name)
    if found is None:
        raise Absent
    return Reply(200, call.to.ref(name, found))


def list_matching_refs(call: Call) -> Reply:
    return Reply(200, [call.to.ref(name, sha) for name, sha in call.hub.git.refs(f"refs/{call.at['ref']}").items()])


def create_ref(call: Call) -> Reply:
    call.pusher()
    name, sha = call.text("ref", "Reference"), existing(call, call.text("sha", "Reference"))
    if not re.fullmatch(r"refs/[\w.-]+/[\w./-]+", name):
        raise Invalid("Reference", "invalid", "ref", "Reference name must start with 'refs/' and have at least two slashes")
    if name in call.hub.git.refs(name):
        raise Invalid("Reference", "already_exists", "ref", "Reference already exists")
    call.hub.git.set_ref(name, sha)
    return Reply(201, call.to.ref(name, sha))


def existing(call: Call, sha: str) -> str:
    if not SHA.fullmatch(sha) or call.hub.git.resolve(sha) is None:
        raise Invalid("Reference", "invalid", "sha", "Object does not exist")
    return sha


def move_ref(call: Call) -> Reply:
    call.pusher()
    name, sha = f"refs/{call.at['ref']}", existing(call, call.text("sha", "Reference"))
    old = call.hub.git.refs(name).get(name)
    if old is None:
        raise Invalid("Reference", "invalid", "ref", "Reference does not exist")
    if not call.sent.get("force") and not call.hub.git.is_ancestor(old, sha):
        raise Invalid("Reference", "invalid", "sha", "Update is not a fast forward")
    call.hub.git.set_ref(name, sha)
    return Reply(200, call.to.ref(name, sha))


def delete_ref(call: Call) -> Reply:
    call.pusher()
    name = f"refs/{call.at['ref']}"
    if name not in call.hub.git.refs(name):
        raise Invalid("Reference", "invalid", "ref", "Reference does not exist")
    call.hub.git.delete_ref(name)
    return Reply(204)


def get_git_commit(call: Call) -> Reply:
    return Reply(200, call.to.git_commit(call.hub.git.commit(found_commit(call, call.at["commit_sha"]))))


def create_git_commit(call: Call) -> Reply:
    user, sent = call.pusher(), call.sent
    tree = call.text("tree", "Commit")
    if call.hub.git.resolve(tree, "tree") is None:
        raise Invalid("Commit", "invalid", "tree", "Tree SHA does not exist")
    parents = [existing(call, sha) for sha in sent.get("parents", ())]
    sha = call.hub.git.write_commit(tree, parents, call.text("message", "Commit"), user.person)
    return Reply(201, call.to.git_commit(call.hub.git.commit(sha)))


def get_tree(call: Call) -> Reply:
    sha = call.hub.git.resolve(call.at["tree_sha"], "tree")
    if sha is None:
        raise Absent
    return Reply(200, call.to.tree(sha, call.hub.git.entries(sha, recursive=bool(call.asked("recursive")))))


def create_tree(call: Call) -> Reply:
    call.pusher()
    git, base = call.hub.git, call.sent.get("base_tree")
    if base is not None and git.resolve(base, "tree") is None:
        raise Invalid("Tree", "invalid", "base_tree", "base_tree is not a valid tree")
    changes = []
    for item in call.sent.get("tree", ()):
        path, sha = item.get("path", ""), item.get("sha")
        if not path or path.startswith("/") or any(part in ("", ".", "..", ".git") for part in path.split("/")):
            raise Invalid("Tree", "invalid", "path", "tree.path contains a malformed path component")
        if "content" in item and "sha" in item:
            raise Invalid("Tree", "invalid", "sha", "Must supply either tree.sha or tree.content")
        if "content" in item:
            sha = git.write_blob(item["content"].encode())
        elif sha is not None and git.resolve(sha, "blob") is None:
            raise Invalid("Tree", "invalid", "sha", f"tree.sha {sha} is not a valid blob")
        changes.append((path, item.get("mode", "100644"), sha))
    made = git.write_tree(base, changes)
    return Reply(201, call.to.tree(made, git.entries(made)))


def get_blob(call: Call) -> Reply:
    sha = call.hub.git.resolve(call.at["file_sha"], "blob")
    if sha is None:
        raise Absent
    return file_reply(call, call.hub.git.blob(sha), lambda content: call.to.blob(sha, content))


def create_blob(call: Call) -> Reply:
    call.pusher()
    content = call.sent.get("content")
    if not isinstance(content, str):
        raise Invalid("Blob", "missing_field", "content")
    sha = call.hub.git.write_blob(decoded(content) if call.sent.get("encoding", "utf-8") == "base64" else content.encode())
    return Reply(201, call.to.short_blob(sha))


def decoded(content: str) -> bytes:
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except binascii.Error as error:
        raise Invalid("Blob", "invalid", "content", "content is not valid Base64") from error


def file_reply(call: Call, content: bytes, build: Callable[[bytes], JSON]) -> Reply:
    return Reply(200, raw=content) if call.accept.split(",")[0].strip() in RAW else Reply(200, build(content))


def found_commit(call: Call, revision: str) -> str:
    sha = call.hub.git.resolve(revision)
    if sha is None:
        raise Absent
    return sha


def get_branch(call: Call) -> Reply:
    name = call.at["branch"]
    sha = call.hub.git.refs("refs/heads/").get(f"refs/heads/{name}")
    if sha is None:
        raise Absent
    return Reply(200, call.to.branch(name, call.hub.git.commit(sha)))


def list_commits(call: Call) -> Reply:
    shas = call.hub.git.log(found_commit(call, call.asked("sha", BRANCH)), call.asked("path"))
    page = call.paged(shas)
    return Reply(200, [call.to.commit(call.hub.git.commit(sha)) for sha in page.body], page.headers)


def get_commit(call: Call) -> Reply:
    git, sha = call.hub.git, found_commit(call, call.at["ref"])
    commit = git.commit(sha)
    before = commit.parents[0] if commit.parents else git.write_tree(None, ())
    changes = git.changes(before, sha)
    sums = {"additions": sum(c.additions for c in changes), "deletions": sum(c.deletions for c in changes)}
    whole = {"stats": sums | {"total": sum(sums.values())}, "files": [call.to.change(c, sha) for c in changes]}
    return Reply(200, call.to.commit(commit) | whole)


def list_check_runs(call: Call) -> Reply:
    """None: what a commit of a local hub was checked with stays on the machine."""
    found_commit(call, call.at["ref"])
    return Reply(200, {"total_count": 0, "check_runs": []})


def compare(call: Call) -> Reply:
    git = call.hub.git
    parts = call.at["basehead"].split("...")
    if len(parts) != 2:
        raise Absent
    base, head = (found_commit(call, part) for part in parts)
    common = git.merge_base(base, head)
    if common is None:
        raise Absent
    ahead, behind = git.between(base, head), git.between(head, base)
    page = call.paged([git.commit(sha) for sha in ahead])
    # The files are those of the whole comparison, and come with the first page only.
    files = git.changes(common, head) if call.asked("page", "1") == "1" else ()
    body = call.to.comparison(git.commit(base), git.commit(head), git.commit(common), page.body, len(behind), files[:300])
    return Reply(200, body | {"ahead_by": len(ahead), "total_commits": len(ahead)}, page.headers)


# ---------------------------------------------------------------------------------------------------- contents


def get_content(call: Call) -> Reply:
    git, path, ref = call.hub.git, call.at["path"].strip("/"), call.asked("ref", BRANCH)
    sha = found_commit(call, ref)
    entry = git.entry(sha, path)
    if entry is None:
        raise Absent
    if entry.kind == "tree":
        return Reply(200, [call.to.content(one, ref, None) for one in git.entries(sha, f"{path}/")])
    return file_reply(call, git.blob(entry.sha), lambda content: call.to.content(entry, ref, content))


def put_content(call: Call) -> Reply:
    user, git, path = call.pusher(), call.hub.git, call.at["path"]
    if call.sent.get("branch", BRANCH) != BRANCH:
        raise Absent
    old, given = git.entry(BRANCH, path), call.sent.get("sha")
    if old and given is None:
        raise Invalid("Content", "missing_field", "sha", 'Invalid request.\n\n"sha" wasn\'t supplied.')
    if given is not None and (old is None or old.sha != given):
        raise Conflict(f"{path} does not match {given}")
    content = decoded(call.text("content", "Content"))
    sha = git.put({path: content}, call.text("message", "Content"), user.person)
    entry = git.entry(sha, path)
    assert entry is not None, "just written"
    return Reply(200 if old else 201, {"content": call.to.content(entry, BRANCH, None), "commit": call.to.git_commit(git.commit(sha))})


# ---------------------------------------------------------------------------------------------------- actions


def list_workflows(call: Call) -> Reply:
    page = call.paged([call.to.workflow(one) for one in call.hub.workflows()])
    return Reply(200, {"total_count": len(call.hub.workflows()), "workflows": page.body}, page.headers)


def get_workflow(call: Call) -> Reply:
    return Reply(200, call.to.workflow(call.hub.workflow(call.at["workflow_id"])))


def dispatch_workflow(call: Call) -> Reply:
    user, workflow = call.pusher(), call.hub.workflow(call.at["workflow_id"])
    ref = call.text("ref", "Workflow").removeprefix("refs/heads/")
    if ref != BRANCH:
        raise Invalid("Workflow", "invalid", "ref", f"No ref found for: {ref}")
    before = len(call.hub.runs)
    call.hub.dispatch(workflow, {name: str(value) for name, value in call.sent.get("inputs", {}).items()}, user)
    if not call.sent.get("return_run_details") or len(call.hub.runs) == before:
        return Reply(204)
    run = call.to.run(call.hub.runs[-1])
    return Reply(200, {"workflow_run_id": run["id"], "run_url": run["url"], "html_url": run["html_url"]})


def list_runs(call: Call) -> Reply:
    """Of the repository, or of one workflow; newest first."""
    found = call.hub.runs[::-1]
    if "workflow_id" in call.at:
        path = call.hub.workflow(call.at["workflow_id"]).path
        found = [run for run in found if run.workflow.path == path]
    found = [run for run in found if call.asked("event", run.event) == run.event
             and call.asked("status") in ("", run.status, run.conclusion) and call.asked("head_sha", run.sha) == run.sha]
    page = call.paged([call.to.run(run) for run in found])
    return Reply(200, {"total_count": len(found), "workflow_runs": page.body}, page.headers)


def get_run(call: Call) -> Reply:
    return Reply(200, call.to.run(call.hub.run(call.number("run_id"))))


def list_jobs(call: Call) -> Reply:
    run = call.hub.run(call.number("run_id"))
    page = call.paged([call.to.job(run, place, job) for place, job in enumerate(run.jobs)])
    return Reply(200, {"total_count": len(run.jobs), "jobs": page.body}, page.headers)


def list_artifacts(call: Call) -> Reply:
    run = call.hub.run(call.number("run_id"))
    found = [call.to.artifact(run, place, name) for place, name in enumerate(run.artifacts) if call.asked("name", name) == name]
    page = call.paged(found)
    return Reply(200, {"total_count": len(found), "artifacts": page.body}, page.headers)


def list_all_artifacts(call: Call) -> Reply:
    """Of every run, newest first."""
    found = [call.to.artifact(run, place, name) for run in reversed(call.hub.runs) for place, name in enumerate(run.artifacts)
             if call.asked("name", name) == name]
    page = call.paged(found)
    return Reply(200, {"total_count": len(found), "artifacts": page.body}, page.headers)


def get_artifact(call: Call) -> Reply:
    """Not the zip but where it lies: on another host on GitHub, where the token is not wanted."""
    call.someone()
    stored_artifact(call)
    return Reply(302, headers={"Location": f"{call.base}/storage/{call.number('artifact_id')}"})


def get_storage(call: Call) -> Reply:
    return Reply(200, headers={"content-type": "application/zip"}, raw=stored_artifact(call))


def stored_artifact(call: Call) -> bytes:
    run_id, place = divmod(call.number("artifact_id"), 100)
    stored = list(call.hub.run(run_id).artifacts.values())
    if place >= len(stored):
        raise Absent
    return stored[place]


def cancel_run(call: Call) -> Reply:
    call.pusher()
    run = call.hub.run(call.number("run_id"))
    if run.status == "completed":
        raise Conflict("Cannot cancel a workflow run that is completed.")
    call.hub.cancel(run)
    return Reply(202, {})


def rerun(call: Call) -> Reply:
    user, run = call.pusher(), call.hub.run(call.number("run_id"))
    if run.status != "completed":
        raise Forbidden("This workflow is already running")
    call.hub.rerun(run, user)
    return Reply(201, {})


def administrator(call: Call) -> None:
    """No permission that a workflow can give its token reaches as far."""
    user = call.someone()
    if user == BOT:
        raise Forbidden("Resource not accessible by integration")
    if call.hub.roles.get(user.login) != "admin":
        raise Forbidden("Must have admin rights to Repository.")


def get_actions_permissions(call: Call) -> Reply:
    administrator(call)
    settings = call.hub.settings
    return Reply(200, {"enabled": settings.actions, "sha_pinning_required": False}
                 | ({"allowed_actions": settings.allowed_actions} if settings.actions else {}))


def get_workflow_permissions(call: Call) -> Reply:
    administrator(call)
    settings = call.hub.settings
    return Reply(200, {"default_workflow_permissions": settings.workflow_rights, "can_approve_pull_request_reviews": settings.may_approve})


def get_fork_approval(call: Call) -> Reply:
    administrator(call)
    return Reply(200, {"approval_policy": call.hub.settings.fork_approval})


def get_variable(call: Call) -> Reply:
    """For those who may push; a workflow's token sees variables in no way but the workflow's own."""
    if call.pusher() == BOT:
        raise Forbidden("Resource not accessible by integration")
    held = call.hub.settings.variables
    if call.at["name"] not in held:
        raise Absent
    born = moment(call.hub.created)
    return Reply(200, {"name": call.at["name"], "value": held[call.at["name"]], "created_at": born, "updated_at": born})


def list_branch_rules(call: Call) -> Reply:
    return call.paged([call.to.rule(kind) for kind in call.hub.settings.rules.get(call.at["branch"], ())])


def list_runners(call: Call) -> Reply:
    administrator(call)
    page = call.paged([call.to.machine(one) for one in call.hub.machines])
    return Reply(200, {"total_count": len(call.hub.machines), "runners": page.body}, page.headers)


# ---------------------------------------------------------------------------------------------------- which is which

OPERATIONS: tuple[tuple[str, str, Callable[[Call], Reply]], ...] = (
    ("GET", "/user", get_me),
    ("GET", "/users/{username}", get_user),
    ("GET", "/rate_limit", get_rate_limit),
    ("GET", "/storage/{artifact_id}", get_storage),
    ("GET", "/repos/{owner}/{repo}", get_repository),
    *((method, f"/repos/{{owner}}/{{repo}}{path}", operation) for method, path, operation in (
        ("GET", "/collaborators/{username}/permission", get_permission),
        ("GET", "/issues", list_issues),
        ("POST", "/issues", create_issue),
        ("GET", "/issues/comments", list_comments),
        ("GET", "/issues/{issue_number}", get_issue),
        ("PATCH", "/issues/{issue_number}", edit_issue),
        ("GET", "/issues/{issue_number}/labels", list_issue_labels),
        ("POST", "/issues/{issue_number}/labels", change_issue_labels),
        ("PUT", "/issues/{issue_number}/labels", change_issue_labels),
        ("DELETE", "/issues/{issue_number}/labels/{name}", remove_issue_label),
        ("GET", "/issues/{issue_number}/comments", list_comments),
        ("POST", "/issues/{issue_number}/comments", create_comment),
        ("GET", "/issues/{issue_number}/reactions", list_reactions),
        ("POST", "/issues/{issue_number}/reactions", create_reaction),
        ("GET", "/issues/comments/{comment_id}", get_comment),
        ("PATCH", "/issues/comments/{comment_id}", edit_comment),
        ("DELETE", "/issues/comments/{comment_id}", delete_comment),
        ("GET", "/issues/comments/{comment_id}/reactions", list_reactions),
        ("POST", "/issues/comments/{comment_id}/reactions", create_reaction),
        ("DELETE", "/issues/comments/{comment_id}/reactions/{reaction_id}", delete_reaction),
        ("GET", "/labels", list_labels),
        ("POST", "/labels", create_label),
        ("GET", "/labels/{name}", get_label),
        ("GET", "/milestones", list_milestones),
        ("POST", "/milestones", create_milestone),
        ("GET", "/milestones/{milestone_number}", get_milestone),
        ("GET", "/git/ref/{ref...}", get_ref),
        ("GET", "/git/matching-refs/{ref...}", list_matching_refs),
        ("POST", "/git/refs", create_ref),
        ("PATCH", "/git/refs/{ref...}", move_ref),
        ("DELETE", "/git/refs/{ref...}", delete_ref),
        ("POST", "/git/commits", create_git_commit),
        ("GET", "/git/commits/{commit_sha}", get_git_commit),
        ("POST", "/git/trees", create_tree),
        ("GET", "/git/trees/{tree_sha}", get_tree),
        ("POST", "/git/blobs", create_blob),
        ("GET", "/git/blobs/{file_sha}", get_blob),
        ("GET", "/branches/{branch...}", get_branch),
        ("GET", "/rules/branches/{branch...}", list_branch_rules),
        ("GET", "/commits", list_commits),
        ("GET", "/commits/{ref...}/check-runs", list_check_runs),
        ("GET", "/commits/{ref...}", get_commit),
        ("GET", "/compare/{basehead...}", compare),
        ("GET", "/contents/{path...}", get_content),
        ("PUT", "/contents/{path...}", put_content),
        ("GET", "/actions/workflows", list_workflows),
        ("GET", "/actions/workflows/{workflow_id}", get_workflow),
        ("POST", "/actions/workflows/{workflow_id}/dispatches", dispatch_workflow),
        ("GET", "/actions/workflows/{workflow_id}/runs", list_runs),
        ("GET", "/actions/runs", list_runs),
        ("GET", "/actions/runs/{run_id}", get_run),
        ("GET", "/actions/runs/{run_id}/jobs", list_jobs),
        ("POST", "/actions/runs/{run_id}/cancel", cancel_run),
        ("POST", "/actions/runs/{run_id}/rerun", rerun),
        ("GET", "/actions/runners", list_runners),
        ("GET", "/actions/permissions", get_actions_permissions),
        ("GET", "/actions/permissions/workflow", get_workflow_permissions),
        ("GET", "/actions/permissions/fork-pr-contributor-approval", get_fork_approval),
        ("GET", "/actions/variables/{name}", get_variable),
        ("GET", "/actions/runs/{run_id}/artifacts", list_artifacts),
        ("GET", "/actions/artifacts", list_all_artifacts),
        ("GET", "/actions/artifacts/{artifact_id}/zip", get_artifact),
    )),
)


def _compiled(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)((?:\\\.){3})?\\\}", lambda m: f"(?P<{m[1]}>{'.+' if m[2] else '[^/]+'})", re.escape(path)))


ROUTES = tuple((method, _compiled(path), operation) for method, path, operation in OPERATIONS)


def answer(call: Call) -> Reply:
    """Carries out one call: finds its operation, and turns what went wrong into GitHub's statuses."""
    for method, pattern, operation in ROUTES:
        match = pattern.fullmatch(call.path) if method == call.method else None
        if match is None:
            continue
        at = {name: unquote(part) for name, part in match.groupdict().items()}
        if "owner" in at and f"{at['owner']}/{at['repo']}".lower() != call.hub.name.lower():
            return trouble(404, "Not Found")
        full = Call(call.hub, call.user, call.method, call.path, call.query, call.body, call.accept, call.base, at)
        try:
            return operation(full)
        except Unknown:
            return trouble(401, "Requires authentication")
        except Forbidden as error:
            return trouble(403, str(error))
        except Absent:
            return trouble(404, "Not Found")
        except Conflict as error:
            return trouble(409, str(error))
        except Invalid as error:
            return trouble(422, str(error) if error.error.get("message") else "Validation Failed", error.error)
        except GitError as error:
            return trouble(422, str(error))
    return trouble(404, "Not Found")


def trouble(status: int, message: str, error: JSON | None = None) -> Reply:
    body = {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}
    return Reply(status, body | ({"errors": [error]} if error else {}))


def who(hub: Hub, authorization: str) -> User | None:
    """The account behind an Authorization header; None where there is none. Raises Unknown for a wrong token."""
    if not authorization:
        return None
    token = authorization.partition(" ")[2]
    if token not in hub.tokens:
        raise Unknown
    return hub.tokens[token]


