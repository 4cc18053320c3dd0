"""Crashes: a 500 without a reason for the client, and a traceback in the log that names no user."""

import re
import uuid

import pytest
from support.clients import assert_error, short
from support.processes import wait_for

from app import app


@pytest.fixture(autouse=True)
def crash_gives_500(api, monkeypatch):
    """Let a crash be a 500, as in production. In the other tests it ends the test."""
    monkeypatch.setitem(app.config, "PROPAGATE_EXCEPTIONS", None)


def logged_by(api, send):
    """Send a request that crashes, and return its response and what it has added to the log."""
    length = len(api.log.read_text())
    response = send()
    # The end of the traceback. uWSGI's master writes the log a little later.
    wait_for(lambda: "TypeError: " in api.log.read_text()[length:])
    return response, api.log.read_text()[length:]


@pytest.fixture
def broken(database, alice):
    """A user whose document, which an operator has changed by hand, makes every request crash."""
    database.users.update_one({}, {"$set": {"sessions": 5}})
    return alice


ROUTES = [
    ("GET", "/user/alice", "/user/<string:username>"),
    ("DELETE", "/user/alice", "/user/<string:username>"),
    ("GET", "/todos?limit=1", "/todos"),
    ("GET", "/todos/alice", "/todos/<string:todo_id>"),
]


@pytest.mark.parametrize(("method", "path", "rule"), ROUTES)
def test_crash_gives_500_and_logs_the_rule_and_not_the_path(api, broken, method, path, rule):
    response, log = logged_by(api, lambda: api.request(method, path, broken.access))
    assert_error(
        response, 500, "internal_error", "This is a bug in the server. It has been logged."
    )
    assert f"Exception on {rule} [{method}]\n" in log
    assert log.count("Traceback") == 1
    assert not re.search(r"alice|limit=1|127\.0\.0\.1", log)


def test_crash_logs_the_request_id_of_the_router(api, broken):
    headers = {"X-Request-ID": str(uuid.uuid4())}
    response, log = logged_by(api, lambda: api.get("/todos", broken.access, headers=headers))
    assert_error(response, 500, "internal_error")
    assert f"Exception on /todos [GET] request_id={headers['X-Request-ID']}\n" in log


UUID = "01234567-89ab-4cde-8f01-23456789abcd"
OTHER_IDS = ["alice", UUID + "-alice", "alice " + UUID, UUID.upper(), UUID[:-1], "", "x" * 8000]
OTHER_IDS += [UUID + ", " + UUID, UUID.replace("-", ""), "\u0660" + UUID[1:]]


@pytest.mark.parametrize("value", OTHER_IDS, ids=short)
def test_crash_does_not_log_a_request_id_of_another_form(api, broken, value):
    headers = {"X-Request-ID": value.encode()}
    response, log = logged_by(api, lambda: api.get("/todos", broken.access, headers=headers))
    assert_error(response, 500, "internal_error")
    assert "Exception on /todos [GET]\n" in log
    assert "alice" not in log and "request_id" not in log and UUID[:-1] not in log.lower()


def test_lines_about_other_errors_hold_the_request_id_of_the_router(api, database, alice):
    alice.add()
    length = len(api.log.read_text())
    headers = {"X-Request-ID": str(uuid.uuid4())}
    # MongoDB refuses a todo, because an operator has told it to.
    database.command("collMod", "todos", validator={"name": "bread"})
    try:
        refused = api.post("/todos", alice.access, json={"name": "milk"}, headers=headers)
    finally:
        database.command("collMod", "todos", validator={})
    assert_error(refused, 503, "database_unavailable")
    database.users.update_one({}, {"$unset": {"password": 1}})
    login = {"username": "alice", "password": alice.password}
    wrong = api.post("/login", json=login, headers=headers)
    assert_error(wrong, 401, "invalid_credentials")
    wait_for(lambda: api.log.read_text()[length:].count("\n") == 2)
    end = f" request_id={headers['X-Request-ID']}\n"
    assert api.log.read_text()[length:].count(end) == 2
