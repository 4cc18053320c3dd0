"""The Flask app: its settings, its error responses, its tokens and the list of URLs.

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
from flask_restful import Api
from pymongo.errors import PyMongoError
from werkzeug.exceptions import HTTPException

import db
from blacklist import BLACKLIST
from resources import local_mongodb
from resources.fields import receive_body
from resources.todo import Todo, TodoList
from resources.user import TokenRefresh, User, UserLogin, UserLogout, UserRegister

# Settings.

PORT = os.environ.get("PORT", "5000")
# uWSGI reads PORT as well. If it is not a number, uWSGI listens on some other port.
if not re.fullmatch("[1-9][0-9]{0,4}", PORT) or int(PORT) > 65535:
    sys.exit("PORT must be a number from 1 to 65535, or not be set at all")

# No static folder: there are no files to serve.
app = Flask(__name__, static_folder=None)
app.config.update(
    # run.py requires this secret in production. On your machine, a new one for each start will do.
    JWT_SECRET_KEY=os.environ.get("JWT_SECRET_KEY", "").strip() or secrets.token_hex(32),
    # An access token is in every request, so it expires soon. A refresh token is sent rarely, to
    # get the next access token.
    JWT_ACCESS_TOKEN_EXPIRES=timedelta(minutes=15),
    JWT_REFRESH_TOKEN_EXPIRES=timedelta(days=30),
    # The only algorithm that is accepted. RFC 8725, 3.1: never let the token choose.
    JWT_DECODE_ALGORITHMS=["HS256"],
    # In seconds. The clock of the dyno that issued a token may be ahead. RFC 7519, 4.1.4 and 4.1.5.
    JWT_DECODE_LEEWAY=5,
    # No `csrf` claim, because only tokens in cookies need one.
    JWT_COOKIE_CSRF_PROTECT=False,
    # In bytes. The longest todo has 10,200 characters of up to 4 bytes each.
    MAX_CONTENT_LENGTH=64 * 1024,
    # A response is one line, even in debug mode.
    RESTFUL_JSON={"indent": None},
    # By default Flask answers OPTIONS itself, and not in JSON. With this setting it is a 405.
    PROVIDE_AUTOMATIC_OPTIONS=False,
    # run.py changes this: in production, Heroku's router is between the client and this process.
    BEHIND_ROUTER=False,
)
# By default Werkzeug redirects /user//alice, with an HTML page. With this setting it is a 404.
app.url_map.merge_slashes = False

db.init_app(app, os.environ.get("MONGODB_URI", "").strip() or local_mongodb.URI)


# Requests and responses.

app.before_request(receive_body)


@app.after_request
def add_headers(response):
    """Add the headers that every response has: OWASP REST Security Cheat Sheet."""
    # No cache may keep a response, because it holds tokens or what only its owner may see.
    response.headers["Cache-Control"] = "no-store"
    # A browser must take the body for JSON, whatever it looks like.
    response.headers["X-Content-Type-Options"] = "nosniff"
    # A browser that gets this over HTTPS uses only HTTPS here for a year (31,536,000 seconds).
    response.headers["Strict-Transport-Security"] = "max-age=31536000"
    return response


# Errors. Wherever one happens, `error_response` builds the response.

# For each status the code, which is for a program, and the message, which is for a person. `abort`
# can replace them: abort(409, error="username_taken", message="This username is taken.")
ERRORS = {
    400: ("bad_request", "The request cannot be understood."),
    401: ("authorization_required", "Send a token: Authorization: Bearer <token>"),
    404: ("not_found", "Nothing is at this URL. README.md lists all URLs: see API reference."),
    405: ("method_not_allowed", "This URL does not accept this method. See the header Allow."),
    409: ("username_taken", "This username is taken. Choose another one."),
    413: ("request_too_large", "The body is larger than 64 KiB. Send a smaller one."),
    415: ("unsupported_media_type", "The body is neither JSON nor a form."),
    429: ("too_many_attempts", "Too many attempts. Wait as many seconds as Retry-After says."),
    500: ("internal_error", "This is a bug in the server. It has been logged."),
    503: ("server_busy", "Too many requests need a password hash. Try again soon."),
}


def error_response(status, code, message, headers=()):
    """Return the response for any error: the only error body of this API."""
    body = json.dumps({"message": message, "error": code}) + "\n"
    response = app.response_class(body, status, headers, content_type="application/json")
    if status == 401:
        # RFC 9110, 11.6.1: a 401 names the kind of authorization that is required.
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


@app.errorhandler(HTTPException)
def http_error(error):
    """Respond to an error that has a status: an unknown URL, an `abort(...)`, or a crash.

    A crash comes here as a 500, after Flask has logged its traceback. (Under `python app.py` it
    does not come here: you see the debugger.)
    """
    code, message = ERRORS[error.code]
    # Flask-RESTful's `abort` puts its keyword arguments into `data`.
    given = getattr(error, "data", {})
    # `get_headers` returns the headers that the error needs, such as the Allow of a 405.
    return error_response(
        error.code, given.get("error", code), given.get("message", message), error.get_headers()
    )


@app.errorhandler(PyMongoError)
def database_error(error):
    """Respond with 503 if MongoDB is unavailable. Any other error of a query is a bug: a 500."""
    if not db.is_outage(error):
        raise error
    db.outage.begin(error)
    # The reason is for the log alone, because it can name hosts.
    app.logger.error("MongoDB: %s", error)
    return error_response(
        503,
        "database_unavailable",
        "The database is unavailable. Try again soon.",
        {"Retry-After": "2"},
    )


# Tokens. Flask-JWT-Extended calls the functions with `@jwt` below; its word for them is loaders.

jwt = JWTManager(app)


@app.before_request
def accept_bearer_in_any_case():
    """Let `bearer` mean `Bearer`: RFC 9110, 11.1. The library's comparison is case-sensitive."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        request.environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"


