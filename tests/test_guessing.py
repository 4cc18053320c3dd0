"""Guessing at passwords, on real workers: how many are looked at, and who gets in meanwhile."""

import shutil
import statistics
import time
from collections import Counter
from datetime import datetime, timedelta, timezone

import benchmark
import pytest
from helpers import (
    CLEAN,
    PASSWORD,
    Mongod,
    User,
    assert_error,
    at_once,
    new_address,
    report,
    timed,
    wait_for,
)
from pymongo import MongoClient

pytestmark = pytest.mark.skipif(
    not shutil.which("uwsgi", path=CLEAN["PATH"]), reason="there is no uWSGI here"
)


@pytest.fixture
def office():
    """The address of a guesser."""
    return new_address()


@pytest.fixture
def home():
    """The address of somebody else, or of the owner."""
    return new_address()


def login(server, name, address, password="wrong password"):
    """Log in as a client whose address Heroku's router has seen."""
    body = {"username": name, "password": password}
    return server.post("/login", json=body, headers={"X-Forwarded-For": address})


def login_unless_busy(server, name, address, password="wrong password"):
    """Log in again and again until the server is not too busy; return what the answer says."""

    def attempt():
        answer = code(login(server, name, address, password))
        return answer != "server_busy" and answer

    return wait_for(attempt)


def code(answer):
    """What an answer says, as far as a program is concerned."""
    return answer.json().get("error", "success")


def assert_refused(answer, at_most):
    """A 429 that says when the next try counts."""
    assert_error(answer, 429, "too_many_attempts")
    assert 1 <= int(answer.headers["Retry-After"]) <= at_most.total_seconds()


MINUTES = timedelta(minutes=15)
HOUR = timedelta(hours=1)


def test_ten_wrong_passwords_are_looked_at_and_then_not_even_the_right_one(api, alice, office):
    for _ in range(10):
        assert_error(login(api, "alice", office), 401, "invalid_credentials")
    assert_refused(login(api, "alice", office), MINUTES)
    assert_refused(login(api, "alice", office, PASSWORD), MINUTES)


def test_owner_gets_in_from_another_address_and_the_guesser_still_does_not(
    api, alice, office, home
):
    for _ in range(11):
        login(api, "alice", office)
    assert login(api, "alice", home, PASSWORD).status_code == 200
    assert_refused(login(api, "alice", office, PASSWORD), MINUTES)


def test_another_name_gets_in_from_the_same_address(api, alice, bob, office):
    for _ in range(11):
        login(api, "alice", office)
    assert login(api, "bob", office, PASSWORD).status_code == 200


def test_success_forgets_the_name_and_not_the_address(api, database, alice, office):
    for _ in range(9):
        login(api, "alice", office)
    assert login(api, "alice", office, PASSWORD).status_code == 200
    for _ in range(10):
        assert_error(login(api, "alice", office), 401, "invalid_credentials")
    assert_refused(login(api, "alice", office), MINUTES)
    assert len(database.guesses.find_one({"_id": f"address {office}"})["tries"]) == 19


def test_right_password_is_not_counted(api, database, alice, office):
    for _ in range(12):
        assert login(api, "alice", office, PASSWORD).status_code == 200
    assert database.guesses.find_one({"_id": f"address {office}"})["tries"] == []
    assert database.guesses.count_documents({"_id": {"$regex": f"^name.*{office}"}}) == 0


def test_wrong_current_password_counts_as_a_guess(api, alice, office):
    body = {"current_password": "wrong password", "password": "a new password"}
    headers = {"X-Forwarded-For": office}
    for _ in range(5):
        login(api, "alice", office)
        answer = api.put("/user/alice", alice.access, json=body, headers=headers)
        assert_error(answer, 401, "invalid_credentials")
    body["current_password"] = PASSWORD
    answer = api.put("/user/alice", alice.access, json=body, headers=headers)
    assert_refused(answer, MINUTES)
    assert_refused(login(api, "alice", office, PASSWORD), MINUTES)


def make_older(database, by):
    """Let time pass, as far as the counts know."""
    for document in database.guesses.find():
        tries = [time - by for time in document["tries"]]
        database.guesses.update_one({"_id": document["_id"]}, {"$set": {"tries": tries}})


