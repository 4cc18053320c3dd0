"""The rate limits on real workers: how many passwords are verified, and who can still log in."""

import http.client
import itertools
import json
import statistics
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest
from pymongo import MongoClient
from support.actions import (
    NEW_PASSWORD,
    change_password,
    code,
    delete_user,
    log_in,
    register,
    unless_busy,
)
from support.clients import (
    PASSWORD,
    InsertedUser,
    assert_error,
    at_once,
    new_address,
    report,
    timed,
)
from support.processes import Mongod, wait_for

QUARTER = timedelta(minutes=15)
HOUR = timedelta(hours=1)


@pytest.fixture
def office():
    """The address of an attacker."""
    return new_address()


@pytest.fixture
def home():
    """The address of the owner."""
    return new_address()


def assert_limited(response, window):
    """Assert that this is a 429 that says when the next attempt counts: at the window's end."""
    assert_error(response, 429, "too_many_attempts")
    retry_after = timedelta(seconds=int(response.headers["Retry-After"]))
    # The window began with the first of the attempts, which take some time.
    assert window - timedelta(minutes=2) < retry_after <= window


def assert_wrong(response):
    """Assert that the password was verified, and wrong."""
    assert_error(response, 401, "invalid_credentials")


def assert_right(response):
    """Assert that the password was verified, and right."""
    assert response.status_code == 200, response.text


def assert_not_hashed(quick, hashed):
    """Assert that some requests, given as (seconds, response), needed no hash as others did."""
    medians = [statistics.median(seconds for seconds, _ in sent) for sent in (quick, hashed)]
    assert medians[0] < medians[1] / 2, medians


def let_time_pass(database, duration):
    """Move all times that the API has stored for the rate limits into the past."""
    for collection in (database.rate_limits, database.users):
        for document in collection.find():
            collection.replace_one({"_id": document["_id"]}, earlier(document, duration))


def earlier(value, duration):
    """Return a stored value with all times in it moved into the past."""
    if isinstance(value, datetime):
        return value - duration
    if isinstance(value, list):
        return [earlier(item, duration) for item in value]
    if isinstance(value, dict):
        return {name: earlier(item, duration) for name, item in value.items()}
    return value


# The username and the address.


def test_after_ten_wrong_passwords_right_one_is_rejected(api, alice, office):
    verified = [timed(lambda: log_in(api, "alice", address=office)) for _ in range(10)]
    for _, response in verified:
        assert_wrong(response)
    assert_limited(log_in(api, "alice", address=office), QUARTER)
    rejected = [timed(lambda: log_in(api, "alice", PASSWORD, office)) for _ in range(10)]
    for _, response in rejected:
        assert_limited(response, QUARTER)
    assert_not_hashed(rejected, verified)


def test_locked_out_attacker_stays_locked_out_when_owner_logs_in(api, alice, office, home):
    for _ in range(11):
        log_in(api, "alice", address=office)
    assert_right(log_in(api, "alice", PASSWORD, home))
    assert_limited(log_in(api, "alice", PASSWORD, office), QUARTER)


def test_lockout_spares_other_username_at_same_address(api, alice, bob, office):
    for _ in range(11):
        log_in(api, "alice", address=office)
    assert_right(log_in(api, "bob", PASSWORD, office))


def test_login_resets_counter_of_username(api, alice, office):
    for _ in range(9):
        assert_wrong(log_in(api, "alice", address=office))
    assert_right(log_in(api, "alice", PASSWORD, office))
    for _ in range(10):
        assert_wrong(log_in(api, "alice", address=office))
    assert_limited(log_in(api, "alice", address=office), QUARTER)


def test_after_ten_wrong_current_passwords_of_session_right_one_is_rejected(api, alice):
    other = alice.login()[0]
    wrong = {"current": "wrong password"}
    verified = [timed(lambda: change_password(api, alice, **wrong)) for _ in range(10)]
    for _, response in verified:
        assert_wrong(response)
    # From whatever address, the session has no more attempts.
    assert_limited(change_password(api, alice, **wrong), QUARTER)
    rejected = [timed(lambda: change_password(api, alice)) for _ in range(10)]
    for _, response in rejected:
        assert_limited(response, QUARTER)
    assert_not_hashed(rejected, verified)
    assert_right(change_password(api, alice, other))


