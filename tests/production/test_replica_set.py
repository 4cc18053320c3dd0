"""A database of three members, as Atlas runs it, that loses some of them while clients write."""

import signal
import time
from collections import Counter

import pytest
from pymongo import MongoClient
from support.actions import code
from support.clients import Control, InsertedUser, Load, Writers, report
from support.flight import Flight
from support.processes import wait_for
from support.replica_set import ReplicaSet

pytestmark = [
    pytest.mark.slow,
    # A client can end because one of its requests took too long. Then the test must fail.
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(scope="module")
def replica_set_of_all(tmp_path_factory):
    """One replica set for all tests of this file, because it takes seconds to start."""
    replica_set = ReplicaSet(tmp_path_factory.mktemp("replica_set"))
    yield replica_set
    replica_set.kill()


@pytest.fixture
def replica_set(replica_set_of_all):
    """The replica set, complete and with an empty database."""
    replica_set_of_all.repair()
    with MongoClient(replica_set_of_all.uri) as client:
        client.drop_database("test")
    return replica_set_of_all


@pytest.fixture
def alice(replica_set, start):
    """A user of a server that uses the replica set."""
    server = start(replica_set.uri)
    with MongoClient(replica_set.uri) as client:
        return InsertedUser(server, client.get_default_database(), "alice")


def revoked_session(user):
    """Return an access token whose session has ended."""
    access = user.login()[0]
    assert user.api.post("/logout", access).status_code == 200
    return access


def reader_with(user, token):
    """Return a client that reads todos with a token. The results hold the error code, or None."""
    return Load(lambda: user.api.get("/todos", token).json().get("error"), clients=1)


def assert_promises_are_kept(replica_set, writers, readers, control):
    """Assert that no acknowledged todo is lost, and that no revoked session became valid.

    Also that no todo is stored twice and that every response came within 5 seconds.
    """
    with MongoClient(replica_set.uri) as client:
        stored = Counter(todo["name"] for todo in client.test.todos.find())
    statuses = Counter(status for *_, status in writers.results)
    reads = [result for reader in readers for result in reader.results]
    slowest = max(end - begin for begin, end, _ in writers.results + reads)
    # From each acknowledgement to the next one, of any client.
    ends = sorted(end for _, end, status in writers.results if status == 201)
    pauses = [later - earlier for earlier, later in zip(ends, ends[1:])]
    lost = set(writers.acknowledged) - stored.keys()
    twice = [name for name, count in stored.items() if count > 1]
    report(
        acknowledged=len(writers.acknowledged),
        lost=len(lost),
        twice=len(twice),
        responses_503=statuses[503],
        slowest_response=round(slowest, 2),
        longest_pause=round(max(pauses), 2),
    )
    assert (lost, twice) == (set(), [])
    assert statuses.keys() <= {201, 503}
    errors = {error for *_, error in reads}
    assert "token_revoked" in errors and errors <= {"token_revoked", "database_unavailable"}
    control.assert_in_time(slowest)


# What can happen to the primary.


def step_down(replica_set, primary):
    """Let the primary become a secondary, as Atlas does before it restarts a member."""
    with MongoClient(replica_set.uri) as client:
        client.admin.command("replSetStepDown", 60)


def kill(replica_set, primary):
    primary.kill()


def freeze(replica_set, primary):
    """Stop the process. Its connections stay open, so no other process is told."""
    primary.process.send_signal(signal.SIGSTOP)


def restore(primary):
    """Undo any of these."""
    if primary.process.poll() is None:
        primary.process.send_signal(signal.SIGCONT)
    else:
        primary.start()


@pytest.mark.parametrize("fault", [step_down, kill, freeze])
def test_loss_of_primary_loses_no_todo_and_revives_no_session(replica_set, alice, fault):
    server = alice.api
    revoked = revoked_session(alice)
    revoked_later = alice.login()[0]
    primary = replica_set.wait_for_primary()
    others = [member for member in replica_set.members if member is not primary]
    control, reader = Control(server), reader_with(alice, revoked)
    with Writers(alice) as writers, reader, control:
        writers.wait_for(100)
        fault(replica_set, primary)
        replica_set.wait_for_primary(others)
        # Few, because MongoDB acknowledges slowly until it gives up the frozen member.
        writers.wait_for(10)
        # The previous primary does not know of this logout when it returns.
        wait_for(lambda: server.post("/logout", revoked_later).status_code != 503)
        with reader_with(alice, revoked_later) as later_reader:
            restore(primary)
            replica_set.wait_until_complete()
            writers.wait_for(100)
    assert_promises_are_kept(replica_set, writers, [reader, later_reader], control)


@pytest.mark.parametrize("fault", [step_down, kill, freeze])
def test_requests_in_flight_are_answered_in_time(replica_set, alice, fault):
    server = alice.api
    names = [str(number) for number in range(200)]
    posts = [("POST", "/todos", alice.access, {"name": name}) for name in names]
    primary = replica_set.wait_for_primary()
    flight = Flight(server, posts)
    # The others are in flight.
    landed = flight.land(20)
    with Control(server) as control:
        fault(replica_set, primary)
        landed += flight.land()
    others = [member for member in replica_set.members if member is not primary]
    replica_set.wait_for_primary(others)
    wait_for(lambda: server.get("/todos", alice.access).status_code == 200)
    restore(primary)
    replica_set.wait_until_complete()
    statuses = Counter(status for _, status, _ in landed)
    slowest = max(seconds for seconds, *_ in landed)
    with MongoClient(replica_set.uri) as client:
        stored = Counter(todo["name"] for todo in client.test.todos.find())
    report(**{f"responses_{status}": count for status, count in statuses.items()})
    assert len(landed) == 200
    assert statuses.keys() <= {201, 503}
    control.assert_in_time(slowest)
    assert {body["name"] for _, status, body in landed if status == 201} <= stored.keys()
    assert set(stored.values()) == {1}


@pytest.mark.parametrize("keep_primary", [False, True], ids=["secondary", "primary"])
def test_single_member_acknowledges_nothing(replica_set, alice, keep_primary):
    server = alice.api
    revoked = revoked_session(alice)
    primary = replica_set.wait_for_primary()
    others = [member for member in replica_set.members if member is not primary]
    if keep_primary:
        left, first, second = [primary, *others]
    else:
        first, second, left = [primary, *others]
    control, reader = Control(server), reader_with(alice, revoked)
    with Writers(alice) as writers, reader, control:
        writers.wait_for(100)
        first.kill()
        second.kill()
        alone = time.monotonic()
        # A primary becomes a secondary when it has missed the others for ten seconds.
        wait_for(lambda: replica_set.role_of(left) == "secondary", seconds=60)
        now = time.monotonic()
        wait_for(lambda: sum(begin > now for begin, *_ in writers.results) >= 30)
        back = time.monotonic()
        first.start()
        writers.wait_for(100)
        second.start()
        replica_set.wait_until_complete()
    between = [status for sent, came, status in writers.results if alone < sent and came < back]
    assert set(between) == {503}
    assert_promises_are_kept(replica_set, writers, [reader], control)


def test_read_preference_of_uri_revives_no_session(replica_set, start):
    server = start(f"{replica_set.uri}&readPreference=secondary")
    with MongoClient(replica_set.uri) as client:
        alice = InsertedUser(server, client.get_default_database(), "alice")
    primary = replica_set.wait_for_primary()
    late = next(member for member in replica_set.members if member is not primary)
    with replica_set.connect_to(late) as client:
        stored = wait_for(lambda: client.test.users.find_one())
        # It copies no more writes, and still responds to reads.
        client.admin.command("fsync", lock=True)
        try:
            assert server.post("/logout", alice.access).status_code == 200
            codes = Counter(code(server.get("/todos", alice.access)) for _ in range(50))
            assert client.test.users.find_one() == stored
        finally:
            client.admin.command("fsyncUnlock")
    assert codes == {"token_revoked": 50}
