"""What the log and the responses reveal: no password, no hash, no token, no user, no inside."""

import contextlib
import re
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from bson import ObjectId
from pymongo import MongoClient
from support.actions import every_request, log_in
from support.clients import PASSWORD, ROUTES, InsertedUser, User, assert_error, at_once
from support.connections import TWO_MEGABYTES, connect, head
from support.processes import SECRET, wait_for

INSIDE = re.compile(r"Traceback|pymongo|passlib|argon2|127\.0\.0\.1|werkzeug|uwsgi", re.IGNORECASE)
# The address of a client, as Heroku's router reports it.
ADDRESS = "192.0.2.77"


def lines_so_far(server, database):
    """Return the log up to now. uWSGI's master writes it a little after the workers.

    So this causes one line more, and waits until the master has written it.
    """
    line = "A user cannot log in"
    before = server.log.read_text().count(line)
    database.users.update_one({"username": "broken"}, {"$unset": {"password": 1}}, upsert=True)
    assert_error(log_in(server, "broken"), 401, "invalid_credentials")
    wait_for(lambda: server.log.read_text().count(line) > before)
    lines, _, _ = server.log.read_text().rpartition(line)
    # The line itself begins with the time.
    return lines[: lines.rindex("\n") + 1]


def test_log_names_no_user_and_no_address(mongod, database, start):
    server = start(mongod.uri)
    victims = [InsertedUser(server, database, f"victim{number}") for number in range(len(ROUTES))]
    for send in every_request(server, victims):
        assert send().status_code in (200, 201, 404)
    for _ in range(12):
        log_in(server, "victim", address=ADDRESS)
        log_in(server, "intruder", address=ADDRESS)
    at_once(40, log_in, server, "flooder")
    assert_private(lines_so_far(server, database), PASSWORD, "victim", "intruder", "flooder")


def test_log_is_silent_about_clients_that_leave(mongod, database, start):
    server = start(mongod.uri)
    victim = InsertedUser(server, database, "victim")
    # A page that is larger than what the systems of both sides keep of it.
    for _ in range(100):
        victim.add(description="x" * 10_000)
        victim.add(description="x" * 10_000)
    # The last line of the start, which a worker writes.
    wait_for(lambda: "running gevent loop engine" in server.log.read_text())
    before = server.log.read_text()
    for request in requests_of(victim):
        for leave in (close, reset, reset_later, close_sending_side):
            with connect(server) as connection, contextlib.suppress(OSError):
                connection.sendall(request)
                leave(connection)
    # Each worker has noticed the last client when it responds to this.
    at_once(40, server.get, "/todos", victim.access)
    assert lines_so_far(server, database) == before
    with contextlib.ExitStack() as stack:
        for request in requests_of(victim):
            connection = stack.enter_context(connect(server))
            with contextlib.suppress(ConnectionError):
                connection.sendall(request)
        # Those that are open now are in flight at the end.
        at_once(40, server.get, "/todos", victim.access)
        server.signal_group()
        wait_for(lambda: "gracefully" in server.log.read_text().lower())
    server.process.wait(45)
    assert_private(server.log.read_text(), "victim", victim.access)


def requests_of(user):
    """Return requests that a client can leave, from the first bytes of the headers to the end."""
    token = f"Authorization: Bearer {user.access}"
    get = (f"GET /user/{user.name} HTTP/1.1", f"X-Forwarded-For: {ADDRESS}")
    post = ("POST /login HTTP/1.1", f"X-Forwarded-For: {ADDRESS}", "Content-Type: application/json")
    return [
        head(*get, token)[:60],
        head(*get, token)[:-2],
        head(*get, token),
        head("GET /todos?limit=100 HTTP/1.1", token),
        # Bodies.
        head(*post, "Content-Length: 99") + b"{",
        head(*post, "Content-Length: 99", "Expect: 100-continue"),
        head(*post, "Transfer-Encoding: chunked"),
        head(*post, "Transfer-Encoding: chunked") + b"5\r\n{",
        # What is rejected while the client is sending.
        head(*post, "Content-Length: -5") + TWO_MEGABYTES,
        head(*post, "Content-Length: 2000000") + TWO_MEGABYTES,
        head(f"GET /user/{user.name}#x HTTP/1.1", token),
        # What does not fit into 64 KiB, or not twice.
        head(*get, token + "z" * 64_600),
        head(*get, token + "z" * 80_000),
        head(*get, "X: " + "x" * 40_000, "X: " + "x" * 24_000),
        head(f"GET /user/{user.name}?{'q' * 40_000} HTTP/1.1", token),
        head(f"GET /user/{user.name}{'q' * 40_000} HTTP/1.1", token),
        head(*get, *[f"X{number}: y" for number in range(2200)]),
        # What is no header.
        head(*get, "Authorization"),
        head(*get, f"Authorization: Bearer\r{user.access}"),
    ]