def test_retry_after_holds(api, database, alice, office):
    for _ in range(10):
        login(api, "alice", office)
    answer = login(api, "alice", office, PASSWORD)
    assert_refused(answer, MINUTES)
    seconds = int(answer.headers["Retry-After"])
    make_older(database, timedelta(seconds=seconds - 5))
    wait_for(lambda: int(login(api, "alice", office).headers["Retry-After"]) <= 5)
    make_older(database, timedelta(seconds=5))
    wait_for(lambda: login(api, "alice", office, PASSWORD).status_code == 200)


def test_ten_tries_count_of_any_fifteen_minutes(mongod, database, start, office):
    """Not only of those that begin at the quarter of an hour, or at the first try."""
    server = start(mongod.uri, WEB_CONCURRENCY="1")
    User(server, "alice")
    for _ in range(5):
        login(server, "alice", office)
    make_older(database, timedelta(minutes=10))
    for _ in range(5):
        login(server, "alice", office)
    assert_refused(login(server, "alice", office), timedelta(minutes=5))
    make_older(database, timedelta(minutes=6))
    wait_for(lambda: code(login(server, "alice", office)) == "invalid_credentials")
    codes = [code(login(server, "alice", office)) for _ in range(5)]
    assert codes == 4 * ["invalid_credentials"] + ["too_many_attempts"]


def test_names_that_nobody_can_have_are_not_counted(api, database, office):
    for name in ("", "a/b", "\x00", "x" * 65):
        assert_error(login(api, name, office), 401, "invalid_credentials")
    assert database.guesses.count_documents({"_id": f"address {office}"}) == 0


def test_unknown_name_is_refused_like_a_known_one(api, alice, office, home):
    known = [login(api, "alice", office) for _ in range(12)]
    unknown = [login(api, "nobody", home) for _ in range(12)]
    assert [answer.content for answer in known] == [answer.content for answer in unknown]
    assert [answer.status_code for answer in known] == 10 * [401] + 2 * [429]
    assert [answer.headers.keys() for answer in known] == [
        answer.headers.keys() for answer in unknown
    ]


# Where a request comes from


@pytest.mark.parametrize("before", ["1.2.3.4, ", "203.0.113.9,", "x, , ", "9.9.9.9,8.8.8.8, "])
def test_client_cannot_say_where_it_comes_from(api, alice, office, before):
    for _ in range(10):
        login(api, "alice", office)
    assert_refused(login(api, "alice", before + office), MINUTES)
    # Nor blame somebody else.
    for address in ("1.2.3.4", "203.0.113.9", "9.9.9.9"):
        assert login(api, "alice", address, PASSWORD).status_code == 200


MALFORMED = ["", ",", "x", "1.2.3", "1.2.3.4.5", "999.1.1.1", "::g", "1.2.3.4:80", "[::1]:80"]
MALFORMED += ["fe80::1%eth0", "unknown", "x" * 8000, "," * 8000, "\u00e9", "::/64", "$where"]


@pytest.mark.parametrize("header", MALFORMED)
def test_malformed_header_is_no_failure(api, alice, header):
    header = header.encode().decode("latin-1")
    assert_error(login(api, "alice", header), 401, "invalid_credentials")
    assert login(api, "alice", header, PASSWORD).status_code == 200


def test_all_addresses_of_one_ipv6_network_count_as_one(api, alice):
    for number in range(10):
        address = f"2001:db8:0:1::{number}"
        assert_error(login(api, "alice", address), 401, "invalid_credentials")
    assert_refused(login(api, "alice", "2001:db8:0:1:ffff:ffff:ffff:ffff"), MINUTES)
    assert_error(login(api, "alice", "2001:db8:0:2::1"), 401, "invalid_credentials")


def test_ipv4_address_written_as_ipv6_is_the_same_address(api, alice, office):
    for _ in range(10):
        login(api, "alice", office)
    assert_refused(login(api, "alice", f"::ffff:{office}"), MINUTES)


# Many at once


