"""Todos: add, list, look at, change, delete. Nobody reaches a todo of somebody else."""

import re
from datetime import datetime, timezone
from urllib.parse import urlencode

from bson import ObjectId
from flask import request
from flask_jwt_extended import get_jwt, get_jwt_header, get_jwt_identity, jwt_required
from flask_jwt_extended.exceptions import RevokedTokenError
from flask_restful import Resource, abort
from pymongo import ReturnDocument

import db
from blacklist import BLACKLIST
from resources.fields import boolean, read_body, read_query, string


def name_field(value):
    """Check a todo's name: 1 to 200 characters, and not only white space."""
    string(value, shortest=1, longest=200)
    if value.strip() == "":
        raise ValueError("Must not be blank.")
    return value


def description_field(value):
    """Check a todo's description: up to 10,000 characters."""
    return string(value, longest=10_000)


FIELDS = {"name": name_field, "description": description_field, "done": boolean}


def represent(todo):
    """A todo as the client sees it, built field by field so that nothing else gets out."""
    return {
        "id": str(todo["_id"]),
        "name": todo["name"],
        "description": todo["description"],
        "done": todo["done"],
        "created_at": time_text(todo["created_at"]),
    }


def time_text(time):
    """A time as RFC 3339 writes it, such as 2026-11-22T15:45:11.123Z."""
    # The Z means UTC. PyMongo gives UTC, in a datetime that does not say so.
    return time.isoformat(timespec="milliseconds") + "Z"


def owner_id():
    """The id of the user whose token came with the request."""
    return ObjectId(get_jwt_identity())


def own(todo_id):
    """The filter that finds this todo if it is the caller's. Aborts with 404 if it is no id at all.

    Look-up and ownership are one query. With two, somebody who forgets the second one lets
    everybody in.
    """
    if not ObjectId.is_valid(todo_id):
        abort(404, message="Todo not found.")
    return {"_id": ObjectId(todo_id), "owner_id": owner_id()}


def found(todo):
    """The todo that a query has given. Aborts with 404 if it has given none.

    A todo of somebody else gets the very answer of one that does not exist. A 403 would tell that
    it is there.
    """
    if todo is None:
        abort(404, message="Todo not found.")
    return todo


class Todo(Resource):
    """/todos/<todo_id>: one of the caller's todos."""

    @jwt_required()
    def get(self, todo_id):
        """Answer with the todo. Access token. Aborts with 404."""
        todo = db.todos().find_one(own(todo_id))
        return represent(found(todo))

    @jwt_required()
    def put(self, todo_id):
        """Change the given fields, keep the others, answer with the todo. Access token.

        Aborts with 400 or 404.
        """
        changes = read_body(FIELDS)
        if not changes:
            abort(400, message="Give at least one of name, description and done.")
        # One atomic operation: of two simultaneous changes of different fields none is lost.
        todo = db.todos().find_one_and_update(
            own(todo_id), {"$set": changes}, return_document=ReturnDocument.AFTER
        )
        return represent(found(todo))

    @jwt_required()
    def delete(self, todo_id):
        """Delete the todo. Access token. Aborts with 404."""
        todo = db.todos().find_one_and_delete(own(todo_id))
        found(todo)
        return {"message": "Todo deleted."}


def limit_field(value):
    """Check the size of a page: a number from 1 to 100, in plain digits."""
    if not re.fullmatch("[1-9][0-9]?|100", string(value)):
        raise ValueError("Must be a number from 1 to 100.")
    return int(value)


def after_field(value):
    """Check an `after`: the place of the last todo that the client has seen, from `next_link`.

    Returns its time and its id. It needs no signature: whoever makes one up sees a place in their
    own list, and nothing else.
    """
    created_at, _, last_id = string(value).partition("_")
    try:
        created_at = datetime.strptime(created_at, "%Y-%m-%dT%H:%M:%S.%fZ")
    except ValueError:
        raise ValueError("Must come from the next link of a page.") from None
    if not ObjectId.is_valid(last_id):
        raise ValueError("Must come from the next link of a page.")
    return created_at, ObjectId(last_id)


def next_link(last):
    """The path and query of the page that comes after the todo `last`."""
    place = f"{time_text(last['created_at'])}_{last['_id']}"
    return "/todos?" + urlencode({**request.args, "after": place})


class TodoList(Resource):
    """/todos: all of the caller's todos."""

    @jwt_required()
    def get(self):
        """Answer with one page, oldest first, and the link to the next. Access token.

        Aborts with 400.
        """
        query = read_query({"limit": limit_field, "done": boolean, "after": after_field})
        limit = query.get("limit", 50)

        wanted = {}
        if "done" in query:
            wanted["done"] = query["done"]
        if "after" in query:
            created_at, last_id = query["after"]
            # Later than the last one seen, or of the same moment and with a greater id. The first
            # line lets MongoDB jump to that moment in its index.
            wanted["created_at"] = {"$gte": created_at}
            wanted["$or"] = [{"created_at": {"$gt": created_at}}, {"_id": {"$gt": last_id}}]
        # Last, so that nothing above can put somebody else in its place.
        wanted["owner_id"] = owner_id()

        # By time, and by id where the time is the same. Not by id alone: ids that different
        # processes make within a second are in no order. Not with `skip`: MongoDB would walk past
        # all earlier todos, and when one of them is deleted another would slip out of sight.
        todos = db.todos().find(wanted).sort([("created_at", 1), ("_id", 1)])
        # One more than the page holds: if it is there, there is a next page.
        todos = list(todos.limit(limit + 1))
        page = todos[:limit]
        link = None
        if len(todos) > limit:
            link = next_link(page[-1])
        return {"todos": [represent(todo) for todo in page], "next": link}

    @jwt_required()
    def post(self):
        """Add a todo, answer 201 with it. Access token. Aborts with 400."""
        fields = read_body(FIELDS, required=["name"])
        todo = {
            "owner_id": owner_id(),
            "name": fields["name"],
            "description": fields.get("description", ""),
            "done": fields.get("done", False),
            # In UTC, and without a time zone: this is how PyMongo gives it back later.
            "created_at": datetime.now(timezone.utc).replace(tzinfo=None),
        }
        # PyMongo adds the `_id` to the dictionary.
        db.todos().insert_one(todo)
        refuse_if_deleted_meanwhile(todo)
        return represent(todo), 201, {"Location": f"/todos/{todo['_id']}"}


def refuse_if_deleted_meanwhile(todo):
    """Take a todo out again if its user was deleted while it was being added.

    The token was checked before the insert. A deletion that came in between has already deleted the
    user's todos, and would leave this one behind for ever. It revokes the password's id before it
    deletes anything, so either it finds this todo or we find the id revoked.
    """
    claims = get_jwt()
    if not BLACKLIST.isdisjoint([claims["password_id"]]):
        db.todos().delete_one({"_id": todo["_id"]})
        raise RevokedTokenError(get_jwt_header(), claims)
