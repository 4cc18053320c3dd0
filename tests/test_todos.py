"""Todos: for each verb that it works, no token, missing, someone else's, bad input. And paging."""

import datetime
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from bson import ObjectId
from helpers import User, assert_error

MISSING = "0123456789abcdef01234567"
NO_IDS = [
    "1",
    "x" * 24,
    MISSING[:-1],
    MISSING + "0",
    MISSING[:-1] + "g",
    "%20" + MISSING,
    "{}",
    "$where",
    "é" * 12,
    "%00" * 12,
]
BAD_FIELDS = [
    ({"name": ""}, "name"),
    ({"name": "x" * 201}, "name"),
    ({"name": "   "}, "name"),
    ({"name": "\u2003\t\n"}, "name"),
    ({"name": None}, "name"),
    ({"name": 5}, "name"),
    ({"name": ["milk"]}, "name"),
    ({"name": {"$ne": ""}}, "name"),
    ({"name": "x", "description": "x" * 10_001}, "description"),
    ({"name": "x", "description": None}, "description"),
    ({"name": "x", "description": 1.5}, "description"),
    ({"name": "x", "done": "true"}, "done"),
    ({"name": "x", "done": 1}, "done"),
    ({"name": "x", "done": None}, "done"),
    ({"name": "x", "id": MISSING}, "id"),
    ({"name": "x", "owner_id": MISSING}, "owner_id"),
    ({"name": "x", "created_at": "2026-11-22T15:45:11.123Z"}, "created_at"),
    ({"name": "x", "$set": {"done": True}}, "$set"),
    ({"name": "x", "name.x": 1}, "name.x"),
]

# POST /todos


def test_adding_a_todo_answers_with_it_and_its_place(api, database, alice):
    before = datetime.datetime.now(datetime.UTC)
    response = api.post(
        "/todos", alice.access, json={"name": "milk", "description": "2 litres", "done": True}
    )
    after = datetime.datetime.now(datetime.UTC)
    todo = response.json()
    assert response.status_code == 201
    assert response.headers["Location"] == f"/todos/{todo['id']}"
    assert todo.keys() == {"id", "name", "description", "done", "created_at"}
    assert (todo["name"], todo["description"], todo["done"]) == ("milk", "2 litres", True)
    assert re.fullmatch("[0-9a-f]{24}", todo["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", todo["created_at"])
    assert (
        before - datetime.timedelta(milliseconds=1)
        <= datetime.datetime.fromisoformat(todo["created_at"])
        <= after
    )
    (stored,) = database.todos.find()
    created_at = datetime.datetime.fromisoformat(todo["created_at"]).replace(tzinfo=None)
    assert stored == {
        "_id": ObjectId(todo["id"]),
        "owner_id": ObjectId(alice.id),
        "name": "milk",
        "description": "2 litres",
        "done": True,
        "created_at": created_at,
    }


def test_only_the_name_is_needed(alice):
    todo = alice.add("milk")
    assert (todo["description"], todo["done"]) == ("", False)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "x"},
        {"name": "\U0001f95b" * 200},
        {"name": " milk \x00 "},
        {"name": "x", "description": "\U0001f95b" * 10_000},
        {"name": "x", "description": " \x00\n<script>$where"},
    ],
)
def test_text_is_kept_exactly(api, alice, fields):
    body = json.dumps(
        fields, ensure_ascii=False
    ).encode()  # As UTF-8: spelt "\\ud83e\\udd5b", it would be too large.
    todo = api.post(
        "/todos", alice.access, data=body, headers={"Content-Type": "application/json"}
    ).json()
    assert {name: todo[name] for name in fields} == fields
    assert api.get(f"/todos/{todo['id']}", alice.access).json() == todo


@pytest.mark.parametrize(("fields", "bad"), BAD_FIELDS)
def test_bad_fields_are_a_400_and_add_nothing(api, database, alice, fields, bad):
    response = api.post("/todos", alice.access, json=fields)
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {bad}
    assert not list(database.todos.find())


def test_adding_needs_a_name_and_an_access_token(api, database, alice):
    response = api.post("/todos", alice.access, json={"description": "x"})
    assert_error(response, 400, "bad_request", {"name": "Missing."})
    assert_error(api.post("/todos", json={"name": "x"}), 401, "authorization_required")
    assert_error(api.post("/todos", alice.refresh, json={"name": "x"}), 401, "invalid_token")
    assert not list(database.todos.find())


# GET /todos/<id>


