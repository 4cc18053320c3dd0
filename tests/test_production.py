"""Production as Heroku runs it, by the Procfile's line: settings, workers, what can go wrong."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import jwt
import psutil
import pytest
import requests
from helpers import (
    CLEAN,
    PASSWORD,
    ROOT,
    SECRET,
    Load,
    User,
    assert_error,
    at_once,
    claims,
    free_port,
    is_open,
    new_address,
    procfile_command,
    report,
    stats,
    timed,
    wait_for,
    with_stats,
)
from pymongo import MongoClient

pytestmark = pytest.mark.skipif(
    not shutil.which("uwsgi", path=CLEAN["PATH"]), reason="there is no uWSGI here"
)


def test_serves_the_main_flow(mongod, database, start):
    server = start(mongod.uri)
    alice = User(server, "alice")
    todo = alice.add()
    assert server.get("/todos", alice.access).json()["todos"] == [todo]
    assert server.put(f"/todos/{todo['id']}", alice.access, json={"done": True}).json() == {
        **todo,
        "done": True,
    }
    assert server.delete(f"/todos/{todo['id']}", alice.access).status_code == 200
    assert server.post("/logout", alice.access).status_code == 200
    assert server.get("/todos", alice.access).status_code == 401


GOOD = {"JWT_SECRET_KEY": SECRET, "MONGODB_URI": "mongodb://127.0.0.1:1/test"}


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"JWT_SECRET_KEY": None}, "JWT_SECRET_KEY"),
        ({"JWT_SECRET_KEY": ""}, "JWT_SECRET_KEY"),
        ({"JWT_SECRET_KEY": "x" * 31}, "JWT_SECRET_KEY"),
        ({"MONGODB_URI": None}, "MONGODB_URI"),
        ({"MONGODB_URI": ""}, "MONGODB_URI"),
        ({"MONGODB_URI": "localhost:27017"}, "MONGODB_URI"),
        ({"MONGODB_URI": "http://localhost"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb://"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb://alice:hunter@2/hunter2@localhost/test"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb://alice:hunter2@localhost:port/test"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb://localhost/a%20b"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb+srv://a,b/test"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb://localhost/test?w=majority&w"}, "MONGODB_URI"),
        ({"WEB_CONCURRENCY": ""}, "WEB_CONCURRENCY"),
        ({"WEB_CONCURRENCY": "0"}, "WEB_CONCURRENCY"),
        ({"WEB_CONCURRENCY": "-1"}, "processes"),  # uWSGI's own words.
        ({"WEB_CONCURRENCY": "two"}, "WEB_CONCURRENCY"),
        ({"PORT": "five"}, "PORT"),
        ({"PORT": ""}, "PORT"),
    ],
)
def test_bad_settings_end_the_process_with_one_line_that_names_them(wrong, name):
    settings = {"PORT": str(free_port())} | GOOD | wrong
    environment = CLEAN | {key: value for key, value in settings.items() if value is not None}
    done = subprocess.run(
        procfile_command(), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20
    )
    assert done.returncode != 0
    output = done.stdout + done.stderr
    lines = [line for line in output.splitlines() if name in line]
    assert len(lines) == 1, output
    assert "Traceback" not in output and "spawned" not in output and "hunter" not in output


@pytest.mark.parametrize(
    "ending", ["", "/", "/?w=0", "/?w=1&journal=false&readPreference=secondary&retryWrites=false"]
)
def test_uri_without_a_database_name_means_todolistapp(mongod, start, ending):
    server = start(f"mongodb://127.0.0.1:{mongod.port}{ending}")
    name = f"user{free_port()}"
    User(server, name)
    with MongoClient(mongod.uri) as client:
        assert client.todolistapp.users.count_documents({"username": name}) == 1


@pytest.mark.parametrize(("setting", "workers"), [(None, 2), ("1", 1), ("4", 4)])
def test_web_concurrency_is_followed(mongod, start, setting, workers):
    server = with_stats(start, mongod.uri, WEB_CONCURRENCY=setting)
    wait_for(lambda: server.log.read_text().count("spawned uWSGI worker") == workers)
    assert len(stats(server)["workers"]) == workers


def test_port_is_5000_where_it_is_not_set(mongod, start):
    if is_open(5000):
        pytest.skip("port 5000 is in use on this machine")
    assert start(mongod.uri, port=5000, PORT=None).get("/todos").status_code == 401


def test_password_is_neither_stored_nor_logged(mongod, database, start):
    server = start(mongod.uri)
    User(server, "alice")
    assert PASSWORD not in str(list(database.users.find())) + server.log.read_text()


def unless_busy(answer):
    """The status of an answer. False if the server was too busy to hash a password."""
    if answer.status_code == 503:
        assert_error(answer, 503, "server_busy")
        return False
    return answer.status_code


# Many workers, many dynos


@pytest.mark.slow
@pytest.mark.parametrize("how", ["logout", "deletion"])
def test_session_is_over_at_once_for_all_workers_and_dynos_and_after_restarts(
    own_mongod, start, how
):
    dynos = [with_stats(start, own_mongod.uri, WEB_CONCURRENCY="4") for _ in range(2)]
    alice, bob = User(dynos[0], "alice"), User(dynos[0], "bob")
    refreshed = dynos[1].post("/refresh", alice.refresh).json()["access_token"]
    other = alice.login()[0] if how == "logout" else bob.access
    if how == "logout":
        assert dynos[0].post("/logout", alice.refresh).status_code == 200
    else:
        assert dynos[0].delete("/user/alice", alice.access).status_code == 200
    for again in range(2):
        for dyno in dynos:
            before = Counter(
                {worker["id"]: worker["requests"] for worker in stats(dyno)["workers"]}
            )
            answers = Counter()
            answered_by = set()
            while len(answered_by) < 4:  # Usually the first 100 requests reach all workers.
                for path, method, token in [
                    ("/todos", "GET", alice.access),
                    ("/todos", "GET", refreshed),
                    ("/refresh", "POST", alice.refresh),
                    ("/logout", "POST", alice.access),
                ]:
                    for answer in at_once(25, dyno.request, method, path, token):
                        answers[answer.status_code, answer.json()["error"]] += 1
                after = Counter(
                    {worker["id"]: worker["requests"] for worker in stats(dyno)["workers"]}
                )
                answered_by |= set(after - before)
            assert answers.keys() == {(401, "token_revoked")} and answers.total() >= 100
            assert {answer.status_code for answer in at_once(20, dyno.get, "/todos", other)} == {
                200
            }
        if not again:
            for dyno in dynos:
                dyno.stop()
            dynos = [with_stats(start, own_mongod.uri, WEB_CONCURRENCY="4") for _ in range(2)]


@pytest.mark.slow
def test_deletion_that_the_database_did_not_survive_is_finished_by_a_repeat(own_mongod, start):
    server = start(
        own_mongod.uri, WEB_CONCURRENCY="1"
    )  # When one of two answers again, the other may still refuse.
    alice = User(server, "alice")
    with MongoClient(own_mongod.uri) as client:
        database = client.get_default_database()
        owner_id = database.users.find_one()["_id"]
        # So many that deleting them takes longer than it takes to notice.
        database.todos.insert_many(
            [{"owner_id": owner_id, "created_at": None} for _ in range(100_000)]
        )
        with ThreadPoolExecutor() as pool:
            deletion = pool.submit(server.delete, "/user/alice", alice.access)
            wait_for(
                lambda: database.blacklist.find_one({"_id": claims(alice.access)["password_id"]})
            )
            own_mongod.kill()
            assert_error(deletion.result(), 503, "database_unavailable")
        own_mongod.start()
        assert database.users.count_documents({}) == 1 and database.todos.count_documents({}) > 0
        wait_for(lambda: server.get("/todos", alice.access).status_code != 503)
        assert_error(server.get("/todos", alice.access), 401, "token_revoked")
        wait_for(lambda: server.delete("/user/alice", alice.access).status_code == 200)
        assert database.users.count_documents({}) == database.todos.count_documents({}) == 0
    assert_error(server.delete("/user/alice", alice.access), 401, "token_revoked")


@pytest.mark.slow
def test_todos_that_are_added_while_their_user_is_deleted_are_gone_too(own_mongod, start):
    server = start(own_mongod.uri, WEB_CONCURRENCY="4")
    added = 0
    for number in range(15):
        user = User(server, f"user{number}")
        with Load(
            lambda *_: server.post("/todos", user.access, json={"name": "x"}).status_code,
            clients=12,
        ) as load:
            load.wait_for(20)
            assert server.delete(f"/user/{user.name}", user.access).status_code == 200
        added += sum(1 for result in load.results if result[2] == 201)
        assert {result[2] for result in load.results} <= {201, 401}
    with MongoClient(own_mongod.uri) as client:
        assert client.get_default_database().todos.count_documents({}) == 0
    report(users=15, added=added)


@pytest.mark.slow
def test_of_100_simultaneous_registrations_one_succeeds_also_without_indexes(own_mongod, start):
    # Nothing has been asked of the database yet.
    server = start(own_mongod.uri, WEB_CONCURRENCY="4")

    def register():
        """Register, and again if the server is too busy to hash the password."""
        body = {"username": "alice", "password": PASSWORD}
        return wait_for(lambda: unless_busy(server.post("/register", json=body)))

    assert Counter(at_once(100, register)) == {201: 1, 409: 99}
    with MongoClient(own_mongod.uri) as client:
        assert client.get_default_database().users.count_documents({}) == 1


# Faults


@pytest.mark.slow
def test_killed_worker_is_replaced_and_only_its_own_requests_fail(own_mongod, start):
    server = with_stats(start, own_mongod.uri, WEB_CONCURRENCY="4")
    alice = User(server, "alice")
    killed = stats(server)["workers"][0]["pid"]
    with Load(lambda *_: server.get("/todos", alice.access).status_code, clients=16) as load:
        load.wait_for(200)
        os.kill(killed, signal.SIGKILL)
        wait_for(
            lambda: {worker["pid"] for worker in stats(server)["workers"]}.isdisjoint({killed, 0})
        )
        load.wait_for(500)
    failed = [result for result in load.results if result[2] != 200]
    assert len(failed) <= 12, failed  # The threads of one worker.
    assert all(status is None for _, _, status in failed)
    report(requests=len(load.results), failed=len(failed))


@pytest.mark.slow
def test_no_acknowledged_todo_is_lost_when_mongodb_is_killed(own_mongod, start):
    server = start(own_mongod.uri)
    alice = User(server, "alice")
    acknowledged = []

    def add(client, number):
        name = f"{client}-{number}-{time.monotonic_ns()}"
        response = server.post("/todos", alice.access, json={"name": name})
        assert response.status_code in (201, 503), response.text
        if response.status_code == 201:
            acknowledged.append(name)
        return response.status_code

    with Load(add) as load:
        for _ in range(3):
            load.wait_for(300)
            own_mongod.kill()
            own_mongod.start()
        load.wait_for(100)
    with MongoClient(own_mongod.uri) as client:
        stored = Counter(todo["name"] for todo in client.get_default_database().todos.find())
    assert set(acknowledged) <= stored.keys()
    assert set(stored.values()) == {1}
    report(
        acknowledged=len(acknowledged),
        stored=len(stored),
        refused=sum(1 for result in load.results if result[2] == 503),
    )


def every_route(server, alice):
    """A well-formed request for each route, as a function that sends it."""
    todo = f"/todos/{'0' * 24}"
    requests_ = [
        ("POST", "/register", None, {"username": "carol", "password": PASSWORD}),
        ("POST", "/login", None, {"username": "alice", "password": PASSWORD}),
        ("POST", "/refresh", alice.refresh, None),
        ("POST", "/logout", alice.access, None),
        ("GET", "/user/alice", alice.access, None),
        ("PUT", "/user/alice", alice.access, {"current_password": PASSWORD, "password": PASSWORD}),
        ("DELETE", "/user/alice", alice.access, None),
        ("GET", "/todos", alice.access, None),
        ("POST", "/todos", alice.access, {"name": "x"}),
        ("GET", todo, alice.access, None),
        ("PUT", todo, alice.access, {"name": "x"}),
        ("DELETE", todo, alice.access, None),
    ]
    return [lambda r=request: server.request(r[0], r[1], r[2], json=r[3]) for request in requests_]


@pytest.mark.parametrize("fault", ["killed", pytest.param("stalled", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("workers", "threads"),
    [
        ("2", None),
        pytest.param("1", "1", marks=pytest.mark.slow),
        pytest.param("4", "6", marks=pytest.mark.slow),
    ],
)
def test_database_that_is_away_is_a_503_in_time_and_comes_back(
    own_mongod, start, fault, workers, threads
):
    options = ["--threads", threads] if threads else []
    server = start(own_mongod.uri, options=options, WEB_CONCURRENCY=workers)
    alice = User(server, "alice")
    if fault == "killed":
        own_mongod.kill()
    else:
        own_mongod.process.send_signal(signal.SIGSTOP)
    try:
        sends = every_route(server, alice)
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(timed, (sends * 5)[:50]))  # 50 clients at once.
        slowest = max(seconds for seconds, _ in answers)
        for send in sends:  # And one after another, with the database long away.
            answers.append(timed(send))
        for seconds, answer in answers:
            assert_error(answer, 503, "database_unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            assert seconds < 5
        for path in ("/register", "/login"):
            assert_error(server.post(path, json={"username": 1}), 400, "bad_request")
        assert_error(server.get("/todos"), 401, "authorization_required")
        assert_error(server.get("/nowhere"), 404, "not_found")
    finally:
        if fault == "killed":
            own_mongod.start()
        else:
            own_mongod.process.send_signal(signal.SIGCONT)
    back = time.monotonic()
    wait_for(lambda: server.get("/todos", alice.access).status_code == 200, seconds=5)
    wait_for(lambda: {send().status_code for send in sends[:2]} <= {200, 201, 409}, seconds=5)
    report(slowest=round(slowest, 2), back_after=round(time.monotonic() - back, 2))


def break_next(client, command, **how):
    """Let MongoDB fail once, at its next command of this kind on the todos."""
    data = {"failCommands": [command], "namespace": "test.todos", **how}
    client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)


@pytest.mark.slow
def test_only_an_outage_is_told_as_one(breakable, start):
    server = start(breakable.uri, WEB_CONCURRENCY="1")
    alice = User(server, "alice")
    outages = {
        "no permission": ("find", {"errorCode": 13}),
        "wrong password": ("find", {"errorCode": 18}),
        "Atlas refuses": ("find", {"errorCode": 8000}),
        "disk full": ("find", {"errorCode": 14031}),
        "took too long": ("find", {"errorCode": 50}),
        "write not confirmed": ("insert", {"writeConcernError": {"code": 64, "errmsg": "slow"}}),
        "no primary": ("insert", {"errorCode": 10107}),
        "connection cut": ("insert", {"closeConnection": True}),
    }
    bugs = {
        "mistyped query": ("find", {"errorCode": 2}),
        "unknown operator": ("insert", {"errorCode": 9}),
    }
    with MongoClient(breakable.uri) as client:

        def answer(command, how):
            wait_for(lambda: server.get("/todos", alice.access).status_code == 200)
            break_next(client, command, **how)
            if command == "find":
                return server.get("/todos", alice.access)
            return server.post("/todos", alice.access, json={"name": "x"})

        for command, how in outages.values():
            assert_error(answer(command, how), 503, "database_unavailable")
        assert "Traceback" not in server.log.read_text()
        for number, (command, how) in enumerate(bugs.values()):
            assert_error(answer(command, how), 500, "internal_error")
            assert server.log.read_text().count("Traceback") > number


@pytest.mark.slow
def test_starts_without_a_database_and_has_its_indexes_when_it_comes(own_mongod, start):
    own_mongod.kill()
    server = start(own_mongod.uri)
    assert_error(
        server.post("/register", json={"username": "alice", "password": PASSWORD}),
        503,
        "database_unavailable",
    )
    own_mongod.start()
    wait_for(
        lambda: (
            server.post("/register", json={"username": "alice", "password": PASSWORD}).status_code
            == 201
        ),
        5,
    )
    with MongoClient(own_mongod.uri) as client:
        assert len(client.get_default_database().users.index_information()) == 2


def alive(group):
    """The processes of a process group that have not ended."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):  # It ended while we looked.
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_sigterm_answers_what_is_in_flight_and_leaves_nothing(own_mongod, start):
    server = start(own_mongod.uri)

    def register(client, number):
        name = f"user{client}-{number}-{time.monotonic_ns()}"
        return server.post("/register", json={"username": name, "password": PASSWORD}).status_code

    with Load(register) as load:
        load.wait_for(20)
        begin = time.monotonic()
        server.process.terminate()
        server.process.wait(10)
        took = time.monotonic() - begin
    in_flight = [
        status
        for started, ended, status in load.results
        if started < begin - 0.05 and ended > begin
    ]
    # Some may have been told that there are too many passwords to hash.
    assert 201 in in_flight and set(in_flight) <= {201, 503}
    wait_for(lambda: not alive(server.process.pid))
    with pytest.raises(requests.ConnectionError):
        server.get("/todos")
    report(seconds=round(took, 2), in_flight=len(in_flight))


