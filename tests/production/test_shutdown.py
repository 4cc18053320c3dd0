"""Processes that end: on SIGTERM after the requests in flight, or killed and replaced."""

import contextlib
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from support.actions import log_in
from support.clients import PASSWORD, InsertedUser, Load, assert_error, report
from support.connections import RawResponse, connect, head, received
from support.flight import Flight
from support.processes import wait_for, with_stats, workers

# In seconds. A body has 10, and a worker that ends looks once a second for requests in flight.
LONGEST_END = 20

# Ways to send SIGTERM. Heroku signals every process of a dyno, in no particular order.


def master(server):
    server.process.terminate()


def group(server):
    server.signal_group()


def workers_then_master(server):
    all_workers(server)
    master(server)


def workers_long_before_master(server):
    all_workers(server)
    # This pause is the case that the test is about.
    time.sleep(0.2)
    master(server)


def group_four_times(server):
    for _ in range(4):
        group(server)


# These two do not end the server: the master replaces a worker that has ended.


def all_workers(server):
    for worker in workers(server):
        os.kill(worker["pid"], signal.SIGTERM)


def one_worker(server):
    os.kill(workers(server)[0]["pid"], signal.SIGTERM)


@contextlib.contextmanager
def eight_requests_in_flight(server, user, fail_point, milliseconds=500):
    """Hold eight new todos in MongoDB for a while, and provide the future of each response."""
    # MongoDB takes so long for every insert.
    fail_point.set(["insert"], blockConnection=True, blockTimeMS=milliseconds)
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"name": f"todo {number}"} for number in range(8)]
        sent = [pool.submit(server.post, "/todos", user.access, json=body) for body in bodies]
        wait_for(lambda: fail_point.count() == 8)
        yield sent


def assert_added(database, sent):
    """Assert that all eight were answered, and that what was acknowledged is stored."""
    assert [response.result().status_code for response in sent] == [201] * 8
    stored = {todo["name"] for todo in database.todos.find()}
    assert stored == {f"todo {number}" for number in range(8)}


def assert_ends(server, begin):
    """Assert that all processes of the server end in time and without a crash."""
    server.process.wait(begin + LONGEST_END - time.monotonic())
    wait_for(lambda: not server.processes(), seconds=begin + LONGEST_END - time.monotonic())
    report(ended=round(time.monotonic() - begin, 2))
    with pytest.raises(requests.ConnectionError):
        server.get("/todos")
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    "send_sigterm",
    [
        master,
        group,
        pytest.param(workers_then_master, marks=pytest.mark.slow),
        pytest.param(workers_long_before_master, marks=pytest.mark.slow),
        pytest.param(group_four_times, marks=pytest.mark.slow),
    ],
)
def test_sigterm_lets_requests_in_flight_finish(
    failing_mongod, failing_database, fail_point, start, send_sigterm
):
    server = with_stats(start, failing_mongod.uri)
    alice = InsertedUser(server, failing_database, "alice")
    with eight_requests_in_flight(server, alice, fail_point) as sent:
        begin = time.monotonic()
        send_sigterm(server)
    assert_added(failing_database, sent)
    assert_ends(server, begin)


@pytest.mark.slow
def test_sigterm_lets_eight_logins_finish(failing_mongod, failing_database, fail_point, start):
    server = with_stats(start, failing_mongod.uri)
    InsertedUser(server, failing_database, "alice")
    # Each query takes so long, so most of the logins wait for the slot of another one.
    fail_point.set(["find"], blockConnection=True, blockTimeMS=150)
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(log_in, server, "alice", PASSWORD) for _ in range(8)]
        wait_for(lambda: requests_in(server) + sum(future.done() for future in sent) == 8)
        begin = time.monotonic()
        server.signal_group()
    assert [response.result().status_code for response in sent] == [200] * 8
    assert_ends(server, begin)


def requests_in(server):
    """Return how many requests the workers of a server have received and not yet answered."""
    return sum(core["in_request"] for worker in workers(server) for core in worker["cores"])


