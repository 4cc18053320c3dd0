"""Users and their sessions: register, log in, refresh, log out, new password, delete.

test_access.py says who may call these routes, and test_passwords.py what a password may be.
"""

import pytest
from passlib.hash import argon2
from support.actions import change_password, delete_user, is_valid, log_in, tokens_of
from support.clients import (
    NEW_PASSWORD,
    PASSWORD,
    InsertedUser,
    User,
    assert_error,
    claims,
    short,
    stored_hash,
)

# The parameters of the OWASP Password Storage Cheat Sheet, as a hash states them.
OWASP = "$argon2id$v=19$m=19456,t=2,p=1$"
CHANGE = {"current_password": PASSWORD, "password": NEW_PASSWORD}


def refreshed(api, user):
    """Return an access token from /refresh, which is not fresh."""
    return api.post("/refresh", user.refresh).json()["access_token"]


# POST /register


@pytest.mark.smoke
def test_registration_gives_201_and_the_url_of_the_user(api, database):
    response = api.post("/register", json={"username": "alice", "password": PASSWORD})
    assert response.status_code == 201
    assert response.json() == {"message": "User created successfully."}
    assert response.headers["Location"] == "/user/alice"
    (stored,) = database.users.find()
    assert stored["username"] == "alice"
    assert PASSWORD not in str(stored)
    assert stored["password"].startswith(OWASP)
    assert argon2.verify(PASSWORD, stored["password"])


@pytest.mark.parametrize("username", ["7", "A.b_c-D", "a" * 64], ids=short)
def test_username_that_fits_in_a_url_is_accepted(api, username):
    response = api.post("/register", json={"username": username, "password": PASSWORD})
    assert response.status_code == 201
    assert response.headers["Location"] == f"/user/{username}"


INVALID_USERNAMES = ["", "a" * 65, ".a", "_a", "-a", "a b", "a/b", "a@b", "a\n", "\na", "a\x00"]
INVALID_USERNAMES += ["é", "٣"]


@pytest.mark.parametrize("username", INVALID_USERNAMES, ids=short)
def test_invalid_username_gives_400(api, database, username):
    response = api.post("/register", json={"username": username, "password": PASSWORD})
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {"username"}
    assert not list(database.users.find())


@pytest.mark.smoke
def test_taken_username_gives_409_and_changes_nothing(api, database):
    alice = User(api, "alice")
    before = list(database.users.find())
    response = api.post("/register", json={"username": "alice", "password": NEW_PASSWORD})
    assert_error(response, 409, "username_taken")
    assert list(database.users.find()) == before
    assert api.get("/todos", alice.access).status_code == 200


# POST /login


@pytest.mark.smoke
def test_login_gives_two_tokens_of_one_session(api, alice):
    response = log_in(api, "alice", PASSWORD)
    assert response.status_code == 200
    assert response.json().keys() == {"access_token", "refresh_token"}
    access = claims(response.json()["access_token"])
    assert (access["type"], access["fresh"]) == ("access", True)
    assert access["exp"] - access["iat"] == 15 * 60
    refresh = claims(response.json()["refresh_token"])
    assert (refresh["type"], refresh["fresh"]) == ("refresh", False)
    assert refresh["exp"] - refresh["iat"] == 30 * 24 * 3600
    assert access["sub"] == refresh["sub"] == alice.id
    assert access["sid"] == refresh["sid"] != claims(alice.access)["sid"]


@pytest.mark.smoke
def test_wrong_password_and_unknown_username_get_the_same_response(api, alice):
    wrong, unknown = log_in(api, "alice"), log_in(api, "unknown")
    assert_error(wrong, 401, "invalid_credentials")
    assert (wrong.content, wrong.headers) == (unknown.content, unknown.headers)


UNREGISTRABLE = ["", "x" * 60_000, "\x00", "$where"]


@pytest.mark.parametrize("value", UNREGISTRABLE, ids=short)
def test_login_with_a_value_that_cannot_be_registered_gives_401(api, alice, value):
    assert_error(log_in(api, "alice", value), 401, "invalid_credentials")
    assert_error(log_in(api, value, PASSWORD), 401, "invalid_credentials")


