"""A new password on real workers: what happens meanwhile, and what if it is cut off."""

import os
import shutil
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import (
    CLEAN,
    PASSWORD,
    User,
    assert_error,
    at_once,
    new_address,
    report,
    stats,
    wait_for,
    with_stats,
)
from pymongo import MongoClient
from requests import ConnectionError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("uwsgi", path=CLEAN["PATH"]), reason="there is no uWSGI here"
    ),
]

NEW = "another battery staple"


def change(server, user, new=NEW, token=None):
    body = {"current_password": PASSWORD, "password": new}
    return server.put(f"/user/{user.name}", token or user.access, json=body)


def tokens_of(answer):
    return answer.json()["access_token"], answer.json()["refresh_token"]


def works(server, access, refresh):
    """Whether the two tokens of a session are taken. Both are, or neither is."""
    statuses = {
        server.get("/todos", access).status_code,
        server.post("/refresh", refresh).status_code,
    }
    assert statuses in ({200}, {401})
    return statuses == {200}


def log_in(server, name, password):
    headers = {"X-Forwarded-For": new_address()}
    return server.post("/login", json={"username": name, "password": password}, headers=headers)


@pytest.fixture
def database(own_mongod):
    with MongoClient(own_mongod.uri) as client:
        yield client.get_default_database()


def test_all_other_sessions_end_on_every_worker_and_dyno_at_once(own_mongod, start):
    dynos = [with_stats(start, own_mongod.uri, WEB_CONCURRENCY="4") for _ in range(2)]
    alice = User(dynos[0], "alice")
    sessions = [(alice.access, alice.refresh), *(alice.login() for _ in range(3))]
    answer = change(dynos[0], alice)
    assert answer.status_code == 200
    for dyno in dynos:
        before = Counter({worker["id"]: worker["requests"] for worker in stats(dyno)["workers"]})
        answered_by = set()
        while len(answered_by) < 4:
            for access, _ in sessions:
                for refused in at_once(25, dyno.get, "/todos", access):
                    assert_error(refused, 401, "token_revoked")
            after = Counter({worker["id"]: worker["requests"] for worker in stats(dyno)["workers"]})
            answered_by |= set(after - before)
        assert not any(works(dyno, *session) for session in sessions)
        assert works(dyno, *tokens_of(answer))


def test_logins_under_way_with_the_old_password_yield_nothing_that_works(own_mongod, start):
    server = start(own_mongod.uri, WEB_CONCURRENCY="4")
    got_in = 0
    for number in range(10):
        alice = User(server, f"alice{number}")
        with ThreadPoolExecutor(20) as pool:
            # From different addresses: from one, no more than ten would be looked at.
            logins = [pool.submit(log_in, server, alice.name, PASSWORD) for _ in range(20)]
            # If all places for a hash are taken, nothing has been changed. Then again.
            answer = wait_for(lambda user=alice: changed_unless_busy(server, user))
        answers = [login.result() for login in logins]
        sessions = [tokens_of(login) for login in answers if login.status_code == 200]
        got_in += len(sessions)
        assert not any(works(server, *session) for session in sessions)
        assert works(server, *answer)
        assert_error(log_in(server, alice.name, PASSWORD), 401, "invalid_credentials")
    report(logins=200, got_tokens=got_in, that_work=0)
    assert got_in > 0


def changed_unless_busy(server, user):
    """The tokens of the new session. None if the server was too busy to hash the passwords."""
    answer = change(server, user)
    if answer.status_code == 503:
        assert_error(answer, 503, "server_busy")
        return None
    assert answer.status_code == 200, answer.text
    return tokens_of(answer)


