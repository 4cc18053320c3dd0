"""Users and sessions: register, log in, refresh, log out, change the password, delete the user."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from passlib.hash import argon2
from support.clients import PASSWORD, User, assert_error, at_once, claims, short, stored_hash
from support.processes import ROOT

# The parameters of the OWASP Password Storage Cheat Sheet, as a hash states them.
OWASP = "$argon2id$v=19$m=19456,t=2,p=1$"
NEW = "another battery staple"
CHANGE = {"current_password": PASSWORD, "password": NEW}


@pytest.fixture
def alice(api):
    """A user who has registered and logged in, because these tests are about that."""
    return User(api, "alice")


def log_in(api, username, password):
    return api.post("/login", json={"username": username, "password": password})


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


def test_password_is_hashed_by_argon2id_with_the_parameters_of_owasp(database, alice):
    stored = database.users.find_one()
    assert stored["password"].startswith(OWASP)
    assert argon2.verify(PASSWORD, stored["password"])


@pytest.mark.parametrize("username", ["a", "7", "A.b_c-D", "a" * 64, "0..__--"], ids=short)
def test_username_that_fits_in_a_url_is_accepted(api, username):
    user = User(api, username)
    response = api.get(f"/user/{username}", user.access)
    assert response.json() == {"id": user.id, "username": username}


INVALID_USERNAMES = ["", "a" * 65, ".a", "_a", "-a", "a b", "a/b", "a@b", "a\n", "\na", "a\x00"]
INVALID_USERNAMES += ["é", "٣"]


@pytest.mark.parametrize("username", INVALID_USERNAMES, ids=short)
def test_invalid_username_gives_400(api, database, username):
    response = api.post("/register", json={"username": username, "password": PASSWORD})
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {"username"}
    assert not list(database.users.find())


PASSWORDS = ["8 chars.", "x" * 256, "        ", "\x00" * 8, "ä" * 8, "\U0001f600" * 8]
PASSWORDS += [" Aé\t\n\x00 \u0301"]


@pytest.mark.parametrize("password", PASSWORDS, ids=short)
def test_password_of_any_characters_is_compared_exactly(api, password):
    User(api, "alice", password)
    for other in (password + " ", password[:-1], password.strip() + "x", password.swapcase() + "y"):
        assert_error(log_in(api, "alice", other), 401, "invalid_credentials")


@pytest.mark.parametrize("password", ["", "1234567", "x" * 257, "x" * 5000], ids=short)
def test_password_of_invalid_length_gives_400(api, database, password):
    response = api.post("/register", json={"username": "alice", "password": password})
    assert_error(response, 400, "bad_request", {"password": "Must have 8 to 256 characters."})
    assert not list(database.users.find())


COMMON = ["password", "12345678", "123456789", "1234567890", "qwertyuiop", "qwerty123", "password1"]
COMMON += ["1q2w3e4r", "iloveyou", "sunshine", "princess", "football", "baseball", "superman"]
COMMON += ["trustno1", "computer", "PASSWORD", "PassWord", "QWERTYUIOP", "iLoveYou"]


@pytest.mark.parametrize("password", COMMON)
def test_common_password_gives_400_in_any_case_of_letters(api, database, password):
    response = api.post("/register", json={"username": "alice", "password": password})
    assert_error(response, 400, "bad_request")
    message = response.json()["message"]
    assert message.keys() == {"password"}
    assert "common password" in message["password"]
    assert not list(database.users.find())


def test_list_of_common_passwords_is_long_enough():
    """ASVS 5.0, 6.2.4: at least the 3,000 most common passwords that are long enough to pass."""
    lines = (ROOT / "resources" / "common_passwords.txt").read_text(encoding="utf-8").splitlines()
    assert len({line for line in lines if len(line) >= 8}) >= 3000


@pytest.mark.parametrize("password", ["alice.smith", "ALICE.smith"])
def test_username_as_password_gives_400(api, database, password):
    response = api.post("/register", json={"username": "alice.smith", "password": password})
    assert_error(response, 400, "bad_request", {"password": "Must not be the username."})
    assert not list(database.users.find())


@pytest.mark.smoke
def test_taken_username_gives_409_and_changes_nothing(api, database, alice):
    before = list(database.users.find())
    response = api.post("/register", json={"username": "alice", "password": "another one"})
    assert_error(response, 409, "username_taken")
    assert list(database.users.find()) == before


def test_one_of_concurrent_registrations_of_a_username_succeeds(api, database):
    def register():
        response = api.post("/register", json={"username": "alice", "password": PASSWORD})
        if response.status_code != 201:
            # Some clients come when all hashing slots are taken.
            code = response.json()["error"]
            assert_error(response, {"username_taken": 409, "server_busy": 503}[code], code)
        return response.status_code

    assert at_once(20, register).count(201) == 1
    assert database.users.count_documents({}) == 1


def test_101st_registration_from_an_address_within_an_hour_gives_429(api, database):
    def register(username="alice"):
        return api.post("/register", json={"username": username, "password": PASSWORD})

    # Two at a time always find a hashing slot.
    with ThreadPoolExecutor(2) as pool:
        responses = list(pool.map(lambda _: register(), range(100)))
    assert sorted(response.status_code for response in responses) == [201] + 99 * [409]
    response = register("bob")
    assert_error(response, 429, "too_many_attempts")
    assert int(response.headers["Retry-After"]) <= 3600
    assert [user["username"] for user in database.users.find()] == ["alice"]
    # Logins from there are counted apart.
    assert log_in(api, "alice", PASSWORD).status_code == 200


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
    wrong = log_in(api, "alice", "wrong password")
    unknown = log_in(api, "unknown", "wrong password")
    assert_error(wrong, 401, "invalid_credentials")
    assert (wrong.content, wrong.headers) == (unknown.content, unknown.headers)


UNREGISTRABLE = ["", "x" * 257, "x" * 60_000, "a/b", "\x00", "$where", "\uffff"]


@pytest.mark.parametrize("value", UNREGISTRABLE, ids=short)
def test_login_with_a_value_that_cannot_be_registered_gives_401(api, alice, value):
    assert_error(log_in(api, "alice", value), 401, "invalid_credentials")
    assert_error(log_in(api, value, PASSWORD), 401, "invalid_credentials")


def test_invalid_username_at_login_is_not_counted_as_an_attempt(api, alice):
    for number in range(101):
        assert_error(log_in(api, f"/{number}", PASSWORD), 401, "invalid_credentials")
    assert log_in(api, "alice", PASSWORD).status_code == 200


def test_password_is_compared_beyond_its_longest_length(api):
    User(api, "alice", "x" * 256)
    assert_error(log_in(api, "alice", "x" * 257), 401, "invalid_credentials")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"username": "alice"}, {"password": "Missing."}),
        ({"password": PASSWORD}, {"username": "Missing."}),
        ({"username": "alice", "password": PASSWORD, "x": 1}, {"x": "Unknown field."}),
    ],
    ids=["no password", "no username", "unknown field"],
)
def test_login_with_missing_or_unknown_fields_gives_400(api, alice, body, message):
    assert_error(api.post("/login", json=body), 400, "bad_request", message)


WEAKER = [{"memory_cost": 8192}, {"rounds": 1}, {"type": "I"}]


@pytest.mark.parametrize("weaker", WEAKER, ids=str)
def test_login_replaces_a_weaker_hash_once(api, database, alice, weaker):
    parameters = {"type": "ID", "memory_cost": 19456, "rounds": 2, "parallelism": 1} | weaker
    old_hash = argon2.using(**parameters).hash(PASSWORD)
    database.users.update_one({}, {"$set": {"password": old_hash}})
    assert_error(log_in(api, "alice", "wrong"), 401, "invalid_credentials")
    assert database.users.find_one()["password"] == old_hash
    alice.login()
    new_hash = database.users.find_one()["password"]
    assert new_hash.startswith(OWASP)
    assert argon2.verify(PASSWORD, new_hash)
    alice.login()
    assert database.users.find_one()["password"] == new_hash


def test_101st_login_ends_the_oldest_session_and_no_other(api, alice):
    second = alice.login()
    with ThreadPoolExecutor(2) as pool:
        later = list(pool.map(lambda _: alice.login(), range(98)))
    assert api.get("/todos", alice.access).status_code == 200
    latest = alice.login()
    assert_error(api.get("/todos", alice.access), 401, "token_revoked")
    assert_error(api.post("/refresh", alice.refresh), 401, "token_revoked")
    for access, refresh in (second, *later, latest):
        assert api.get("/todos", access).status_code == 200
        assert api.post("/refresh", refresh).status_code == 200


def test_user_of_an_earlier_version_logs_in(api, database):
    """Their documents contain another field, and no sessions."""
    user = {"username": "alice", "password": stored_hash(), "other": "1f0c"}
    database.users.insert_one(user)
    for _ in range(2):
        response = log_in(api, "alice", PASSWORD)
        assert response.status_code == 200
        access = response.json()["access_token"]
        assert api.get("/todos", access).status_code == 200
    change = api.put("/user/alice", access, json=CHANGE)
    assert change.status_code == 200
    assert_error(api.get("/todos", access), 401, "token_revoked")
    assert api.delete("/user/alice", change.json()["access_token"]).status_code == 200
    assert not list(database.users.find())


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


def test_access_token_cannot_refresh(api, alice):
    assert_error(api.post("/refresh", alice.access), 401, "invalid_token")


# POST /logout


def send_everything(api, user, access, refresh):
    """Return the responses to one request of each kind, with the tokens of one session."""
    return [
        api.get("/todos", access),
        api.post("/todos", access, json={"name": "x"}),
        api.get(f"/user/{user.name}", access),
        api.put(f"/user/{user.name}", access, json=CHANGE),
        api.delete(f"/user/{user.name}", access),
        api.post("/refresh", refresh),
        api.post("/logout", access),
        api.post("/logout", refresh),
    ]


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["access", "refresh", "refreshed"])
def test_logout_with_any_token_ends_its_session_and_no_other(api, database, alice, kind):
    other_access, other_refresh = alice.login()
    stale = refreshed(api, alice)
    token = {"access": alice.access, "refresh": alice.refresh, "refreshed": stale}[kind]
    response = api.post("/logout", token)
    assert response.status_code == 200
    assert response.json() == {"message": "Successfully logged out."}
    for response in send_everything(api, alice, alice.access, alice.refresh):
        assert_error(response, 401, "token_revoked")
    assert_error(api.get("/todos", stale), 401, "token_revoked")
    assert_error(api.post("/logout", stale), 401, "token_revoked")
    assert api.get("/todos", other_access).json()["todos"] == []
    assert api.post("/refresh", other_refresh).status_code == 200
    assert database.users.count_documents({}) == 1
    assert database.todos.count_documents({}) == 0


# GET /user/<username>


@pytest.mark.smoke
def test_user_sees_own_id_and_username_and_nothing_else(api, database, alice):
    response = api.get("/user/alice", alice.access)
    assert response.status_code == 200
    assert response.json() == {"id": str(database.users.find_one()["_id"]), "username": "alice"}


@pytest.mark.smoke
def test_other_user_gets_the_same_404_as_an_unknown_one(api, alice, bob):
    other = api.get("/user/bob", alice.access)
    unknown = api.get("/user/unknown", alice.access)
    assert_error(other, 404, "not_found")
    assert (other.content, other.headers) == (unknown.content, unknown.headers)


def test_refresh_token_cannot_read_the_user(api, alice):
    assert_error(api.get("/user/alice", alice.refresh), 401, "invalid_token")


# PUT /user/<username>


@pytest.mark.smoke
def test_new_password_starts_a_session_and_ends_all_others(api, database, alice, bob):
    todo = alice.add()
    other_access, other_refresh = alice.login()
    stale = refreshed(api, alice)
    response = api.put("/user/alice", alice.access, json=CHANGE)
    assert response.status_code == 200
    assert response.json().keys() == {"access_token", "refresh_token"}
    for access in (alice.access, other_access, stale):
        assert_error(api.get("/todos", access), 401, "token_revoked")
    for refresh in (alice.refresh, other_refresh):
        assert_error(api.post("/refresh", refresh), 401, "token_revoked")
    access, refresh = response.json()["access_token"], response.json()["refresh_token"]
    assert claims(access)["fresh"] is True
    assert claims(access)["sid"] == claims(refresh)["sid"]
    assert api.get("/todos", access).json()["todos"] == [todo]
    assert api.post("/refresh", refresh).status_code == 200
    assert api.get("/todos", bob.access).status_code == 200
    stored = database.users.find_one({"username": "alice"})
    assert argon2.verify(NEW, stored["password"])


def test_only_the_new_password_is_accepted_after_a_change(api, alice):
    api.put("/user/alice", alice.access, json=CHANGE)
    assert_error(log_in(api, "alice", PASSWORD), 401, "invalid_credentials")
    login = log_in(api, "alice", NEW)
    assert api.get("/todos", login.json()["access_token"]).status_code == 200


def test_password_can_be_changed_again_even_to_itself(api, alice):
    first = api.put("/user/alice", alice.access, json=CHANGE).json()
    again = {"current_password": NEW, "password": NEW}
    response = api.put("/user/alice", first["access_token"], json=again)
    assert response.status_code == 200
    assert_error(api.get("/todos", first["access_token"]), 401, "token_revoked")
    assert api.get("/todos", response.json()["access_token"]).status_code == 200


def test_wrong_current_password_gives_401_and_changes_nothing(api, database, alice):
    before = database.users.find_one()
    change = {**CHANGE, "current_password": "wrong password"}
    response = api.put("/user/alice", alice.access, json=change)
    assert_error(response, 401, "invalid_credentials")
    assert database.users.find_one() == before
    assert api.get("/todos", alice.access).status_code == 200


INVALID_CHANGES = {
    "empty": ({}, {"current_password", "password"}),
    "no current password": ({"password": NEW}, {"current_password"}),
    "no new password": ({"current_password": PASSWORD}, {"password"}),
    "too short": ({**CHANGE, "password": "1234567"}, {"password"}),
    "too long": ({**CHANGE, "password": "x" * 257}, {"password"}),
    "null": ({**CHANGE, "password": None}, {"password"}),
    "number": ({**CHANGE, "current_password": 5}, {"current_password"}),
    "operator": ({**CHANGE, "current_password": {"$ne": ""}}, {"current_password"}),
    "username": ({**CHANGE, "username": "bob"}, {"username"}),
    "lone surrogate": ({**CHANGE, "password": "\ud800" * 8}, {"password"}),
    "common": ({**CHANGE, "password": "iloveyou"}, {"password"}),
    "common, other case": ({**CHANGE, "password": "ILoveYou"}, {"password"}),
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


def test_username_as_new_password_gives_400_and_changes_nothing(api, database):
    user = User(api, "alice.smith")
    before = database.users.find_one()
    change = {**CHANGE, "password": "Alice.Smith"}
    response = api.put("/user/alice.smith", user.access, json=change)
    assert_error(response, 400, "bad_request", {"password": "Must not be the username."})
    assert database.users.find_one() == before


def test_stranger_cannot_change_the_password(api, database, alice, bob):
    before = list(database.users.find())
    other = api.put("/user/bob", alice.access, json=CHANGE)
    unknown = api.put("/user/unknown", alice.access, json=CHANGE)
    assert_error(other, 404, "not_found")
    assert (other.content, other.headers) == (unknown.content, unknown.headers)
    assert list(database.users.find()) == before


@pytest.mark.smoke
def test_new_password_requires_a_fresh_token(api, database, alice):
    before = database.users.find_one()
    stale = api.put("/user/alice", refreshed(api, alice), json=CHANGE)
    assert_error(stale, 401, "fresh_token_required")
    assert_error(api.put("/user/alice", alice.refresh, json=CHANGE), 401, "invalid_token")
    assert_error(api.put("/user/alice", json=CHANGE), 401, "authorization_required")
    assert database.users.find_one() == before


# DELETE /user/<username>


@pytest.mark.smoke
def test_deletion_removes_the_user_with_all_todos_and_sessions(api, database, alice, bob):
    for user in (alice, alice, bob):
        user.add()
    other_session = alice.login()
    response = api.delete("/user/alice", alice.access)
    assert response.status_code == 200
    assert response.json() == {"message": "User deleted."}
    for access, refresh in ((alice.access, alice.refresh), other_session):
        for response in send_everything(api, alice, access, refresh):
            assert_error(response, 401, "token_revoked")
    assert_error(log_in(api, "alice", PASSWORD), 401, "invalid_credentials")
    assert [user["username"] for user in database.users.find()] == ["bob"]
    assert [str(todo["owner_id"]) for todo in database.todos.find()] == [bob.id]


def test_new_user_with_a_freed_name_gets_nothing_of_the_old_one(api, alice):
    todo = alice.add()
    api.delete("/user/alice", alice.access)
    new = User(api, "alice", "another password")
    assert new.id != alice.id
    assert api.get("/todos", new.access).json()["todos"] == []
    assert_error(api.get(f"/todos/{todo['id']}", new.access), 404, "not_found")
    assert_error(api.get("/user/alice", alice.access), 401, "token_revoked")


def test_deletion_requires_a_fresh_token(api, database, alice):
    before = list(database.users.find())
    stale = api.delete("/user/alice", refreshed(api, alice))
    assert_error(stale, 401, "fresh_token_required")
    assert_error(api.delete("/user/alice", alice.refresh), 401, "invalid_token")
    assert_error(api.delete("/user/alice"), 401, "authorization_required")
    assert list(database.users.find()) == before


@pytest.mark.smoke
def test_stranger_cannot_delete_user(api, database, alice, bob):
    other = api.delete("/user/bob", alice.access)
    unknown = api.delete("/user/unknown", alice.access)
    assert_error(other, 404, "not_found")
    assert (other.content, other.headers) == (unknown.content, unknown.headers)
    assert database.users.count_documents({}) == 2
    assert api.get("/user/bob", bob.access).status_code == 200