BAD_LOGINS = {
    "no password": ({"username": "alice"}, {"password": "Missing."}),
    "no username": ({"password": PASSWORD}, {"username": "Missing."}),
    "unknown field": (
        {"username": "alice", "password": PASSWORD, "x": 1},
        {"x": "Unknown field."},
    ),
}


@pytest.mark.parametrize(("body", "message"), BAD_LOGINS.values(), ids=BAD_LOGINS)
def test_login_with_missing_or_unknown_fields_gives_400(api, alice, body, message):
    assert_error(api.post("/login", json=body), 400, "bad_request", message)


def test_101st_login_ends_the_oldest_session_and_no_other(api, database):
    alice = InsertedUser(api, database, "alice", sessions=100)
    latest = alice.login()
    oldest, *others = alice.sessions
    assert not is_valid(api, *oldest)
    for session in (*others, latest):
        assert is_valid(api, *session)


def test_user_of_an_earlier_version_logs_in(api, database):
    """Their documents contain another field, and neither sessions nor addresses."""
    user = {"username": "alice", "password": stored_hash(), "other": "1f0c"}
    database.users.insert_one(user)
    for _ in range(2):
        access, refresh = tokens_of(log_in(api, "alice", PASSWORD))
        assert is_valid(api, access, refresh)
    change = api.put("/user/alice", access, json=CHANGE)
    assert change.status_code == 200
    assert_error(api.get("/todos", access), 401, "token_revoked")
    assert api.delete("/user/alice", change.json()["access_token"]).status_code == 200
    assert not list(database.users.find())


@pytest.mark.parametrize("damaged", [None, []])
def test_user_with_damaged_lists_logs_in_again(api, database, alice, damaged):
    database.users.update_one({}, {"$set": {"sessions": damaged, "addresses": damaged}})
    assert_error(api.get("/todos", alice.access), 401, "token_revoked")
    assert is_valid(api, *tokens_of(log_in(api, "alice", PASSWORD)))


# POST /refresh


@pytest.mark.smoke
def test_refresh_gives_an_access_token_of_the_same_session(api, alice):
    response = api.post("/refresh", alice.refresh)
    assert response.status_code == 200
    assert response.json().keys() == {"access_token"}
    new, old = claims(response.json()["access_token"]), claims(alice.access)
    assert (new["type"], new["fresh"], new["exp"] - new["iat"]) == ("access", False, 15 * 60)
    assert (new["sub"], new["sid"]) == (old["sub"], old["sid"])
    assert api.get("/todos", response.json()["access_token"]).status_code == 200


# POST /logout


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["access", "refresh", "refreshed"])
def test_logout_with_any_token_ends_its_session_and_no_other(api, alice, kind):
    other = alice.login()
    stale = refreshed(api, alice)
    token = {"access": alice.access, "refresh": alice.refresh, "refreshed": stale}[kind]
    response = api.post("/logout", token)
    assert response.status_code == 200
    assert response.json() == {"message": "Successfully logged out."}
    assert not is_valid(api, alice.access, alice.refresh)
    assert not is_valid(api, stale, alice.refresh)
    assert_error(api.post("/logout", stale), 401, "token_revoked")
    assert is_valid(api, *other)


# GET /user/<username>


@pytest.mark.smoke
def test_user_sees_own_id_and_username_and_nothing_else(api, alice):
    response = api.get("/user/alice", alice.access)
    assert response.status_code == 200
    assert response.json() == {"id": alice.id, "username": "alice"}


# PUT /user/<username>


