"""The tables of the documents list what the code has."""

import re
import shutil
import subprocess
from datetime import timedelta

import pytest
from support import clients
from support.clients import ERROR_CODES, MISSING
from support.documents import LAB, README, collection, endpoint, requests_of, table
from support.processes import ROOT

from app import app
from resources import rate_limits
from resources.fields import set_by_server
from resources.todo import FIELDS

ROUTES = table("method", README.chapter("API reference"))
# The fields of a todo that a client may send.
SENT = {name for name, check in FIELDS.items() if check is not set_by_server}
# How the route table names the tokens that the routes of the tests require.
TOKENS = {
    None: "none",
    "refresh": "refresh",
    "access": "access",
    "fresh": "fresh access",
    "any": "access or refresh",
}


# uWSGI is needed to import the last one, so the tests read all of them as text.
FILES_WITH_LIMITS = ["uwsgi.ini", "app.py", "db.py", "resources/passwords.py"]
FILES_WITH_LIMITS += ["resources/uwsgi_worker.py"]


# Routes and errors.


def test_route_table_has_every_route_with_the_token_that_it_requires():
    """test_access.py judges the same of the routes of the tests, and of the API."""
    shown = [
        (method, url.replace("<username>", "alice").replace("<todo_id>", MISSING), token)
        for method, url, token, *_ in ROUTES
    ]
    routes = [(route.method, route.path, TOKENS[route.token]) for route in clients.ROUTES]
    assert sorted(shown) == sorted(routes)


def test_route_table_has_the_statuses_and_error_codes_of_the_api():
    adapter = app.url_map.bind("")
    examples = [(item, item["response"][0]["code"]) for item in requests_of(collection())]
    statuses = {endpoint(adapter, item): code for item, code in examples if code < 300}
    for method, url, _, _, success, errors in ROUTES:
        name, _ = adapter.match(re.sub("<.*>", "x", url), method)
        assert int(success[:3]) == statuses[name, method], (method, url)
        assert set(re.findall(r"\w+", errors)) <= ERROR_CODES.keys(), (method, url)


def test_error_table_has_every_error_code():
    rows = table("status", README.chapter("API reference"))
    assert sorted((code, int(status)) for status, code, *_ in rows) == sorted(ERROR_CODES.items())


# Todos.


def test_reference_names_every_field_of_a_todo(alice):
    reference = README.chapter("API reference")
    missing = "Add the field to the API reference in README.md, by hand"
    [shown] = re.findall(r"A todo is `\{([^}]+)\}`", reference)
    assert re.findall(r'"(\w+)"', shown) == list(alice.add()), missing

    explained = {name for row in table("field", reference) for name in re.findall(r"\w+", row[0])}
    assert SENT <= explained, missing
    for method, url, _, body, *_ in ROUTES:
        if (method, url) in (("POST", "/todos"), ("PUT", "/todos/<todo_id>")):
            assert SENT <= set(re.findall(r"\w+", body)), missing


def test_table_of_503_says_of_every_request_whether_it_can_be_repeated():
    named = [name for row in table("request", README.text) for name in row[0].split(", ")]
    changing = [f"{method} {url}" for method, url, *_ in ROUTES if method != "GET"]
    assert sorted(named) == sorted([*changing, "every GET"])


# Rate limits.

WINDOWS = {"15 minutes": timedelta(minutes=15), "an hour": timedelta(hours=1)}


def test_table_of_rate_limits_has_the_numbers_of_the_code(monkeypatch):
    counted = []
    monkeypatch.setattr(rate_limits, "count", counted.append)
    with app.test_request_context("/"):
        attempt = rate_limits.LoginAttempt("alice")
        rate_limits.count_registration()
        rate_limits.count_password_change("the id of a session")
    registration, password_change = counted
    limits = {
        ("wrong passwords", "username and client address"): attempt.by_username_and_address,
        ("wrong passwords", "username"): attempt.by_username,
        ("wrong passwords", "client address"): attempt.by_address,
        ("wrong current_passwords of PUT /user/<username>", "session"): password_change,
        ("registrations, including those that get a 409", "client address"): registration,
    }
    rows = table("what is counted", README.text)
    assert {(what, by): (int(most), WINDOWS[window]) for what, by, most, window in rows} == {
        row: (limit.most, limit.window) for row, limit in limits.items()
    }


# Other limits.


def test_table_of_limits_has_the_numbers_of_the_code():
    code = "\n".join((ROOT / name).read_text("utf-8") for name in FILES_WITH_LIMITS)
    patterns = ["gevent", "MOST_CONNECTIONS", "DEADLINE", "BODY_SECONDS", "socket-timeout"]
    patterns += ["MOST_WAITING", "MOST_LARGE_RESPONSES"]
    numbers = [re.search(rf"^ *{name} = ([\d.]+)$", code, re.MULTILINE)[1] for name in patterns]
    limits = [limit for _, limit, _ in table("what", README.chapter("Limits"))]
    assert [re.search(r"\d+(\.\d+)?", limit)[0] for limit in limits[:-1]] == numbers


# Variables.


def test_variable_table_has_every_variable():
    code = "\n".join(
        (ROOT / name).read_text("utf-8") for name in ("resources/settings.py", "uwsgi.ini")
    )
    used = re.findall(r'(?:\bread\(|os\.environ\.get\()"(\w+)"|^if-env = (\w+)', code, re.MULTILINE)
    used = [python or uwsgi for python, uwsgi in used]
    rows = {row[0]: row for row in table("variable", README.text)}
    assert rows.keys() == set(used)
    assert "5000" in rows["PORT"]
    assert "2" in rows["WEB_CONCURRENCY"]


# Files.


def files_of_the_walk_through():
    """Return the paths that the Code Walk-through links, and the file that it is in."""
    links = re.findall(r"\]\(([^)#\s]+)", README.chapter("Code Walk-through"))
    return {README.name} | {link for link in links if not link.startswith("https:")}


def files_of_the_tests():
    """Return the paths in the lab's table of files."""
    return {row[0] for row in table("file", LAB.chapter("What each file promises"))}


def test_every_listed_file_exists():
    listed = files_of_the_walk_through() | files_of_the_tests()
    assert [path for path in listed if not (ROOT / path).is_file()] == []


@pytest.mark.skipif(
    not shutil.which("git") or not (ROOT / ".git").exists(), reason="needs git and a clone"
)
def test_every_file_of_the_repository_is_listed():
    command = ["git", "-c", "safe.directory=*", "ls-files"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    # Of the folder `tests`, only the tests have to be.
    files = {
        file
        for file in tracked.stdout.splitlines()
        if not file.startswith("tests/") or "/test_" in file
    }
    assert files - files_of_the_walk_through() - files_of_the_tests() == set(), (
        "Add a section with a link for each of these to the Code Walk-through of README.md, or a"
        " row to the table in tests/README.md"
    )