# The claims of the tokens that this API issues, each with its type.
CLAIMS = {
    "sub": str,
    "sid": str,
    "jti": str,
    "type": str,
    "fresh": bool,
    "iat": int,
    "nbf": int,
    "exp": int,
}


@jwt.decode_key_loader
def decode_key(_header, claims):
    """Return the key that a token must be signed with. Raises JWTDecodeError.

    The library accepts claims of any type, and fills in some that are missing. It calls this
    function before it fills them in, so the claims are checked here exactly as the token has them.
    """
    check_claims(claims)
    return app.config["JWT_SECRET_KEY"]


def check_claims(claims):
    """Raise JWTDecodeError if a claim differs from the claims that this API issues."""
    for name, kind in CLAIMS.items():
        value = claims.get(name)
        if type(value) is not kind:
            raise JWTDecodeError("A claim is missing or has the wrong type.")
        # The API issues ASCII only. Other text can hold half a character, which MongoDB rejects.
        if kind is str and not value.isascii():
            raise JWTDecodeError("A claim is malformed.")
    if claims["type"] not in ("access", "refresh"):
        raise JWTDecodeError("There is no such type of token.")
    if not ObjectId.is_valid(claims["sub"]):
        raise JWTDecodeError("The subject is not an id.")
    # The audience. These tokens have none. RFC 8725, 3.9: reject a token for another audience.
    if "aud" in claims:
        raise JWTDecodeError("The token is meant for another audience.")


@jwt.token_in_blocklist_loader
def is_revoked(_header, claims):
    """Return whether the token's session has ended."""
    return claims in BLACKLIST


@jwt.unauthorized_loader
def no_token(_reason):
    """Respond to a request without a token."""
    return error_response(401, *ERRORS[401])


@app.errorhandler(InvalidHeaderError)
def no_bearer_token(_error):
    """Respond to an Authorization header without a bearer token. The library has no loader here."""
    return error_response(401, *ERRORS[401])


@jwt.invalid_token_loader
def invalid_token(_reason):
    """Respond to a token that has the wrong type, or that this API has not issued.

    The response does not say which of these it is.
    """
    return error_response(401, "invalid_token", "This token is not valid here. Log in again.")


@jwt.expired_token_loader
def expired_token(_header, _claims):
    """Respond to a token that is past its `exp`."""
    message = "This token has expired. Get a new one from /refresh or /login."
    return error_response(401, "token_expired", message)


@jwt.revoked_token_loader
def revoked_token(_header, _claims):
    """Respond to a token whose session has ended."""
    return error_response(401, "token_revoked", "This session has ended. Log in again.")


@jwt.needs_fresh_token_loader
def stale_token(_header, _claims):
    """Respond to a token from /refresh where a fresh one is required."""
    message = "This request requires a fresh token. Log in again."
    return error_response(401, "fresh_token_required", message)


# URLs.


class ResourceApi(Api):
    """Flask-RESTful without its own error body, so that there is only one."""

    def error_router(self, original_handler, e):
        """Pass every error to Flask, which calls the error handlers above."""
        return original_handler(e)


api = ResourceApi(app)
api.add_resource(UserRegister, "/register")
api.add_resource(User, "/user/<string:username>")
api.add_resource(UserLogin, "/login")
api.add_resource(UserLogout, "/logout")
api.add_resource(TokenRefresh, "/refresh")
api.add_resource(TodoList, "/todos")
api.add_resource(Todo, "/todos/<string:todo_id>")


# The development server.

if __name__ == "__main__":
    # The secret and the URI go into the environment, because the server runs this file again when
    # you save a change. It then finds the same secret and MongoDB, and your tokens stay valid.
    os.environ["JWT_SECRET_KEY"] = app.config["JWT_SECRET_KEY"]
    if not os.environ.get("MONGODB_URI", "").strip():
        local_mongodb.start_if_needed()
        os.environ["MONGODB_URI"] = local_mongodb.URI
    # Only this machine reaches 127.0.0.1. A client that reaches the debugger can run any code.
    app.run(host="127.0.0.1", port=int(PORT), debug=True)
