"""A request is held at each of its operations while others run from their first to their last.

Afterwards the database and the sessions are as if the requests had run one after another, in some
order. A test does not know the operations of a request: it holds the first one, then the second
one, and so on, until a request no longer has as many.
"""

import itertools
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from bson import ObjectId
from support.actions import change_password, code, delete_user, log_in, register, tokens_of
from support.clients import NEW_PASSWORD, PASSWORD, InsertedUser, new_address, report
from support.processes import Server, procfile_command, wait_for
from support.proxy import Proxy

pytestmark = pytest.mark.slow


# The requests. A client of the case sends each of them to a server.


def right_login(case, server, client):
    return log_in(server, case.name, PASSWORD, client.address)


def wrong_login(case, server, client):
    return log_in(server, case.name, address=client.address)


def change(case, server, client):
    token, new = client.session[0], client.new_password
    return change_password(server, case.user, token, new=new, address=client.address)


def delete(case, server, client):
    return delete_user(server, case.user, client.session[0])


def logout(case, server, client):
    return server.post("/logout", client.session[1])


def logout_of_held(case, server, client):
    return server.post("/logout", case.held.session[1])


def todo(case, server, client):
    return server.post("/todos", client.session[0], json={"name": "added"})


def change_todo(case, server, client):
    # Each client changes another field, so the order of two changes makes no difference.
    path = f"/todos/{case.todo['id']}"
    return server.put(path, client.session[0], json=client.changed_fields)


def todo_of_opened(case, server, client):
    return server.post("/todos", client.opened and client.opened[0], json={"name": "added"})


def logout_of_opened(case, server, client):
    return server.post("/logout", client.opened and client.opened[1])


def registration(case, server, client):
    # With the same password, which is the hardest case.
    return register(server, case.name, client.address)


HELD = [right_login, wrong_login, change, delete, todo, change_todo]
OTHERS = [
    [right_login],
    [wrong_login],
    [change],
    [delete],
    [logout],
    [logout_of_held],
    [todo],
    [change_todo],
    [right_login, todo_of_opened, logout_of_opened],
    [delete, registration],
]


class Client:
    """A client with its own address and session, which a request of it may open another one for."""

    def __init__(self, session, new_password, **changed_fields):
        self.session, self.new_password = session, new_password
        self.changed_fields = changed_fields
        self.address, self.opened, self.accepted = new_address(), None, []

    def send(self, request, case, server):
        """Send a request, and keep the tokens if it opens a session."""
        response = request(case, server, self)
        assert response.status_code < 500, response.text
        self.accepted.append((request.__name__, response.ok))
        if "access_token" in response.json():
            self.opened = tokens_of(response)


class Case:
    """A user with a todo and two sessions, one for each of two clients."""

    numbers = itertools.count()

    def __init__(self, server, database):
        self.server, self.database = server, database
        self.name, self.home = f"user{next(self.numbers)}", new_address()
        self.user = InsertedUser(server, database, self.name)
        self.todo = self.user.add("before")
        login = tokens_of(log_in(server, self.name, PASSWORD, self.home))
        self.held = Client((self.user.access, self.user.refresh), NEW_PASSWORD, done=True)
        self.other = Client(login, "a third password", description="changed")

    def send(self, server, held=(), others=()):
        """Let the first client send these requests, and then the second client those."""
        for client, requests in ((self.held, held), (self.other, others)):
            for request in requests:
                client.send(request, self, server)

    def outcome(self):
        """Return all that the requests have left, in words that are the same for each case."""
        users = list(self.database.users.find({"username": self.name}))
        addresses = [own["address"] for user in users for own in user.get("addresses", [])]
        counters = {
            counter["_id"]: len(counter["attempts"])
            for counter in self.database.rate_limits.find()
            # The counter of a session ends with it.
            if counter["attempts"] and "session" not in counter["_id"]
        }
        accepted = [sorted(client.accepted) for client in (self.held, self.other)]
        todos = self.database.todos.find({"owner_id": ObjectId(self.user.id)})
        return {
            "accepted": accepted,
            "users": ["old" if str(user["_id"]) == self.user.id else "new" for user in users],
            "addresses": sorted(map(self.named, addresses)),
            "counters": {
                self.named(key): count for key, count in counters.items() if self.named(key) != key
            },
            "todos": sorted((todo["name"], todo["description"], todo["done"]) for todo in todos),
            "sessions": [
                self.is_open(session)
                for client in (self.held, self.other)
                for session in (client.session, client.opened)
            ],
            "password": [
                word for word in self.passwords() if log_in(self.server, self.name, word).ok
            ],
        }

    def named(self, text):
        """Return a text in which each name of this case is replaced by its role."""
        names = {self.name: "NAME", self.home: "HOME"}
        names |= {self.held.address: "HELD", self.other.address: "OTHER"}
        pattern = "|".join(rf"\b{re.escape(name)}\b" for name in names)
        return re.sub(pattern, lambda found: names[found[0]], text)

    def is_open(self, session):
        if session is None:
            return False
        return code(self.server.get("/todos", session[0])) == "success"

    def passwords(self):
        return [PASSWORD, self.held.new_password, self.other.new_password]


def orders(held, others):
    """Return the orders in which the requests can have run: (others, held, others) of each."""
    for number in range(len(others) + 1):
        yield others[:number], [held], others[number:]
    if held is delete and others == [delete, registration]:
        # A deletion ends the sessions before the name is free: the other deletion is rejected as if
        # it came later, and the registration as if it came earlier.
        yield [registration], [delete], [delete]


@pytest.fixture(scope="module")
def proxy(mongod):
    proxy = Proxy(mongod)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def held_server(proxy, tmp_path_factory):
    """A server whose operations the proxy holds."""
    log = tmp_path_factory.mktemp("held") / "log"
    server = Server(procfile_command(), log, proxy.uri, WEB_CONCURRENCY="1")
    yield server.wait()
    server.stop()


def names(requests):
    return "+".join(request.__name__ for request in requests)


@pytest.mark.parametrize("others", OTHERS, ids=names)
@pytest.mark.parametrize("held", HELD, ids=lambda request: request.__name__)
def test_held_request_ends_as_in_some_order(server, database, proxy, held_server, held, others):
    allowed = []
    for before, middle, after in orders(held, others):
        case = Case(server, database)
        case.send(server, others=before)
        case.send(server, held=middle, others=after)
        allowed.append(case.outcome())
    seen = [0] * len(allowed)
    for number in itertools.count():
        case = Case(server, database)
        proxy.hold(number)
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(case.send, held_server, held=[held])
            try:
                wait_for(lambda s=sending: proxy.reached.is_set() or s.done())
                is_held = proxy.reached.is_set()
                case.send(server, others=others)
                assert not is_held or not sending.done()
            finally:
                proxy.let_pass()
        sending.result()
        if not is_held:
            break
        outcome = case.outcome()
        assert outcome in allowed, "\n".join(map(str, [number, outcome, *allowed]))
        seen[allowed.index(outcome)] += 1
    report(operations=number, outcomes=seen)
    assert number > 0
