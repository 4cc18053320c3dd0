"""Users and their sessions: register, log in, refresh, log out, new password, delete.

A user's document holds the hash of the password, the ids of the open sessions, and the addresses
that the user has logged in from:

    {"_id": <id>, "username": "alice", "password": <hash>, "sessions": [<id>, <id>],
     "addresses": [{"address": "203.0.113.7", "last_login": <time>}]}

A login starts a session: it adds an id to the list. Every token names its user (`sub`) and its
session (`sid`), and is revoked when that id is no longer in the list (blacklist.py). A logout
removes one id, a new password replaces all ids with one, and a deletion empties the list before it
deletes the document. If a user has 100 sessions, a login removes the oldest id.

A login also adds its address. From an address of the list, the owner can log in even if strangers
have used up the attempts for the username. A new password leaves only the address that it came
from: an attacker who knew the old one may have logged in from the others.
"""

import re
import uuid
from datetime import datetime, timedelta, timezone

from bson import ObjectId
from flask_jwt_extended import (
    create_access_token,
    create_refresh_token,
    get_jwt,
    get_jwt_identity,
    jwt_required,
)
from flask_restful import Resource
from pymongo.errors import DuplicateKeyError
from werkzeug.exceptions import HTTPException

import db
from blacklist import BLACKLIST
from resources import passwords
from resources.errors import fail
from resources.fields import read_body, set_by_server, string
from resources.rate_limits import (
    UNKNOWN_ADDRESS,
    LoginAttempt,
    client_address,
    count_password_change,
    count_registration,
    remove_attempt,
)

# A username is part of a URL, so it has only characters that need no escaping there.
USERNAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# A login beyond this limit ends the oldest session. Without it, each login makes the document grow.
MOST_SESSIONS = 100
# The same for the addresses, which are the owner's for 30 days after the last login from there.
MOST_ADDRESSES = 20
OWN_ADDRESS = timedelta(days=30)


def username_field(value):
    """Check a new username."""
    if not USERNAME.fullmatch(string(value)):
        raise ValueError(
            "Must have 1 to 64 of the characters A-Z a-z 0-9 . _ -, the first a letter or digit."
        )
    return value


def password_field(value):
    """Check a new password: 8 to 256 characters, any, and not a common password.

    NIST 800-63B-4 requires 8 where there is a second factor, and 15 where there is none. 15 is a
    lot for a to-do list, so this API accepts 8.
    """
    password = passwords.normalize(string(value))
    string(password, shortest=8, longest=passwords.LONGEST)
    if passwords.is_common(password):
        raise ValueError("Must not be a common password, because attackers try those first.")
    return password


def sent_password(value):
    """Check a password that will be verified: any string.

    Of one that is too long, so much is kept that it stays too long: hundreds of requests can wait
    for a hash, each with its password.
    """
    return string(value)[: passwords.LONGEST_RAW + 1]


def username_as_password(fields):
    """Return the error of fields whose password is the username, {} if they have none."""
    username, password = fields.get("username"), fields.get("password")
    if username is None or password is None or password.lower() != username.lower():
        return {}
    return {"password": "Must not be the username."}


class UserRegister(Resource):
    """/register: create a user."""

    def post(self):
        """Create a user from `username` and `password`, and respond with 201.

        Aborts with 400, 409 if the username is taken, 429 or 503.
        """
        new = read_body(
            {"username": username_field, "password": password_field},
            required=["username", "password"],
            check_together=username_as_password,
        )
        with passwords.queue.slot():
            count_registration()
            db.create_indexes()
            user = {
                "username": new["username"],
                "password": passwords.hash_password(new["password"]),
                "sessions": [],
            }
            try:
                db.users().insert_one(user)
            except DuplicateKeyError:
                # The unique index has rejected it. A query before the insert would not do: another
                # request could insert the same username between the two.
                fail("username_taken")
        headers = {"Location": f"/user/{user['username']}"}
        return {"message": "User created successfully."}, 201, headers