def test_of_two_simultaneous_changes_one_holds(own_mongod, start):
    server = start(own_mongod.uri, WEB_CONCURRENCY="4")
    outcomes = Counter()
    for number in range(10):
        alice = User(server, f"alice{number}")
        news = [f"new password {which}" for which in range(2)]
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda new, user=alice: change(server, user, new), news))
        outcomes[tuple(sorted(answer.status_code for answer in answers))] += 1
        for answer in answers:
            assert answer.status_code == 200 or answer.json()["error"] in (
                "token_revoked",
                "invalid_credentials",
            )
        logins = [log_in(server, alice.name, password) for password in [PASSWORD, *news]]
        assert sorted(login.status_code for login in logins) == [200, 401, 401]
        assert logins[0].status_code == 401
        for answer, login in zip(answers, logins[1:], strict=True):
            # The session that the winner began works, and the new password is the winner's.
            assert (answer.status_code == 200) == (login.status_code == 200)
            if answer.status_code == 200:
                assert works(server, *tokens_of(answer)) and works(server, *tokens_of(login))
        assert not works(server, alice.access, alice.refresh)
    report(**{" and ".join(map(str, statuses)): count for statuses, count in outcomes.items()})


def break_at(client, what, **how):
    """Let MongoDB fail when the API writes to the blacklist: between a change's first two steps."""
    client.admin.command(
        "configureFailPoint",
        "failCommand",
        mode=what,
        data={"failCommands": ["update"], "namespace": "test.blacklist", **how},
    )


@pytest.mark.parametrize("fault", ["connection cut", "MongoDB killed", "worker killed"])
@pytest.mark.parametrize("next_one", ["login", "repeat"])
def test_change_that_is_cut_off_is_finished(breakable, start, fault, next_one):
    server = with_stats(start, breakable.uri, WEB_CONCURRENCY="1")
    alice = User(server, "alice")
    other = alice.login()
    with MongoClient(breakable.uri) as client, ThreadPoolExecutor() as pool:
        users = client.get_default_database().users
        if fault == "connection cut":
            break_at(client, {"times": 1}, closeConnection=True)
            answer = change(server, alice)
        else:
            break_at(client, "alwaysOn", blockConnection=True, blockTimeMS=60_000)
            request = pool.submit(change, server, alice)
            wait_for(lambda: users.find_one({"former_password_id": {"$exists": True}}))
            if fault == "worker killed":
                killed = stats(server)["workers"][0]["pid"]
                os.kill(killed, signal.SIGKILL)
            # In any case: the command that it holds back must not go on later.
            breakable.kill()
            breakable.start()
            try:
                answer = request.result()
            except ConnectionError:
                answer = None
        if fault == "worker killed":
            assert answer is None
        else:
            assert_error(answer, 503, "database_unavailable")
        # It was cut off just there: the new password is stored, and the old sessions go on.
        assert users.find_one({"former_password_id": {"$exists": True}})
        wait_for(lambda: server.get("/todos", alice.access).status_code == 200)
        if next_one == "repeat":
            assert_error(change(server, alice), 401, "token_revoked")
        login = log_in(server, "alice", NEW)
        assert login.status_code == 200
        assert works(server, *tokens_of(login))
        assert not works(server, alice.access, alice.refresh)
        assert not works(server, *other)
        assert_error(log_in(server, "alice", PASSWORD), 401, "invalid_credentials")
        assert users.find_one({"former_password_id": {"$exists": True}}) is None


def test_password_changed_while_the_user_is_deleted_leaves_nothing(own_mongod, start, database):
    server = start(own_mongod.uri, WEB_CONCURRENCY="4")
    outcomes = Counter()
    for number in range(15):
        alice = User(server, f"alice{number}")
        alice.add()
        with ThreadPoolExecutor(2) as pool:
            changing = pool.submit(change, server, alice)
            # The change is hashing by now, or done; the deletion does not hash.
            wait_for(lambda: changing.running() or changing.done())
            deletion = server.delete(f"/user/{alice.name}", alice.access)
            change_answer = changing.result()
        outcomes[change_answer.status_code, deletion.status_code] += 1
        if deletion.status_code == 200:
            if change_answer.status_code == 200:
                assert not works(server, *tokens_of(change_answer))
            assert database.users.find_one({"username": alice.name}) is None
        else:
            # The change came first, and with it the end of the session that asked to delete.
            assert_error(deletion, 401, "token_revoked")
            assert works(server, *tokens_of(change_answer))
    report(**{f"change {c}, deletion {d}": count for (c, d), count in outcomes.items()})
