"""Users and their sessions: register, log in, refresh, log out, new password, delete.

A user's document holds the hash of the password and the ids of the open sessions:

    {"_id": <id>, "username": "alice", "password": <hash>, "sessions": [<id>, <id>]}

A login starts a session: it adds an id to the list. Every token names its user (`sub`) and its
session (`sid`), and is revoked when that id is no longer in the list (blacklist.py). A logout
removes one id, a new password replaces all ids with one, and a deletion empties the list before it
deletes the document. If a user has 100 sessions, a login removes the oldest id.
"""

import re
import uuid

from bson import ObjectId
from flask_jwt_extended import (
    create_access_token,
    create_refresh_token,
    get_jwt,
    get_jwt_identity,
    jwt_required,
)
from flask_restful import Resource, abort
from pymongo.errors import DuplicateKeyError

import db
from blacklist import BLACKLIST
from resources import passwords
from resources.fields import read_body, string
from resources.passwords import hashing_slot
from resources.rate_limits import Attempt, count_registration, forget_own_addresses

# A username is part of a URL, so it has only characters that need no escaping there.
USERNAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# A login beyond this limit ends the oldest session. Without it, each login makes the document grow.
MOST_SESSIONS = 100


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
    string(value, shortest=8, longest=passwords.LONGEST)
    if passwords.is_common(value):
        raise ValueError("Must not be a common password, because attackers try those first.")
    return value


def reject_username_as_password(username, password):
    """Abort with 400 if the password is the username."""
    if password.lower() == username.lower():
        abort(400, message={"password": "Must not be the username."})


class UserRegister(Resource):
    """/register: create a user."""

    @hashing_slot()
    def post(self):
        """Create a user from `username` and `password`, and respond with 201.

        Aborts with 400, 409 if the username is taken, 429 or 503.
        """
        new = read_body(
            {"username": username_field, "password": password_field},
            required=["username", "password"],
        )
        reject_username_as_password(new["username"], new["password"])
        count_registration()
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
            abort(409)
        headers = {"Location": f"/user/{user['username']}"}
        return {"message": "User created successfully."}, 201, headers


class UserLogin(Resource):
    """/login: start a session."""

    @hashing_slot()
    def post(self):
        """Start a session of the user with this `username` and `password`; respond with its tokens.

        Aborts with 400, 401, 429 or 503.
        """
        login = read_body(
            {"username": string, "password": string}, required=["username", "password"]
        )
        if not USERNAME.fullmatch(login["username"]):
            # No user can have this name, so there is no password to guess and nothing to count.
            reject_credentials()
        attempt = Attempt(login["username"])
        user, new_hash = authenticate(login["username"], login["password"], attempt)
        session_id = str(uuid.uuid4())
        # Append the session's id, and keep the last 100 of the list.
        update = {"$push": {"sessions": {"$each": [session_id], "$slice": -MOST_SESSIONS}}}
        if new_hash is not None:
            update["$set"] = {"password": new_hash}
        update_if_unchanged(user, update)
        return tokens(user, session_id)


def authenticate(username, password, attempt):
    """Return the user with this username and password, and a new hash if the old one is outdated.

    Aborts with 401 if there is no such user, and with 429 if a rate limit is reached. It does the
    same work whether or not the username exists, so neither the error nor the response time reveals
    which usernames exist.
    """
    attempt.count()
    user = db.users().find_one({"username": username})
    stored_hash = user["password"] if user is not None else None
    matches, new_hash = passwords.verify_password(password, stored_hash)
    if not matches:
        reject_credentials()
    attempt.reset()
    return user, new_hash


def reject_credentials():
    """Abort with the same 401 for a wrong username and for a wrong password."""
    abort(401, message="Wrong username or password.", error="invalid_credentials")


def update_if_unchanged(user, update):
    """Update the user if the hash is still the one that was verified. Aborts with 401 if not.

    Another request may have replaced it since then: a new password, or a login that renews it. The
    filter and the update are one atomic operation, so a login with the old password opens no
    session after the change.
    """
    result = db.users().update_one({"_id": user["_id"], "password": user["password"]}, update)
    if result.matched_count == 0:
        reject_credentials()


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
    @hashing_slot()
    @jwt_required(fresh=True)
    def put(self, username):
        """Replace `current_password` with `password`; respond with the tokens of a new session.

        All earlier sessions end, because an attacker who knew the old password may have one.
        Requires a fresh access token. Aborts with 400, 401, 404, 429 or 503.
        """
        change = read_body(
            {"current_password": string, "password": password_field},
            required=["current_password", "password"],
        )
        own_account(username)
        reject_username_as_password(username, change["password"])
        attempt = Attempt(username, has_fresh_token=True)
        user, _ = authenticate(username, change["current_password"], attempt)
        new_hash = passwords.hash_password(change["password"])
        session_id = str(uuid.uuid4())
        # One atomic operation stores the new password and ends all sessions of the old one.
        update_if_unchanged(user, {"$set": {"password": new_hash, "sessions": [session_id]}})
        return tokens(user, session_id)

    @jwt_required(fresh=True)
    def delete(self, username):
        """Delete the user with all todos and sessions. Requires a fresh access token.

        Aborts with 404.
        """
        user_id = own_account(username)["_id"]
        # First the sessions: once they have ended, no request adds a todo that stays. The user
        # comes last: if MongoDB fails before that, the owner can log in and delete again.
        while db.users().update_one({"_id": user_id}, {"$set": {"sessions": []}}).matched_count:
            db.todos().delete_many({"owner_id": user_id})
            forget_own_addresses(username)
            # If a login since the first step has opened a session, perhaps with new todos, this
            # deletes nothing, and all the steps run again.
            db.users().delete_one({"_id": user_id, "sessions": []})
        # A login, a new todo and a logout can all fit between two of the steps. Once the user is
        # deleted, no session can open, so this finds the todos that are left.
        db.todos().delete_many({"owner_id": user_id})
        return {"message": "User deleted."}


def own_account(username):
    """Return the caller's user document. Aborts with 404 if `username` is not the caller's."""
    user = db.users().find_one({"_id": ObjectId(get_jwt_identity()), "username": username})
    if user is None:
        abort(404, message="User not found.")
    return user