class UserLogin(Resource):
    """/login: start a session."""

    def post(self):
        """Start a session of the user with this `username` and `password`; respond with its tokens.

        Aborts with 400, 401, 429 or 503.
        """
        login = read_body(
            {"username": string, "password": sent_password}, required=["username", "password"]
        )
        if not USERNAME.fullmatch(login["username"]):
            # No user can have this name, so there is no password to guess and nothing to count.
            fail("invalid_credentials")
        with passwords.queue.slot():
            attempt = LoginAttempt(login["username"])
            attempt.count_address()
            user = db.users().find_one({"username": login["username"]})
            if user is None or not is_own_address(user, attempt.address):
                attempt.count_username()
            new_hash = verify_password(user, login["password"])
            attempt.remove()
            try:
                session_id = start_session(user, attempt.address, new_hash)
            except HTTPException:
                # The user was deleted, or has another hash, since the password was verified.
                attempt.count_again()
                raise
            attempt.reset()
        return tokens(user, session_id)


def is_own_address(user, address):
    """Return whether this address is the user's own: known, and of a login in the last 30 days."""
    # PyMongo returns UTC in a datetime without a time zone.
    earliest = datetime.now(timezone.utc).replace(tzinfo=None) - OWN_ADDRESS
    return address != UNKNOWN_ADDRESS and any(
        own["address"] == address and own["last_login"] > earliest
        for own in user.get("addresses") or []
    )


def own_addresses(address, now):
    """Return the addresses that a login from here adds to the user's: one in a list, or none.

    The unknown address adds none, because many clients share it.
    """
    return [] if address == UNKNOWN_ADDRESS else [{"address": address, "last_login": now}]


def verify_password(user, password):
    """Return a new hash if the user's is outdated, else None. Aborts with 401 if it does not match.

    `user` is None if there is no such user. The work and the error are then the same, so neither
    the error nor the response time reveals which usernames exist.
    """
    # "" is not a hash, so it matches no password.
    stored_hash = (user.get("password") or "") if user is not None else None
    matches, new_hash = passwords.verify_password(password, stored_hash)
    if not matches:
        fail("invalid_credentials")
    return new_hash


def start_session(user, address, new_hash):
    """Add a session and the address to the user, and return the session's id. Aborts with 401."""
    session_id = str(uuid.uuid4())
    now = datetime.now(timezone.utc)
    sessions = {"$concatArrays": [{"$ifNull": ["$sessions", []]}, [session_id]]}
    # The other addresses that still count.
    others = {
        "$filter": {
            "input": {"$ifNull": ["$addresses", []]},
            "cond": {
                "$and": [
                    {"$ne": ["$$this.address", address]},
                    {"$gt": ["$$this.last_login", now - OWN_ADDRESS]},
                ]
            },
        }
    }
    addresses = {"$concatArrays": [others, own_addresses(address, now)]}
    fields = {
        # A negative number keeps so many from the end of the list, which are the latest.
        "sessions": {"$slice": [sessions, -MOST_SESSIONS]},
        "addresses": {"$slice": [addresses, -MOST_ADDRESSES]},
    }
    if new_hash is not None:
        # In this kind of update, text that begins with $ names a field, unless it is a literal.
        fields["password"] = {"$literal": new_hash}
    # In a list, because only this kind of update can compute values from the document's.
    update_if_unchanged(user, [{"$set": fields}])
    return session_id


def update_if_unchanged(user, update, **also):
    """Update the user if the hash is still the one that was verified. Aborts with 401 if not.

    `also` holds further fields of the filter.

    Another request may have deleted the user since then, or replaced the hash: a new password, or a
    login that renews it. The filter and the update are one atomic operation. So a login with the
    old password, in progress at that time, opens no session and adds no address.
    """
    unchanged = {"_id": user["_id"], "password": user["password"], **also}
    result = db.users().update_one(unchanged, update)
    if result.matched_count == 0:
        fail("invalid_credentials")


def tokens(user, session_id):
    """Return the two tokens of a session. The access token is fresh: a password was just sent."""
    identity = str(user["_id"])
    claims = {"sid": session_id}
    return {
        "access_token": create_access_token(identity, fresh=True, additional_claims=claims),
        "refresh_token": create_refresh_token(identity, additional_claims=claims),
    }


