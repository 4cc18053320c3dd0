"""The Flask app: its settings, its answers to failures, what tokens mean, and the list of URLs.

`python app.py` runs it on your machine. In production uWSGI loads run.py, which loads this file.
"""

import json
import os
import re
import secrets
import sys
from datetime import timedelta

from bson import ObjectId
from flask import Flask, request
from flask_jwt_extended import JWTManager
from flask_jwt_extended.exceptions import InvalidHeaderError, JWTDecodeError
from flask_restful import Api, abort
from pymongo.errors import PyMongoError
from werkzeug.exceptions import HTTPException

import db
from blacklist import BLACKLIST
from resources import local_mongodb
from resources.todo import Todo, TodoList
from resources.user import TokenRefresh, User, UserLogin, UserLogout, UserRegister

# Settings.

PORT = os.environ.get("PORT", "5000")
# uWSGI reads PORT too, and would listen on some other port if it were no number.
if not re.fullmatch("[1-9][0-9]{0,4}", PORT) or int(PORT) > 65535:
    sys.exit("PORT must be a number from 1 to 65535, or not be set at all")

# There are no files to serve, so there is no URL for them.
app = Flask(__name__, static_folder=None)
app.config.update(
    JWT_SECRET_KEY=os.environ.get("JWT_SECRET_KEY"),
    # An access token travels with every request, so it does not live long. A refresh token, which
    # gets the next access token, travels rarely.
    JWT_ACCESS_TOKEN_EXPIRES=timedelta(minutes=15),
    JWT_REFRESH_TOKEN_EXPIRES=timedelta(days=30),
    # The one algorithm that is accepted. RFC 8725, 3.1: never let the token choose.
    JWT_DECODE_ALGORITHMS=["HS256"],
    # Leaves out a claim that only tokens in cookies need.
    JWT_COOKIE_CSRF_PROTECT=False,
    # Room for the longest todo: 10,200 characters, each of up to 4 bytes.
    MAX_CONTENT_LENGTH=64 * 1024,
    # An answer is one line, also in debug mode.
    RESTFUL_JSON={"indent": None},
    # Flask would answer OPTIONS by itself, and not in JSON. Now it is a 405.
    PROVIDE_AUTOMATIC_OPTIONS=False,
)
# Werkzeug would redirect /user//alice, with an HTML page. Now it is a 404.
app.url_map.merge_slashes = False

db.init_app(app, os.environ.get("MONGODB_URI") or local_mongodb.URI)


# Failures. Wherever one happens, its answer is made by `error_response`.

# For each status its code, which is for a program, and its sentence, which is for a person. Whoever
# aborts can give others: abort(409, error="username_taken", message="This username is taken.")
ERRORS = {
    400: ("bad_request", "The request cannot be understood."),
    401: ("authorization_required", "Send a token: Authorization: Bearer <token>"),
    404: ("not_found", "Nothing is at this URL. README.md lists all URLs: see API reference."),
    405: ("method_not_allowed", "This URL does not take this method. The header Allow says which."),
    409: ("username_taken", "This username is taken."),
    413: ("request_too_large", "The body is larger than 64 KiB."),
    415: ("unsupported_media_type", "The body is neither JSON nor a form."),
    429: ("too_many_attempts", "Too many wrong passwords. Wait as long as Retry-After says."),
    500: ("internal_error", "This is a bug in the server. It has been logged."),
    503: ("server_busy", "Too many passwords are waiting to be checked. Try again soon."),
}


def error_response(status, code, message, headers=()):
    """The answer for any failure: the one error body of this API."""
    body = json.dumps({"message": message, "error": code}) + "\n"
    response = app.response_class(body, status, headers, content_type="application/json")
    if status == 401:
        # RFC 9110, 11.6.1: a 401 says which kind of authorization belongs here.
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


@app.errorhandler(HTTPException)
def http_error(error):
    """Answer an error that has a status: an unknown URL, an `abort(...)`, or a crash.

    A crash comes here as a 500, after Flask has logged its traceback. (Under `python app.py` it
    does not come here: you see the debugger.)
    """
    code, message = ERRORS[error.code]
    # Flask-RESTful's abort puts what it is given beside the status into `data`.
    given = getattr(error, "data", {})
    # The headers hold what belongs to the error, such as the Allow of a 405.
    return error_response(
        error.code, given.get("error", code), given.get("message", message), error.get_headers()
    )


@app.errorhandler(PyMongoError)
def database_error(error):
    """Answer 503 if MongoDB cannot serve us. Any other error of a query is a bug: a 500."""
    if not db.is_outage(error):
        raise error
    db.note_failure(error)
    # The reason is for the log alone: it can name hosts.
    app.logger.error("MongoDB: %s", error)
    return error_response(
        503,
        "database_unavailable",
        "The database is unavailable. Try again soon.",
        {"Retry-After": "2"},
    )


