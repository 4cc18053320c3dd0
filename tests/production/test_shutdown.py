"""Processes that end: on SIGTERM after the requests in flight, or killed and replaced."""

import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from support.actions import log_in, register, unless_busy
from support.clients import PASSWORD, InsertedUser, Load, assert_error, report
from support.processes import router, wait_for, with_stats, workers

# Ways to send SIGTERM. Heroku signals every process of a dyno, in no particular order.


def master(server):
    server.process.terminate()


def group(server):
    server.signal_group()


def workers_then_master(server):
    for worker in workers(server):
        os.kill(worker["pid"], signal.SIGTERM)
    server.process.terminate()


def workers_long_before_master(server):
    for worker in workers(server):
        os.kill(worker["pid"], signal.SIGTERM)
    # This pause is the case that the test is about.
    time.sleep(0.2)
    server.process.terminate()


def router_then_master(server):
    router(server).terminate()
    server.process.terminate()


def group_four_times(server):
    for _ in range(4):
        server.signal_group()


@pytest.mark.parametrize(
    "send_sigterm",
    [
        master,
        group,
        pytest.param(workers_then_master, marks=pytest.mark.slow),
        pytest.param(workers_long_before_master, marks=pytest.mark.slow),
        pytest.param(router_then_master, marks=pytest.mark.slow),
        pytest.param(group_four_times, marks=pytest.mark.slow),
    ],
)
def test_sigterm_lets_requests_in_flight_finish(failing_mongod, fail_point, start, send_sigterm):
    server = with_stats(start, failing_mongod.uri, WEB_CONCURRENCY="4")
    assert_error(server.get("/todos"), 401, "authorization_required")
    # Every insert takes half a second, so the registrations are in flight for as long.
    fail_point.set(["insert"], blockConnection=True, blockTimeMS=500)
    names = [f"user{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        registrations = [pool.submit(unless_busy, register, server, name) for name in names]
        wait_for(lambda: fail_point.count() == 8)
        begin = time.monotonic()
        send_sigterm(server)
        statuses = [registration.result().status_code for registration in registrations]
        responded = time.monotonic() - begin
    assert statuses == [201] * 8
    server.process.wait(10)
    wait_for(lambda: not server.processes(), seconds=begin + 10 - time.monotonic())
    ended = time.monotonic() - begin
    with pytest.raises(requests.ConnectionError):
        server.get("/todos")
    assert "Traceback" not in server.log.read_text()
    fail_point.clear()
    # What was acknowledged is stored.
    again = start(failing_mongod.uri)
    assert [log_in(again, name, PASSWORD).status_code for name in names] == [200] * 8
    report(responded=round(responded, 2), ended=round(ended, 2))


@pytest.mark.slow
def test_sigterm_under_load_lets_requests_in_flight_finish(mongod, database, start):
    server = start(mongod.uri)
    alice = InsertedUser(server, database, "alice")
    with Load(lambda *_: server.get("/todos", alice.access).status_code, clients=4) as load:
        load.wait_for(200)
        begin = time.monotonic()
        server.stop()
        ended = time.monotonic() - begin
    # Those that a worker had when the signal came: sent 50 ms before it. A later one can reach the
    # server when no worker accepts requests any more.
    statuses = Counter(status for sent, _, status in load.results if sent < begin - 0.05)
    report(ended=round(ended, 2), requests=statuses[200])
    assert statuses.keys() == {200}
    assert ended < 10


@pytest.mark.slow
def test_killed_worker_is_replaced_and_only_its_requests_fail(mongod, database, start):
    server = with_stats(start, mongod.uri, WEB_CONCURRENCY="4")
    alice = InsertedUser(server, database, "alice")
    killed = workers(server)[0]["pid"]
    with Load(lambda *_: server.get("/todos", alice.access).status_code, clients=16) as load:
        load.wait_for(200)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: {worker["pid"] for worker in workers(server)}.isdisjoint({killed, 0}))
        load.wait_for(500)
    statuses = Counter(status for *_, status in load.results)
    report(**{str(status): count for status, count in statuses.items()})
    assert statuses.keys() <= {200, None}
    # No more than a worker has threads, and no client waits for a response that never comes.
    failed = [end - begin for begin, end, status in load.results if status is None]
    assert len(failed) <= len(workers(server)[0]["cores"])
    assert max(failed, default=0) < 2


@pytest.mark.slow
def test_killed_router_is_replaced(mongod, database, start):
    server = with_stats(start, mongod.uri)
    alice = InsertedUser(server, database, "alice")
    killed = router(server)
    with Load(lambda *_: server.get("/todos", alice.access).status_code, clients=4) as load:
        load.wait_for(100)
        killed.kill()
        load.wait_for(100)
    statuses = Counter(status for *_, status in load.results)
    report(**{str(status): count for status, count in statuses.items()})
    assert statuses.keys() <= {200, None}
    assert router(server).pid != killed.pid
