"""Whatever error MongoDB responds with: a 503, or a 500 if the API has sent a wrong query.

The log has one record for each: a line that an operator understands, or a traceback. No record
holds what MongoDB says about a document, a username or a URL.
"""

import contextlib
import itertools
import re

import pytest
from support.actions import is_valid, log_in, register, tokens_of
from support.clients import MISSING, PASSWORD, InsertedUser, assert_error, timed
from support.processes import Server, procfile_command, wait_for
from support.proxy import Proxy, version

# The codes that mean a mistake of this program. tests/README.md says why.
MISTAKES = {2, 9, 14, 15, 16, 22, 28, 34, 40, 52, 53, 54, 55, 56, 57, 66, 72, 168, 241, 378, 10334}
# A duplicate key. In an insert of a user it is a username that is taken.
MISTAKES.add(11000)
# The codes with which a member of a replica set says that it is not, or no longer, the primary.
# PyMongo then waits until it has found one, which takes up to half a second.
NOT_PRIMARY = {91, 189, 10058, 10107, 11600, 11602, 13435, 13436}
# The codes of src/mongo/base/error_codes.yml in MongoDB's sources: up to 462 with few gaps, and
# these. 303 is DocumentDB's as well, 8000 Atlas's, 16500 Cosmos DB's.
OTHER_CODES = """
    8000 9001 9996 10003 10058 10107 10334 11000 11600 11601 11602 12586 12587 13104 13113 13297
    13388 13435 13436 14031 16500 17280 28769 31082 40413 40414 40415 46841 50768 50915 56846
    57986 91331 640570 640571 1003141 4662500 4938500 9737301 9751901 9751902 9751903 10045600
    10171600
"""
CODES = {*range(1, 463), *map(int, OTHER_CODES.split())} - NOT_PRIMARY

# What MongoDB may say about a document. The log must not hold it.
SECRET = "the.secret@example.com"
MESSAGE = f'test.users index: username_1 dup key: {{ username: "{SECRET}" }}'


def error(code, **more):
    """Return what MongoDB responds with if an operation fails."""
    # PyMongo repeats the second message in its own. MongoDB says nothing else with these codes.
    message = MESSAGE if code not in NOT_PRIMARY else "not primary"
    return {"ok": 0.0, "errmsg": message, "code": code, "codeName": f"Name{code}", **more}


def write_errors(code):
    """Return what MongoDB responds with if one of several updates fails."""
    failed = {"index": 0, "code": code, "errmsg": MESSAGE, "keyValue": {"username": SECRET}}
    return {"ok": 1.0, "n": 0, "nModified": 0, "writeErrors": [failed]}


@pytest.fixture
def proxy(failing_proxy, failing_database):
    """The proxy, which lets everything pass, to an empty database."""
    yield failing_proxy
    failing_proxy.let_pass()


@pytest.fixture(scope="module")
def server_of_all(failing_proxy, tmp_path_factory):
    """One server for most tests of this file."""
    # Without these options, PyMongo would send some reads again until the deadline of the request,
    # and would look for a primary once in ten seconds.
    uri = f"{failing_proxy.uri}?retryReads=false&serverMonitoringMode=poll"
    log = tmp_path_factory.mktemp("error_codes") / "log"
    server = Server(procfile_command(), log, uri, WEB_CONCURRENCY="1")
    yield server.wait()
    server.stop()


@pytest.fixture
def server(server_of_all, proxy):
    """The server, with an empty log, whose operations the proxy can answer."""
    wait_for(lambda: log_in(server_of_all, "nobody").status_code != 503)
    server_of_all.log.write_bytes(b"")
    return server_of_all


def records(server):
    """Return the records of the log: each begins with a time in brackets."""
    text = server.log.read_text()
    begins = [found.start() for found in re.finditer(r"^\[\d{4}-\d\d-\d\d ", text, re.MULTILINE)]
    return [text[begin:end] for begin, end in itertools.pairwise([*begins, None])]


def assert_judged(response, is_mistake):
    """Assert that this is a 500 or a 503."""
    if is_mistake:
        assert_error(response, 500, "internal_error")
    else:
        assert_error(response, 503, "database_unavailable")


def assert_records(server, mistakes):
    """Assert that the log has one record for each request, and that none holds a secret.

    `mistakes` says of each request whether it has shown a mistake of the program.
    """
    found = wait_for(lambda: len(records(server)) >= len(mistakes) and records(server))
    assert len(found) == len(mistakes)
    for record, is_mistake in zip(found, mistakes):
        if is_mistake:
            assert record.count("Traceback (most recent call last)") == 1
        else:
            assert record.count("\n") == 1
    for secret in (SECRET, "alice", "dup key", MISSING):
        assert secret not in server.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("codes", [CODES, NOT_PRIMARY], ids=["all", "not_primary"])
