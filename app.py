"""The Flask app: settings, failures, tokens, URLs. `python app.py` is the developer's server; uWSGI loads run.py."""

import json
import os
import secrets
import sys
import time
from datetime import timedelta

from bson import ObjectId
from flask import Flask, request
from flask_jwt_extended import JWTManager
from flask_jwt_extended.exceptions import InvalidHeaderError, JWTDecodeError
from flask_restful import Api, abort
from jwt import ExpiredSignatureError, decode
from pymongo.errors import PyMongoError
from werkzeug.exceptions import HTTPException, ServiceUnavailable, Unauthorized

import db
from blacklist import BLACKLIST
from resources.todo import Todo, TodoList
from resources.user import TokenRefresh, User, UserLogin, UserLogout, UserRegister

PORT = os.environ.get("PORT", "5000")
# Compared as text, since uWSGI reads the text: int() would also take " 80" or "8_0".
if PORT not in map(str, range(1, 65536)):
    sys.exit(
        "PORT must be a number from 1 to 65535, or not be set at all"
    )  # uWSGI would listen somewhere else.

app = Flask(__name__, static_folder=None)  # No files to serve, so no URL for them.
app.config.update(
    JWT_SECRET_KEY=os.environ.get("JWT_SECRET_KEY"),
    # Short, since it travels with every request. The refresh token, which gets the next one, travels rarely.
    JWT_ACCESS_TOKEN_EXPIRES=timedelta(minutes=15),
    JWT_REFRESH_TOKEN_EXPIRES=timedelta(days=30),
    JWT_COOKIE_CSRF_PROTECT=False,  # A claim that only tokens in cookies need.
    MAX_CONTENT_LENGTH=64
    * 1024,  # Room for the longest todo, 10,200 characters of up to 4 bytes, if none is escaped.
    RESTFUL_JSON={"indent": None},  # One line for each answer, also in debug mode.
    PROVIDE_AUTOMATIC_OPTIONS=False,  # Flask would answer OPTIONS by itself, without JSON. Now it is a 405.
)
app.url_map.merge_slashes = (
    False  # Werkzeug would redirect /user//alice with an HTML page. Now it is a 404.
)
db.init_app(app, os.environ.get("MONGODB_URI") or db.LOCAL_URI)


# Failures. All of them, from wherever, become the one error body here.

# Any other status has its own name as its code: 404 is `not_found`.
CODES = {413: "request_too_large", 500: "internal_error", 503: "database_unavailable"}


@app.errorhandler(HTTPException)
def http_error(error):
    """The JSON answer for an HTTPException. What `abort(409, message=..., error=...)` names beside the status goes
    before the defaults. Without the debugger a crash comes as a 500 too; Flask has logged its traceback by then."""
    default = CODES.get(error.code) or error.name.lower().replace(" ", "_")
    body = {"message": error.description, "error": default} | getattr(error, "data", {})
    response = (
        error.get_response()
    )  # Has the headers that belong to it, such as the Allow of a 405.
    response.data = json.dumps(body) + "\n"
    response.content_type = "application/json"
    if error.code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, 11.6.1
    return response


@app.errorhandler(PyMongoError)
def database_error(error):
    """503: MongoDB is away, too slow, or refuses to serve us. The reason is for the log alone."""
    db.note_failure(error)
    app.logger.error("MongoDB: %s", error)
    return http_error(
        ServiceUnavailable("The database is unavailable. Try again soon.", retry_after=2)
    )


@app.before_request
def refuse_large_body():
    """413 also where no resource reads the body."""
    if (request.content_length or 0) > app.config["MAX_CONTENT_LENGTH"]:
        abort(413)


# Tokens.

CLAIMS = {
    "sub": str,
    "jti": str,
    "sid": str,
    "type": str,
    "fresh": bool,
    "exp": int,
    "iat": int,
    "nbf": int,
}


class TokenManager(JWTManager):
    """Flask-JWT-Extended, which by itself decodes every token twice and takes claims of any type."""

    def _decode_jwt_from_config(self, encoded_token, csrf_value=None, allow_expired=False):
        """The claims of a token. Raises what PyJWT raises, or JWTDecodeError where a claim is not as we write it."""
        # RFC 8725, 3.1: one fixed algorithm. `exp` is compared below, once it is known to be a number.
        options = {"verify_exp": False}
        claims = decode(
            encoded_token, app.config["JWT_SECRET_KEY"], algorithms=["HS256"], options=options
        )
        if not (
            all(type(claims.get(name)) is kind for name, kind in CLAIMS.items())
            and claims["type"] in ("access", "refresh")
            and ObjectId.is_valid(claims["sub"])
            and (claims["jti"] + claims["sid"]).isascii()  # MongoDB cannot take half a character.
        ):
            raise JWTDecodeError("A claim is missing or malformed")
        if claims["exp"] <= time.time():
            raise ExpiredSignatureError("Past its exp")
        return claims


jwt = TokenManager(app)


@jwt.token_in_blocklist_loader
def is_revoked(_header, claims):
    """Whether the token itself, its session or its user is revoked."""
    return [claims["jti"], claims["sid"], claims["sub"]] in BLACKLIST


def refusal(code, message):
    """A function that answers 401 with this code, whatever the library tells it."""
    error = Unauthorized()
    error.data = {"message": message, "error": code}
    return lambda *_: http_error(error)


no_token = refusal("authorization_required", "Send a token: Authorization: Bearer <token>")
jwt.unauthorized_loader(no_token)
jwt.invalid_token_loader(refusal("invalid_token", "This token is not valid here."))
jwt.revoked_token_loader(refusal("token_revoked", "This session is over. Log in again."))
jwt.needs_fresh_token_loader(
    refusal("fresh_token_required", "This request needs a fresh token. Log in again.")
)
# Not by the library's loaders: the first would be an invalid token there, the second wants the claims as well.
app.register_error_handler(InvalidHeaderError, no_token)
expired = refusal("token_expired", "This token has expired. Get a new one from /refresh or /login.")
app.register_error_handler(ExpiredSignatureError, expired)


class ResourceApi(Api):
    """Flask-RESTful, with its errors left to the handlers above instead of a second, different error body."""

    def error_router(self, original_handler, e):
        return original_handler(e)


api = ResourceApi(app)
api.add_resource(UserRegister, "/register")
api.add_resource(User, "/user/<string:username>")
api.add_resource(UserLogin, "/login")
api.add_resource(UserLogout, "/logout")
api.add_resource(TokenRefresh, "/refresh")
api.add_resource(TodoList, "/todos")
api.add_resource(Todo, "/todos/<string:todo_id>")

if __name__ == "__main__":
    # In the environment, since the reloader runs this file anew after each change: it finds the same values again.
    os.environ["JWT_SECRET_KEY"] = os.environ.get("JWT_SECRET_KEY") or secrets.token_hex(32)
    app.config["JWT_SECRET_KEY"] = os.environ["JWT_SECRET_KEY"]
    os.environ["MONGODB_URI"] = os.environ.get("MONGODB_URI") or db.local_mongodb()
    # 127.0.0.1: whoever reaches the debugger runs code on this machine.
    app.run(host="127.0.0.1", port=int(PORT), debug=True)