def test_ten_wrong_current_passwords_include_concurrent_ones(api, alice):
    responses = at_once(30, unless_busy, change_password, api, alice, None, "wrong password")
    codes = Counter(code(response) for response in responses)
    assert codes == {"invalid_credentials": 10, "too_many_attempts": 20}


def test_wrong_logins_and_wrong_current_passwords_do_not_count_together(api, alice, office):
    for _ in range(10):
        assert_wrong(change_password(api, alice, current="wrong password", address=office))
    for _ in range(10):
        assert_wrong(log_in(api, "alice", address=office))
    assert_limited(log_in(api, "alice", PASSWORD, office), QUARTER)


def test_unknown_username_is_limited_like_existing_one(api, alice, office, home):
    existing = [log_in(api, "alice", address=office) for _ in range(12)]
    unknown = [log_in(api, "unknown", address=home) for _ in range(12)]
    assert [response.content for response in existing] == [r.content for r in unknown]
    assert [response.status_code for response in existing] == 10 * [401] + 2 * [429]
    names = [response.headers.keys() for response in existing]
    assert names == [response.headers.keys() for response in unknown]


def test_username_that_cannot_exist_is_not_counted(api, alice, office):
    names = itertools.cycle(["", "a/b", "\x00", "x" * 65, "\u00e9", "-a"])
    quick = [timed(lambda: log_in(api, next(names), address=office)) for _ in range(101)]
    for _, response in quick:
        assert_wrong(response)
    hashed = [timed(lambda: log_in(api, "alice", PASSWORD, office)) for _ in range(5)]
    for _, response in hashed:
        assert_right(response)
    assert_not_hashed(quick, hashed)


# The time window.


def test_attempt_counts_again_after_retry_after(api, database, alice, office):
    for _ in range(10):
        log_in(api, "alice", address=office)
    response = log_in(api, "alice", PASSWORD, office)
    assert_limited(response, QUARTER)
    seconds = int(response.headers["Retry-After"])
    let_time_pass(database, timedelta(seconds=seconds - 5))
    response = log_in(api, "alice", PASSWORD, office)
    assert_limited(response, timedelta(seconds=5))
    let_time_pass(database, timedelta(seconds=5))
    assert_right(log_in(api, "alice", PASSWORD, office))


def test_ten_attempts_count_within_any_fifteen_minutes(api, database, alice, office):
    """Not only within those that begin at the first attempt, or at a full quarter of an hour."""
    for _ in range(5):
        assert_wrong(log_in(api, "alice", address=office))
    let_time_pass(database, timedelta(minutes=10))
    for _ in range(5):
        assert_wrong(log_in(api, "alice", address=office))
    assert_limited(log_in(api, "alice", address=office), timedelta(minutes=5))
    let_time_pass(database, timedelta(minutes=6))
    for _ in range(5):
        assert_wrong(log_in(api, "alice", address=office))
    assert_limited(log_in(api, "alice", address=office), timedelta(minutes=9))


# The address of the client.


