"""Passwords: which are accepted, how they are compared, and what waits for a hash."""

import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
from passlib.hash import argon2, pbkdf2_sha256
from support.actions import change_password, log_in
from support.clients import PASSWORD, InsertedUser, assert_error, short, timed
from support.processes import ROOT, profiled, wait_for

from resources import passwords
from resources.passwords import COMMON, HashingQueue


def register(api, password, username="alice"):
    return api.post("/register", json={"username": username, "password": password})


def nfc(text):
    return unicodedata.normalize("NFC", text)


def nfd(text):
    return unicodedata.normalize("NFD", text)


# Which ones are accepted.


PASSWORDS = ["x" * 256, "\U0001f600" * 8, " Aé\t\n\x00 \u0301"]


@pytest.mark.parametrize("password", PASSWORDS, ids=short)
def test_password_of_any_characters_is_compared_exactly(api, password):
    assert register(api, password).status_code == 201
    assert log_in(api, "alice", password).status_code == 200
    for other in (password + " ", password[:-1]):
        assert_error(log_in(api, "alice", other), 401, "invalid_credentials")


@pytest.mark.parametrize("password", ["", "1234567", "x" * 257, "x" * 5000], ids=short)
def test_password_of_invalid_length_gives_400(api, database, password):
    response = register(api, password)
    assert_error(response, 400, "bad_request", {"password": "Must have 8 to 256 characters."})
    assert not list(database.users.find())


@pytest.mark.parametrize("password", ["password", "12345678", "1q2w3e4r", "iLoveYou"])
def test_common_password_gives_400_in_any_case_of_letters(api, database, password):
    response = register(api, password)
    assert_error(response, 400, "bad_request")
    message = response.json()["message"]
    assert message.keys() == {"password"}
    assert "common password" in message["password"]
    assert not list(database.users.find())


def test_list_of_common_passwords_is_long_enough():
    """ASVS 5.0, 6.2.4: at least the 3,000 most common passwords that are long enough to pass."""
    lines = (ROOT / "resources" / "common_passwords.txt").read_text(encoding="utf-8").splitlines()
    assert len({line for line in lines if len(line) >= 8}) >= 3000


@pytest.mark.parametrize("password", ["mike.smith", "MIKE.smith", "mi\u212ae.smith"], ids=ascii)
def test_username_as_password_gives_400(api, database, password):
    """The last one has the sign of the kelvin in it, which NFC makes a K."""
    response = register(api, password, "mike.smith")
    assert_error(response, 400, "bad_request", {"password": "Must not be the username."})
    assert not list(database.users.find())


def test_username_as_new_password_gives_400_and_changes_nothing(api, database, alice):
    database.users.update_one({}, {"$set": {"username": "mike.smith"}})
    alice.name = "mike.smith"
    before = database.users.find_one()
    for password in ("Mike.Smith", "mi\u212ae.smith"):
        response = change_password(api, alice, new=password)
        assert_error(response, 400, "bad_request", {"password": "Must not be the username."})
    assert database.users.find_one() == before


# Normalization. A client can spell most letters with an accent in two ways.


SPELLINGS = ["비밀번호를쓰세요", "\u212bngstr\u212bm"]


@pytest.mark.parametrize("password", SPELLINGS)
def test_password_is_the_same_in_each_spelling_of_its_characters(api, alice, password):
    spellings = {password, nfc(password), nfd(password)}
    assert len(spellings) > 1
    for new in spellings:
        # The last one that was stored, in another spelling.
        response = change_password(api, alice, alice.access, alice.password, new)
        alice.access = response.json()["access_token"]
        [alice.password, *_] = spellings - {new}
        assert log_in(api, "alice", alice.password).status_code == 200


LENGTHS = {
    "7 é of 14": ("e\u0301" * 7, 400),
    "8 é of 16": ("e\u0301" * 8, 201),
    "7 syllables of 21": (nfd("\ud55c" * 7), 400),
    "8 syllables of 24": (nfd("\ud55c" * 8), 201),
    "257 é of 514": ("e\u0301" * 257, 400),
    # No character has more parts than this one.
    "256 ᾂ of 1024": (nfd("\u1f82" * 256), 201),
    "257 ᾂ of 1028": (nfd("\u1f82" * 257), 400),
    # More than 256 in NFC as well, although its beginning is not.
    "a thousand accents": ("e" + "\u0301" * 1000, 400),
}


@pytest.mark.parametrize(("password", "status"), LENGTHS.values(), ids=LENGTHS)
def test_length_is_counted_after_normalization(api, password, status):
    response = register(api, password)
    if status == 400:
        assert_error(response, 400, "bad_request", {"password": "Must have 8 to 256 characters."})
    else:
        assert response.status_code == 201
        assert log_in(api, "alice", nfc(password)).status_code == 200


def test_password_is_compared_beyond_its_longest_length(api):
    # In NFD it has four times as many characters.
    assert register(api, "\u1f82" * 256).status_code == 201
    # In NFC, the last one has three times as many.
    for longer in (nfd("\u1f82" * 257), "\u1f82" * 10_000, "\ufb2c" * 10_000):
        # As UTF-8, since as JSON escapes the longest one would be over 64 KiB.
        body = json.dumps({"username": "alice", "password": longer}, ensure_ascii=False).encode()
        response = api.post("/login", data=body, headers={"Content-Type": "application/json"})
        assert_error(response, 401, "invalid_credentials")