@pytest.mark.slow
@pytest.mark.parametrize("send_sigterm", [one_worker, all_workers])
def test_sigterm_to_workers_lets_requests_in_flight_finish_and_replaces_them(
    failing_mongod, failing_database, fail_point, start, send_sigterm
):
    server = with_stats(start, failing_mongod.uri)
    alice = InsertedUser(server, failing_database, "alice")
    before = {worker["pid"] for worker in workers(server)}
    ending = before if send_sigterm is all_workers else {workers(server)[0]["pid"]}
    with eight_requests_in_flight(server, alice, fail_point) as sent:
        send_sigterm(server)
    assert_added(failing_database, sent)
    wait_for(lambda: {worker["pid"] for worker in workers(server)}.isdisjoint({*ending, 0}))
    assert (before - ending) <= {worker["pid"] for worker in workers(server)}
    fail_point.clear()
    assert server.get("/todos", alice.access).status_code == 200
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("send_sigterm", [master, group])
def test_sigterm_beside_300_bodies_that_pause_ends_in_time(
    failing_mongod, failing_database, fail_point, start, send_sigterm
):
    server = start(failing_mongod.uri)
    alice = InsertedUser(server, failing_database, "alice")
    login = ("POST /login HTTP/1.1", "Content-Type: application/json")
    halves = [
        head(*login, "Content-Length: 99") + b"{",
        head(*login, "Transfer-Encoding: chunked") + b"63\r\n{",
    ]
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(server)) for _ in range(300)]
        for number, connection in enumerate(connections):
            connection.sendall(halves[number % 2])
        with eight_requests_in_flight(server, alice, fail_point, milliseconds=2000) as sent:
            begin = time.monotonic()
            send_sigterm(server)
        assert_added(failing_database, sent)
        for connection in connections:
            assert_error(RawResponse(received(connection)), 400, "bad_request")
    assert_ends(server, begin)


@pytest.mark.parametrize("send_sigterm", [master, group])
def test_sigterm_lets_requests_that_wait_to_be_accepted_finish(
    mongod, database, start, send_sigterm
):
    server = start(mongod.uri)
    alice = InsertedUser(server, database, "alice")
    # A worker accepts one after the other, between the steps of those that it has.
    flight = Flight(server, [("GET", "/todos", alice.access, None)] * 100)
    begin = time.monotonic()
    send_sigterm(server)
    assert Counter(status for _, status, _ in flight.land()) == {200: 100}
    assert_ends(server, begin)


@pytest.mark.slow
def test_sigterm_under_load_lets_requests_in_flight_finish(mongod, database, start):
    server = start(mongod.uri)
    alice = InsertedUser(server, database, "alice")
    with Load(lambda: server.get("/todos", alice.access).status_code, clients=4) as load:
        load.wait_for(200)
        begin = time.monotonic()
        server.signal_group()
        assert_ends(server, begin)
    # A later one can reach the server when no worker accepts requests any more.
    statuses = Counter(status for sent, _, status in load.results if sent < begin)
    report(requests=statuses[200])
    assert statuses.keys() == {200}


@pytest.mark.slow
def test_killed_worker_is_replaced_and_only_its_requests_fail(mongod, database, start):
    server = with_stats(start, mongod.uri, WEB_CONCURRENCY="4")
    alice = InsertedUser(server, database, "alice")
    killed = workers(server)[0]["pid"]
    with Load(lambda: server.get("/todos", alice.access).status_code, clients=16) as load:
        load.wait_for(200)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: {worker["pid"] for worker in workers(server)}.isdisjoint({killed, 0}))
        load.wait_for(500)
    statuses = Counter(status for *_, status in load.results)
    report(**{str(status): count for status, count in statuses.items()})
    assert statuses.keys() <= {200, None}
    # Each client has one request in flight, and none waits for a response that never comes.
    failed = [end - begin for begin, end, status in load.results if status is None]
    assert len(failed) <= 16
    assert max(failed, default=0) < 5
