"""A fault at any operation of a request: every promise is kept, whatever was written before it.

A test does not know the operations of a request. It sends the request to a MongoDB that fails at
the first one, then to a MongoDB that fails at the second one, and so on, until a request no longer
has as many.
"""

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from bson import ObjectId
from pymongo import MongoClient
from support.actions import (
    NEW_PASSWORD,
    change_password,
    code,
    delete_user,
    is_valid,
    log_in,
    register,
    tokens_of,
)
from support.clients import (
    MISSING,
    PASSWORD,
    InsertedUser,
    assert_error,
    new_address,
    report,
    timed,
)
from support.faults import READS, WRITES, FailPoint
from support.processes import Server, copy_project, procfile_command, wait_for, with_stats, workers

pytestmark = pytest.mark.slow


# The requests. Each class prepares one, sends it, and judges its outcome. `response` is None if the
# process that should have responded was killed.


class Scenario:
    """A user with two sessions and a todo, who sends one request."""

    success = 200

    def __init__(self, server, database, name):
        self.server, self.database, self.name = server, database, name
        self.user = InsertedUser(server, database, name)
        self.sessions = [(self.user.access, self.user.refresh), self.user.login()]
        self.todo = self.user.add()

    def valid_sessions(self):
        return [session for session in self.sessions if is_valid(self.server, *session)]

    def assert_owner_can_log_in(self):
        """Assert that the sessions and the todo are still there, and that the owner can log in."""
        assert self.valid_sessions() == self.sessions
        assert self.server.get(f"/todos/{self.todo['id']}", self.user.access).json() == self.todo
        assert is_valid(self.server, *tokens_of(log_in(self.server, self.name, PASSWORD)))


class NewPassword(Scenario):
    """PUT /user/<username>: the user has a new password, or the old one."""

    def send(self):
        return change_password(self.server, self.user)

    def judge(self, response):
        logins = [log_in(self.server, self.name, word) for word in (PASSWORD, NEW_PASSWORD)]
        assert sorted(login.status_code for login in logins) == [200, 401]
        is_changed = logins[1].status_code == 200
        if response is not None and response.status_code == 200:
            assert is_changed
            self.sessions.append(tokens_of(response))
            assert self.valid_sessions() == self.sessions[-1:]
        if is_changed:
            assert is_valid(self.server, *self.sessions[0]) is False
            assert is_valid(self.server, *self.sessions[1]) is False
        # The owner finishes the job, or does it again.
        login = tokens_of(logins[is_changed])
        current = NEW_PASSWORD if is_changed else PASSWORD
        change = change_password(self.server, self.user, login[0], current, "a third password")
        assert is_valid(self.server, *tokens_of(change))
        assert self.valid_sessions() == [] and not is_valid(self.server, *login)
        for word in (PASSWORD, NEW_PASSWORD):
            assert_error(log_in(self.server, self.name, word), 401, "invalid_credentials")


class Deletion(Scenario):
    """DELETE /user/<username>: the user is deleted, or logs in and deletes again."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        for _ in range(2):
            self.user.add()

    def send(self):
        return delete_user(self.server, self.user)

    def judge(self, response):
        mine = {"owner_id": ObjectId(self.user.id)}
        login = log_in(self.server, self.name, PASSWORD)
        if response is not None and response.status_code == 200:
            assert login.status_code == 401
        if login.status_code == 401 or self.database.todos.count_documents(mine) < 3:
            assert self.valid_sessions() == []
        if login.status_code == 200:
            self.sessions.append(tokens_of(login))
            assert delete_user(self.server, self.user, self.sessions[-1][0]).status_code == 200
        assert self.valid_sessions() == []
        assert self.database.todos.count_documents(mine) == 0
        # The next user with this name gets nothing of the previous one.
        assert register(self.server, self.name).status_code == 201
        access, _ = tokens_of(log_in(self.server, self.name, PASSWORD))
        assert self.server.get("/todos", access).json()["todos"] == []
        assert self.valid_sessions() == []


class Login(Scenario):
    """POST /login: the client logs in, or does so later."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.address = new_address()

    def send(self):
        return log_in(self.server, self.name, PASSWORD, self.address)

    def judge(self, response):
        if response.status_code == 200:
            assert is_valid(self.server, *tokens_of(response))
        self.assert_owner_can_log_in()
        assert is_valid(self.server, *tokens_of(self.send()))


class NewTodo(Scenario):
    """POST /todos: the todo is added, or not."""

    success = 201

    def send(self):
        return self.server.post("/todos", self.user.access, json={"name": "the new one"})

    def judge(self, response):
        first, *others = self.server.get("/todos", self.user.access).json()["todos"]
        assert first == self.todo
        if response.status_code == 201:
            assert others == [response.json()]
        else:
            assert [todo["name"] for todo in others] in ([], ["the new one"])
        self.assert_owner_can_log_in()


