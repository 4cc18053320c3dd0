"""The end of a session: it takes effect on every worker and dyno, immediately and for good."""

from collections import Counter

import pytest
from support.actions import (
    change_password,
    delete_user,
    is_valid,
    log_in,
    tokens_of,
)
from support.clients import PASSWORD, InsertedUser, assert_error, at_once
from support.processes import with_stats, workers

pytestmark = pytest.mark.slow


def log_out(server, user):
    return server.post("/logout", user.refresh)


@pytest.mark.parametrize("end_session", [log_out, change_password, delete_user])
def test_ended_session_is_refused_by_every_worker_and_after_restarts(
    mongod, database, start, end_session
):
    dynos = [with_stats(start, mongod.uri, WEB_CONCURRENCY="4") for _ in range(2)]
    alice = InsertedUser(dynos[0], database, "alice")
    bob = InsertedUser(dynos[0], database, "bob")
    refreshed = dynos[1].post("/refresh", alice.refresh).json()["access_token"]
    assert end_session(dynos[0], alice).status_code == 200
    for dyno in dynos:
        assert_every_worker_refuses(dyno, [alice.access, refreshed], alice.refresh)
        assert is_valid(dyno, bob.access, bob.refresh)
        dyno.stop()
    again = with_stats(start, mongod.uri, WEB_CONCURRENCY="4")
    assert_every_worker_refuses(again, [alice.access, refreshed], alice.refresh)
    assert is_valid(again, bob.access, bob.refresh)


def assert_every_worker_refuses(dyno, access_tokens, refresh_token):
    """Send requests with these tokens until each worker has responded to one of them."""
    before = requests_by_worker(dyno)
    responded = set()
    while len(responded) < len(before):
        # Concurrent, so that no single worker is quick enough for all.
        for token in access_tokens:
            responses = at_once(20, dyno.get, "/todos", token)
            responses += at_once(5, dyno.post, "/logout", token)
            for response in responses:
                assert_error(response, 401, "token_revoked")
        for response in at_once(20, dyno.post, "/refresh", refresh_token):
            assert_error(response, 401, "token_revoked")
        responded = {worker for worker, _ in (requests_by_worker(dyno) - before).items()}


def requests_by_worker(dyno):
    """Return how many requests each worker has responded to, by the worker's number."""
    return Counter({worker["id"]: worker["requests"] for worker in workers(dyno)})


def test_other_sessions_outlive_logout_and_end_with_new_password(mongod, database, start):
    dynos = [start(mongod.uri) for _ in range(2)]
    alice = InsertedUser(dynos[0], database, "alice")
    sessions = [alice.login() for _ in range(3)]
    assert log_out(dynos[0], alice).status_code == 200
    for dyno in dynos:
        assert not is_valid(dyno, alice.access, alice.refresh)
        assert all(is_valid(dyno, *session) for session in sessions)
    new = tokens_of(change_password(dynos[0], alice, sessions[0][0]))
    for dyno in dynos:
        assert not any(is_valid(dyno, *session) for session in sessions)
        assert is_valid(dyno, *new)
        login = log_in(dyno, "alice", PASSWORD)
        assert_error(login, 401, "invalid_credentials")
