"""The pages of a local hub: issues, threads, files, runs, as GitHub shows them, and the forms that people use."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from localhub import markdown
from localhub.repository import BRANCH, Entry
from localhub.state import Absent, Comment, Forbidden, Hub, Invalid, Issue, Job, Label, Reaction, Run, User, Workflow

STYLE = "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("github-markdown.css", "page.css"))
# Fetches the page anew every 1.5 s and puts what changed in its place, so that what is being typed stays.
SCRIPT = """
for (const part of document.querySelectorAll("[data-live]")) part.dataset.seen = part.innerHTML;
setInterval(async () => {
  const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
  for (const old of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(old.id);
    if (!fresh || fresh.innerHTML === old.dataset.seen) continue;
    old.innerHTML = old.dataset.seen = fresh.innerHTML;
  }
}, 1500);
"""
# Comment text is sanitized; should that ever fail, the browser still runs no script of it and loads nothing from elsewhere.
POLICY = ("default-src 'none'; style-src 'self'; img-src 'self' data:; script-src 'self'; connect-src 'self'; form-action 'self'; "
          "base-uri 'none'; frame-ancestors 'none'")
EMOJI = {"+1": "👍", "-1": "👎", "laugh": "😄", "hooray": "🎉", "confused": "😕", "heart": "❤️", "rocket": "🚀", "eyes": "👀"}
MARKS = {"success": "✓", "failure": "✗", "cancelled": "⊘", "skipped": "⊘", "queued": "○", "in_progress": "●"}
COLORS = ("#0969da", "#8250df", "#bf3989", "#9a6700", "#1a7f37", "#bc4c00", "#57606a")
KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "text/plain; charset=utf-8"}  # an SVG may hold scripts: never as a picture


# ---------------------------------------------------------------------------------------------------- pieces


def ago(when: datetime) -> str:
    return f'<time datetime="{when.isoformat()}">{when:%b} {when.day}, {when:%Y, %H:%M} UTC</time>'


def avatar(user: User) -> str:
    bot = user.kind == "Bot"
    return f'<span class="avatar tone{user.id % len(COLORS)}{" bot" if bot else ""}">{"⚙" if bot else escape(user.login[0].upper())}</span>'


def label(one: Label) -> str:
    return f'<span class="label" data-color="{one.color}">{escape(one.name)}</span>'


def label_style(labels: Sequence[Label]) -> str:
    """Colours live in the style sheet, for the page's policy allows no inline styles; black or white by the ground's luminance."""
    rules = [f".tone{place} {{ background: {color}; }}" for place, color in enumerate(COLORS)]
    for color in sorted({one.color for one in labels if re.fullmatch(r"[0-9A-Fa-f]{6}", one.color)}):
        red, green, blue = (int(color[at:at + 2], 16) for at in (0, 2, 4))
        ink = "#1f2328" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"
        rules.append(f'[data-color="{color}"] {{ background: #{color}; color: {ink}; }}')
    return "\n".join(rules)


def reactions(given: Sequence[Reaction]) -> str:
    counts = Counter(one.content for one in given)
    shown = "".join(f'<span title="{content}">{EMOJI[content]} {n}</span>' for content, n in counts.items())
    return f'<div class="reactions">{shown}</div>' if shown else ""


def dot(run: Run) -> str:
    word = run.conclusion or run.status
    return f'<span class="dot {word}" title="{word}">{MARKS[word]}</span>'


def how_far(job: Job) -> str:
    return job.conclusion if job.conclusion in ("queued", "in_progress") else f"{job.conclusion} · {job.duration_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Pages:
    """Draws pages of one hub. `people` may post through them."""

    hub: Hub

    @property
    def root(self) -> str:
        return f"/{self.hub.name}"

    @property
    def people(self) -> tuple[User, ...]:
        return tuple(user for user in self.hub.users.values() if user.kind == "User")

    def page(self, title: str, here: str, body: str) -> str:
        """A whole page with the repository's head; `here` is the tab it belongs to."""
        tabs = (("Code", self.root), ("Issues", f"{self.root}/issues"), ("Actions", f"{self.root}/actions"))
        nav = "".join(f'<a{" class=here" if name == here else ""} href="{address}">{name}</a>' for name, address in tabs)
        owner, name = self.hub.name.split("/")
        return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · {escape(self.hub.name)}</title>'
                '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/_/page.css">'
                '<script src="/_/page.js" defer></script></head><body><header>'
                '<span class="note">a local hub: nothing here leaves this machine</span><div class="name">'
                f'<a href="{self.root}">{escape(owner)}</a> / <a href="{self.root}"><b>{escape(name)}</b></a></div>'
                f"<nav>{nav}</nav></header><main>{body}</main></body></html>")

    def style(self) -> str:
        return f"{STYLE}\n{label_style(list(self.hub.labels.values()))}"

    # ------------------------------------------------------------------------------------------------ issues

    def issues(self, state: str) -> str:
        counts = Counter(issue.state for issue in self.hub.issues)
        rows = [self._issue_row(issue) for issue in reversed(self.hub.issues) if issue.state == state]
        tabs = " · ".join(f'<a href="?state={one}">{f"<b>{counts[one]} {one}</b>" if one == state else f"{counts[one]} {one}"}</a>'
                          for one in ("open", "closed"))
        none = f"There is no {state} issue. The Actions tab can start Weekly kickoff, which opens one."
        return self.page("Issues", "Issues", f'<div class="box" id="issues" data-live><div class="head">{tabs}</div>'
                         f'{"".join(rows) or self._nothing(none)}</div>')

    def _nothing(self, text: str) -> str:
        return f'<div class="row soft">{escape(text)}</div>'

    def _issue_row(self, issue: Issue) -> str:
        mark = "⊙" if issue.state == "open" else "✓"
        milestone = f" · ⚑ {escape(issue.milestone.title)}" if issue.milestone else ""
        comments = f'<span class="soft">{len(issue.comments)} comments</span>' if issue.comments else ""
        title = f'<a class="title" href="{self.root}/issues/{issue.number}">{escape(issue.title)}</a> {"".join(map(label, issue.labels))}'
        return (f'<div class="row"><span class="dot {issue.state}">{mark}</span><div class="grow">{title}<div class="soft">'
                f"#{issue.number} opened {ago(issue.created)} by {escape(issue.user.login)}{milestone}</div></div>{comments}</div>")

    def issue(self, issue: Issue) -> str:
        """A thread: its head, the issue and its comments, what stands beside them, and the box to write in."""
        return self.page(issue.title, "Issues", f'<div id="head" data-live>{self._issue_head(issue)}</div><div class="columns"><div>'
                         f'<div id="thread" data-live>{self._thread(issue)}</div>{self._write(issue)}</div>'
                         f'<aside class="side" id="side" data-live>{self._side(issue)}</aside></div>')

    def _issue_head(self, issue: Issue) -> str:
        word = "⊙ Open" if issue.state == "open" else "✓ Closed"
        return (f'<h1>{escape(issue.title)} <span class="number">#{issue.number}</span></h1><div class="under">'
                f'<span class="state {issue.state}">{word}</span>{escape(issue.user.login)} opened this issue {ago(issue.created)} · '
                f"{len(issue.comments)} comment{'' if len(issue.comments) == 1 else 's'}</div>")

    def _thread(self, issue: Issue) -> str:
        posts = [self._post(issue.user, issue.created, issue.created, issue.body or "", issue.reactions, f"issue-{issue.number}")]
        posts += [self._post(c.user, c.created, c.updated, c.body, c.reactions, f"issuecomment-{c.id}") for c in issue.comments]
        return "".join(posts)

    def _post(self, user: User, created: datetime, updated: datetime, body: str, given: Sequence[Reaction], anchor: str) -> str:
        shown = markdown.shown(body, self.root, f"{self.root}/issues/1") or '<p class="soft"><i>No description provided.</i></p>'
        edited = " · edited" if updated > created else ""
        owner = user.login == self.hub.name.split("/")[0]
        pill = '<span class="pill">bot</span>' if user.kind == "Bot" else '<span class="pill">Owner</span>' if owner else ""
        return (f'<div class="post" id="{anchor}">{avatar(user)}<div class="box{" own" if owner else ""}"><div class="head">'
                f'<b>{escape(user.login)}</b>{pill} commented {ago(created)}{edited}</div>'
                f'<div class="body markdown-body">{shown}</div>{reactions(given)}</div></div>')

    def _side(self, issue: Issue) -> str:
        runs = "".join(f"<div>{self._run_link(run)}</div>" for run in self.hub.runs[:-6:-1])
        return (f'<section><h2>Labels</h2>{"".join(map(label, issue.labels)) or "None yet"}</section>'
                f'<section><h2>Milestone</h2>{escape(issue.milestone.title) if issue.milestone else "No milestone"}</section>'
                f'<section><h2>Workflows</h2>{runs or "None has run"}</section>')

    def _run_link(self, run: Run) -> str:
        return f'{dot(run)} <a href="{self.root}/actions/runs/{run.id}">{escape(run.workflow.name)} #{run.number}</a>'

    def _write(self, issue: Issue) -> str:
        options = "".join(f"<option>{escape(user.login)}</option>" for user in self.people)
        return (f'<form class="write" method="post" action="{self.root}/issues/{issue.number}/comments">'
                '<textarea name="body" required placeholder="Add a comment: /help, or /bench week01 --smoke"></textarea>'
                '<div class="foot"><span class="soft">A comment starts this repository\'s own workflow, on this machine.</span>'
                f'<label>as <select name="login">{options}</select></label><button>Comment</button></div></form>')

    def standalone(self, issue: Issue, address: str) -> str:
        """The thread as one file that needs no server: styles and pictures inside it, links to the hub taken out."""
        body = (f'{self._issue_head(issue)}<div class="columns"><div>{self._thread(issue)}</div>'
                f'<aside class="side">{self._side(issue)}</aside></div>')
        body = re.sub(r'<img([^>]*) src="([^"]*)"', lambda m: f'<img{m[1]} src="{self._data_address(m[2], address)}"', body)
        body = re.sub(rf' href="(?:{re.escape(address)}|/)[^"]*"', "", body)
        return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(issue.title)}</title>'
                f'<style>{self.style()}</style></head><body><main>{body}</main></body></html>')

    def _data_address(self, source: str, address: str) -> str:
        found = picture(self.hub, source.removeprefix(address))
        return source if found is None else f"data:image/png;base64,{base64.b64encode(found).decode()}"

    # ------------------------------------------------------------------------------------------------ files

    def repository(self) -> str:
        git = self.hub.git
        commit = git.commit(git.head())
        rows = "".join(self._entry_row(entry) for entry in sorted(git.entries(commit.sha), key=lambda e: (e.kind != "tree", e.path)))
        board = git.read(commit.sha, "SCOREBOARD.md")
        file = self._markdown_box("SCOREBOARD.md", commit.sha, board) if board is not None else ""
        subject = escape(commit.message.splitlines()[0]) if commit.message else ""
        return self.page("Code", "Code", f'<div class="box gap"><div class="head"><b>{escape(commit.author.name)}</b> '
                         f'<a href="{self.root}/commit/{commit.sha}">{subject}</a> · <code>{commit.sha[:7]}</code> · '
                         f'{len(git.log(commit.sha))} commits</div>{rows}</div><div id="board" data-live>{file}</div>')

    def _entry_row(self, entry: Entry) -> str:
        name, room = escape(entry.path.rsplit("/", 1)[-1]), "tree" if entry.kind == "tree" else "blob"
        address = f"{self.root}/{room}/{BRANCH}/{quote(entry.path)}"
        return f'<div class="row"><a class="grow" href="{address}">{name}{"/" if room == "tree" else ""}</a></div>'

    def _markdown_box(self, path: str, revision: str, content: bytes) -> str:
        # What a file names by its place is looked up at the same commit.
        folder = f"{self.root}/blob/{revision}/{path}"
        body = markdown.shown(content.decode(errors="replace"), self.root, folder, in_file=True)
        return f'<div class="box"><div class="head"><b>{escape(path)}</b></div><div class="body markdown-body">{body}</div></div>'

    def folder(self, revision: str, path: str) -> str:
        entries = self.hub.git.entries(revision, f"{path}/")
        rows = "".join(self._entry_row(entry) for entry in sorted(entries, key=lambda e: (e.kind != "tree", e.path)))
        return self.page(path, "Code", f'<div class="box"><div class="head"><b>{escape(path)}</b></div>{rows}</div>')

    def file(self, revision: str, path: str, content: bytes) -> str:
        head = f'<div class="head"><b>{escape(path)}</b></div>'
        if path.endswith(".md"):
            box = self._markdown_box(path, revision, content)
        elif path.endswith(".png"):
            box = f'<div class="box">{head}<div class="body"><img alt="" src="?raw=true"></div></div>'
        else:
            box = f'<div class="box">{head}<pre class="log">{escape(content[:200_000].decode(errors="replace"))}</pre></div>'
        return self.page(path, "Code", box)

    def commit(self, sha: str) -> str:
        git = self.hub.git
        commit = git.commit(sha)
        before = commit.parents[0] if commit.parents else git.write_tree(None, ())
        rows = "".join(f'<div class="row"><a class="grow" href="{self.root}/blob/{sha}/{quote(change.path)}">{escape(change.path)}</a>'
                       f'<span class="soft">{change.status} · +{change.additions} -{change.deletions}</span></div>'
                       for change in git.changes(before, sha))
        return self.page(sha[:7], "Code", f'<h1>{escape(commit.message.splitlines()[0])}</h1><p class="soft">'
                         f'{escape(commit.author.name)}, {ago(commit.when)}, <code>{sha}</code></p><div class="box">{rows}</div>')

    # ------------------------------------------------------------------------------------------------ actions

    def actions(self) -> str:
        forms = "".join(f'<div class="row"><div class="grow"><b>{escape(w.name)}</b> <span class="soft">{escape(w.file)} · on '
                        f'{escape(", ".join(w.triggers))}</span></div>{self._run_form(w)}</div>' for w in self.hub.workflows())
        rows = "".join(f'<div class="row">{dot(run)}<div class="grow"><a class="title" href="{self.root}/actions/runs/{run.id}">'
                       f'{escape(run.title)}</a><div class="soft">{self._run_facts(run)}</div></div>'
                       f'<span class="soft">{run.conclusion or run.status}</span></div>' for run in reversed(self.hub.runs))
        return self.page("Actions", "Actions", f'<div class="box gap"><div class="head"><b>Workflows</b></div>{forms}</div>'
                         f'<div class="box"><div class="head"><b>Runs</b></div><div id="runs" data-live>'
                         f'{rows or self._nothing("No workflow has run.")}</div></div>')

    def _run_facts(self, run: Run) -> str:
        return f"{escape(run.workflow.name)} #{run.number} · {run.event} by {escape(run.actor.login)} · {ago(run.created)}"

    def _run_form(self, workflow: Workflow) -> str:
        if "workflow_dispatch" not in workflow.triggers:
            return ""
        fields = []
        for one in workflow.inputs:
            name, hint = escape(one.name, quote=True), escape(one.description, quote=True)
            options = "".join(f'<option{" selected" if option == one.default else ""}>{escape(option)}</option>' for option in one.options)
            box = f'<input type="text" name="{name}" size="40" value="{escape(one.default, quote=True)}" placeholder="{hint}">'
            fields.append(f'<label title="{hint}">{name} {f"""<select name="{name}">{options}</select>""" if options else box}</label>')
        return (f'<form class="run" method="post" action="{self.root}/actions/workflows/{escape(workflow.file)}/dispatches">'
                f'{"".join(fields)}<button>Run workflow</button></form>')

    def run(self, run: Run) -> str:
        jobs = "".join(f'<details class="job"{" open" if job.conclusion != "skipped" else ""} id="{escape(job.name, quote=True)}"><summary>'
                       f'<span class="dot {job.conclusion}">{MARKS[job.conclusion]}</span> <b>{escape(job.name)}</b> '
                       f'<span class="soft">{how_far(job)}</span></summary>'
                       f'<pre class="log">{escape(job.log)}</pre></details>' for job in run.jobs)
        note = f'<p><b>{escape(run.note)}</b></p>' if run.note else ""
        at = f'<a href="{self.root}/commit/{run.sha}"><code>{run.sha[:7]}</code></a>'
        return self.page(run.title, "Actions", f'<div id="run" data-live><h1>{dot(run)} {escape(run.title)}</h1><p class="soft">'
                         f'{self._run_facts(run)} · at {at}</p>{note}<div class="box">{jobs}</div></div>')