def test_todo_is_shown_to_its_owner(api, alice):
    todo = alice.add()
    response = api.get(f"/todos/{todo['id']}", alice.access)
    assert (response.status_code, response.json()) == (200, todo)
    assert api.get(f"/todos/{todo['id'].upper()}", alice.access).json() == todo


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_stranger_cannot_tell_a_todo_from_one_that_does_not_exist(
    api, database, alice, bob, method
):
    todo, before = bob.add(), database.todos.find_one()
    answers = [
        api.request(
            method,
            f"/todos/{todo_id}",
            alice.access,
            json={"name": "mine"} if method == "PUT" else None,
        )
        for todo_id in (todo["id"], MISSING, *NO_IDS)
    ]
    for answer in answers:
        assert_error(answer, 404, "not_found", "Todo not found.")
        assert answer.content == answers[0].content and answer.headers == answers[0].headers
    assert list(database.todos.find()) == [before]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_todo_needs_an_access_token(api, database, alice, method):
    todo, before = alice.add(), database.todos.find_one()
    path = f"/todos/{todo['id']}"
    assert_error(api.request(method, path, json={"name": "x"}), 401, "authorization_required")
    assert_error(api.request(method, path, alice.refresh, json={"name": "x"}), 401, "invalid_token")
    assert list(database.todos.find()) == [before]


# PUT /todos/<id>


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "bread"},
        {"description": "x"},
        {"done": True},
        {"description": ""},
        {"name": "a", "description": "b", "done": True},
    ],
)
def test_given_fields_are_changed_and_the_rest_stays(api, alice, changes):
    todo, other = alice.add(description="2 litres"), alice.add("other")
    response = api.put(f"/todos/{todo['id']}", alice.access, json=changes)
    assert (response.status_code, response.json()) == (200, {**todo, **changes})
    assert api.get("/todos", alice.access).json()["todos"] == [{**todo, **changes}, other]


@pytest.mark.parametrize(("fields", "bad"), BAD_FIELDS)
def test_bad_changes_are_a_400_and_change_nothing(api, alice, fields, bad):
    todo = alice.add()
    response = api.put(f"/todos/{todo['id']}", alice.access, json=fields)
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {bad}
    assert api.get(f"/todos/{todo['id']}", alice.access).json() == todo


def test_changing_nothing_is_a_400(api, alice):
    response = api.put(f"/todos/{alice.add()['id']}", alice.access, json={})
    assert_error(response, 400, "bad_request", "Give at least one of name, description and done.")


def test_simultaneous_changes_of_different_fields_are_all_kept(api, alice):
    for _ in range(5):
        path = f"/todos/{alice.add()['id']}"
        changes = [{"name": "bread"}, {"description": "brown"}, {"done": True}]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda change: api.put(path, alice.access, json=change), changes))
        assert (
            api.get(path, alice.access).json().items()
            >= {"name": "bread", "description": "brown", "done": True}.items()
        )


# DELETE /todos/<id>


def test_deleted_todo_is_gone(api, database, alice):
    todo, other = alice.add(), alice.add("other")
    response = api.delete(f"/todos/{todo['id']}", alice.access)
    assert (response.status_code, response.json()) == (200, {"message": "Todo deleted."})
    assert_error(api.delete(f"/todos/{todo['id']}", alice.access), 404, "not_found")
    assert_error(api.get(f"/todos/{todo['id']}", alice.access), 404, "not_found")
    assert [str(stored["_id"]) for stored in database.todos.find()] == [other["id"]]


# GET /todos


def fill(
    database,
    user,
    count,
    start=datetime.datetime(2026, 1, 1),
    step=datetime.timedelta(milliseconds=1),
):
    """Store many todos of a user, in a shuffled order; return their names as a list shows them."""
    todos = [
        {
            "_id": ObjectId(),
            "owner_id": ObjectId(user.id),
            "name": str(number),
            "description": "",
            "done": number % 3 == 0,
            "created_at": start + step * number,
        }
        for number in range(count)
    ]
    database.todos.insert_many(sorted(todos, key=lambda todo: hash(todo["_id"])))
    return [
        todo["name"] for todo in sorted(todos, key=lambda todo: (todo["created_at"], todo["_id"]))
    ]


def pages(api, user, path):
    """The names on each page, following the links."""
    while path:
        response = api.get(path, user.access)
        assert response.status_code == 200, response.text
        assert response.json().keys() == {"todos", "next"}
        yield [todo["name"] for todo in response.json()["todos"]]
        path = response.json()["next"]


