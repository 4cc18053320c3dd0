"""Accounts and sessions."""

import datetime
import threading

import pytest
from helpers import PASSWORD, User, assert_error, claims
from passlib.context import CryptContext
from passlib.hash import argon2

# POST /register


def test_registering_answers_with_the_place_of_the_user(api, database):
    response = api.post("/register", json={"username": "alice", "password": PASSWORD})
    assert (response.status_code, response.json()) == (
        201,
        {"message": "User created successfully."},
    )
    assert response.headers["Location"] == "/user/alice"
    (stored,) = database.users.find()
    assert (
        stored.keys() == {"_id", "username", "password", "password_id"}
        and stored["username"] == "alice"
    )


def test_password_is_stored_as_argon2id_with_the_figures_of_owasp(api, database):
    User(api, "alice")
    stored = database.users.find_one()["password"]
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert argon2.verify(PASSWORD, stored)


@pytest.mark.parametrize("name", ["a", "7", "A.b_c-D", "a" * 64, "0..__--"])
def test_usernames_that_fit_in_a_url_are_taken(api, name):
    assert User(api, name).name == name


@pytest.mark.parametrize(
    "name", ["", "a" * 65, ".a", "_a", "-a", "a b", "a/b", "é", "a\n", "\na", "a\x00", "٣", "a@b"]
)
def test_other_usernames_are_a_400(api, database, name):
    response = api.post("/register", json={"username": name, "password": PASSWORD})
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {"username"}
    assert not list(database.users.find())


@pytest.mark.parametrize(
    "password",
    [
        "12345678",
        "x" * 256,
        "        ",
        "\x00" * 8,
        "ä" * 8,
        "\U0001f600" * 8,
        " Aé\t\n\x00 \u0301",
    ],
)
def test_password_may_hold_anything_and_is_kept_exactly(api, password):
    alice = User(api, "alice", password)
    for other in (password + " ", password[:-1], password.strip() + "x", password.swapcase() + "y"):
        assert_error(
            api.post("/login", json={"username": alice.name, "password": other}),
            401,
            "invalid_credentials",
        )


@pytest.mark.parametrize("password", ["", "1234567", "x" * 257, "x" * 5000])
def test_password_of_another_length_is_a_400(api, database, password):
    response = api.post("/register", json={"username": "alice", "password": password})
    assert_error(response, 400, "bad_request", {"password": "Must have 8 to 256 characters."})
    assert not list(database.users.find())


def test_name_that_is_taken_is_a_409_and_changes_nothing(api, database, alice):
    before = database.users.find_one()
    assert_error(
        api.post("/register", json={"username": "alice", "password": "another one"}),
        409,
        "username_taken",
    )
    assert list(database.users.find()) == [before]