def test_error_code_is_500_only_if_it_means_a_mistake(proxy, failing_database, server, codes):
    alice = InsertedUser(server, failing_database, "alice")
    todo = f"/todos/{MISSING}"
    mistakes = []
    for code in sorted(codes):
        proxy.answer(error(code), ["find"])
        responses = [server.get("/user/alice", alice.access)]
        proxy.answer(error(code), ["insert", "findAndModify"])
        responses.append(server.post("/todos", alice.access, json={"name": "x"}))
        responses.append(server.put(todo, alice.access, json={"name": "x"}))
        for response in responses:
            assert_judged(response, code in MISTAKES)
        # An index that MongoDB refuses needs an operator, whatever the reason is.
        proxy.answer(error(code), ["createIndexes"])
        assert_judged(register(server, f"alice{code}"), False)
        mistakes += [code in MISTAKES] * 3 + [False]
    proxy.let_pass()
    wait_for(lambda: server.get(todo, alice.access).status_code == 404)
    assert_records(server, mistakes)


# What newer versions add to an error, so that a driver sends the operation again.
LABELS = [
    (462, ["SystemOverloadedError", "RetryableError", "NoWritesPerformed"]),
    (433, ["SystemOverloadedError", "RetryableError"]),
    (449, ["SystemOverloadedError"]),
    (6, ["RetryableWriteError"]),
    (251, ["TransientTransactionError"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("code", "labels"), LABELS)
def test_overloaded_mongodb_gives_503_in_time(proxy, failing_database, start, code, labels):
    server = start(proxy.uri, WEB_CONCURRENCY="1")
    alice = InsertedUser(server, failing_database, "alice")
    proxy.answer(error(code, errorLabels=labels), ["find", "insert", "findAndModify"])
    for send in (
        lambda: server.get("/todos", alice.access),
        lambda: server.post("/todos", alice.access, json={"name": "x"}),
        lambda: log_in(server, "alice", PASSWORD),
    ):
        seconds, response = timed(send)
        assert_judged(response, False)
        assert seconds < 5
    # One error is not an outage: PyMongo sends the read again.
    proxy.answer(error(code, errorLabels=labels), ["find"], number=0)
    is_sent_again = code == 6 or "RetryableError" in labels
    assert server.get("/todos", alice.access).status_code == (200 if is_sent_again else 503)
    assert_records(server, [False] * (3 if is_sent_again else 4))


@pytest.mark.parametrize("code", [112, 121, 11000, 14])
def test_error_of_any_update_of_login_is_reported_without_key(
    proxy, failing_database, server, code
):
    mistakes = []
    for number in itertools.count():
        name = f"alice{number}"
        InsertedUser(server, failing_database, name)
        proxy.answer(write_errors(code), ["update"], number)
        response = log_in(server, name, PASSWORD)
        if not proxy.reached.is_set():
            break
        proxy.let_pass()
        assert_judged(response, code in MISTAKES)
        mistakes.append(code in MISTAKES)
        assert is_valid(server, *tokens_of(log_in(server, name, PASSWORD)))
    assert number > 1
    assert_records(server, mistakes)
    assert f"code {code}" in records(server)[-1]


# What MongoDB says if it has executed a write, and cannot confirm it.
@pytest.mark.parametrize("code", [64, 79, 91, 100, 189, 11600, 11602])
def test_unconfirmed_write_gives_503(proxy, failing_database, server, code):
    alice = InsertedUser(server, failing_database, "alice")
    reply = {"ok": 1.0, "n": 1, "writeConcernError": {"code": code, "errmsg": MESSAGE}}
    proxy.answer(reply, ["insert"])
    assert_judged(server.post("/todos", alice.access, json={"name": "x"}), False)
    assert_records(server, [False])


@pytest.mark.slow
def test_old_mongodb_gives_503_and_a_line_that_says_so(failing_mongod, start):
    with contextlib.closing(Proxy(failing_mongod, {version(17): version(8)})) as old:
        server = start(old.uri, WEB_CONCURRENCY="1")
        for _ in range(3):
            assert_judged(log_in(server, "alice", PASSWORD), False)
        assert_records(server, [False] * 3)
        assert "needs MongoDB 4.4 or newer" in records(server)[0]