def test_of_100_simultaneous_wrong_passwords_10_are_looked_at(own_mongod, start, office, home):
    dyno = start(own_mongod.uri, WEB_CONCURRENCY="4")
    other = start(own_mongod.uri, WEB_CONCURRENCY="2")
    for name in ("alice", "bob"):
        User(dyno, name)
    codes = Counter(code(answer) for answer in at_once(100, login, dyno, "alice", office))
    # If more than three of the ten meet in one process, it is too busy for the next one. That one
    # was not looked at, and may come again.
    busy = codes.pop("server_busy", 0)
    codes.update(login_unless_busy(dyno, "alice", office) for _ in range(busy))
    report(**codes, busy_at_first=busy)
    assert codes == {"invalid_credentials": 10, "too_many_attempts": 90}
    for server in (dyno, other):
        answers = at_once(20, login, server, "alice", office, PASSWORD)
        assert {code(answer) for answer in answers} == {"too_many_attempts"}
        assert login_unless_busy(server, "alice", home, PASSWORD) == "success"
        assert login_unless_busy(server, "bob", office, PASSWORD) == "success"
    for server in (dyno, other):
        server.stop()
    again = start(own_mongod.uri)
    assert_refused(login(again, "alice", office, PASSWORD), MINUTES)


@pytest.mark.slow
def test_of_150_names_from_one_address_100_are_looked_at(own_mongod, start, office, home):
    dynos = [start(own_mongod.uri) for _ in range(2)]
    User(dynos[0], "alice")
    codes = [code(login(dynos[n % 2], f"user{n}", office)) for n in range(150)]
    assert codes == 100 * ["invalid_credentials"] + 50 * ["too_many_attempts"]
    assert_refused(login(dynos[0], "alice", office, PASSWORD), MINUTES)
    assert login(dynos[0], "alice", home, PASSWORD).status_code == 200


@pytest.mark.slow
def test_of_150_addresses_for_one_name_100_are_looked_at(own_mongod, start, home):
    dynos = [start(own_mongod.uri) for _ in range(2)]
    alice = User(dynos[0], "alice")
    codes = [code(login(dynos[n % 2], "alice", new_address())) for n in range(150)]
    assert codes == 100 * ["invalid_credentials"] + 50 * ["too_many_attempts"]
    assert_refused(login(dynos[0], "alice", home, PASSWORD), HOUR)
    # Whoever is logged in already stays so.
    assert dynos[0].get("/todos", alice.access).status_code == 200


@pytest.mark.slow
def test_unknown_name_takes_as_long_as_a_known_one_at_every_step(own_mongod, start):
    server = start(own_mongod.uri, WEB_CONCURRENCY="1")
    User(server, "alice")
    times = {}
    # Each name is tried from 9 addresses: with more, its own limit of 100 would be reached.
    for _ in range(9):
        address = new_address()
        for number in range(15):
            for name in ("alice", "nobody"):
                seconds, answer = timed(lambda n=name, a=address: login(server, n, a))
                step = "looked at" if number < 10 else "refused"
                times.setdefault((step, name), []).append(seconds)
                expected = "invalid_credentials" if number < 10 else "too_many_attempts"
                assert code(answer) == expected
    medians = {key: statistics.median(spent) for key, spent in times.items()}
    report(**{f"{step} {name}, ms": round(m * 1000, 1) for (step, name), m in medians.items()})
    for step in ("looked at", "refused"):
        known, unknown = medians[step, "alice"], medians[step, "nobody"]
        assert abs(known - unknown) < 0.25 * known


# What is left behind


def test_counts_expire_and_the_log_names_nobody(own_mongod, start):
    server = start(own_mongod.uri)
    User(server, "victim")
    address = "192.0.2.77"
    begin = datetime.now(timezone.utc).replace(tzinfo=None)
    for _ in range(12):
        login(server, "victim", address)
        login(server, "intruder", address)
    for name in ("stormy", "windy", "rainy"):
        at_once(20, login, server, name, address)
    with MongoClient(own_mongod.uri) as client:
        guesses = client.get_default_database().guesses
        indexes = guesses.index_information().values()
        assert [
            index["expireAfterSeconds"] for index in indexes if "expireAfterSeconds" in index
        ] == [0]
        for document in guesses.find():
            assert document.keys() == {"_id", "tries", "admitted", "expires_at"}
            within = (
                HOUR if document["_id"].count(" ") == 1 and "name" in document["_id"] else MINUTES
            )
            latest = document["expires_at"] - within
            assert latest - max(document["tries"], default=latest) < timedelta(minutes=1)
            assert abs(latest - datetime.utcfromtimestamp(begin.timestamp())) < timedelta(minutes=1)
    log = server.log.read_text()
    for name in ("victim", "intruder", "stormy", address):
        assert name not in log


