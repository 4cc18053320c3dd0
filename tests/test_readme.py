"""The README says what stands in the repository. What its curl commands print is in test_curl.py."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import (
    CLEAN,
    ERROR_CODES,
    PATH,
    README,
    REQUESTS,
    ROOT,
    blocks,
    chapter,
    served,
)

from app import app

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXCERPT = re.compile(
    r"^### ([\w./]+)\n+```python\n(.*?)^```$", re.MULTILINE | re.DOTALL
)  # A heading names its file.
PROSE = FENCE.sub("", README)
# The tokens that each word of the route table stands for. `stale` is an access token from /refresh.
TOKENS = {
    "none": {"none", "refresh", "stale", "fresh"},
    "refresh": {"refresh"},
    "access": {"stale", "fresh"},
    "fresh access": {"fresh"},
    "access or refresh": {"refresh", "stale", "fresh"},
}
KINDS = {"sh", "powershell", "json", "text", "js", "python"}
RUN = ["Quick start", "Environment setup", "Testing with curl"]
# What a test machine cannot or should not run: it needs an account, a download, or another system.
ELSEWHERE = re.compile(
    r"heroku |git |export |python app\.py$|npx --yes (newman|mongosh)|url=https|curl -si |python tests/benchmark\.py"
)


def table(first_heading, text=README):
    """The rows of the table whose header starts so, as lists of cells without backticks."""
    rows = re.search(rf"^\| {first_heading} \|.*\n\|[ |-]+\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    return [
        [cell.strip().replace("`", "") for cell in row.strip("|").split("|")]
        for row in rows.splitlines()
    ]


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def shell_lines(language="sh", text=README):
    return [
        line for kind, code in FENCE.findall(text) if kind == language for line in code.splitlines()
    ]


def test_first_request_is_answered_within_60_lines():
    assert README[: README.index(blocks(chapter("Quick start"))[0][1])].count("\n") < 60


def test_every_excerpt_stands_in_its_file():
    excerpts = EXCERPT.findall(README)
    for path, code in excerpts:
        rest = "\n" + read(path)
        for part in code.split("...\n"):  # In the file's order.
            assert f"\n{part}" in rest, (path, part)
            rest = rest[rest.index(f"\n{part}") + len(part) :]
    assert [code for kind, code in FENCE.findall(README) if kind == "python"] == [
        code for _, code in excerpts
    ]


def test_script_for_postman_stands_in_the_collection():
    [script] = [code for kind, code in FENCE.findall(README) if kind == "js"]
    assert all(json.dumps(line) in read(PATH) for line in script.splitlines())


ROUTES = table("method")


def test_route_table_has_every_url_and_method():
    rules = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD"}
    }
    listed = [(method, re.sub("<", "<string:", url)) for method, url, *_ in ROUTES]
    assert set(listed) == rules and len(listed) == len(rules)


@pytest.mark.parametrize(("method", "url", "token"), [row[:3] for row in ROUTES])
def test_route_takes_the_tokens_that_the_table_says(api, alice, method, url, token):
    refreshed = api.post("/refresh", alice.refresh).json()["access_token"]
    # Of sessions of their own, since one of the requests is a logout. `fresh` is last: one is the user's deletion.
    tokens = {
        "none": None,
        "refresh": alice.login()[1],
        "stale": refreshed,
        "fresh": alice.login()[0],
    }
    path = url.replace("<username>", "alice").replace("<todo_id>", alice.add()["id"])
    taken = {
        kind
        for kind, value in tokens.items()
        if api.request(method, path, value).status_code != 401
    }
    assert taken == TOKENS[token]


def test_route_table_has_the_statuses_and_codes_that_come():
    adapter = app.url_map.bind("")
    answers = [(item, item["response"][0]["code"]) for item in REQUESTS]
    came = {served(adapter, item): code for item, code in answers if code < 300}
    for method, url, _, _, success, errors in ROUTES:
        assert (
            int(success[:3]) == came[adapter.match(re.sub("<.*>", "x", url), method)[0], method]
        ), (method, url)
        assert set(re.findall(r"\w+", errors)) <= ERROR_CODES.keys()


def test_error_table_has_every_code():
    rows = {code: int(status) for status, code, _ in table("status")}
    assert rows == ERROR_CODES
    assert len(table("status")) == len(ERROR_CODES)


def test_variable_table_has_every_variable_that_is_read():
    code = "".join(read(path) for path in [*ROOT.glob("*.py"), *(ROOT / "resources").glob("*.py")])
    names = set(re.findall(r'environ(?:\.get|\.setdefault)?[(\[]"(\w+)"', code))
    names |= set(re.findall(r"(?:if-(?:not-)?env = |\$\()(\w+)", read("uwsgi.ini")))
    rows = {name: defaults for name, *defaults, _ in table("variable")}
    assert rows.keys() == names
    port, processes = re.search(
        r"http-socket = :(\d+)[^$]*processes = (\d+)", read("uwsgi.ini")
    ).groups()
    assert f'"PORT", "{port}"' in read("app.py") and rows["PORT"] == [port, port]
    assert rows["WEB_CONCURRENCY"] == ["not used", processes]


def test_uwsgi_table_has_every_setting():
    explained = {name for row in table("setting") for name in row[0].split(", ")}
    assert explained == set(re.findall(r"^([\w-]+) =", read("uwsgi.ini"), re.MULTILINE))


def listed_files():
    """The paths in the README's file tree."""
    folder, paths = "", set()
    for line in chapter("Code walk-through").split("```text\n")[1].split("```")[0].splitlines():
        indent, name, clause = re.fullmatch(r"( *)(\S+)(?: +(\S.*))?", line).groups()
        folder = folder if indent else ""
        paths |= {folder + name} - {folder + name if name.endswith("/") else ""}
        assert bool(clause) != name.endswith("/"), f"a file without a clause: {line}"
        folder = name if name.endswith("/") else folder
    return paths