class ChangedTodo(Scenario):
    """PUT /todos/<id>: the todo has all of the new values, or none."""

    def send(self):
        body = {"name": "the new name", "done": True}
        return self.server.put(f"/todos/{self.todo['id']}", self.user.access, json=body)

    def judge(self, response):
        new = self.todo | {"name": "the new name", "done": True}
        [todo] = self.server.get("/todos", self.user.access).json()["todos"]
        assert todo == new if response.status_code == 200 else todo in (new, self.todo)
        assert self.send().json() == self.todo | new
        self.todo = new
        self.assert_owner_can_log_in()


class DeletedTodo(Scenario):
    """DELETE /todos/<id>: the todo is deleted, or not."""

    def send(self):
        return self.server.delete(f"/todos/{self.todo['id']}", self.user.access)

    def judge(self, response):
        todos = self.server.get("/todos", self.user.access).json()["todos"]
        assert todos == [] if response.status_code == 200 else todos in ([], [self.todo])
        assert self.send().status_code == (200 if todos else 404)
        assert self.valid_sessions() == self.sessions


class Logout(Scenario):
    """POST /logout: the session has ended, or goes on. The other one goes on."""

    def send(self):
        return self.server.post("/logout", self.user.refresh)

    def judge(self, response):
        valid = self.valid_sessions()
        if response.status_code == 200:
            assert valid == self.sessions[1:]
        assert self.send().status_code == (200 if self.sessions[0] in valid else 401)
        assert self.valid_sessions() == self.sessions[1:]


class Registration(Scenario):
    """POST /register, by another client."""

    success = 201

    def send(self):
        return register(self.server, f"{self.name}-2")

    def judge(self, response):
        again = self.send().status_code
        assert again == 409 if response.status_code == 201 else again in (201, 409)
        assert is_valid(self.server, *tokens_of(log_in(self.server, f"{self.name}-2", PASSWORD)))
        self.assert_owner_can_log_in()


# The faults. Each is prepared for the operation with a number, and returns a function that says
# whether a request has had so many.


def refuse(fail_point, _proxy, number):
    """Let MongoDB refuse the operation, as if the cluster were full."""
    fail_point.set(READS + WRITES, number, errorCode=8000)
    return fail_point.count


def do_not_confirm(fail_point, _proxy, number):
    """Let MongoDB execute the operation, but too few members of the database confirm it."""
    fail_point.set(WRITES, number, writeConcernError={"code": 64, "errmsg": "too few"})
    return fail_point.count


def lose(_fail_point, proxy, number):
    """Close the connection before MongoDB gets the operation."""
    proxy.lose(number)
    return proxy.reached.is_set


def lose_reply(_fail_point, proxy, number):
    """Close the connection after MongoDB has executed the operation."""
    proxy.lose_reply(number)
    return proxy.reached.is_set


SCENARIOS = [
    NewPassword,
    Deletion,
    Login,
    NewTodo,
    ChangedTodo,
    DeletedTodo,
    Logout,
    Registration,
]


@pytest.fixture(scope="module")
def failing_server(failing_proxy, tmp_path_factory):
    """A server whose operations fail, in the MongoDB or on their way there."""
    # Without the option, PyMongo sends a read again if its connection was closed.
    uri = f"{failing_proxy.uri}?retryReads=false"
    log = tmp_path_factory.mktemp("failing_server") / "log"
    server = Server(procfile_command(), log, uri, WEB_CONCURRENCY="1")
    yield server.wait()
    server.stop()


def assert_no_orphans(database):
    """Assert that the owner of every todo exists."""
    owners = {user["_id"] for user in database.users.find()}
    assert [todo for todo in database.todos.find() if todo["owner_id"] not in owners] == []


@pytest.mark.parametrize("fault", [refuse, do_not_confirm, lose, lose_reply])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_fault_at_any_operation_breaks_no_promise(
    failing_database, fail_point, failing_proxy, failing_server, scenario, fault
):
    server = failing_server
    for number in itertools.count():
        case = scenario(server, failing_database, f"user{number}")
        has_failed = fault(fail_point, failing_proxy, number)
        response = case.send()
        faults = has_failed()
        fail_point.clear()
        failing_proxy.let_pass()
        # PyMongo has closed all connections. The next request may still find one of them.
        wait_for(lambda: server.get(f"/todos/{MISSING}", case.user.access).status_code != 503)
        assert response.status_code in (case.success, 503)
        case.judge(response)
        assert_no_orphans(failing_database)
        if not faults:
            break
    assert response.status_code == case.success
    report(faults=number)
    assert number > 0


