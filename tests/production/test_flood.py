"""Many requests that need a hash: they queue, honest clients log in, and reading goes on.

What a flood leaves the readers of their rate is no promise. `tests/benchmark.py` measures it.
"""

import itertools
import statistics
from collections import Counter

import psutil
import pytest
from support.actions import code, log_in, register
from support.clients import (
    PASSWORD,
    InsertedUser,
    Load,
    assert_error,
    at_once,
    report,
    timed,
)
from support.processes import wait_for

numbers = itertools.count()

# In bytes: see `hashes` in resources/passwords.py.
MEMORY_OF_A_HASH = 19 * 1024 * 1024


def test_single_client_is_never_told_that_server_is_busy(api, alice):
    for number in range(20):
        assert log_in(api, "alice", PASSWORD).status_code == 200
        assert_error(log_in(api, f"user{number}"), 401, "invalid_credentials")
        assert register(api, f"new{number}").status_code == 201


def test_todos_are_read_and_written_during_a_flood(mongod, database, start):
    server = start(mongod.uri, WEB_CONCURRENCY="1")
    alice = InsertedUser(server, database, "alice")
    [worker] = psutil.Process(server.process.pid).children()
    before, most, seconds = worker.memory_info().rss, 0, []
    with Load(lambda: log_in(server, f"user{next(numbers)}").status_code, clients=40) as flood:
        wait_for(lambda: len(flood.results) > 40)
        for number in range(20):
            added, todo = timed(lambda n=number: alice.add(f"todo {n}"))
            assert todo["name"] == f"todo {number}"
            listed, response = timed(lambda: server.get("/todos", alice.access))
            assert len(response.json()["todos"]) == number + 1
            seconds += [added, listed]
            most = max(most, worker.memory_info().rss)
    statuses = Counter(status for *_, status in flood.results)
    login = statistics.median(end - begin for begin, end, _ in flood.results)
    todo = statistics.median(seconds)
    report(login=round(login, 3), todo=round(todo, 3), MiB=(most - before) // 2**20)
    assert statuses.keys() <= {401, 503}
    assert statuses[401] > 0
    # A todo does not wait for the hashes of the flood.
    assert todo < login / 4
    # The worker hashes one password at a time: it has never had the memory for two.
    assert most - before < 2 * MEMORY_OF_A_HASH


def test_flood_of_registrations_stores_exactly_the_acknowledged_users(mongod, database, start):
    server = start(mongod.uri, WEB_CONCURRENCY="1")
    database.users.insert_one({"username": "broken", "password": "not a hash"})
    log_a_line(server)
    server.log.write_bytes(b"")
    # So many that some are rejected even if a hash takes 5 milliseconds.
    responses = at_once(400, lambda: register(server, f"user{next(numbers)}"))
    codes = Counter(code(response) for response in responses)
    report(**codes)
    assert codes.keys() == {"success", "server_busy"}
    for response in responses:
        if response.status_code == 503:
            assert_error(response, 503, "server_busy")
    assert database.users.count_documents({"username": {"$ne": "broken"}}) == codes["success"]
    # Rejected requests are not logged: they would wash everything else out.
    log_a_line(server)
    assert server.log.read_text().count("\n") == 1


def log_a_line(server):
    """Send a login that logs a line, and wait for it. Whatever was logged earlier is before it."""
    log_in(server, "broken")
    wait_for(lambda: "the stored password is not a hash" in server.log.read_text())


@pytest.mark.slow
def test_fifty_concurrent_logins_are_all_admitted(mongod, database, start):
    server = start(mongod.uri)
    names = [f"user{number}" for number in range(50)]
    for name in names:
        InsertedUser(server, database, name)
    remaining = iter(names)
    results = at_once(50, timed, lambda: log_in(server, next(remaining), PASSWORD))
    report(slowest=round(max(seconds for seconds, _ in results), 2))
    for seconds, response in results:
        # Where a machine takes long for 50 hashes, the wait of an admitted login can end.
        assert code(response) == "success" or seconds >= 2
