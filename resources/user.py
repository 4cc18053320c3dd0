"""Users and their sessions: register, log in, refresh, log out, change the password, delete.

Three ids stand in every token, and decide whom it lets in:

    sub          the user
    sid          the session: each login starts one, a logout revokes it
    password_id  the password that the session was started with: made at registration, replaced
                 together with the password, and then revoked. So a new password ends all sessions
                 of the old one, and nobody has to keep a list of sessions.
"""

import re
import uuid

from bson import ObjectId
from flask_jwt_extended import (
    create_access_token,
    create_refresh_token,
    get_jwt,
    get_jwt_header,
    jwt_required,
)
from flask_jwt_extended.exceptions import RevokedTokenError
from flask_restful import Resource, abort
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError
from werkzeug.exceptions import ServiceUnavailable

import db
from blacklist import BLACKLIST
from resources import passwords
from resources.fields import read_body, string
from resources.guesses import Guess

# RFC 6749, 5.1: no cache may keep an answer that holds tokens.
NO_STORE = {"Cache-Control": "no-store"}

# Names that fit into a URL as they are.
USERNAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def username_field(value):
    """Check a new username."""
    if not USERNAME.fullmatch(string(value)):
        raise ValueError(
            "Must have 1 to 64 of the characters A-Z a-z 0-9 . _ -, the first a letter or digit."
        )
    return value


def password_field(value):
    """Check a new password: 8 to 256 characters, any.

    NIST 800-63B-4 asks for at least 8 where there is a second factor and for 15 where there is
    none. That is much to ask of a to-do list, so this takes 8.
    """
    return string(value, shortest=8, longest=passwords.LONGEST)


class UserRegister(Resource):
    """/register: make an account."""

    def post(self):
        """Take `username` and `password`, answer 201. No token.

        Aborts with 400, with 409 if the name is taken, or with 503 if too many passwords wait.
        """
        new = read_body(
            {"username": username_field, "password": password_field},
            required=["username", "password"],
        )
        user = {
            "username": new["username"],
            "password": passwords.hash_password(new["password"]),
            "password_id": str(uuid.uuid4()),
        }
        try:
            db.users().insert_one(user)
        except DuplicateKeyError:
            # The unique index has refused it. To look first whether the name is free would not do:
            # between the look and the insert somebody else may take it.
            abort(409)
        headers = {"Location": f"/user/{user['username']}"}
        return {"message": "User created successfully."}, 201, headers


class UserLogin(Resource):
    """/login: start a session."""

    def post(self):
        """Take `username` and `password`, answer with an access and a refresh token. No token.

        Aborts with 400, 401, 429 or 503.
        """
        login = read_body(
            {"username": string, "password": string}, required=["username", "password"]
        )
        user = authenticate(login["username"], login["password"])
        return start_session(user)


def authenticate(username, password):
    """The user who has this name and this password.

    Aborts with 401 if there is none, with 429 if too many wrong passwords came before, and with 503
    if too many passwords wait. Whatever it does, it does for names that exist and for names that do
    not: neither the answer nor the time that it takes tells which exist.
    """
    if not USERNAME.fullmatch(username):
        # Nobody can have registered this name, so nobody can guess its password: nothing to count.
        passwords.check_password(password, None)
        refuse_credentials()
    guess = Guess(username)
    # These two ask neither MongoDB nor for a hash, so they come before what does.
    guess.refuse_if_known()
    passwords.refuse_if_busy()
    guess.count()
    user = db.users().find_one({"username": username})
    matches, new_hash = look_at_password(guess, user, password)
    if not matches:
        refuse_credentials()
    guess.forget()
    if new_hash:
        renew_hash(user, new_hash)
    end_former_sessions(user)
    return user


def look_at_password(guess, user, password):
    """Whether the password is the user's (None: there is no such user), and perhaps a new hash.

    Takes the guess back if there is no place for a hash: then nobody has looked.
    """
    stored_hash = user["password"] if user else None
    try:
        return passwords.check_password(password, stored_hash)
    except ServiceUnavailable:
        guess.take_back()
        raise


def renew_hash(user, new_hash):
    """Store a hash that was made with today's figures, in the place of an older one.

    Only if the user still has the password that was looked at: somebody may be changing it at this
    moment, and then the id of the password is another one.
    """
    db.users().update_one(
        {"_id": user["_id"], "password_id": user["password_id"]},
        {"$set": {"password": new_hash}},
    )


def refuse_credentials():
    """Abort with the one 401 for a wrong name and for a wrong password."""
    abort(401, message="Wrong username or password.", error="invalid_credentials")


def start_session(user):
    """The answer with the two tokens of a new session."""
    identity = str(user["_id"])
    claims = {"sid": str(uuid.uuid4()), "password_id": user["password_id"]}
    # Fresh means that a password was typed for it.
    access = create_access_token(identity, fresh=True, additional_claims=claims)
    refresh = create_refresh_token(identity, additional_claims=claims)
    return {"access_token": access, "refresh_token": refresh}, 200, NO_STORE