def log_in_raw(server, headers):
    """Log in as alice with a wrong password and these lines of headers, exactly as given."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = json.dumps({"username": "alice", "password": "wrong password"}).encode()
    connection.putrequest("POST", "/login")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    return json.loads(response.read())["error"]


ROUTER = ("X-Forwarded-For", "203.0.113.9")
# What an attacker adds to the line of the router, before it or after it. Each has a placeholder for
# an address that is new each time.
SPELLINGS = [
    ([("X-Forwarded-For", "{}, 203.0.113.9")], []),
    ([("X-Forwarded-For", "{},203.0.113.9")], []),
    ([("X-Forwarded-For", "{}"), ROUTER], []),
    ([ROUTER], [("X-Forwarded-For", "{}")]),
    ([("X_Forwarded_For", "{}"), ROUTER], []),
    ([ROUTER], [("X_Forwarded_For", "{}")]),
    ([ROUTER], [("x-forwarded_for", "{}")]),
    ([("x_forwarded-for", "{}"), ROUTER], []),
    ([ROUTER], [("X_FORWARDED_FOR", "{}, {}")]),
]


def test_all_spellings_of_forged_address_share_one_counter(api, database):
    codes = []
    for before, after in (SPELLINGS * 2)[:11]:
        lines = [(name, value.replace("{}", new_address())) for name, value in before + after]
        codes.append(log_in_raw(api, lines))
    assert codes == 10 * ["invalid_credentials"] + ["too_many_attempts"]
    # Neither the client's true address nor one that it names is locked out by them.
    assert log_in_raw(api, [ROUTER]) == "invalid_credentials"
    assert log_in_raw(api, [("X-Forwarded-For", new_address())]) == "invalid_credentials"


MALFORMED = ["", ",", "x", "1.2.3", "1.2.3.4.5", "999.1.1.1", "::g", "1.2.3.4:80", "[::1]:80"]
MALFORMED += ["fe80::1%eth0", "unknown", "x" * 8000, "," * 8000, "\u00e9", "::/64", "$where"]


@pytest.mark.parametrize("header", MALFORMED, ids=lambda header: repr(header)[:20])
def test_malformed_address_is_no_failure(api, alice, header):
    address = header.encode().decode("latin-1")
    headers = {"X-Forwarded-For": address}
    for password, judge in (("wrong password", assert_wrong), (PASSWORD, assert_right)):
        body = {"username": "alice", "password": password}
        judge(api.post("/login", json=body, headers=headers))


def test_addresses_of_one_ipv6_network_count_as_one(api, database):
    for number in range(10):
        assert_wrong(log_in(api, "alice", address=f"2001:db8:0:1::{number}"))
    assert_limited(log_in(api, "alice", address="2001:db8:0:1:ffff:ffff:ffff:ffff"), QUARTER)
    assert_wrong(log_in(api, "alice", address="2001:db8:0:2::1"))


def test_ipv4_address_in_ipv6_notation_is_same_address(api, database, office):
    for _ in range(10):
        assert_wrong(log_in(api, "alice", address=office))
    assert_limited(log_in(api, "alice", address=f"::ffff:{office}"), QUARTER)


# A hundred attempts. Each takes a hash, so several clients send them.


def codes_of(sends):
    """Send concurrent requests, each until the server is not too busy; count the error codes."""
    with ThreadPoolExecutor(6) as pool:
        return Counter(code(response) for response in pool.map(unless_busy, sends))


def log_ins(servers, names, addresses, count=100):
    """Return so many logins with a wrong password, at these servers in turn."""

    def login(number):
        server = servers[number % len(servers)]
        name, address = names(number), addresses(number)
        return lambda: log_in(server, name, address=address)

    return [login(number) for number in range(count)]


def lock_username(server, name):
    """Send 100 wrong passwords for a username, each from another address."""
    sends = log_ins([server], lambda n: name, lambda n: new_address())
    assert codes_of(sends) == {"invalid_credentials": 100}


@pytest.mark.slow
def test_of_100_concurrent_wrong_passwords_10_are_verified(mongod, database, start, office, home):
    dyno = start(mongod.uri, WEB_CONCURRENCY="4")
    other = start(mongod.uri, WEB_CONCURRENCY="2")
    for name in ("alice", "bob"):
        InsertedUser(dyno, database, name)
    # A process that is too busy has not verified the password, so the client sends it again.
    responses = at_once(100, unless_busy, log_in, dyno, "alice", "wrong password", office)
    codes = Counter(code(response) for response in responses)
    report(**codes)
    assert codes == {"invalid_credentials": 10, "too_many_attempts": 90}
    for server in (dyno, other):
        responses = at_once(20, unless_busy, log_in, server, "alice", PASSWORD, office)
        assert {code(response) for response in responses} == {"too_many_attempts"}
        assert_right(log_in(server, "alice", PASSWORD, home))
        assert_right(log_in(server, "bob", PASSWORD, office))
        server.stop()
    assert_limited(log_in(start(mongod.uri), "alice", PASSWORD, office), QUARTER)


def test_unknown_address_is_never_the_owners_own(api, database, alice):
    """All clients that write X-Forwarded-For themselves have it."""
    forged = "10.1.1.1, 203.0.113.50"
    assert_right(log_in(api, "alice", PASSWORD, forged))
    lock_username(api, "alice")
    assert_error(log_in(api, "alice", PASSWORD, forged), 429, "too_many_attempts")
    assert database.users.find_one({"username": "alice"})["addresses"] == []


@pytest.mark.slow
def test_of_150_usernames_at_one_address_100_are_verified(mongod, database, start, office, home):
    dynos = [start(mongod.uri) for _ in range(2)]
    InsertedUser(dynos[0], database, "alice")
    sends = log_ins(dynos, lambda n: f"user{n}", lambda n: office, count=99)
    assert codes_of(sends) == {"invalid_credentials": 99}
    # A success does not reset the counter of the address.
    assert_right(log_in(dynos[0], "alice", PASSWORD, office))
    sends = log_ins(dynos, lambda n: f"name{n}", lambda n: office, count=51)
    assert codes_of(sends) == {"invalid_credentials": 1, "too_many_attempts": 50}
    assert_limited(log_in(dynos[0], "alice", PASSWORD, office), QUARTER)
    assert_right(log_in(dynos[0], "alice", PASSWORD, home))


@pytest.mark.slow
def test_of_150_addresses_for_one_username_100_are_verified(mongod, database, start, home):
    dynos = [start(mongod.uri) for _ in range(2)]
    alice = InsertedUser(dynos[0], database, "alice")
    sends = log_ins(dynos, lambda n: "alice", lambda n: new_address(), count=150)
    assert codes_of(sends) == {"invalid_credentials": 100, "too_many_attempts": 50}
    assert_limited(log_in(dynos[0], "alice", PASSWORD, home), HOUR)
    # A session that is open stays open.
    assert dynos[0].get("/todos", alice.access).status_code == 200
    let_time_pass(database, HOUR)
    assert_right(log_in(dynos[0], "alice", PASSWORD, home))


@pytest.mark.slow
def test_owner_is_not_locked_out_by_strangers_at_own_address(api, database, alice, home):
    # An earlier version has stored the user.
    assert "addresses" not in database.users.find_one()
    assert_right(log_in(api, "alice", PASSWORD, home))
    let_time_pass(database, timedelta(days=29))
    lock_username(api, "alice")
    # An address that the owner has never used is locked out.
    assert_limited(log_in(api, "alice", PASSWORD), HOUR)
    for _ in range(9):
        assert_wrong(log_in(api, "alice", address=home))
    assert_right(log_in(api, "alice", PASSWORD, home))
    # The limit of username and address applies there as anywhere.
    for _ in range(10):
        assert_wrong(log_in(api, "alice", address=home))
    assert_limited(log_in(api, "alice", PASSWORD, home), QUARTER)


@pytest.mark.slow
def test_address_is_no_longer_own_after_30_days(api, database, alice, home):
    assert_right(log_in(api, "alice", PASSWORD, home))
    let_time_pass(database, timedelta(days=30, minutes=1))
    lock_username(api, "alice")
    assert_limited(log_in(api, "alice", PASSWORD, home), HOUR)


@pytest.mark.slow
def test_next_user_with_username_inherits_no_own_address(api, alice, home):
    assert_right(log_in(api, "alice", PASSWORD, home))
    assert delete_user(api, alice).status_code == 200
    # Even from the same address, and with the same password.
    assert register(api, "alice", home).status_code == 201
    lock_username(api, "alice")
    assert_limited(log_in(api, "alice", PASSWORD, home), HOUR)


@pytest.mark.slow
def test_new_password_leaves_one_own_address(api, alice, home):
    # An attacker who knew the old password may have logged in from these.
    before = [new_address() for _ in range(11)]
    for address in before:
        assert_right(log_in(api, "alice", PASSWORD, address))
    assert_right(change_password(api, alice, address=home))
    lock_username(api, "alice")
    for address in before:
        assert_limited(log_in(api, "alice", NEW_PASSWORD, address), HOUR)
    assert_right(log_in(api, "alice", NEW_PASSWORD, home))


@pytest.mark.slow
def test_right_password_of_locked_username_makes_no_address_own(api, alice, office, home):
    assert_right(log_in(api, "alice", PASSWORD, home))
    lock_username(api, "alice")
    for _ in range(2):
        assert_limited(log_in(api, "alice", PASSWORD, office), HOUR)
    assert_right(log_in(api, "alice", PASSWORD, home))
    # The login from home has reset the counter of the username.
    assert_right(log_in(api, "alice", PASSWORD, office))


@pytest.mark.slow
def test_latest_20_addresses_are_own(api, alice):
    addresses = [new_address() for _ in range(22)]
    # The first one is used again, and is not among the oldest two.
    for address in addresses + addresses[:1]:
        assert_right(log_in(api, "alice", PASSWORD, address))
    lock_username(api, "alice")
    for address in addresses[1:3]:
        assert_limited(log_in(api, "alice", PASSWORD, address), HOUR)
    for address in addresses[3:] + addresses[:1]:
        assert_wrong(log_in(api, "alice", address=address))


@pytest.mark.slow
def test_addresses_of_one_ipv6_network_are_one_own_address(api, alice):
    for number in range(30):
        assert_right(log_in(api, "alice", PASSWORD, f"2001:db8:0:1::{number}"))
    lock_username(api, "alice")
    assert_wrong(log_in(api, "alice", address="2001:db8:0:1:ffff::1"))
    assert_limited(log_in(api, "alice", PASSWORD, "2001:db8:0:2::1"), HOUR)


@pytest.mark.slow
def test_password_change_is_limited_by_its_session_only(api, alice, office):
    lock_username(api, "alice")
    sends = log_ins([api], lambda n: f"user{n}", lambda n: office)
    assert codes_of(sends) == {"invalid_credentials": 100}
    assert_limited(log_in(api, "bob", address=office), QUARTER)
    assert_limited(log_in(api, "alice", PASSWORD), HOUR)
    assert_right(change_password(api, alice, address=office))


@pytest.mark.slow
def test_of_registrations_at_one_address_100_in_an_hour_are_accepted(
    api, database, alice, office, home
):
    # A body that is no registration at all is not counted.
    for name in ("", "a/b", 5):
        assert_error(register(api, name, office), 400, "bad_request")
    names = ["alice"] * 50 + [f"user{number}" for number in range(50)]
    codes = codes_of([lambda n=name: register(api, n, office) for name in names])
    assert codes == {"success": 50, "username_taken": 50}
    assert_limited(register(api, "another", office), HOUR)
    assert_limited(register(api, "alice", office), HOUR)
    assert_error(register(api, "a/b", office), 400, "bad_request")
    assert register(api, "another", home).status_code == 201
    # Logins at the address go on.
    assert_right(log_in(api, "alice", PASSWORD, office))
    let_time_pass(database, HOUR)
    assert register(api, "one-more", office).status_code == 201


# What a rate limit reveals, and what it leaves behind.


@pytest.mark.slow
def test_unknown_username_takes_as_long_as_existing_one(mongod, database, start):
    server = start(mongod.uri, WEB_CONCURRENCY="1")
    tolerances = {"verified": 0.1, "rejected": 0.25}
    seconds = {}
    # Several rounds: what other programs add evens out, and a difference of the server stays.
    for number in range(5):
        kinds = ("existing", "unhashed", "unknown")
        names = {kind: f"{kind}{number}" for kind in kinds}
        InsertedUser(server, database, names["existing"])
        database.users.insert_one({"username": names["unhashed"], "password": "not a hash"})
        # 9 addresses for each: with more, the limit of the username would be reached.
        for attempt in range(9 * 15):
            if attempt % 15 == 0:
                address = new_address()
            step = "verified" if attempt % 15 < 10 else "rejected"
            # In turns, because the speed of a machine drifts.
            for kind, name in names.items():
                took, response = timed(lambda n=name, a=address: log_in(server, n, address=a))
                assert response.status_code == (401 if step == "verified" else 429)
                seconds.setdefault((step, kind), []).append(took)
        # The time that a quarter stay below, because other programs only add to it.
        quarters = {key: statistics.quantiles(spent, n=4)[0] for key, spent in seconds.items()}
        report(**{f"{step} {kind}, ms": round(q * 1000, 1) for (step, kind), q in quarters.items()})
        differences = {
            (step, kind): abs(spent / quarters[step, "unknown"] - 1)
            for (step, kind), spent in quarters.items()
        }
        if all(difference < tolerances[step] for (step, _), difference in differences.items()):
            break
    else:
        pytest.fail(f"different in each of five rounds: {differences}")


@pytest.mark.slow
def test_counters_are_deleted_when_they_no_longer_count(tmp_path, start):
    # By default MongoDB deletes expired documents once a minute.
    mongod = Mongod(tmp_path / "mongod", ["--setParameter", "ttlMonitorSleepSecs=1"])
    try:
        server = start(mongod.uri)
        with MongoClient(mongod.uri) as client:
            counters = client.get_default_database().rate_limits
            register(server, "alice")
            lock_username(server, "alice")
            let_time_pass(client.get_default_database(), timedelta(minutes=55))
            # MongoDB deletes documents in the order in which they expire, and this one last.
            counters.insert_one({"_id": "expired", "expires_at": datetime.now(timezone.utc)})
            wait_for(lambda: counters.find_one("expired") is None)
            assert_limited(log_in(server, "alice", PASSWORD), timedelta(minutes=5))
            let_time_pass(client.get_default_database(), HOUR)
            wait_for(lambda: counters.count_documents({}) == 0)
    finally:
        mongod.kill()
