"""Each filter of GET /todos is in the API reference, and has an index.

A filter without an index passes every test of its results. It reads all of the user's todos to find
a few of them, which is noticed when there are many.
"""

from datetime import datetime

import pytest
from bson import ObjectId
from support.clients import User
from support.documents import README, table
from support.processes import profiled

# For each filter: its value in a query, and the fields of a todo that it finds.
EXAMPLES = {
    "done": ("true", {"done": True}),
}


# The parameters that the API reference names.
SHOWN = {row[0] for row in table("parameter", README.chapter("API reference"))}


@pytest.fixture
def parameters(api, alice):
    """The names of the parameters that GET /todos accepts.

    Of those that the reference names, and of the fields of a todo, by which a filter is called.
    """
    names = SHOWN | alice.add().keys()
    # No page is of size "x", so the response names what is wrong.
    bad = api.get("/todos", alice.access, params=dict.fromkeys(names, "x")).json()["message"]
    return {name for name in names if bad.get(name) != "Unknown field."}


def test_reference_names_every_parameter_of_the_list(parameters):
    assert SHOWN == parameters, "Add the parameter to the API reference in README.md, by hand"


def test_every_filter_has_an_example(parameters):
    filters = parameters - {"limit", "after"}
    assert filters == EXAMPLES.keys(), "Add an example of the filter to EXAMPLES, in this file"


@pytest.mark.parametrize("name", EXAMPLES)
def test_filter_reads_only_what_it_finds(api, database, name):
    value, fields = EXAMPLES[name]
    # A user who registers, because a registration creates the indexes.
    carol = User(api, "carol")
    common = {
        "owner_id": ObjectId(carol.id),
        "name": "milk",
        "description": "",
        "done": False,
        "created_at": datetime(2026, 1, 1),
    }
    database.todos.insert_many({**common} for _ in range(300))
    database.todos.insert_many({**common, **fields} for _ in range(3))
    recorded = profiled(database, lambda: api.get(f"/todos?{name}={value}&limit=5", carol.access))
    [query] = [operation for operation in recorded if operation["ns"] == "test.todos"]
    assert query["nreturned"] == 3
    assert query["docsExamined"] <= 3, (
        f"MongoDB has read {query['docsExamined']} todos to find 3. In db.create_indexes, add an"
        f" index on owner_id, {name}, created_at and _id"
    )
