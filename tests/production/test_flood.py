"""Many requests that need a hash: they queue, honest clients log in, and reading goes on.

What a flood leaves the readers of their rate is no promise. `tests/benchmark.py` measures it.
"""

import itertools
import time
from collections import Counter

import pytest
from support.actions import code, log_in, register
from support.clients import (
    PASSWORD,
    InsertedUser,
    Load,
    assert_error,
    at_once,
    new_address,
    report,
)
from support.processes import wait_for

numbers = itertools.count()


def test_single_client_is_never_told_that_server_is_busy(api, alice):
    for number in range(20):
        assert log_in(api, "alice", PASSWORD).status_code == 200
        assert_error(log_in(api, f"user{number}"), 401, "invalid_credentials")
        assert register(api, f"new{number}").status_code == 201


def test_todos_are_read_and_written_during_a_flood(mongod, database, start):
    server = start(mongod.uri, WEB_CONCURRENCY="1")
    alice = InsertedUser(server, database, "alice")
    with Load(lambda *_: log_in(server, f"user{next(numbers)}").status_code, clients=40) as flood:
        wait_for(lambda: len(flood.results) > 40)
        for number in range(20):
            assert alice.add(f"todo {number}")["name"] == f"todo {number}"
            page = server.get("/todos", alice.access).json()["todos"]
            assert len(page) == number + 1
    statuses = Counter(status for *_, status in flood.results)
    report(**{str(status): count for status, count in statuses.items()})
    assert statuses.keys() <= {401, 503}
    assert statuses[401] > 0


def test_flood_of_registrations_stores_exactly_the_acknowledged_users(mongod, database, start):
    server = start(mongod.uri, WEB_CONCURRENCY="1")
    responses = at_once(150, lambda: register(server, f"user{next(numbers)}"))
    codes = Counter(code(response) for response in responses)
    report(**codes)
    assert codes.keys() == {"success", "server_busy"}
    for response in responses:
        if response.status_code == 503:
            assert_error(response, 503, "server_busy")
    assert database.users.count_documents({}) == codes["success"]
    # Rejected requests are not logged: they would wash everything else out.
    assert "busy" not in server.log.read_text()


@pytest.mark.slow
def test_fifty_concurrent_honest_clients_log_in(mongod, database, start):
    server = start(mongod.uri)
    names = [f"user{number}" for number in range(50)]
    for name in names:
        InsertedUser(server, database, name)
    remaining = iter(names)
    results = at_once(50, lambda: honest_login(server, next(remaining)))
    slowest = max(seconds for seconds, _ in results)
    attempts = max(attempts for _, attempts in results)
    report(slowest=round(slowest, 2), most_attempts=attempts)


def honest_login(server, name):
    """Log in, and wait as long as the server asks for; return the seconds and the attempts."""
    begin = time.monotonic()
    address = new_address()
    for attempts in range(1, 20):
        response = log_in(server, name, PASSWORD, address)
        if response.status_code == 200:
            return time.monotonic() - begin, attempts
        assert_error(response, 503, "server_busy")
        # There is no condition to wait for: this is what the server asks its clients to do.
        time.sleep(int(response.headers["Retry-After"]))
    raise AssertionError(f"{name} cannot log in")
