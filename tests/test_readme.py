"""The README says what is in the repository. What its commands print is in test_curl.py."""

import ast
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
# The line before an excerpt names its file.
EXCERPT = re.compile(r"^\[([\w./]+)\]\(\1\):\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROSE = FENCE.sub("", README)
# The tokens that each word of the route table stands for. `stale` is an access token from /refresh.
TOKENS = {
    "none": {"none", "refresh", "stale", "fresh"},
    "refresh": {"refresh"},
    "access": {"stale", "fresh"},
    "fresh access": {"fresh"},
    "access or refresh": {"refresh", "stale", "fresh"},
}
KINDS = {"sh", "powershell", "json", "text", "js", "python", "http", "mermaid"}
RUN = [
    "Quick start",
    "Environment setup",
    "Ideas before code",
    "Code walk-through",
    "Testing with curl",
]
# What a test machine cannot or should not run: it needs an account, a download, another system, or
# it is run by another test.
ELSEWHERE = re.compile(
    r"heroku |git |cd todo-api|export |python app\.py$|npx --yes (newman|mongosh)|url=https"
    r"|id=\$\(curl -s \$url/todos |curl -si |curl -v |PORT=5001 uwsgi|python tests/benchmark\.py"
    r"|python -m pytest"
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
    assert len(excerpts) > 20
    # Several functions can be shown together; each stands in the file as it is.
    parts = [(path, part.strip("\n")) for path, code in excerpts for part in code.split("\n\n\n")]
    gone = [
        f"{path}, from this line on: {first_difference(path, part)}\n{part}"
        for path, part in parts
        if part not in read(path)
    ]
    assert gone == [], "\n\n".join(
        ["README.md shows these, and they stand there no longer. Copy the functions again.", *gone]
    )


def first_difference(path, part):
    """The first line of an excerpt that is not as it is in the file."""
    lines = part.splitlines()
    for number, line in enumerate(lines, start=1):
        if "\n".join(lines[:number]) not in read(path):
            return line.strip()


def test_every_excerpt_names_its_file():
    of_files = [code for _, code in EXCERPT.findall(README)]
    own_field = fenced("python", chapter("A field of your own"))
    assert sorted(fenced("python")) == sorted(of_files + own_field)


def fenced(language, text=README):
    """The code of all blocks in a language."""
    return [code for kind, code in FENCE.findall(text) if kind == language]


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
    # Of sessions of their own, since one of the requests is a logout. `fresh` is last, since one is
    # the user's deletion.
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


def test_variable_table_has_every_variable():
    """That they are read, and what happens without them, is in test_production.py."""
    rows = {name: defaults for name, *defaults, _ in table("variable")}
    assert rows.keys() == {"MONGODB_URI", "JWT_SECRET_KEY", "PORT", "WEB_CONCURRENCY"}
    assert rows["PORT"] == ["5000", "5000"]
    assert rows["WEB_CONCURRENCY"] == ["not used", "2"]


def test_uwsgi_table_has_every_setting():
    explained = {name for row in table("setting") for name in row[0].split(", ")}
    assert explained == set(re.findall(r"^([\w-]+) =", read("uwsgi.ini"), re.MULTILINE))


def listed_files():
    """The paths in the README's file tree."""
    folder, paths = "", set()
    for line in chapter("The files").split("```text\n")[1].split("```")[0].splitlines():
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


# Pictures

PARSE = """
import { readFileSync } from "node:fs";
import { JSDOM } from "jsdom";

const { window } = new JSDOM("");
globalThis.window = window;
globalThis.document = window.document;
const mermaid = (await import("mermaid")).default;
for (const picture of JSON.parse(readFileSync(0, "utf8"))) {
    await mermaid.parse(picture);
}
"""
NPM = shutil.which("npm", path=CLEAN["PATH"])


@pytest.mark.slow
@pytest.mark.skipif(not NPM, reason="Mermaid needs npm, which comes with Node.js")
def test_pictures_can_be_drawn(tmp_path):
    packages = ["mermaid@11.17.2", "jsdom@26.1.0"]
    install = [NPM, "install", "--prefix", tmp_path, "--no-audit", "--no-fund", *packages]
    subprocess.run(install, check=True, env=CLEAN, capture_output=True, timeout=300)
    script = tmp_path / "parse.mjs"
    script.write_text(PARSE)
    pictures = fenced("mermaid")
    assert len(pictures) == 5
    assert parse(script, pictures).returncode == 0
    # So that a parser that takes everything is noticed.
    assert parse(script, ["flowchart TD\n a --> --> b"]).returncode != 0


def parse(script, pictures):
    """Let Mermaid read pictures, as GitHub does."""
    return subprocess.run(
        ["node", script], env=CLEAN, input=json.dumps(pictures), text=True, capture_output=True
    )


def modules():
    """The modules of the app, by path, each as a syntax tree."""
    paths = [*ROOT.glob("*.py"), *(ROOT / "resources").glob("*.py")]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in paths}


def imports(tree):
    """The paths of the app's modules that a module imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {path for path in modules() if path.removesuffix(".py").replace("/", ".") in names}


def test_picture_of_the_files_shows_who_imports_whom():
    [picture] = fenced("mermaid", chapter("The files"))
    labels = dict(re.findall(r'(\w+)\["([^"]+)"\]', picture))
    arrows = set()
    for line in picture.splitlines()[1:]:
        chain = [re.sub(r"\[.*\]", "", name.strip()) for name in line.split("-->")]
        names = [labels.get(name, name) for name in chain]
        arrows |= set(zip(names, names[1:], strict=False))
    trees = modules()
    imported = {(path, other) for path, tree in trees.items() for other in imports(tree)}
    assert arrows == imported | {("Procfile", "uwsgi.ini"), ("uwsgi.ini", "run.py")}


def test_pictures_name_what_there_is():
    text = "\n".join(fenced("mermaid"))
    assert set(re.findall(r"[\w/]+\.(?:py|ini)\b", text)) <= listed_files()
    routes = {(method, url.split("/")[1]) for method, url, *_ in ROUTES}
    named = set(re.findall(r"(GET|POST|PUT|DELETE) /(\w+)", text))
    assert named and named <= routes
    refusals = re.findall(r"\b(\d{3}) (\w+_\w+|not_found)", text)
    assert len(refusals) > 8
    assert [pair for pair in refusals if ERROR_CODES.get(pair[1]) != int(pair[0])] == []
    functions = {
        node.name
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    others = {
        "password_id",
        "former_password_id",
        "todo_id",
        "_id",
        "owner_id",
        "local_mongodb",
        "find_one",
    }
    known = functions | others | ERROR_CODES.keys()
    assert [name for name in re.findall(r"\b\w*_\w+\b", text) if name not in known] == []
    assert {"decode_key", "is_revoked", "isdisjoint", "represent"} <= functions
    threads = re.search(r"^threads = (\d+)$", read("uwsgi.ini"), re.MULTILINE)[1]
    assert f"{threads} threads" in text


# A field of your own


FAILING = {
    "test_every_excerpt_stands_in_its_file",
    "test_adding_a_todo_answers_with_it_and_its_place",
    "test_quick_start_shows_what_comes",
    "test_ideas_show_what_comes",
    "test_curl_chapter_shows_what_comes_each_time",
    "test_runs_green_twice_and_leaves_the_database_as_it_was[production]",
}


def replace_once(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (
        f"{path.name} has not, or not once: {old!r}. The chapter begins with the todo as it is in"
        " this repository. If you have given it another field, you are done with the chapter:"
        " delete this test."
    )
    path.write_text(text.replace(old, new), encoding="utf-8")


def run_tests(project, *arguments):
    """Run tests of a copy of the project; return the names of those that failed, and the output."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=project, env=CLEAN, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return set(re.findall(r"^FAILED \S+::(\S+)", done.stdout, re.MULTILINE)), done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt" or not shutil.which("npx"), reason="needs bash, curl and npx")