@app.before_request
def refuse_large_body():
    """Abort with 413 if the body is too large, also where nothing reads it."""
    if request.content_length is not None:
        if request.content_length > app.config["MAX_CONTENT_LENGTH"]:
            abort(413)


# Tokens. Flask-JWT-Extended asks and tells the functions below; its word for them is loaders.

jwt = JWTManager(app)

# What stands in a token of ours, and of which type each claim is.
CLAIMS = {
    "sub": str,
    "sid": str,
    "password_id": str,
    "jti": str,
    "type": str,
    "fresh": bool,
    "iat": int,
    "nbf": int,
    "exp": int,
}


@jwt.decode_key_loader
def decode_key(_header, claims):
    """The key that a token must be signed with. Raises JWTDecodeError if a claim is not like ours.

    The library takes claims of any type, and fills in some that are missing. It calls this function
    before it does so. That is why the check is here: it sees what really stands in the token.
    """
    for name, kind in CLAIMS.items():
        value = claims.get(name)
        if type(value) is not kind:
            raise JWTDecodeError("A claim is missing or has the wrong type.")
        # Our texts are ASCII. Another one could hold half a character, which MongoDB cannot take.
        if kind is str and not value.isascii():
            raise JWTDecodeError("A claim is malformed.")
    if claims["type"] not in ("access", "refresh"):
        raise JWTDecodeError("There is no such type of token.")
    if not ObjectId.is_valid(claims["sub"]):
        raise JWTDecodeError("The subject is no id.")
    # The audience: our tokens name none. RFC 8725, 3.9: refuse a token that is meant for others.
    if "aud" in claims:
        raise JWTDecodeError("The token is meant for somebody else.")
    return app.config["JWT_SECRET_KEY"]


@jwt.token_in_blocklist_loader
def is_revoked(_header, claims):
    """Whether the token's session or its password is revoked."""
    return not BLACKLIST.isdisjoint([claims["sid"], claims["password_id"]])


@jwt.unauthorized_loader
def no_token(_reason):
    """Answer a request without a token."""
    return error_response(401, *ERRORS[401])


@app.errorhandler(InvalidHeaderError)
def no_bearer_token(_error):
    """Answer an Authorization header without a bearer token. The library has no loader for it."""
    return error_response(401, *ERRORS[401])


@jwt.invalid_token_loader
def invalid_token(_reason):
    """Answer a token that we have not issued, or of the wrong type. The reason stays with us."""
    return error_response(401, "invalid_token", "This token is not valid here.")


@jwt.expired_token_loader
def expired_token(_header, _claims):
    """Answer a token that is past its `exp`."""
    message = "This token has expired. Get a new one from /refresh or /login."
    return error_response(401, "token_expired", message)


@jwt.revoked_token_loader
def revoked_token(_header, _claims):
    """Answer a token whose session or password is revoked."""
    return error_response(401, "token_revoked", "This session is over. Log in again.")


@jwt.needs_fresh_token_loader
def stale_token(_header, _claims):
    """Answer a token from /refresh, where one from /login is asked for."""
    message = "This request needs a fresh token. Log in again."
    return error_response(401, "fresh_token_required", message)


# URLs.


class ResourceApi(Api):
    """Flask-RESTful, without its own error body: there would be two different ones."""

    def error_router(self, original_handler, e):
        """Give every error to Flask, which gives it to the handlers above."""
        return original_handler(e)


api = ResourceApi(app)
api.add_resource(UserRegister, "/register")
api.add_resource(User, "/user/<string:username>")
api.add_resource(UserLogin, "/login")
api.add_resource(UserLogout, "/logout")
api.add_resource(TokenRefresh, "/refresh")
api.add_resource(TodoList, "/todos")
api.add_resource(Todo, "/todos/<string:todo_id>")


# The developer's server.

if __name__ == "__main__":
    # These go into the environment, since the server starts this file anew whenever you save a
    # change: it then finds the same secret, so your tokens stay valid, and the same MongoDB.
    if not os.environ.get("JWT_SECRET_KEY"):
        os.environ["JWT_SECRET_KEY"] = secrets.token_hex(32)
    if not os.environ.get("MONGODB_URI"):
        local_mongodb.start_if_needed()
        os.environ["MONGODB_URI"] = local_mongodb.URI
    app.config["JWT_SECRET_KEY"] = os.environ["JWT_SECRET_KEY"]
    # 127.0.0.1 is this machine alone: whoever reaches the debugger can run code on it.
    app.run(host="127.0.0.1", port=int(PORT), debug=True)