class TokenRefresh(Resource):
    """/refresh: a new access token for a session that goes on."""

    @jwt_required(refresh=True)
    def post(self):
        """Answer with an access token of the same session, not fresh. Refresh token."""
        old = get_jwt()
        claims = {"sid": old["sid"], "password_id": old["password_id"]}
        access = create_access_token(old["sub"], fresh=False, additional_claims=claims)
        return {"access_token": access}, 200, NO_STORE


class UserLogout(Resource):
    """/logout: end a session."""

    @jwt_required(verify_type=False)
    def post(self):
        """Revoke all tokens of the session. Access or refresh token."""
        BLACKLIST.add(get_jwt()["sid"])
        return {"message": "Successfully logged out."}


class User(Resource):
    """/user/<username>: the caller's own account. Any other looks as if it did not exist."""

    @jwt_required()
    def get(self, username):
        """Answer with id and username. Access token. Aborts with 404."""
        user = found(find_self(username))
        return {"id": str(user["_id"]), "username": user["username"]}

    # Fresh: whoever finds an old access token must be able neither to lock the owner out nor to
    # delete the account.
    @jwt_required(fresh=True)
    def put(self, username):
        """Take `current_password` and the new `password`, answer with tokens. Fresh access token.

        They are those of a new session. All other sessions of the user end. Aborts with 400, 401,
        404, 429 or 503.
        """
        body = read_body(
            {"current_password": string, "password": password_field},
            required=["current_password", "password"],
        )
        found(find_self(username))
        user = authenticate(username, body["current_password"])
        user = replace_password(user, passwords.hash_password(body["password"]))
        end_former_sessions(user)
        return start_session(user)

    # The method does the revocation check itself: see `refuse_if_revoked`.
    @jwt_required(fresh=True, skip_revocation_check=True)
    def delete(self, username):
        """Delete the user with all todos and sessions. Fresh access token.

        Aborts with 401 or 404.
        """
        user = find_self(username)
        refuse_if_revoked(user)
        found(user)
        while user is not None:
            delete_all_of(user)
            # If the password was changed meanwhile, the user is still there, and perhaps has new
            # sessions. Then once more.
            user = db.users().find_one({"_id": user["_id"]})
        return {"message": "User deleted."}


def find_self(username):
    """The caller's user document, or None if `username` is somebody else or nobody.

    Raises RevokedTokenError if the caller's token was issued under a former password.
    """
    claims = get_jwt()
    user = db.users().find_one({"_id": ObjectId(claims["sub"]), "username": username})
    if user is not None:
        end_former_sessions(user)
        if user["password_id"] != claims["password_id"]:
            raise RevokedTokenError(get_jwt_header(), claims)
    return user


def found(user):
    """The user that a query has given. Aborts with 404 if it has given none."""
    if user is None:
        abort(404, message="User not found.")
    return user


def replace_password(user, new_hash):
    """Store the hash of a new password, and a new id of the password; return the user as it now is.

    One atomic operation, so there is no moment in which only half of it holds. The former id stays
    in the document until it is on the blacklist: if the server or MongoDB dies before that, whoever
    comes next finds it there (see `end_former_sessions`).
    """
    changed = db.users().find_one_and_update(
        # Only if the password is still the one of this request's token. Of two simultaneous changes
        # the first replaces its id, and the second finds no such user.
        {"_id": user["_id"], "password_id": get_jwt()["password_id"]},
        {
            "$set": {
                "password": new_hash,
                "password_id": str(uuid.uuid4()),
                "former_password_id": user["password_id"],
            }
        },
        return_document=ReturnDocument.AFTER,
    )
    if changed is None:
        raise RevokedTokenError(get_jwt_header(), get_jwt())
    return changed


def end_former_sessions(user):
    """Revoke what was issued under the password before this one, if that has not been done yet.

    It is done before the first token is issued under the new password, and by whoever comes first:
    the request that changes the password or, if that was cut off, the next login or the next
    request for the user's own account.
    """
    former_id = user.get("former_password_id")
    if former_id is None:
        return
    BLACKLIST.add(former_id)
    db.users().update_one(
        {"_id": user["_id"], "former_password_id": former_id},
        {"$unset": {"former_password_id": ""}},
    )


def refuse_if_revoked(user):
    """Raise RevokedTokenError if the caller's token may not delete this user (None: there is none).

    The check of all other requests would refuse too much. A deletion that was cut off has revoked
    the password's id and left the user; then the owner must be able to finish it, with the same
    token or after a new login. So while the user is there, only the session's id is asked for.
    """
    claims = get_jwt()
    ids = [claims["sid"]]
    if user is None:
        ids.append(claims["password_id"])
    if not BLACKLIST.isdisjoint(ids):
        raise RevokedTokenError(get_jwt_header(), claims)


def delete_all_of(user):
    """Delete a user's sessions, then the todos, then the user.

    In this order. Once the sessions are over, nobody adds a todo that stays. As long as todos are
    left the user is there, so that the owner can log in and repeat the deletion.
    """
    BLACKLIST.add(user["password_id"])
    db.todos().delete_many({"owner_id": user["_id"]})
    # Only if the password is still the same: otherwise there may be sessions that are not over.
    db.users().delete_one({"_id": user["_id"], "password_id": user["password_id"]})