class TokenRefresh(Resource):
    """/refresh: get a new access token for an open session."""

    @jwt_required(refresh=True)
    def post(self):
        """Respond with an access token of the same session, not fresh. Requires a refresh token."""
        claims = {"sid": get_jwt()["sid"]}
        return {"access_token": create_access_token(get_jwt_identity(), additional_claims=claims)}


class UserLogout(Resource):
    """/logout: end a session."""

    @jwt_required(verify_type=False)
    def post(self):
        """Revoke all tokens of the session. Requires an access token or a refresh token."""
        BLACKLIST.add(get_jwt())
        return {"message": "Successfully logged out."}


class User(Resource):
    """/user/<username>: the caller's own account. Any other one looks as if it did not exist."""

    @jwt_required()
    def get(self, username):
        """Respond with id and username. Requires an access token. Aborts with 404."""
        user = own_account(username)
        return {"id": str(user["_id"]), "username": user["username"]}

    # Fresh, because an attacker who has only a refresh token, or an access token from it, must not
    # be able to lock the owner out or to delete the account.
    @jwt_required(fresh=True)
    def put(self, username):
        """Replace `current_password` with `password`; respond with the tokens of a new session.

        All earlier sessions end, because an attacker who knew the old password may have one.
        Requires a fresh access token. Aborts with 400, 401, 404, 429 or 503.
        """
        change = read_body(
            {
                "current_password": sent_password,
                "password": password_field,
                "id": set_by_server,
                "username": set_by_server,
            },
            required=["current_password", "password"],
            check_together=lambda new: username_as_password({**new, "username": username}),
        )
        with passwords.queue.slot():
            user = own_account(username)
            limit = count_password_change(get_jwt()["sid"])
            verify_password(user, change["current_password"])
            remove_attempt([limit])
            session_id = replace_password(user, change["password"])
        return tokens(user, session_id)

    @jwt_required(fresh=True)
    def delete(self, username):
        """Delete the user with all todos and sessions. Requires a fresh access token.

        Aborts with 401 or 404.
        """
        user_id = own_account(username)["_id"]
        # First the sessions: once they have ended, no request with their tokens adds a todo that
        # stays. The user comes after the todos: if MongoDB fails before that, the owner can log in
        # and delete again.
        no_sessions = {"$set": {"sessions": []}}
        # A logout or a new password can have ended this session since the token was checked.
        own = {"_id": user_id, "sessions": get_jwt()["sid"]}
        if db.users().update_one(own, no_sessions).matched_count == 0:
            fail("token_revoked")
        while db.users().update_one({"_id": user_id}, no_sessions).matched_count:
            db.todos().delete_many({"owner_id": user_id})
            # If a login since the first step has opened a session, perhaps with new todos, this
            # deletes nothing, and all the steps run again.
            db.users().delete_one({"_id": user_id, "sessions": []})
        # A login, a new todo and a logout can all fit between two of the steps. Once the user is
        # deleted, no session can open, so this finds the todos that are left.
        db.todos().delete_many({"owner_id": user_id})
        return {"message": "User deleted."}


def replace_password(user, password):
    """Store a new password, end all sessions, and return the id of a new one. Aborts with 401."""
    session_id = str(uuid.uuid4())
    fields = {
        "password": passwords.hash_password(password),
        "sessions": [session_id],
        "addresses": own_addresses(client_address(), datetime.now(timezone.utc)),
    }
    # One atomic operation stores the password, and ends what the old one has opened. A logout can
    # have ended this session since the token was checked.
    update_if_unchanged(user, {"$set": fields}, sessions=get_jwt()["sid"])
    return session_id


def own_account(username):
    """Return the caller's user document. Aborts with 404 if `username` is not the caller's."""
    user = db.users().find_one({"_id": ObjectId(get_jwt_identity()), "username": username})
    if user is None:
        fail("not_found", "User not found.")
    return user