@pytest.mark.parametrize(
    "half",
    [
        b"",
        pytest.param(b"GET /todos HT", marks=pytest.mark.slow),
        pytest.param(b"GET /todos HTTP/1.1\r\nHost: x\r\nAuthoriz", marks=pytest.mark.slow),
        pytest.param(
            b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99\r\n\r\n{",
            marks=pytest.mark.slow,
        ),
        b"POST /login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
def test_50_half_requests_do_not_keep_another_client_waiting(own_mongod, start, half):
    server = start(own_mongod.uri)
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port))).sendall(half)
        seconds, answer = timed(lambda: server.get("/todos"))
    assert_error(answer, 401, "authorization_required")
    assert seconds < 5
    report(seconds=round(seconds, 2))


@pytest.mark.parametrize("size", [10, 1_000, 100_000, 1_000_000])
def test_body_in_chunks_gets_an_answer_and_not_a_dropped_connection(api, size):
    def chunks():
        for _ in range(10):
            yield b"x" * (size // 10)

    response = api.post("/register", data=chunks(), headers={"Content-Type": "application/json"})
    assert_error(response, 400, "bad_request", "Send the body in one piece, with a Content-Length.")


# What others could learn


@pytest.mark.slow
def test_unknown_name_takes_as_long_as_a_known_one(own_mongod, start):
    server = start(own_mongod.uri)
    User(server, "alice")
    times = {"alice": [], "nobody": []}
    for _ in range(50):  # In turns, so that both see the same weather.
        for name, spent in times.items():
            body = {"username": name, "password": "wrong one"}
            headers = {"X-Forwarded-For": new_address()}
            seconds, answer = timed(
                lambda b=body, h=headers: server.post("/login", json=b, headers=h)
            )
            assert_error(answer, 401, "invalid_credentials")
            spent.append(seconds)
    known, unknown = statistics.median(times["alice"]), statistics.median(times["nobody"])
    report(known_ms=round(known * 1000, 1), unknown_ms=round(unknown * 1000, 1))
    assert abs(known - unknown) < 0.1 * known


@pytest.mark.slow
def test_log_and_answers_hold_no_secret(own_mongod, start):
    server = start(own_mongod.uri, WEB_CONCURRENCY="1")  # For the reason of the deletion's test.
    alice = User(server, "alice")
    answers = [send() for send in every_route(server, alice)[:3]]
    own_mongod.kill()
    answers += [send() for send in every_route(server, alice)]
    own_mongod.start()
    wait_for(
        lambda: (
            server.post("/login", json={"username": "alice", "password": PASSWORD}).status_code
            == 200
        )
    )
    answers += [send() for send in every_route(server, alice)] + [
        server.get("/nowhere"),
        server.post("/todos", "x.y.z"),
    ]
    with MongoClient(own_mongod.uri) as client:
        client.get_default_database().users.insert_one(
            {"username": "broken", "password": "no hash"}
        )
    broken = server.post("/login", json={"username": "broken", "password": PASSWORD})
    assert_error(broken, 500, "internal_error")  # A crash: logged with its traceback, told without.
    log = server.log.read_text()
    assert "Traceback" in log and "UnknownHashError" in log
    for secret in (
        PASSWORD,
        SECRET,
        alice.access,
        alice.refresh,
        alice.access.split(".")[2],
        "$argon2",
        "no hash",
    ):
        assert secret not in log
    for answer in [*answers, broken]:
        assert not re.search(
            "Traceback|pymongo|passlib|argon2|127\\.0\\.0\\.1|Werkzeug|werkzeug",
            answer.text + str(answer.headers),
        )
        assert "Server" not in answer.headers


def test_there_is_no_debugger(api):
    for path in ("/console", "/?__debugger__=yes&cmd=resource&f=debugger.js"):
        assert_error(api.get(path), 404, "not_found")


def test_starts_without_warnings(own_mongod, start):
    server = start(own_mongod.uri)
    User(server, "alice")
    lines = [
        line
        for line in server.log.read_text().splitlines()
        if re.search("warn|error|!!!", line, re.IGNORECASE)
    ]
    assert [
        line for line in lines if "running uWSGI as root" not in line
    ] == []  # Nobody is root on Heroku.


def test_every_setting_of_uwsgi_has_its_reason_beside_it():
    blocks = (ROOT / "uwsgi.ini").read_text().partition("[uwsgi]\n")[2].split("\n\n")
    for block in blocks:
        assert block.lstrip().startswith("#"), block


def test_connections_are_closed_and_say_so(api):
    connection = http.client.HTTPConnection("127.0.0.1", api.port)
    connection.request("GET", "/todos")
    response = connection.getresponse()
    assert response.getheader("Connection") == "close"


def test_token_of_8_kb_reaches_the_app(api, database):
    long = jwt.encode({"x": "x" * 8000}, SECRET, "HS256")
    assert_error(api.get("/todos", long), 401, "invalid_token")