def close(connection):
    """Leave as a client does that has ended."""


def reset(connection):
    """Leave as a client does that has crashed: its system resets the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_later(connection):
    """Reset the connection when the server may be waiting for the rest, or sending."""
    # There is nothing to wait for: the server has nothing to say yet.
    time.sleep(0.1)
    reset(connection)


def close_sending_side(connection):
    """Send nothing more, and leave at the first byte of the response."""
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)


def assert_private(log, *names):
    """Assert that a log holds no name, no address and no whole header."""
    # The first lines name the address that uWSGI listens at.
    started = log.index("spawned uWSGI worker")
    for secret in (*names, ADDRESS, "127.0.0.1", "xxxxx", "zzzzz", "qqqqq"):
        assert secret not in log[started:]
    assert not re.search("Traceback|busy|died", log)


# A crash of the app, whose message and source lines hold the words by which uwsgi.ini recognizes
# what uWSGI says about clients.
CRASH = """
@app.route("/crash")
def crash():
    worker = "Fri Nov 27 10:00:00 2026 - worker 1 (pid: 1) core 1 is managing"
    client = "[WARNING] unable to add [uwsgi-body-read] uwsgi_proto_http_parser() -> TIMEOUT !!!"
    app.logger.error("MongoDB: %s %s", worker, client)
    raise RuntimeError(f"{worker}\\n{client}\\ninvalid HTTP request " + "x" * 20_000 + "the end")

"""


def test_log_keeps_every_error_of_the_app(mongod, start, copy):
    run = copy / "run.py"
    run.write_text(run.read_text() + CRASH)
    server = start(mongod.uri, cwd=copy)
    before = len(server.log.read_text())
    for _ in range(10):
        assert_error(server.get("/crash"), 500, "internal_error")
    # The master writes what the workers log.
    wait_for(lambda: server.log.read_text().count("the end\n") == 10)
    log = server.log.read_text()[before:]
    assert log.count("MongoDB: Fri Nov 27") == 10
    assert log.count("Traceback") == 10
    assert log.count("raise RuntimeError") == 10
    assert log.count("RuntimeError: Fri Nov 27") == 10
    assert log.count("\ninvalid HTTP request") == log.count("the end\n") == 10


@pytest.mark.slow
def test_log_and_responses_hold_no_secret(own_mongod, start):
    # One worker: of two, one can notice later than the other that the database is back.
    server = start(own_mongod.uri, WEB_CONCURRENCY="1")
    users = [User(server, f"alice{number}") for number in range(len(ROUTES))]
    alice = users[0]
    sends = every_request(server, users)
    responses = [send() for send in sends[:3]]
    own_mongod.kill()
    # Side by side, because each of them waits until its deadline.
    with ThreadPoolExecutor(len(sends)) as pool:
        responses += pool.map(lambda send: send(), sends)
    own_mongod.start()
    wait_for(lambda: log_in(server, alice.name, PASSWORD).status_code == 200)
    todo = alice.add()
    with MongoClient(own_mongod.uri) as client:
        database = client.get_default_database()
        database.users.insert_one({"username": "broken", "password": "no hash"})
        # Without the name that the code expects, a request crashes.
        database.todos.update_one({"_id": ObjectId(todo["id"])}, {"$unset": {"name": 1}})
    crash = server.get(f"/todos/{todo['id']}", alice.login()[0])
    assert_error(crash, 500, "internal_error")
    not_a_hash = log_in(server, "broken", PASSWORD)
    assert_error(not_a_hash, 401, "invalid_credentials")
    responses += [crash, not_a_hash, server.get("/nowhere"), server.post("/todos", "x.y.z")]
    served = [send() for send in sends]
    # The first one's username is taken now.
    assert [response.status_code for response in served if not response.ok] == [409, 404, 404, 404]
    responses += served
    wait_for(lambda: "KeyError" in server.log.read_text())
    log = server.log.read_text()
    assert "Traceback" in log
    secrets = [PASSWORD, SECRET, "$argon2", "no hash"]
    # The signatures of their tokens.
    secrets += [token.split(".")[2] for user in users for token in (user.access, user.refresh)]
    for secret in secrets:
        assert secret not in log
    for response in responses:
        assert not INSIDE.search(response.text + str(response.headers))
        assert "Server" not in response.headers


def test_there_is_no_debugger(api):
    for path in ("/console", "/?__debugger__=yes&cmd=resource&f=debugger.js"):
        assert_error(api.get(path), 404, "not_found")
