"""A database of three members, as Atlas runs it, that lose their primary while clients write."""

import shutil
import signal
import time
from collections import Counter

import pytest
from helpers import CLEAN, Load, ReplicaSet, User, report, wait_for
from pymongo import MongoClient

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("uwsgi", path=CLEAN["PATH"]), reason="there is no uWSGI here"
    ),
    # A client that ends because a request of it took too long must not go unnoticed.
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture
def replica_set(tmp_path):
    replica_set = ReplicaSet(tmp_path)
    yield replica_set
    replica_set.kill()


class Writers(Load):
    """Six clients that add todos, each with a name of its own. `results` as in Load."""

    def __init__(self, user):
        self.user, self.acknowledged = user, []
        super().__init__(self.add, clients=6)

    def add(self, client, number):
        name = f"{client}-{number}-{time.monotonic_ns()}"
        answer = self.user.api.post("/todos", self.user.access, json={"name": name})
        if answer.status_code == 201:
            self.acknowledged.append(name)
        return answer.status_code

    def wait_for(self, count):
        """Wait until so many more todos are acknowledged."""
        enough = len(self.acknowledged) + count
        wait_for(lambda: len(self.acknowledged) >= enough, seconds=60)

    def wait_for_answers(self, count):
        """Wait until so many more requests, sent from now on, are answered with whatever."""
        now = time.monotonic()
        wait_for(lambda: sum(1 for begin, *_ in self.results if begin > now) >= count, seconds=60)

    def statuses_between(self, begin, end):
        """The statuses of the requests that were sent and answered in this time."""
        # One that is sent just before the end can still be waiting for a primary when there is one.
        return {status for sent, came, status in self.results if begin < sent and came < end}


def look_with(api, token):
    """One client that asks for todos with a token. The results hold the error, or None."""
    return Load(lambda *_: api.get("/todos", token).json().get("error"), clients=1)


def assert_kept_its_word(replica_set, writers, looks):
    """No acknowledged todo is lost, none is there twice, every answer came in time and was one that
    the contract has, and the session that was over stayed over. Prints the figures."""
    with MongoClient(replica_set.uri) as client:
        stored = Counter(todo["name"] for todo in client.test.todos.find())
    statuses = Counter(status for *_, status in writers.results)
    slowest = max(end - begin for begin, end, _ in writers.results + looks.results)
    # From one acknowledgement to the next, whoever got it.
    ends = sorted(end for _, end, status in writers.results if status == 201)
    pauses = [later - earlier for earlier, later in zip(ends, ends[1:])]
    lost = set(writers.acknowledged) - stored.keys()
    twice = [name for name, count in stored.items() if count > 1]
    report(
        acknowledged=len(writers.acknowledged),
        lost=len(lost),
        twice=len(twice),
        answered_503=statuses[503],
        slowest_answer=round(slowest, 2),
        longest_pause=round(max(pauses), 2),
    )
    assert (lost, twice) == (set(), [])
    assert statuses.keys() <= {201, 503}
    errors = {error for *_, error in looks.results}
    assert "token_revoked" in errors and errors <= {"token_revoked", "database_unavailable"}
    assert slowest < 5


def step_down(replica_set, primary):
    """What Atlas does before it takes a member away for maintenance."""
    with MongoClient(replica_set.uri) as client:
        client.admin.command("replSetStepDown", 60)


def kill(replica_set, primary):
    primary.kill()


def freeze(replica_set, primary):
    """The process stops, its connections stay open: nobody is told that it is away."""
    primary.process.send_signal(signal.SIGSTOP)


@pytest.mark.parametrize("fault", [step_down, kill, freeze], ids=lambda fault: fault.__name__)
def test_primary_that_goes_and_comes_back_costs_no_todo_and_revives_no_session(
    replica_set, start, fault
):
    server = start(replica_set.uri)
    alice = User(server, "alice")
    over = alice.login()[0]
    assert server.post("/logout", over).status_code == 200
    over_later = alice.login()[0]
    primary = replica_set.wait_for_primary()
    others = [member for member in replica_set.members if member is not primary]
    with Writers(alice) as writers, look_with(server, over) as looks:
        writers.wait_for(300)
        fault(replica_set, primary)
        replica_set.wait_for_primary(others)
        writers.wait_for(300)
        # The old primary, while it is away, does not hear of this logout.
        wait_for(lambda: server.post("/logout", over_later).status_code != 503)
        with look_with(server, over_later) as later_looks:
            if fault is kill:
                primary.start()
            elif fault is freeze:
                primary.process.send_signal(signal.SIGCONT)
            replica_set.wait_until_whole()
            writers.wait_for(300)
    looks.results += later_looks.results
    assert_kept_its_word(replica_set, writers, looks)


@pytest.mark.parametrize("with_primary", [False, True], ids=["secondaries", "primary_and_one"])
def test_one_of_three_members_acknowledges_nothing_until_a_second_one_is_back(
    replica_set, start, with_primary
):
    server = start(replica_set.uri)
    alice = User(server, "alice")
    over = alice.login()[0]
    assert server.post("/logout", over).status_code == 200
    primary = replica_set.wait_for_primary()
    others = [member for member in replica_set.members if member is not primary]
    first, second, left = [*others, primary] if not with_primary else [primary, *others]
    with Writers(alice) as writers, look_with(server, over) as looks:
        writers.wait_for(300)
        first.kill()
        second.kill()
        away = time.monotonic()
        # Alone, a primary gives up its part once it has missed the others for ten seconds.
        wait_for(lambda: replica_set.part_of(left) == "secondary", seconds=60)
        writers.wait_for_answers(30)
        back = time.monotonic()
        first.start()
        writers.wait_for(300)
        second.start()
        replica_set.wait_until_whole()
    assert writers.statuses_between(away, back) == {503}
    assert_kept_its_word(replica_set, writers, looks)
