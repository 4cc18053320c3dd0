"""Users and their sessions: register, log in, refresh, log out, delete."""

import os
import re
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial

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
from passlib.context import CryptContext
from pymongo.errors import DuplicateKeyError

import db
from blacklist import BLACKLIST
from resources.fields import read_body, string

# Argon2id with 19 MiB, 2 passes, 1 lane: the OWASP Password Storage Cheat Sheet. A hash that was made with other
# figures is replaced at its user's next login, so these can be raised at any time.
passwords = CryptContext(
    ["argon2"],
    argon2__type="ID",
    argon2__memory_cost=19 * 1024,
    argon2__rounds=2,
    argon2__parallelism=1,
)
# One thread per process does all hashing: every thread that has hashed keeps its 19 MiB. At a lower priority, so that
# those who only read are served in between; elsewhere than on Linux a priority is the whole process's.
hashing = ThreadPoolExecutor(
    1, initializer=os.nice if sys.platform == "linux" else None, initargs=(5,)
)

NO_STORE = {"Cache-Control": "no-store"}  # RFC 6749, 5.1: no cache may keep a token.


def username_field(value):
    """Check a new username: one that fits in a URL as it is."""
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", string(value)):
        raise ValueError(
            "Must have 1 to 64 of the characters A-Z a-z 0-9 . _ -, the first a letter or digit."
        )
    return value


# NIST 800-63B-4: at least 64 must be allowed, and 8 is the least where there is a second factor (15 where there is
# none, which is much to ask of a to-do list).
LONGEST_PASSWORD = 256
password_field = partial(string, shortest=8, longest=LONGEST_PASSWORD)


def find_self(username):
    """The caller's user document, or None where `username` is anybody else."""
    return db.users.find_one({"_id": ObjectId(get_jwt()["sub"]), "username": username})


class UserRegister(Resource):
    """/register: make an account."""

    def post(self):
        """Take `username` and `password`, answer 201. No token. Aborts with 400 or, where the name is taken, 409."""
        new = read_body(
            {"username": username_field, "password": password_field}, ("username", "password")
        )
        new["password"] = hashing.submit(passwords.hash, new["password"]).result()
        try:
            db.users.insert_one(new)
        except DuplicateKeyError:
            abort(409, message="This username is taken.", error="username_taken")
        return (
            {"message": "User created successfully."},
            201,
            {"Location": f"/user/{new['username']}"},
        )


class User(Resource):
    """/user/<username>: the caller's own account. Anybody else's looks like one that does not exist."""

    @jwt_required()
    def get(self, username):
        """Answer with id and username. Access token. Aborts with 404."""
        user = find_self(username) or abort(404, message="User not found.")
        return {"id": str(user["_id"]), "username": user["username"]}

    # Fresh: whoever finds an old access token must not be able to wipe out the account.
    @jwt_required(fresh=True, skip_revocation_check=True)
    def delete(self, username):
        """Delete the user with all todos and sessions. Fresh access token. Aborts with 401 or 404."""
        claims, user = get_jwt(), find_self(username)
        # A deletion that failed half-way has revoked the user already. While the user is still there, only a logout
        # counts, so that it can be repeated.
        revocable = [claims["jti"], claims["sid"]] + ([] if user else [claims["sub"]])
        if revocable in BLACKLIST:
            raise RevokedTokenError(get_jwt_header(), claims)
        if not user:
            abort(404, message="User not found.")
        # In this order: nobody adds todos to an account that is going, and while todos are left the owner can log in.
        BLACKLIST.add(claims["sub"])
        db.todos.delete_many({"owner_id": user["_id"]})
        db.users.delete_one({"_id": user["_id"]})
        return {"message": "User deleted."}


class UserLogin(Resource):
    """/login: start a session."""

    def post(self):
        """Take `username` and `password`, answer with a fresh access token and a refresh token. No token. Aborts with
        400, or with 401 where the two do not match."""
        login = read_body({"username": string, "password": string}, ("username", "password"))
        user = db.users.find_one({"username": login["username"]})
        # Cut, since passlib refuses to hash more than 4,096 characters; one too many is enough to be wrong.
        password = login["password"][: LONGEST_PASSWORD + 1]
        # Without a user, passlib hashes all the same: the time must not tell which names exist.
        matches, new_hash = hashing.submit(
            passwords.verify_and_update, password, user and user["password"]
        ).result()
        if not matches:  # One answer for both, for the same reason.
            abort(401, message="Wrong username or password.", error="invalid_credentials")
        if new_hash:
            db.users.update_one({"_id": user["_id"]}, {"$set": {"password": new_hash}})
        identity, session = str(user["_id"]), {"sid": str(uuid.uuid4())}
        access = create_access_token(identity, fresh=True, additional_claims=session)
        refresh = create_refresh_token(identity, additional_claims=session)
        return {"access_token": access, "refresh_token": refresh}, 200, NO_STORE


class TokenRefresh(Resource):
    """/refresh: a new access token for a session that goes on."""

    @jwt_required(refresh=True)
    def post(self):
        """Answer with an access token of the same session, not fresh. Refresh token."""
        claims = get_jwt()
        access = create_access_token(
            claims["sub"], fresh=False, additional_claims={"sid": claims["sid"]}
        )
        return {"access_token": access}, 200, NO_STORE


class UserLogout(Resource):
    """/logout: end a session."""

    @jwt_required(verify_type=False)
    def post(self):
        """Revoke all tokens of the session. Access or refresh token."""
        BLACKLIST.add(get_jwt()["sid"])
        return {"message": "Successfully logged out."}