def test_list_holds_the_callers_own_oldest_first(api, alice, bob):
    mine = [alice.add("first"), alice.add("second", description="x", done=True)]
    bob.add("not mine")
    response = api.get("/todos", alice.access)
    assert (response.status_code, response.json()) == (200, {"todos": mine, "next": None})


def test_list_is_in_order_of_time_and_not_of_id(api, database, alice):
    older = {"_id": ObjectId("f" * 24), "created_at": datetime.datetime(2026, 1, 1)}
    newer = {"_id": ObjectId("0" * 24), "created_at": datetime.datetime(2026, 1, 2)}
    common = {"owner_id": ObjectId(alice.id), "name": "x", "description": "", "done": False}
    database.todos.insert_many([older | common, newer | common])
    assert [todo["id"] for todo in api.get("/todos", alice.access).json()["todos"]] == [
        "f" * 24,
        "0" * 24,
    ]


@pytest.mark.parametrize(
    ("query", "sizes"),
    [
        ("", [50, 50, 20]),
        ("?limit=100", [100, 20]),
        ("?limit=60", [60, 60]),
        ("?limit=1", 120 * [1]),
    ],
)
def test_pages_have_the_size_asked_for_and_the_last_has_no_next(api, database, alice, query, sizes):
    names = fill(database, alice, 120)
    found = list(pages(api, alice, "/todos" + query))
    assert [len(page) for page in found] == sizes
    assert sum(found, []) == names


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("done", ["true", "false"])
def test_filter_holds_on_every_page(api, database, alice, done, step):
    fill(database, alice, 50, step=datetime.timedelta(milliseconds=step))
    wanted = [str(number) for number in range(50) if (number % 3 == 0) == (done == "true")]
    found = list(pages(api, alice, f"/todos?done={done}&limit=5"))
    assert sorted(sum(found, [])) == sorted(wanted)
    assert step == 0 or sum(found, []) == wanted


def test_next_keeps_limit_and_filter(api, database, alice):
    fill(database, alice, 10)
    link = api.get("/todos?limit=2&done=false", alice.access).json()["next"]
    assert re.fullmatch(r"/todos\?limit=2&done=false&after=[\w.%-]+", link)
    assert "done" not in api.get("/todos?limit=2", alice.access).json()["next"]


def test_todos_of_the_same_millisecond_are_each_listed_once(api, database, alice):
    names = fill(database, alice, 23, step=datetime.timedelta(0))
    assert sum(pages(api, alice, "/todos?limit=4"), []) == names


def test_what_existed_throughout_is_listed_once_whatever_happens_meanwhile(api, database, alice):
    names = fill(database, alice, 40)
    listed = []
    for number, page in enumerate(pages(api, alice, "/todos?limit=5")):
        listed += page
        # Delete one already listed, the very last one listed, and one still to come. Add one before
        # and one after.
        database.todos.delete_many({"name": {"$in": [page[0], page[-1], str(39 - number)]}})
        fill(database, alice, 1, start=datetime.datetime(2025, 1, 1))
        alice.add("new")
        if number == 5:
            break
    gone = {str(39 - number) for number in range(6)}
    assert [name for name in listed if name not in gone] == [
        name for name in names[:30] if name not in gone
    ]


@pytest.mark.parametrize(
    ("query", "bad"),
    [
        (f"limit={value}", "limit")
        for value in (
            "0",
            "101",
            "-1",
            "+5",
            "1.0",
            "ten",
            "",
            "%D9%A3",
            "9" * 5000,
            "1&limit=2",
            "1%00",
        )
    ]
    + [(f"done={value}", "done") for value in ("True", "1", "", "true&done=true")]
    + [
        (f"after={value}", "after")
        for value in ("", "x", "WyJhIiwgImIiXQ.x", "%FF", "a.b.c", "x" * 5000)
    ]
    + [
        ("skip=5", "skip"),
        ("owner_id=x", "owner_id"),
        ("done[$ne]=true", "done[$ne]"),
        ("$where=1", "$where"),
    ],
)
def test_bad_query_is_a_400(api, alice, query, bad):
    response = api.get("/todos?" + query, alice.access)
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {bad}


def test_all_bad_parameters_are_named(api, alice):
    response = api.get("/todos?limit=0&done=x&after=y&z=1", alice.access)
    assert response.json()["message"].keys() == {"limit", "done", "after", "z"}


