"""Todos: look-up, ownership and change are one atomic query, so nobody reaches anybody else's."""

import re
from datetime import UTC, datetime
from functools import partial
from hmac import compare_digest
from urllib.parse import urlencode

from bson import ObjectId
from flask import current_app, request
from flask_jwt_extended import get_jwt, get_jwt_header, get_jwt_identity, jwt_required
from flask_jwt_extended.exceptions import RevokedTokenError
from flask_restful import Resource, abort
from itsdangerous import Signer
from pymongo import ReturnDocument

import db
from blacklist import BLACKLIST
from resources.fields import boolean, read_body, read_query, string


def name_field(value):
    """Check a todo's name: 1 to 200 characters, not only white space."""
    if not string(value, 1, 200).strip():
        raise ValueError("Must not be blank.")
    return value


FIELDS = {"name": name_field, "description": partial(string, longest=10_000), "done": boolean}


def represent(todo):
    """A todo as the client sees it, built field by field so that nothing else gets out."""
    return {
        "id": str(todo["_id"]),
        "name": todo["name"],
        "description": todo["description"],
        "done": todo["done"],
        # RFC 3339. PyMongo gives UTC, without saying so.
        "created_at": todo["created_at"].isoformat(timespec="milliseconds") + "Z",
    }


def one(operation, todo_id, *arguments, **options):
    """Do a PyMongo operation on the caller's todo with this id, and return the todo. Aborts with 404 where there is
    none, and in the same words where it is somebody else's."""
    valid = ObjectId.is_valid(todo_id)
    todo = valid and operation(
        {"_id": ObjectId(todo_id), "owner_id": owner_id()}, *arguments, **options
    )
    return todo or abort(404, message="Todo not found.")


def owner_id():
    """The id of the user whose token came with the request."""
    return ObjectId(get_jwt_identity())


class Todo(Resource):
    """/todos/<todo_id>: one of the caller's todos."""

    @jwt_required()
    def get(self, todo_id):
        """Answer with the todo. Access token. Aborts with 404."""
        return represent(one(db.todos.find_one, todo_id))

    @jwt_required()
    def put(self, todo_id):
        """Change the given fields, keep the others, answer with the todo. Access token. Aborts with 400 or 404."""
        changes = read_body(FIELDS) or abort(
            400, message="Give at least one of name, description and done."
        )
        todo = one(
            db.todos.find_one_and_update,
            todo_id,
            {"$set": changes},
            return_document=ReturnDocument.AFTER,
        )
        return represent(todo)

    @jwt_required()
    def delete(self, todo_id):
        """Delete the todo. Access token. Aborts with 404."""
        one(db.todos.find_one_and_delete, todo_id)
        return {"message": "Todo deleted."}


def limit_field(value):
    """Check the size of a page: a number from 1 to 100, in plain digits."""
    if not re.fullmatch("[1-9][0-9]?|100", str(value)):
        raise ValueError("Must be a number from 1 to 100.")
    return int(value)


def after_field(value):
    """Check where a page starts, and turn it into the query for what comes after it."""
    place = string(value).rpartition(".")[0]
    if not compare_digest(
        sign(place), value.encode()
    ):  # Signer's own check overlooks a change to the very last bits.
        raise ValueError("Must come from the next link of a page.")
    created_at, last_id = place.split("_")
    created_at, last_id = datetime.fromisoformat(created_at), ObjectId(last_id)
    # The first part lets MongoDB jump to the place in its index; the second leaves out what the client has seen.
    later = {"$or": [{"created_at": {"$gt": created_at}}, {"_id": {"$gt": last_id}}]}
    return {"created_at": {"$gte": created_at}, **later}


def sign(place):
    """`place` and its signature, as bytes: nobody can make up an `after`, or use another user's."""
    return Signer(current_app.config["JWT_SECRET_KEY"], salt="after " + get_jwt_identity()).sign(
        place
    )


class TodoList(Resource):
    """/todos: all of the caller's todos."""

    @jwt_required()
    def get(self):
        """Answer with one page, oldest first, and the link to the next. Access token. Aborts with 400.

        Pages go by key. With `skip`, MongoDB would walk past all earlier todos, and a todo that is deleted meanwhile
        would shift another out of sight."""
        query = read_query({"limit": limit_field, "done": boolean, "after": after_field})
        limit = query.pop("limit", 50)
        wanted = {"owner_id": owner_id(), **query.pop("after", {}), **query}
        # By time, then by id. Not by id alone: those that different processes make within a second are in no order.
        found = list(db.todos.find(wanted).sort([("created_at", 1), ("_id", 1)]).limit(limit + 1))
        page, more = (
            found[:limit],
            found[limit:],
        )  # The one too many only tells that there is a next page.
        link = None
        if more:
            after = sign(f"{page[-1]['created_at'].isoformat()}_{page[-1]['_id']}")
            link = "/todos?" + urlencode({**request.args, "after": after})
        return {"todos": [represent(todo) for todo in page], "next": link}

    @jwt_required()
    def post(self):
        """Add a todo, answer 201 with it. Access token. Aborts with 400."""
        new = read_body(FIELDS, required=("name",))
        now = datetime.now(UTC).replace(tzinfo=None)  # As PyMongo gives it back.
        todo = {"description": "", "done": False, **new, "owner_id": owner_id(), "created_at": now}
        db.todos.insert_one(todo)
        # The user may have been deleted since the token was checked. Then it is up to us to delete this one too.
        if [get_jwt_identity()] in BLACKLIST:
            db.todos.delete_one({"_id": todo["_id"]})
            raise RevokedTokenError(get_jwt_header(), get_jwt())
        return represent(todo), 201, {"Location": f"/todos/{todo['_id']}"}