def test_right_passwords_during_an_outage_use_up_no_limit(
    failing_database, fail_point, failing_server
):
    server, address = failing_server, new_address()
    alice = InsertedUser(server, failing_database, "alice")
    for _ in range(9):
        assert_error(log_in(server, "alice", address=address), 401, "invalid_credentials")
    # MongoDB refuses each write of the user, and none of a counter.
    fail_point.set(["update"], errorCode=8000, namespace=f"{failing_database.name}.users")
    for send in (
        lambda: log_in(server, "alice", PASSWORD, address),
        lambda: change_password(server, alice),
    ):
        for _ in range(12):
            assert_error(send(), 503, "database_unavailable")
    fail_point.clear()
    # The counters have the nine wrong ones.
    assert_error(log_in(server, "alice", address=address), 401, "invalid_credentials")
    assert_error(log_in(server, "alice", address=address), 429, "too_many_attempts")


# For how long each operation of MongoDB takes, in milliseconds. A login has up to seven. With the
# first number, none is finished in time, and with the others some are.
DELAYS = [2500, 900, 300]


@pytest.fixture(params=["uwsgi", "app.py"])
def either_server(request, failing_mongod, tmp_path):
    """A server for production, or for development."""
    folder = copy_project(tmp_path / "project")
    command = procfile_command() if request.param == "uwsgi" else [sys.executable, "app.py"]
    settings = {"measured": False, "WEB_CONCURRENCY": "1"}
    server = Server(command, tmp_path / "log", failing_mongod.uri, cwd=folder, **settings)
    yield server.wait()
    server.kill()


def test_slow_mongodb_gives_responses_in_time_and_breaks_no_promise(
    failing_mongod, fail_point, either_server
):
    with MongoClient(failing_mongod.uri) as client:
        database = client.get_default_database()
        responses = Counter()
        for number, delay in enumerate(DELAYS):
            # Two of each, so that requests that hash wait for each other.
            cases = [
                scenario(either_server, database, f"{scenario.__name__}-{number}-{twin}")
                for scenario in SCENARIOS
                for twin in range(2)
            ]
            commands = [*READS, *WRITES, "createIndexes"]
            fail_point.set(commands, blockConnection=True, blockTimeMS=delay)
            with ThreadPoolExecutor(len(cases)) as pool:
                landed = list(pool.map(lambda case: timed(case.send), cases))
            fail_point.clear()
            wait_for(lambda: not operations(client))
            for case, (seconds, response) in zip(cases, landed):
                assert response.status_code in (case.success, 503)
                assert seconds < 5
                responses[delay, code(response)] += 1
                case.judge(response)
            assert_no_orphans(database)
    report(**{f"{delay} ms, {result}": count for (delay, result), count in responses.items()})
    assert responses[2500, "success"] == 0


@pytest.mark.parametrize("victim", ["mongod", "worker"])
@pytest.mark.parametrize("scenario", [NewPassword, Deletion])
def test_process_killed_at_any_write_breaks_no_promise(breakable, start, scenario, victim):
    server = with_stats(start, breakable.uri, WEB_CONCURRENCY="1")
    with MongoClient(breakable.uri) as client:
        database, fail_point = client.get_default_database(), FailPoint(client)
        bystander = InsertedUser(server, database, "bystander")
        for number in itertools.count():
            case = scenario(server, database, f"user{number}")
            # The write waits, so that the process can be killed before MongoDB executes it.
            waits = 60_000 if victim == "mongod" else 300
            fail_point.set(WRITES, number, blockConnection=True, blockTimeMS=waits)
            responses = in_background(case.send)
            wait_for(lambda r=responses: fail_point.count() or r)
            faults = fail_point.count()
            if faults and victim == "mongod":
                breakable.kill()
                breakable.start()
            elif faults:
                os.kill(workers(server)[0]["pid"], signal.SIGKILL)
                wait_for(lambda: not operations(client))
            fail_point.clear()
            if victim == "mongod" or not faults:
                wait_for(lambda r=responses: r)
                assert responses[0].status_code in (200, 503)
            wait_for(lambda: is_available(server, bystander.access))
            case.judge(responses[0] if responses else None)
            assert_no_orphans(database)
            if not faults:
                break
        assert responses[0].status_code == 200
    report(faults=number)
    assert number > 0


def in_background(send):
    """Send a request from another thread; return a list that gets the response, if one comes."""
    responses = []

    def run():
        with contextlib.suppress(requests.RequestException):
            responses.append(send())

    threading.Thread(target=run, daemon=True).start()
    return responses


def operations(client):
    """Return the operations on the database of the tests that MongoDB executes at the moment."""
    stages = [{"$currentOp": {"allUsers": True}}, {"$match": {"ns": {"$regex": "^test\\."}}}]
    return list(client.admin.aggregate(stages))


def is_available(server, access):
    """Return whether the server and its database respond."""
    with contextlib.suppress(requests.ConnectionError):
        return server.get("/todos", access).status_code == 200