def test_field_of_your_own_works_as_the_chapter_says(tmp_path):
    project = tmp_path / "project"
    left_out = shutil.ignore_patterns(".git", ".mongodb", "env", "__pycache__", ".pytest_cache")
    shutil.copytree(ROOT, project, ignore=left_out)
    test, check, stored, shown = fenced("python", chapter("A field of your own"))
    tests, code = project / "tests/test_todos.py", project / "resources/todo.py"
    tests.write_text(tests.read_text("utf-8") + "\n\n" + test, encoding="utf-8")
    assert run_tests(project, "tests/test_todos.py", "-k", "priority")[0] != set()
    fields = 'FIELDS = {"name": name_field, "description": description_field, "done": boolean}\n'
    replace_once(code, fields, check)
    line = '            "done": fields.get("done", False),\n'
    replace_once(code, line, line + stored)
    line = '        "done": todo["done"],\n'
    replace_once(code, line, line + shown)
    assert run_tests(project, "tests/test_todos.py", "-k", "priority")[0] == set()
    shown_by = ["tests/test_todos.py", "tests/test_curl.py", "tests/test_postman.py"]
    shown_by.append("tests/test_readme.py::test_every_excerpt_stands_in_its_file")
    failed, output = run_tests(project, *shown_by)
    assert failed == FAILING, output
    # What the table says to do.
    line = '            "done": fields.get("done", False),\n'
    replace_once(project / "README.md", line, line + stored)
    replace_once(tests, '"done", "created_at"}', '"done", "priority", "created_at"}')
    line = '        "done": True,\n        "created_at": created_at,\n'
    replace_once(
        tests, line, line.replace('"created_at":', '"priority": "normal",\n        "created_at":')
    )
    collection = project / "tests/todo-api.postman_collection.json"
    text = collection.read_text("utf-8")
    assert text.count('\\"done\\", \\"created_at\\"') == 2
    text = text.replace(
        '\\"done\\", \\"created_at\\"', '\\"done\\", \\"priority\\", \\"created_at\\"'
    )
    collection.write_text(text, encoding="utf-8")
    run_tests(project, "tests/test_curl.py", "tests/test_postman.py", "--update")
    failed, output = run_tests(project, *shown_by)
    assert failed == set(), output


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
