"""Concurrent requests on four workers: the outcome is one that some order of them has as well."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.actions import (
    NEW_PASSWORD,
    change_password,
    code,
    delete_user,
    is_valid,
    log_in,
    tokens_of,
    unless_busy,
)
from support.clients import (
    PASSWORD,
    InsertedUser,
    Load,
    assert_error,
    new_address,
    report,
)
from support.processes import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def server(mongod, database, start):
    return start(mongod.uri, WEB_CONCURRENCY="4")


def outcomes_of_ended(logins, server, user):
    """Assert that the sessions of these logins have ended and the password is no longer right.

    Returns how many of the logins have had which outcome.
    """
    responses = [login.result() for login in logins]
    for response in responses:
        if response.status_code == 200:
            assert not is_valid(server, *tokens_of(response))
        else:
            assert_error(response, 401, "invalid_credentials")
    assert_error(log_in(server, user.name, PASSWORD), 401, "invalid_credentials")
    return Counter(map(code, responses))


def test_login_during_password_change_opens_no_session_that_lasts(server, database):
    outcomes = Counter()
    for number in range(10):
        alice = InsertedUser(server, database, f"alice{number}")
        with ThreadPoolExecutor(10) as pool:
            # Each from its own address: from a single one, ten would be the limit.
            login = (unless_busy, log_in, server, alice.name, PASSWORD)
            logins = [pool.submit(*login) for _ in range(20)]
            wait_for(lambda futures=logins: any(login.done() for login in futures))
            change = unless_busy(change_password, server, alice)
        assert is_valid(server, *tokens_of(change))
        outcomes += outcomes_of_ended(logins, server, alice)
        assert is_valid(server, *tokens_of(log_in(server, alice.name, NEW_PASSWORD)))
    report(changes=10, logins=200, sessions_that_last=0, **outcomes)
    assert outcomes["success"] > 0


def test_login_during_deletion_opens_no_session_that_lasts(server, database):
    outcomes = Counter()
    for number in range(10):
        alice = InsertedUser(server, database, f"alice{number}")
        alice.add()

        def log_in_and_add(user=alice):
            """Log in, and add a todo with the new session."""
            response = unless_busy(log_in, server, user.name, PASSWORD)
            if response.status_code == 200:
                added = server.post("/todos", tokens_of(response)[0], json={"name": "x"})
                assert code(added) in ("success", "token_revoked")
                outcomes["todo", code(added)] += 1
            return response

        with ThreadPoolExecutor(11) as pool:
            logins = [pool.submit(log_in_and_add) for _ in range(10)]
            # The first login has opened a session, and others are in flight.
            wait_for(lambda futures=logins: any(login.done() for login in futures))
            assert delete_user(server, alice).status_code == 200
        outcomes += outcomes_of_ended(logins, server, alice)
    report(deletions=10, logins=100, outcomes=dict(outcomes))
    assert database.users.count_documents({}) == database.todos.count_documents({}) == 0


def test_todo_added_during_deletion_is_deleted(server, database):
    added = 0
    for number in range(25):
        user = InsertedUser(server, database, f"user{number}")

        def add(token=user.access):
            return server.post("/todos", token, json={"name": "x"}).status_code

        with Load(add, clients=12) as load:
            load.wait_for(20)
            assert delete_user(server, user).status_code == 200
        assert {status for *_, status in load.results} <= {201, 401}
        added += load.successes()
    report(deletions=25, writers=12, added=added, left=database.todos.count_documents({}))
    assert database.users.count_documents({}) == database.todos.count_documents({}) == 0


def test_of_two_concurrent_password_changes_one_takes_effect(server, database):
    outcomes = Counter()
    for number in range(10):
        alice = InsertedUser(server, database, f"alice{number}")
        news, address = ["new password one", "new password two"], new_address()

        def change(new, user=alice, address=address):
            return unless_busy(lambda: change_password(server, user, new=new, address=address))

        with ThreadPoolExecutor(2) as pool:
            changes = list(pool.map(change, news))
        outcomes[tuple(sorted(code(response) for response in changes))] += 1
        assert sorted(response.status_code for response in changes) == [200, 401]
        assert not is_valid(server, alice.access, alice.refresh)
        assert_error(log_in(server, alice.name, PASSWORD), 401, "invalid_credentials")
        # The one that did not take effect is not counted: ten more attempts are.
        for _ in range(10):
            wrong = log_in(server, alice.name, address=address)
            assert_error(wrong, 401, "invalid_credentials")
        assert_error(log_in(server, alice.name, address=address), 429, "too_many_attempts")
        for response, new in zip(changes, news, strict=True):
            login = log_in(server, alice.name, new)
            assert login.status_code == response.status_code
            if response.status_code == 200:
                assert is_valid(server, *tokens_of(response))
            else:
                assert code(response) in ("invalid_credentials", "token_revoked")
    report(pairs=10, **{" and ".join(pair): count for pair, count in outcomes.items()})


def test_password_change_during_deletion_leaves_nothing(server, database):
    outcomes = Counter()
    bob = InsertedUser(server, database, "bob")
    for number in range(15):
        alice = InsertedUser(server, database, f"alice{number}")
        alice.add()
        with ThreadPoolExecutor(1) as pool:
            changing = pool.submit(change_password, server, alice)
            # The deletion is later each time: first during the change, at last after it.
            for _ in range(2 * number):
                server.get("/todos", bob.access)
            deletion = delete_user(server, alice)
            change = changing.result()
        outcomes[change.status_code, deletion.status_code] += 1
        if deletion.status_code == 200:
            if change.status_code == 200:
                assert not is_valid(server, *tokens_of(change))
            assert database.users.find_one({"username": alice.name}) is None
        else:
            # The change was first, and ended the session that asked for the deletion.
            assert_error(deletion, 401, "token_revoked")
            assert is_valid(server, *tokens_of(change))
    report(**{f"change {c}, deletion {d}": count for (c, d), count in outcomes.items()})
