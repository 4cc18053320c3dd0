"""`python -m resources.reset_password`: the operator's way for a user who forgot the password."""

import subprocess
import sys

import pytest
from support.actions import change_password, log_in, tokens_of
from support.clients import PASSWORD, InsertedUser, User, assert_error
from support.processes import CLEAN, ROOT, free_port


def reset_password(uri, *arguments):
    """Run the command, and return its exit code, its output and its errors."""
    done = subprocess.run(
        [sys.executable, "-m", "resources.reset_password", *arguments],
        cwd=ROOT,
        env=CLEAN | {"MONGODB_URI": uri},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def new_password(uri, username):
    """Run the command, which is expected to succeed, and return the password."""
    code, output, errors = reset_password(uri, username)
    assert (code, errors) == (0, "")
    before, password = output.rstrip("\n").split(": ")
    assert before == f"The new password of {username}"
    return password


def test_new_password_replaces_the_forgotten_one(mongod, database, api):
    alice, bob = User(api, "alice"), InsertedUser(api, database, "bob")
    alice.add()
    password = new_password(mongod.uri, "alice")
    assert_error(log_in(api, "alice", PASSWORD), 401, "invalid_credentials")
    for path, token in (("/todos", alice.access), ("/user/alice", alice.access)):
        assert_error(api.get(path, token), 401, "token_revoked")
    assert_error(api.post("/refresh", alice.refresh), 401, "token_revoked")
    # An attacker who knew the old password may have logged in from the addresses.
    assert database.users.find_one({"username": "alice"})["addresses"] == []
    access, _ = tokens_of(log_in(api, "alice", password))
    assert len(api.get("/todos", access).json()["todos"]) == 1
    assert api.get("/todos", bob.access).status_code == 200
    # The user replaces it by one that the operator does not know.
    assert change_password(api, alice, access, current=password).status_code == 200


def test_each_new_password_is_different(mongod, database, api):
    InsertedUser(api, database, "alice")
    assert new_password(mongod.uri, "alice") != new_password(mongod.uri, "alice")


def test_user_whose_stored_password_is_not_a_hash_can_log_in_again(mongod, database, api):
    database.users.insert_one({"username": "alice", "password": "$2b$12$bcrypt"})
    password = new_password(mongod.uri, "alice")
    assert log_in(api, "alice", password).status_code == 200


@pytest.mark.parametrize(
    "username", ["alice", "Bob", "", "a b", "$ne", "b" * 65, b"\xff"], ids=repr
)
def test_unknown_username_ends_with_one_line(mongod, database, api, username):
    InsertedUser(api, database, "bob")
    before = list(database.users.find())
    code, output, errors = reset_password(mongod.uri, username)
    assert (code, output) == (1, "")
    assert errors.startswith("There is no user ") and errors.count("\n") == 1
    assert list(database.users.find()) == before


def test_unavailable_mongodb_ends_with_one_line():
    code, output, errors = reset_password(f"mongodb://127.0.0.1:{free_port()}/test", "alice")
    assert (code, output) == (1, "")
    assert errors.startswith("MongoDB: no server answers") and errors.count("\n") == 1