def picture(hub: Hub, address: str) -> bytes | None:
    """The bytes behind /owner/name/blob/<revision>/<path>.png, or None."""
    match = re.fullmatch(rf"/{re.escape(hub.name)}/blob/([^/?]+)/([^?]+\.png)(?:\?raw=true)?", address)
    revision = hub.git.resolve(match[1]) if match else None
    return hub.git.read(revision, match[2]) if match and revision else None


# ---------------------------------------------------------------------------------------------------- routes


def application(hub: Hub) -> Starlette:
    """The pages as an ASGI application. A form that another site's page sends is refused."""
    pages = Pages(hub)

    def html(text: str, status: int = 200) -> Response:
        return HTMLResponse(text, status, {"content-security-policy": POLICY})

    def guarded(handle: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            path = request.path_params
            if f"{path['owner']}/{path['repo']}" != hub.name:
                return html(pages.page("Not found", "", "<h1>404</h1><p>There is no such page.</p>"), 404)
            try:
                with hub.lock:
                    return handle(request)
            except Absent:
                return html(pages.page("Not found", "", "<h1>404</h1><p>There is no such page.</p>"), 404)
        return answer

    def at_home(request: Request) -> bool:
        return request.headers.get("origin", f"http://{request.headers['host']}") == f"http://{request.headers['host']}"

    def found_revision(request: Request) -> str:
        sha = hub.git.resolve(request.path_params["revision"])
        if sha is None:
            raise Absent
        return sha

    def number(request: Request) -> int:
        return int(request.path_params["number"])

    def show_repository(_: Request) -> Response:
        return html(pages.repository())

    def show_issues(request: Request) -> Response:
        return html(pages.issues("closed" if request.query_params.get("state") == "closed" else "open"))

    def show_issue(request: Request) -> Response:
        return html(pages.issue(hub.issue(number(request))))

    def show_actions(_: Request) -> Response:
        return html(pages.actions())

    def show_run(request: Request) -> Response:
        return html(pages.run(hub.run(number(request))))

    def show_commit(request: Request) -> Response:
        return html(pages.commit(found_revision(request)))

    def show_file(request: Request) -> Response:
        sha, path = found_revision(request), request.path_params["path"].strip("/")
        entry = hub.git.entry(sha, path)
        if entry is None:
            raise Absent
        if entry.kind == "tree":
            return html(pages.folder(sha, path))
        content = hub.git.blob(entry.sha)
        if request.query_params.get("raw") == "true":
            kind = KINDS.get(Path(path).suffix, "text/plain; charset=utf-8")
            return Response(content, media_type=kind, headers={"x-content-type-options": "nosniff"})
        return html(pages.file(sha, path, content))

    async def comment(request: Request) -> Response:
        form = await request.form()
        user = hub.users.get(str(form.get("login", "")))
        if not at_home(request) or user not in pages.people:
            return html(pages.page("Refused", "", "<h1>403</h1><p>Comments come from this hub's own pages.</p>"), 403)
        try:
            with hub.lock:
                # Browsers send CRLF, and GitHub keeps it.
                made: Comment = hub.add_comment(user, number(request), str(form.get("body", "")))
        except (Invalid, Forbidden) as error:
            return html(pages.page("Refused", "", f"<h1>422</h1><p>{escape(str(error))}</p>"), 422)
        except Absent:
            return html(pages.page("Not found", "", "<h1>404</h1>"), 404)
        return RedirectResponse(f"{pages.root}/issues/{made.issue}#issuecomment-{made.id}", 303)

    async def dispatch(request: Request) -> Response:
        form = await request.form()
        if not at_home(request):
            return html(pages.page("Refused", "", "<h1>403</h1><p>Forms come from this hub's own pages.</p>"), 403)
        try:
            with hub.lock:
                owner = hub.users[hub.name.split("/")[0]]
                hub.dispatch(hub.workflow(request.path_params["file"]), {name: str(value) for name, value in form.items()}, owner)
        except (Invalid, Absent) as error:
            return html(pages.page("Refused", "", f"<h1>422</h1><p>{escape(str(error))}</p>"), 422)
        return RedirectResponse(f"{pages.root}/actions", 303)

    def show_style(_: Request) -> Response:
        return Response(pages.style(), media_type="text/css")

    def show_script(_: Request) -> Response:
        return Response(SCRIPT, media_type="text/javascript")

    def home(_: Request) -> Response:
        return RedirectResponse(pages.root)

    room = "/{owner}/{repo}"
    return Starlette(routes=[
        Route("/", home),
        Route("/_/page.css", show_style),
        Route("/_/page.js", show_script),
        Route(room, guarded(show_repository)),
        Route(f"{room}/issues", guarded(show_issues)),
        Route(f"{room}/issues/{{number:int}}", guarded(show_issue)),
        Route(f"{room}/issues/{{number:int}}/comments", comment, methods=["POST"]),
        Route(f"{room}/actions", guarded(show_actions)),
        Route(f"{room}/actions/runs/{{number:int}}", guarded(show_run)),
        Route(f"{room}/actions/workflows/{{file}}/dispatches", dispatch, methods=["POST"]),
        Route(f"{room}/commit/{{revision}}", guarded(show_commit)),
        Route(f"{room}/tree/{{revision}}/{{path:path}}", guarded(show_file)),
        Route(f"{room}/blob/{{revision}}/{{path:path}}", guarded(show_file)),
    ], middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])])