def test_common_password_in_another_form_gives_400(api, database, alice):
    """The sign of the kelvin is a K in NFC."""
    common = [password for password in sorted(COMMON) if "k" in password][:5]
    for password in common:
        other = password.replace("k", "\u212a")
        for response in (register(api, other, "bob"), change_password(api, alice, new=other)):
            assert_error(response, 400, "bad_request")
            assert "common password" in response.json()["message"]["password"]
    assert database.users.count_documents({}) == 1


def test_hash_of_an_earlier_version_in_another_form_no_longer_matches(api, database, alice):
    old = argon2.using(type="ID", memory_cost=19456, rounds=2, parallelism=1)
    database.users.update_one({}, {"$set": {"password": old.hash(nfd("pässwörd-é"))}})
    for password in (nfd("pässwörd-é"), nfc("pässwörd-é")):
        assert_error(log_in(api, "alice", password), 401, "invalid_credentials")


# The queue of those who need a hash.


FULL = {"too many wait": (0, 30), "wait is over": (3, 1)}


@pytest.mark.parametrize(("most_waiting", "longest_wait"), FULL.values(), ids=FULL)
def test_request_that_gets_no_slot_gives_503_and_queries_nothing(
    in_process, database, monkeypatch, most_waiting, longest_wait
):
    alice = InsertedUser(in_process, database, "alice")
    monkeypatch.setattr(HashingQueue, "LONGEST_WAIT", longest_wait)
    monkeypatch.setattr(HashingQueue, "MOST_WAITING", most_waiting)
    queue = HashingQueue(1, passwords.queue.executor)
    monkeypatch.setattr(passwords, "queue", queue)
    requests = [
        lambda: register(in_process, PASSWORD, "bob"),
        lambda: log_in(in_process, "alice", PASSWORD),
        lambda: change_password(in_process, alice),
    ]

    def send_all():
        with queue.slot(), ThreadPoolExecutor(3) as pool:
            for response in pool.map(lambda send: send(), requests):
                assert_error(response, 503, "server_busy")

    seconds, recorded = timed(lambda: profiled(database, send_all))
    # If too many wait, the response comes without a wait.
    assert seconds < 5
    # The token of the change of password, and nothing else.
    assert [operation["op"] for operation in recorded] == ["query"]
    assert [send().status_code for send in requests] == [201, 200, 200]


# Hashes.


WEAKER = [{"memory_cost": 8192}, {"rounds": 1}, {"type": "I"}]


@pytest.mark.parametrize("weaker", WEAKER, ids=str)
def test_login_replaces_a_weaker_hash_once(api, database, alice, weaker):
    parameters = {"type": "ID", "memory_cost": 19456, "rounds": 2, "parallelism": 1} | weaker
    old_hash = argon2.using(**parameters).hash(PASSWORD)
    database.users.update_one({}, {"$set": {"password": old_hash}})
    alice.login()
    new_hash = database.users.find_one()["password"]
    # The parameters of the OWASP Password Storage Cheat Sheet.
    assert new_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert argon2.verify(PASSWORD, new_hash)
    alice.login()
    assert database.users.find_one()["password"] == new_hash


MISSING = object()
# Stored values that no password matches.
NOT_HASHES = {
    "missing": MISSING,
    "null": None,
    "number": 5,
    "list": [],
    "object": {"$ne": ""},
    "garbage": "garbage",
    "bcrypt": "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW",
    "pbkdf2": pbkdf2_sha256.using(rounds=1).hash(PASSWORD),
    "argon2 without a hash": "$argon2id$v=19$m=19456,t=2,p=1$",
    "argon2 with a bad salt": "$argon2id$v=19$m=19456,t=2,p=1$!$!",
    "argon2 of no memory": "$argon2id$v=19$m=0,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g",
    "argon2 of much memory": "$argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g",
}


@pytest.mark.parametrize("value", NOT_HASHES.values(), ids=NOT_HASHES)
def test_stored_value_that_is_no_hash_looks_like_a_wrong_password(api, database, alice, value):
    change = {"$unset": {"password": 1}} if value is MISSING else {"$set": {"password": value}}
    database.users.update_one({}, change)
    before = database.users.find_one()
    assert_looks_wrong(api, log_in, "alice", PASSWORD)
    assert database.users.find_one() == before


def test_user_whose_hash_is_none_cannot_change_the_password(api, database, alice):
    database.users.update_one({}, {"$set": {"password": "garbage"}})
    assert_looks_wrong(api, change_password, alice)
    assert database.users.find_one()["password"] == "garbage"


def assert_looks_wrong(api, send, *arguments):
    """Send a request, and assert that its response does not say that there is no hash."""
    logged = len(api.log.read_text())
    # What an unknown username gets as well.
    response = send(api, *arguments)
    assert_error(response, 401, "invalid_credentials", "Wrong username or password.")
    # One line, which names neither the user nor the value. uWSGI writes it a little later.
    reason = "the stored password is not a hash of this API"
    wait_for(lambda: reason in api.log.read_text()[logged:])
    log = api.log.read_text()[logged:]
    assert log.count("\n") == 1
    assert "alice" not in log