def test_cursor_that_was_changed_is_a_400(api, database, alice):
    fill(database, alice, 3)
    link = api.get("/todos?limit=1", alice.access).json()["next"]
    assert api.get(link, alice.access).status_code == 200
    changes = [
        link[:-1],
        link + "x",
        link[:-1] + "g",
        link.replace("after=", "after=x"),
        link.replace("after=2026", "after=26"),
        link.replace("after=2026", "after=99999"),
        link.replace("after=2026-01", "after=2026-13"),
        link.replace("Z_", "_"),
        link.replace("_", ""),
    ]
    for changed in changes:
        assert changed != link
        assert_error(api.get(changed, alice.access), 400, "bad_request")


def test_cursor_of_somebody_else_or_made_up_shows_a_place_in_the_own_list(
    api, database, alice, bob
):
    names = fill(database, alice, 3)
    fill(database, bob, 3)
    own = api.get("/todos", bob.access).json()["todos"]
    link = api.get("/todos?limit=2", alice.access).json()["next"]
    listed = api.get(link, bob.access).json()["todos"]
    assert listed and listed == own[-len(listed) :]
    begin = f"/todos?after=0001-01-01T00:00:00.000Z_{'0' * 24}"
    end = f"/todos?after=9999-12-31T23:59:59.999Z_{'f' * 24}"
    assert [todo["name"] for todo in api.get(begin, alice.access).json()["todos"]] == names
    assert api.get(end, alice.access).json() == {"todos": [], "next": None}


def test_listing_needs_an_access_token(api, alice):
    assert_error(api.get("/todos"), 401, "authorization_required")
    assert_error(api.get("/todos", alice.refresh), 401, "invalid_token")


def test_todos_added_by_several_processes_within_a_second_are_listed_in_order_and_once(api, alice):
    """Each todo that was answered before another was sent comes before it."""
    with ThreadPoolExecutor(8) as pool:
        batches = [
            list(pool.map(lambda number: alice.add(f"{batch}-{number}")["name"], range(8)))
            for batch in range(6)
        ]
    listed = sum(pages(api, alice, "/todos?limit=7"), [])
    assert sorted(listed) == sorted(sum(batches, []))
    assert [name.split("-")[0] for name in listed] == [
        str(batch) for batch in range(6) for _ in range(8)
    ]


# What the queries cost.


def examined(database, run):
    """Run something; return (keys, documents, plan) of every query that it made on the todos."""
    database.command("profile", 2)
    try:
        run()
    finally:
        database.command("profile", 0)
    queries = list(database["system.profile"].find({"ns": "test.todos", "op": {"$ne": "insert"}}))
    database.drop_collection("system.profile")
    return [
        (query.get("keysExamined"), query.get("docsExamined"), query["planSummary"])
        for query in queries
    ]


@pytest.mark.parametrize("query", ["?limit=10", "?limit=10&done=true"])
def test_every_page_costs_the_same(api, database, alice, bob, query):
    fill(database, alice, 3000), fill(database, bob, 3000)
    path, costs = "/todos" + query, []
    for _ in range(30):
        response = []
        costs += examined(database, lambda: response.append(api.get(path, alice.access).json()))
        path = response[0]["next"]
    assert len(costs) == 30
    for keys, documents, plan in costs:
        assert keys <= 13 and documents <= 13 and plan.startswith("IXSCAN"), costs


def test_every_query_is_served_by_an_index(api, database, alice):
    todo = alice.add()
    path = f"/todos/{todo['id']}"

    def everything():
        (
            api.get(path, alice.access),
            api.put(path, alice.access, json={"done": True}),
            api.delete(path, alice.access),
        )
        api.get("/todos?done=true", alice.access), api.delete("/user/alice", alice.access)

    plans = [plan for _, _, plan in examined(database, everything)]
    assert len(plans) == 5
    assert all(plan.startswith(("IXSCAN", "IDHACK", "EXPRESS")) for plan in plans), plans


def test_indexes_are_made_by_the_app(api, database, alice):
    def keys(name):
        indexes = database[name].index_information().values()
        return {tuple(field for field, _ in index["key"]): index for index in indexes}

    assert keys("users")[("username",)]["unique"]
    assert keys("blacklist")[("expires_at",)]["expireAfterSeconds"] == 0
    assert {("owner_id", "created_at", "_id"), ("owner_id", "done", "created_at", "_id")} < keys(
        "todos"
    ).keys()


def test_users_do_not_share_names_of_todos(api, alice):
    bob = User(api, "bob")
    assert alice.add("same")["id"] != bob.add("same")["id"]
