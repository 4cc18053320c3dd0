"""An unavailable database: a 503 in time, no acknowledged write lost, and then all goes on."""

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from bson import ObjectId
from pymongo import MongoClient
from support.actions import code, delete_user, every_request, is_valid, log_in, register
from support.clients import (
    PASSWORD,
    Control,
    User,
    Writers,
    assert_error,
    report,
    timed,
)
from support.faults import FailPoint
from support.flight import Flight
from support.processes import wait_for

UNAVAILABLE = (503, "database_unavailable")


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "workers"), [("killed", "1"), ("killed", "2"), ("stopped", "4")])
def test_unavailable_database_gives_503_and_recovers(own_mongod, start, fault, workers):
    server = start(own_mongod.uri, WEB_CONCURRENCY=workers)
    alice = User(server, "alice")
    sends = every_request(server, [alice])
    if fault == "killed":
        own_mongod.kill()
    else:
        # Its connections stay open, so the server is not told.
        own_mongod.process.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(50) as pool, Control(server) as control:
            responses = list(pool.map(timed, (sends * 5)[:50]))
            # And later.
            responses += pool.map(timed, sends)
        for seconds, response in responses:
            error = code(response)
            assert_error(response, 503, error)
            if error != "database_unavailable":
                # It has waited for a hashing slot before it could query the database.
                assert b"password" in (response.request.body or b"")
            control.assert_in_time(seconds)
        assert_error(log_in(server, 1), 400, "bad_request")
        assert_error(server.get("/todos"), 401, "authorization_required")
        assert_error(server.get("/nowhere"), 404, "not_found")
    finally:
        if fault == "killed":
            own_mongod.start()
        else:
            own_mongod.process.send_signal(signal.SIGCONT)
    back = time.monotonic()
    wait_for(lambda: server.get("/todos", alice.access).status_code == 200)
    wait_for(lambda: {send().status_code for send in sends[:2]} <= {200, 201, 409})
    slowest = max(seconds for seconds, _ in responses)
    report(slowest=round(slowest, 2), recovered_after=round(time.monotonic() - back, 2))


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("fault", ["killed", "stopped"])
def test_requests_in_flight_get_503_in_time(breakable, start, fault, workers):
    server = start(breakable.uri, WEB_CONCURRENCY=workers)
    alice = User(server, "alice")
    posts = [("POST", "/todos", alice.access, {"name": str(number)}) for number in range(200)]
    # The workers open their connections.
    Flight(server, posts).land()
    with MongoClient(breakable.uri) as client:
        fail_point = FailPoint(client)
        # Longer than any response may take.
        fail_point.set(["insert"], blockConnection=True, blockTimeMS=6000)
        flight = Flight(server, posts)
        # A worker has 100 connections to MongoDB. The other requests wait for one.
        wait_for(lambda: fail_point.count() >= 100)
    if fault == "killed":
        breakable.kill()
    else:
        breakable.process.send_signal(signal.SIGSTOP)
    with Control(server) as control:
        landed = flight.land()
    assert len(landed) == 200
    assert {(status, body["error"]) for _, status, body in landed} == {UNAVAILABLE}
    slowest = max(seconds for seconds, *_ in landed)
    report(slowest=round(slowest, 2))
    control.assert_in_time(slowest)
    if fault == "killed":
        breakable.start()
    else:
        breakable.process.send_signal(signal.SIGCONT)
        with MongoClient(breakable.uri) as client:
            FailPoint(client).clear()
    wait_for(lambda: {status for _, status, _ in Flight(server, posts).land()} == {201})


@pytest.mark.slow
def test_no_acknowledged_todo_is_lost_when_mongod_is_killed(own_mongod, start):
    server = start(own_mongod.uri)
    alice = User(server, "alice")
    with Writers(alice) as writers:
        for _ in range(3):
            writers.wait_for(300)
            own_mongod.kill()
            own_mongod.start()
        writers.wait_for(100)
    with MongoClient(own_mongod.uri) as client:
        stored = Counter(todo["name"] for todo in client.get_default_database().todos.find())
    statuses = Counter(status for *_, status in writers.results)
    report(acknowledged=len(writers.acknowledged), stored=len(stored), rejected=statuses[503])
    assert statuses.keys() <= {201, 503}
    assert set(writers.acknowledged) <= stored.keys()
    assert set(stored.values()) == {1}


@pytest.mark.slow
def test_deletion_of_100000_todos_is_finished_after_mongod_is_killed(own_mongod, start):
    server = start(own_mongod.uri)
    alice = User(server, "alice")
    todos = {"owner_id": ObjectId(alice.id)}
    with MongoClient(own_mongod.uri) as client:
        database = client.get_default_database()
        # So many that MongoDB is still deleting them when it is killed.
        database.todos.insert_many([{**todos, "created_at": None} for _ in range(100_000)])
        with ThreadPoolExecutor(1) as pool:
            deletion = pool.submit(delete_user, server, alice)
            wait_for(lambda: database.todos.estimated_document_count() < 100_000)
            own_mongod.kill()
            assert_error(deletion.result(), *UNAVAILABLE)
        own_mongod.start()
        wait_for(lambda: server.get("/todos", alice.access).status_code != 503)
        left = database.todos.count_documents(todos)
        assert not is_valid(server, alice.access, alice.refresh)

        def log_in_and_delete():
            login = available(log_in(server, "alice", PASSWORD))
            return login and available(delete_user(server, alice, login.json()["access_token"]))

        wait_for(log_in_and_delete)
        assert database.users.count_documents({}) == database.todos.count_documents({}) == 0
    report(left_at_first=left)


def available(response):
    """Return the response if it is a success, and None if the database is unavailable."""
    if response.status_code == 503:
        return None
    assert response.status_code == 200, response.text
    return response


@pytest.mark.slow
def test_server_starts_without_database_and_creates_indexes_later(own_mongod, start):
    own_mongod.kill()
    server = start(own_mongod.uri, WEB_CONCURRENCY="1")
    assert_error(register(server, "alice"), *UNAVAILABLE)
    own_mongod.start()
    wait_for(lambda: register(server, "alice").status_code == 201)
    # The unique index exists.
    assert_error(register(server, "alice"), 409, "username_taken")