@pytest.mark.slow
def test_expired_counts_are_deleted_by_mongodb(tmp_path, start):
    # MongoDB looks for expired documents once a minute; this one looks every second.
    mongod = Mongod(tmp_path / "mongod", ["--setParameter", "ttlMonitorSleepSecs=1"])
    try:
        server = start(mongod.uri)
        for number in range(3):
            login(server, f"user{number}", new_address())
        with MongoClient(mongod.uri) as client:
            guesses = client.get_default_database().guesses
            assert guesses.count_documents({}) == 9
            past = datetime(2026, 1, 1)
            guesses.update_many({}, {"$set": {"expires_at": past}})
            wait_for(lambda: guesses.count_documents({}) == 0)
    finally:
        mongod.kill()


# Storms


def honest_login(server, name):
    """Log in, and come back when the server says; return the seconds that it took and the tries."""
    begin = time.monotonic()
    tries = 0
    while True:
        tries += 1
        answer = login(server, name, new_address(), PASSWORD)
        if answer.status_code == 200:
            return time.monotonic() - begin, tries
        assert_error(answer, 503, "server_busy")
        # What Retry-After asks for; there is no condition to wait for.
        time.sleep(int(answer.headers["Retry-After"]))


def test_fifty_honest_clients_are_all_in_within_5_seconds(own_mongod, start):
    server = start(own_mongod.uri, WEB_CONCURRENCY="2")
    names = [f"user{number}" for number in range(50)]
    for name in names:
        User(server, name)
    waiting = iter(names)
    results = at_once(50, lambda: honest_login(server, next(waiting)))
    slowest = max(seconds for seconds, _ in results)
    report(slowest=round(slowest, 2), most_tries=max(tries for _, tries in results))
    assert slowest < 5


def test_client_that_is_alone_is_never_told_that_the_server_is_busy(api, alice):
    for number in range(20):
        assert login(api, "alice", new_address(), PASSWORD).status_code == 200
        assert_error(login(api, f"user{number}", new_address()), 401, "invalid_credentials")
        body = {"username": f"new{number}", "password": PASSWORD}
        assert api.post("/register", json=body).status_code == 201


def test_storm_of_registrations_is_shed_and_those_who_read_go_on(own_mongod, start):
    server = start(own_mongod.uri, WEB_CONCURRENCY="1")
    alice = User(server, "alice")
    numbers = iter(range(1000))

    def register():
        body = {"username": f"user{next(numbers)}", "password": PASSWORD}
        return server.post("/register", json=body)

    answers = at_once(30, register)
    codes = Counter(code(answer) for answer in answers)
    assert codes.keys() == {"success", "server_busy"}
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) == 1
    assert server.get("/todos", alice.access).status_code == 200
    with MongoClient(own_mongod.uri) as client:
        # No acknowledged user is missing, and no refused one is there.
        stored = client.get_default_database().users.count_documents({})
    assert stored == 1 + codes["success"]
    report(**codes)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk")
def test_storm_leaves_the_readers_their_share(own_mongod, start):
    server = start(own_mongod.uri)
    caller = benchmark.Caller(server)
    caller.add_todos()
    read = caller.endpoints()["GET /todos/<id>"]
    alone = benchmark.load(server.url, read, 3, benchmark.READERS)
    other_names = (benchmark.ANY_NAME, benchmark.ANY_ADDRESS)
    one_name = ("'victim'", "'198.51.100.7'")
    shares = {other_names: [], one_name: []}
    slowest_logins = []
    let_in = 0
    for attackers in [other_names, one_name] * 3:
        result = benchmark.storm(caller, 32, *attackers, 3)
        shares[attackers].append(round(result["rate"] / alone["rate"], 2))
        slowest_logins.append(round(result["slowest_login"], 2))
        let_in += result["let_in"]
        assert result["failed"] == 0
    result = benchmark.storm(caller, 300, *other_names, 3)
    report(shares=list(shares.values()), slowest_logins=slowest_logins, beside_300=result)
    assert let_in > 0
    assert statistics.median(slowest_logins) < 1
    assert result["failed"] == 0
    assert result["p50"] <= 250
    assert result["longest"] <= 2000
    # About a half in both, on two processors that the attackers and MongoDB share; it was 0.01
    # before storms were shed. The best of three, since other programs take processor time, too.
    assert max(shares[other_names]) >= 1 / 3
    assert max(shares[one_name]) >= 0.4