def test_of_simultaneous_registrations_one_succeeds(api, database):
    statuses = []

    def register():
        statuses.append(
            api.post("/register", json={"username": "alice", "password": PASSWORD}).status_code
        )

    threads = [threading.Thread(target=register) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Some may be told that the server has too many passwords to hash at this moment.
    assert statuses.count(201) == 1
    assert set(statuses) <= {201, 409, 503}
    assert database.users.count_documents({}) == 1


# POST /login


def test_login_gives_two_tokens_of_one_session(api, alice):
    response = api.post("/login", json={"username": "alice", "password": PASSWORD})
    assert response.status_code == 200
    assert response.json().keys() == {"access_token", "refresh_token"}
    assert response.headers["Cache-Control"] == "no-store"
    access, refresh = (
        claims(response.json()["access_token"]),
        claims(response.json()["refresh_token"]),
    )
    assert (access["type"], access["fresh"], access["exp"] - access["iat"]) == (
        "access",
        True,
        15 * 60,
    )
    assert (refresh["type"], refresh["fresh"], refresh["exp"] - refresh["iat"]) == (
        "refresh",
        False,
        30 * 24 * 3600,
    )
    assert access["sub"] == refresh["sub"] == alice.id
    assert access["sid"] == refresh["sid"] != claims(alice.access)["sid"]


def test_wrong_password_and_unknown_name_get_the_same_answer(api, alice):
    wrong = api.post("/login", json={"username": "alice", "password": "wrong password"})
    unknown = api.post("/login", json={"username": "nobody", "password": "wrong password"})
    assert_error(wrong, 401, "invalid_credentials")
    assert wrong.content == unknown.content and wrong.headers == unknown.headers


@pytest.mark.parametrize("value", ["", "x" * 257, "x" * 60_000, "a/b", "\x00", "$where", "\uffff"])
def test_login_with_what_cannot_be_registered_is_a_401(api, alice, value):
    assert_error(
        api.post("/login", json={"username": "alice", "password": value}),
        401,
        "invalid_credentials",
    )
    assert_error(
        api.post("/login", json={"username": value, "password": PASSWORD}),
        401,
        "invalid_credentials",
    )


def test_password_is_not_cut_at_its_longest_length(api):
    User(api, "alice", "x" * 256)
    assert_error(
        api.post("/login", json={"username": "alice", "password": "x" * 257}),
        401,
        "invalid_credentials",
    )


def test_login_needs_both_fields_and_no_other(api, alice):
    fields = {"username": "alice", "password": PASSWORD}
    assert_error(
        api.post("/login", json={"username": "alice"}), 400, "bad_request", {"password": "Missing."}
    )
    assert_error(
        api.post("/login", json={"password": PASSWORD}),
        400,
        "bad_request",
        {"username": "Missing."},
    )
    assert_error(
        api.post("/login", json={**fields, "x": 1}), 400, "bad_request", {"x": "Unknown field."}
    )


@pytest.mark.parametrize("weaker", [{"memory_cost": 8192}, {"rounds": 1}, {"type": "I"}])
def test_weaker_hash_is_replaced_at_login(api, database, alice, weaker):
    figures = {"type": "ID", "memory_cost": 19456, "rounds": 2, "parallelism": 1} | weaker
    old = CryptContext(
        ["argon2"], **{f"argon2__{name}": value for name, value in figures.items()}
    ).hash(PASSWORD)
    database.users.update_one({}, {"$set": {"password": old}})
    assert_error(
        api.post("/login", json={"username": "alice", "password": "wrong"}),
        401,
        "invalid_credentials",
    )
    assert database.users.find_one()["password"] == old
    alice.login()
    new = database.users.find_one()["password"]
    assert new.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    alice.login()
    assert database.users.find_one()["password"] == new  # Replaced once, not every time.


# POST /refresh


def test_refreshing_gives_an_access_token_of_the_same_session(api, alice):
    response = api.post("/refresh", alice.refresh)
    assert response.status_code == 200
    assert response.json().keys() == {"access_token"}
    assert response.headers["Cache-Control"] == "no-store"
    new, old = claims(response.json()["access_token"]), claims(alice.access)
    assert (new["type"], new["fresh"], new["exp"] - new["iat"]) == ("access", False, 15 * 60)
    assert (new["sub"], new["sid"]) == (old["sub"], old["sid"])
    assert api.get("/todos", response.json()["access_token"]).status_code == 200


def test_access_token_does_not_refresh(api, alice):
    assert_error(api.post("/refresh", alice.access), 401, "invalid_token")


# POST /logout


def everything_of(api, user, access, refresh):
    """What each kind of request answers with the tokens of one session."""
    return [
        api.get("/todos", access),
        api.post("/todos", access, json={"name": "x"}),
        api.get(f"/user/{user.name}", access),
        api.delete(f"/user/{user.name}", access),
        api.post("/refresh", refresh),
        api.post("/logout", access),
        api.post("/logout", refresh),
    ]


@pytest.mark.parametrize("kind", ["access", "refresh", "refreshed"])
def test_logout_with_any_token_ends_the_session_and_no_other(api, alice, kind):
    other_access, other_refresh = alice.login()
    refreshed = api.post("/refresh", alice.refresh).json()["access_token"]
    token = {"access": alice.access, "refresh": alice.refresh, "refreshed": refreshed}[kind]
    response = api.post("/logout", token)
    assert (response.status_code, response.json()) == (200, {"message": "Successfully logged out."})
    for access in (alice.access, refreshed):
        for answer in everything_of(api, alice, access, alice.refresh):
            if answer.request.method == "DELETE" and access == refreshed:
                assert_error(answer, 401, "fresh_token_required")
            else:
                assert_error(answer, 401, "token_revoked")
    assert api.get("/todos", other_access).json()["todos"] == []
    assert api.post("/refresh", other_refresh).status_code == 200


def test_blacklist_keeps_a_session_until_its_last_token_has_expired_and_not_much_longer(
    api, database, alice
):
    api.post("/logout", alice.access)
    (entry,) = database.blacklist.find()
    assert entry["_id"] == claims(alice.access)["sid"]
    left = entry["expires_at"] - datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    # The refresh token can make an access token in the last of its 30 days. That one lives another
    # 15 minutes.
    assert datetime.timedelta(days=30, minutes=14) < left <= datetime.timedelta(days=30, minutes=15)


# GET /user/<username>


def test_user_sees_id_and_name_and_no_more(api, database, alice):
    response = api.get("/user/alice", alice.access)
    assert response.status_code == 200
    assert response.json() == {"id": str(database.users.find_one()["_id"]), "username": "alice"}


def test_other_users_look_like_unknown_ones(api, alice, bob):
    other, unknown = api.get("/user/bob", alice.access), api.get("/user/nobody", alice.access)
    assert_error(other, 404, "not_found")
    assert other.content == unknown.content and other.headers == unknown.headers


def test_refresh_token_does_not_show_the_user(api, alice):
    assert_error(api.get("/user/alice", alice.refresh), 401, "invalid_token")


# PUT /user/<username>

NEW = "another battery staple"
CHANGE = {"current_password": PASSWORD, "password": NEW}


def test_new_password_begins_a_new_session_and_ends_all_others(api, database, alice, bob):
    todo = alice.add()
    other_access, other_refresh = alice.login()
    refreshed = api.post("/refresh", other_refresh).json()["access_token"]
    response = api.put("/user/alice", alice.access, json=CHANGE)
    assert response.status_code == 200
    assert response.json().keys() == {"access_token", "refresh_token"}
    assert response.headers["Cache-Control"] == "no-store"
    access, refresh = response.json()["access_token"], response.json()["refresh_token"]
    for former in (alice.access, other_access, refreshed):
        assert_error(api.get("/todos", former), 401, "token_revoked")
    for former in (alice.refresh, other_refresh):
        assert_error(api.post("/refresh", former), 401, "token_revoked")
    assert api.get("/todos", access).json()["todos"] == [todo]
    assert api.post("/refresh", refresh).status_code == 200
    assert claims(access)["fresh"] is True
    assert claims(access)["sid"] not in (claims(alice.access)["sid"], claims(other_access)["sid"])
    assert api.get("/todos", bob.access).status_code == 200
    stored = database.users.find_one({"username": "alice"})
    assert stored.keys() == {"_id", "username", "password", "password_id"}
    assert argon2.verify(NEW, stored["password"])


def test_only_the_new_password_logs_in(api, alice):
    api.put("/user/alice", alice.access, json=CHANGE)
    former = api.post("/login", json={"username": "alice", "password": PASSWORD})
    assert_error(former, 401, "invalid_credentials")
    login = api.post("/login", json={"username": "alice", "password": NEW})
    assert api.get("/todos", login.json()["access_token"]).status_code == 200


def test_password_can_be_changed_again_and_to_the_same(api, alice):
    tokens = api.put("/user/alice", alice.access, json=CHANGE).json()
    change = {"current_password": NEW, "password": NEW}
    response = api.put("/user/alice", tokens["access_token"], json=change)
    assert response.status_code == 200
    assert_error(api.get("/todos", tokens["access_token"]), 401, "token_revoked")
    assert api.get("/todos", response.json()["access_token"]).status_code == 200


def test_wrong_current_password_changes_nothing(api, database, alice):
    before = database.users.find_one()
    change = {**CHANGE, "current_password": "wrong password"}
    response = api.put("/user/alice", alice.access, json=change)
    assert_error(response, 401, "invalid_credentials")
    assert database.users.find_one() == before
    assert api.get("/todos", alice.access).status_code == 200


@pytest.mark.parametrize(
    ("body", "bad"),
    [
        ({}, {"current_password", "password"}),
        ({"password": NEW}, {"current_password"}),
        ({"current_password": PASSWORD}, {"password"}),
        ({**CHANGE, "password": "1234567"}, {"password"}),
        ({**CHANGE, "password": "x" * 257}, {"password"}),
        ({**CHANGE, "password": None}, {"password"}),
        ({**CHANGE, "current_password": 5}, {"current_password"}),
        ({**CHANGE, "current_password": {"$ne": ""}}, {"current_password"}),
        ({**CHANGE, "username": "bob"}, {"username"}),
        ({**CHANGE, "password": "\ud800" * 8}, {"password"}),
    ],
)
def test_bad_change_of_the_password_is_a_400_and_changes_nothing(api, database, alice, body, bad):
    before = database.users.find_one()
    response = api.put("/user/alice", alice.access, json=body)
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == bad
    assert database.users.find_one() == before


def test_stranger_cannot_change_the_password(api, database, alice, bob):
    before = list(database.users.find())
    other = api.put("/user/bob", alice.access, json=CHANGE)
    unknown = api.put("/user/nobody", alice.access, json=CHANGE)
    assert_error(other, 404, "not_found")
    assert other.content == unknown.content and other.headers == unknown.headers
    assert list(database.users.find()) == before


def test_new_password_needs_a_fresh_token(api, database, alice):
    before = database.users.find_one()
    refreshed = api.post("/refresh", alice.refresh).json()["access_token"]
    answer = api.put("/user/alice", refreshed, json=CHANGE)
    assert_error(answer, 401, "fresh_token_required")
    assert_error(api.put("/user/alice", alice.refresh, json=CHANGE), 401, "invalid_token")
    assert_error(api.put("/user/alice", json=CHANGE), 401, "authorization_required")
    assert database.users.find_one() == before


def change_half(database, user):
    """Leave the database as a change of the password does that is cut off after its first step."""
    stored = database.users.find_one({"username": user.name})
    new = {
        "password": CryptContext(["argon2"]).hash(NEW),
        "password_id": "the id of the new password",
        "former_password_id": stored["password_id"],
    }
    database.users.update_one({"_id": stored["_id"]}, {"$set": new})


@pytest.mark.parametrize("next_one", ["login", "PUT", "DELETE", "GET"])
def test_change_that_was_cut_off_is_finished_by_whoever_comes_next(api, database, alice, next_one):
    other_access, _ = alice.login()
    change_half(database, alice)
    if next_one == "login":
        login = api.post("/login", json={"username": "alice", "password": NEW})
        assert login.status_code == 200
    else:
        body = CHANGE if next_one == "PUT" else None
        answer = api.request(next_one, "/user/alice", alice.access, json=body)
        assert_error(answer, 401, "token_revoked")
    for former in (alice.access, other_access):
        assert_error(api.get("/todos", former), 401, "token_revoked")
    former = api.post("/login", json={"username": "alice", "password": PASSWORD})
    assert_error(former, 401, "invalid_credentials")
    login = api.post("/login", json={"username": "alice", "password": NEW})
    assert api.get("/todos", login.json()["access_token"]).status_code == 200
    assert "former_password_id" not in database.users.find_one()


def test_user_whose_change_was_cut_off_can_be_deleted(api, database, alice):
    change_half(database, alice)
    login = api.post("/login", json={"username": "alice", "password": NEW}).json()
    assert api.delete("/user/alice", login["access_token"]).status_code == 200
    assert_error(api.get("/todos", login["access_token"]), 401, "token_revoked")
    assert_error(api.get("/todos", alice.access), 401, "token_revoked")
    assert not list(database.users.find())


# DELETE /user/<username>


def test_deleting_a_user_leaves_nothing_of_them(api, database, alice, bob):
    alice.add(), alice.add(), bob.add()
    other_access, other_refresh = alice.login()
    response = api.delete("/user/alice", alice.access)
    assert (response.status_code, response.json()) == (200, {"message": "User deleted."})
    for access, refresh in ((alice.access, alice.refresh), (other_access, other_refresh)):
        for answer in everything_of(api, alice, access, refresh):
            assert_error(answer, 401, "token_revoked")
    assert_error(
        api.post("/login", json={"username": "alice", "password": PASSWORD}),
        401,
        "invalid_credentials",
    )
    assert [user["username"] for user in database.users.find()] == ["bob"]
    assert [str(todo["owner_id"]) for todo in database.todos.find()] == [bob.id]


def test_new_user_of_a_freed_name_gets_nothing_of_the_old_one(api, alice):
    todo = alice.add()
    api.delete("/user/alice", alice.access)
    new = User(api, "alice", "another password")
    assert new.id != alice.id
    assert api.get("/todos", new.access).json()["todos"] == []
    assert_error(api.get(f"/todos/{todo['id']}", new.access), 404, "not_found")
    assert_error(api.get("/user/alice", alice.access), 401, "token_revoked")


def test_deleting_needs_a_fresh_token(api, database, alice):
    refreshed = api.post("/refresh", alice.refresh).json()["access_token"]
    assert_error(api.delete("/user/alice", refreshed), 401, "fresh_token_required")
    assert_error(api.delete("/user/alice", alice.refresh), 401, "invalid_token")
    assert database.users.count_documents({}) == 1


def test_stranger_cannot_delete_user(api, database, alice, bob):
    other, unknown = api.delete("/user/bob", alice.access), api.delete("/user/nobody", alice.access)
    assert_error(other, 404, "not_found")
    assert other.content == unknown.content and other.headers == unknown.headers
    assert database.users.count_documents({}) == 2
    assert api.get("/user/bob", bob.access).status_code == 200


@pytest.mark.parametrize("again", ["the same token", "a new login"])
@pytest.mark.parametrize("todos_left", [True, False])
def test_deletion_that_failed_half_way_is_finished_by_repeating_it(
    api, database, alice, again, todos_left
):
    # What it leaves when the database goes away after its first step, or after its second.
    expires_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=31)
    database.blacklist.insert_one(
        {"_id": claims(alice.access)["password_id"], "expires_at": expires_at}
    )
    if todos_left:
        database.todos.insert_one(
            {"owner_id": database.users.find_one()["_id"], "name": "left over"}
        )
    assert_error(api.get("/todos", alice.access), 401, "token_revoked")
    access = alice.access if again == "the same token" else alice.login()[0]
    assert api.delete("/user/alice", access).status_code == 200
    assert not list(database.users.find()) and not list(database.todos.find())
    assert_error(api.delete("/user/alice", access), 401, "token_revoked")


def test_session_that_was_logged_out_cannot_delete_even_half_deleted(api, database, alice):
    api.post("/logout", alice.access)
    database.blacklist.insert_one(
        {"_id": claims(alice.access)["password_id"], "expires_at": datetime.datetime(2999, 1, 1)}
    )
    assert_error(api.delete("/user/alice", alice.access), 401, "token_revoked")
    assert database.users.count_documents({}) == 1