def test_every_file_of_the_tree_exists():
    assert {path for path in listed_files() if not (ROOT / path).is_file()} == set()


@pytest.mark.skipif(
    not shutil.which("git") or not (ROOT / ".git").exists(), reason="needs git and a clone"
)
def test_every_file_is_in_the_tree():
    command = ["git", "-c", "safe.directory=*", "ls-files"]
    tracked = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert set(tracked) - listed_files() == set(), (
        "add these to the file tree in README.md, with a clause each"
    )


def test_every_link_leads_somewhere():
    titles = re.findall(r"^#+ (.*)", PROSE, re.MULTILINE)
    anchors = {
        re.sub(r"[^\w\- ]", "", title.replace("\\_", "_").lower()).replace(" ", "-")
        for title in titles
    }
    assert len(anchors) == len(titles)
    links = [
        link for link in re.findall(r"\]\(([^)]+)\)", PROSE) if not link.startswith("https://")
    ]
    inside, outside = (
        {link for link in links if link.startswith("#") is kind} for kind in (True, False)
    )
    assert inside - {f"#{anchor}" for anchor in anchors} == set() and len(inside) > 10
    assert {path for path in outside if not (ROOT / path).exists()} == set()


def test_quick_start_installs_and_tests_as_the_checks_do():
    start, check = [
        line
        for line in shell_lines(text=chapter("Quick start"))
        if line.startswith("python3 -m venv")
    ]
    assert start.replace("python app.py", "python -m pytest") == check
    assert next(line for line in README.splitlines() if line.endswith("python -m pytest")) == check
    assert "grep -m 1 'python -m pytest$' README.md" in read(".ci/run")
    windows = [line.replace("env\\Scripts\\", "").split("; ") for line in shell_lines("powershell")]
    first = ["python -m venv env", "python -m pip install -r tests/requirements.txt"]
    assert windows == [[*first, "python app.py"], [*first, "python -m pytest"]]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="needs bash")
def test_virtual_environment_is_made_as_shown(tmp_path):
    [(commands, output)] = blocks(chapter("Environment setup"))
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path, env=CLEAN, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (output, "")


TEST_COMMANDS = shell_lines(text=chapter("Running the tests"))


@pytest.mark.slow
@pytest.mark.parametrize("line", TEST_COMMANDS)
def test_command_for_the_tests_finds_some(line):
    assert line.startswith("python -m pytest")
    command = [sys.executable, *line.split()[1:], "--collect-only", "-q"]
    assert subprocess.run(command, cwd=ROOT, env=CLEAN, stdout=subprocess.DEVNULL).returncode == 0


def test_commands_that_cannot_run_here_name_what_there_is():
    shown = "".join(
        commands for title in RUN for commands, _ in blocks(chapter(title))
    ).splitlines()
    lines = [
        line
        for line in shell_lines()
        if line not in shown + TEST_COMMANDS and "&& pip install" not in line
    ]
    assert {kind for kind, _ in FENCE.findall(README)} == KINDS and "```" not in PROSE
    # A new block either joins a chapter that is run, or gets its class here.
    assert [line for line in lines if not ELSEWHERE.match(line)] == []
    text = "\n".join(lines)
    assert [
        path
        for path in re.findall(r"[\w./-]+\.(?:py|txt|ini|json)\b", text)
        if not (ROOT / path).is_file()
    ] == []
    assert set(re.findall(r"(?:export|config:set) (\w+)=", text)) <= {
        row[0] for row in table("variable")
    }
    assert set(re.findall(r"\$url(/\w+)", text)) <= {url for _, url, *_ in ROUTES}
    assert [
        name for name in re.findall(r"\bdb\.(\w+)", text) if f'"{name}"' not in read("db.py")
    ] == []
    assert len(set(re.findall(r"newman@\S+", README))) == 1
