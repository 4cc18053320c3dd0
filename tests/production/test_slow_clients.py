"""Slow clients delay no other client."""

import contextlib
import statistics
import time

import pytest
from support.clients import report, timed
from support.connections import HALF_HEADERS, connect, dripping
from support.processes import wait_for, with_stats, workers


def waits(server, user, seconds=0):
    """Return the median and the longest response time of a reader that reads for so long."""
    times = []
    end = time.monotonic() + seconds
    while len(times) < 20 or time.monotonic() < end:
        taken, response = timed(lambda: server.get("/todos", user.access))
        assert response.status_code == 200
        times.append(taken)
    return statistics.median(times), max(times)


@pytest.mark.parametrize(
    ("number", "seconds"), [(300, 0), pytest.param(500, 15, marks=pytest.mark.slow)]
)
def test_clients_that_drip_delay_no_other_client(api, alice, number, seconds):
    # Three times, because other programs of the machine can delay a reader as well.
    results = []
    for _ in range(3):
        alone, _ = waits(api, alice)
        with dripping(api, number):
            beside, longest = waits(api, alice, seconds)
        results.append((round(alone, 4), round(beside, 4), round(longest, 3)))
        if beside < 2 * alone + 0.02 and longest < 2:
            break
    report(alone_beside_longest=results)
    assert beside < 2 * alone + 0.02
    assert longest < 2


@pytest.mark.slow
def test_server_recovers_from_more_clients_than_it_has_greenlets(mongod, start):
    server = with_stats(start, mongod.uri, WEB_CONCURRENCY="1")
    greenlets = len(workers(server)[0]["cores"])
    with contextlib.ExitStack() as stack:
        for _ in range(greenlets + 50):
            stack.enter_context(connect(server)).sendall(HALF_HEADERS)
        wait_for(
            lambda: sum(core["in_request"] for core in workers(server)[0]["cores"]) == greenlets
        )
    wait_for(lambda: server.get("/todos").status_code == 401)
    log = server.log.read_text()
    assert "Traceback" not in log and "died" not in log