@pytest.mark.smoke
def test_new_password_starts_a_session_and_ends_all_others(api, database, alice, bob):
    todo, other, stale = alice.add(), alice.login(), refreshed(api, alice)
    response = change_password(api, alice)
    assert response.json().keys() == {"access_token", "refresh_token"}
    access, refresh = tokens_of(response)
    for session in ((alice.access, alice.refresh), other, (stale, alice.refresh)):
        assert not is_valid(api, *session)
    assert is_valid(api, access, refresh)
    assert claims(access)["fresh"] is True
    assert claims(access)["sid"] == claims(refresh)["sid"]
    assert api.get("/todos", access).json()["todos"] == [todo]
    assert is_valid(api, bob.access, bob.refresh)
    stored = database.users.find_one({"username": "alice"})
    assert stored["password"].startswith(OWASP)
    assert argon2.verify(NEW_PASSWORD, stored["password"])


def test_only_the_new_password_is_accepted_after_a_change(api, alice):
    assert change_password(api, alice).status_code == 200
    assert_error(log_in(api, "alice", PASSWORD), 401, "invalid_credentials")
    assert is_valid(api, *tokens_of(log_in(api, "alice", NEW_PASSWORD)))


def test_password_can_be_changed_to_itself(api, alice):
    session = tokens_of(change_password(api, alice, new=PASSWORD))
    assert not is_valid(api, alice.access, alice.refresh)
    assert is_valid(api, *session)


@pytest.mark.smoke
def test_wrong_current_password_gives_401_and_changes_nothing(api, database, alice):
    before = database.users.find_one()
    response = change_password(api, alice, current="wrong password")
    assert_error(response, 401, "invalid_credentials")
    assert database.users.find_one() == before
    assert is_valid(api, alice.access, alice.refresh)


INVALID_CHANGES = {
    "empty": ({}, {"current_password", "password"}),
    "no current password": ({"password": NEW_PASSWORD}, {"current_password"}),
    "no new password": ({"current_password": PASSWORD}, {"password"}),
    "too short": ({**CHANGE, "password": "1234567"}, {"password"}),
    "too long": ({**CHANGE, "password": "x" * 257}, {"password"}),
    "null": ({**CHANGE, "password": None}, {"password"}),
    "number": ({**CHANGE, "current_password": 5}, {"current_password"}),
    "operator": ({**CHANGE, "current_password": {"$ne": ""}}, {"current_password"}),
    "common": ({**CHANGE, "password": "iloveyou"}, {"password"}),
}


@pytest.mark.parametrize(("change", "bad"), INVALID_CHANGES.values(), ids=INVALID_CHANGES)
def test_invalid_change_of_password_gives_400_and_changes_nothing(
    api, database, alice, change, bad
):
    before = database.users.find_one()
    response = api.put("/user/alice", alice.access, json=change)
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == bad
    assert database.users.find_one() == before


def test_id_and_username_cannot_be_changed(api, alice):
    body = {**CHANGE, **api.get("/user/alice", alice.access).json()}
    message = "Cannot be changed. Leave it out."
    response = api.put("/user/alice", alice.access, json=body)
    assert_error(response, 400, "bad_request", {"id": message, "username": message})


# DELETE /user/<username>


@pytest.mark.smoke
def test_deletion_removes_the_user_with_all_todos_and_sessions(api, database, alice, bob):
    for user in (alice, alice, bob):
        user.add()
    other = alice.login()
    response = delete_user(api, alice)
    assert response.status_code == 200
    assert response.json() == {"message": "User deleted."}
    for session in ((alice.access, alice.refresh), other):
        assert not is_valid(api, *session)
    assert_error(log_in(api, "alice", PASSWORD), 401, "invalid_credentials")
    assert [user["username"] for user in database.users.find()] == ["bob"]
    assert [str(todo["owner_id"]) for todo in database.todos.find()] == [bob.id]


def test_new_user_with_a_freed_name_gets_nothing_of_the_old_one(api, alice):
    todo = alice.add()
    assert delete_user(api, alice).status_code == 200
    new = User(api, "alice", NEW_PASSWORD)
    assert new.id != alice.id
    assert api.get("/todos", new.access).json()["todos"] == []
    assert_error(api.get(f"/todos/{todo['id']}", new.access), 404, "not_found")
    assert_error(api.get("/user/alice", alice.access), 401, "token_revoked")
