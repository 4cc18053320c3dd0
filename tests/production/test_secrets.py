"""What the log and the responses reveal: no password, no hash, no token, no user, no inside."""

import re

import pytest
from pymongo import MongoClient
from support.actions import every_request, log_in
from support.clients import PASSWORD, InsertedUser, User, assert_error, at_once
from support.processes import SECRET, wait_for

INSIDE = re.compile(r"Traceback|pymongo|passlib|argon2|127\.0\.0\.1|werkzeug|uwsgi", re.IGNORECASE)


def test_password_is_neither_stored_nor_logged(mongod, database, start):
    server = start(mongod.uri)
    User(server, "alice")
    assert PASSWORD not in str(list(database.users.find())) + server.log.read_text()


def test_log_names_no_user_and_no_address(mongod, database, start):
    server = start(mongod.uri)
    victim = InsertedUser(server, database, "victim")
    address = "192.0.2.77"
    for send in every_request(server, victim):
        send()
    for _ in range(12):
        log_in(server, "victim", address=address)
        log_in(server, "intruder", address=address)
    # More than there are hashing slots.
    at_once(20, log_in, server, "flooder")
    log = server.log.read_text()
    for secret in ("victim", "intruder", "flooder", address):
        assert secret not in log


@pytest.mark.slow
def test_log_and_responses_hold_no_secret(own_mongod, start):
    # One worker: of two, one can notice later than the other that the database is back.
    server = start(own_mongod.uri, WEB_CONCURRENCY="1")
    alice = User(server, "alice")
    responses = [send() for send in every_request(server, alice)[:3]]
    own_mongod.kill()
    responses += [send() for send in every_request(server, alice)]
    own_mongod.start()
    wait_for(lambda: log_in(server, "alice", PASSWORD).status_code == 200)
    responses += [send() for send in every_request(server, alice)]
    responses += [server.get("/nowhere"), server.post("/todos", "x.y.z")]
    with MongoClient(own_mongod.uri) as client:
        broken = {"username": "broken", "password": "no hash"}
        client.get_default_database().users.insert_one(broken)
    # A crash.
    crash = log_in(server, "broken", PASSWORD)
    assert_error(crash, 500, "internal_error")
    log = server.log.read_text()
    assert "Traceback" in log and "UnknownHashError" in log
    secrets = [PASSWORD, SECRET, alice.access, alice.refresh, "$argon2", "no hash"]
    # The signature of a token.
    secrets.append(alice.access.split(".")[2])
    for secret in secrets:
        assert secret not in log
    for response in [*responses, crash]:
        assert not INSIDE.search(response.text + str(response.headers))
        assert "Server" not in response.headers


def test_there_is_no_debugger(api):
    for path in ("/console", "/?__debugger__=yes&cmd=resource&f=debugger.js"):
        assert_error(api.get(path), 404, "not_found")
