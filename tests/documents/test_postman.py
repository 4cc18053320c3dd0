"""The Postman collection passes, and has every route and every error that a client sees.

`--update` writes its examples, and the lists of a todo's fields in its scripts.
"""

import json
import re
import shutil
import subprocess

import pytest
from support.clients import ERROR_CODES, HEADERS, ROUTES, InsertedUser
from support.documents import (
    COLLECTION_PATH,
    README,
    collection,
    endpoint,
    keep_old_values,
    normalised,
    requests_of,
)
from support.processes import CLEAN, ROOT, stored

from app import app

NPX = shutil.which("npx", path=CLEAN["PATH"])
needs_npx = pytest.mark.skipif(not NPX, reason="newman needs npx, which comes with Node.js")

# The error codes that no request of the collection gets.
NOT_IN_THE_COLLECTION = {
    "internal_error": "needs a bug in the server",
    "database_unavailable": "needs an outage of MongoDB",
    "server_busy": "needs many concurrent logins",
    "token_expired": "needs 15 minutes, or the secret of the server",
}
# The headers of a connection, and those whose value is different each time.
NOT_IN_EXAMPLES = {"Connection", "Date", "Server"}


PRODUCTION = pytest.param("server", id="production")
DEVELOPMENT = pytest.param("development_server", id="development", marks=pytest.mark.slow)


@pytest.fixture(params=[PRODUCTION, DEVELOPMENT])
def each_server(request, database):
    """A production server with two workers, then the development server."""
    return request.getfixturevalue(request.param)


def newman(url, tmp_path):
    """Run the collection with the command of the README; return the process and newman's report."""
    # `npx --yes newman@VERSION run`: the README is the only place that names the version.
    command = re.search(r"^npx (.* run) \S+$", README.text, re.MULTILINE)[1].split()
    report = tmp_path / "report.json"
    options = ["--env-var", f"url={url}"]
    options += ["--reporters", "cli,json", "--reporter-json-export", report]
    done = subprocess.run(
        [NPX, *command, COLLECTION_PATH, *options],
        cwd=ROOT,
        env=CLEAN,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert report.exists(), done.stdout + done.stderr
    return done, json.loads(report.read_text(encoding="utf-8"))["run"]


@needs_npx
def test_collection_passes_twice_and_leaves_users_and_todos_unchanged(
    each_server, database, tmp_path, update
):
    todo = InsertedUser(each_server, database, "alice").add()
    if update:
        write_fields(todo)
    before = stored(database)
    for _ in range(2):
        done, run = newman(each_server.url, tmp_path)
        assert done.returncode == 0 and not run["failures"], done.stdout
        assert stored(database) == before
        # A script's own requests are in the report before the request, under the same name.
        last = {execution["item"]["name"]: execution for execution in run["executions"]}
        assert list(last) == [item["name"] for item in requests_of(collection())]
        for execution in last.values():
            kinds = {check["assertion"].split(":")[0] for check in execution["assertions"]}
            assert kinds == {"status", "headers", "body"}, execution["item"]["name"]
    if update:
        write_examples(last)
        write_counts(run)
    assert differing_examples(last) == {}, (
        "These requests get other responses than their examples show. If the new ones are right,"
        " write them into the collection: python -m pytest tests/documents --update"
    )
    assert counts(run) in " ".join(README.text.split())


def counts(run):
    """Return how the README says what a run consists of."""
    requests, assertions = (run["stats"][kind]["total"] for kind in ("requests", "assertions"))
    return f"{requests} requests, {assertions} assertions"


def differing_examples(executions):
    """Return what each request gets whose saved example shows something else."""
    different = {}
    for item in requests_of(collection()):
        response = response_to(item, executions)
        if comparable(item["response"][0]) != comparable(response):
            different[item["name"]] = response
    return different


def response_to(item, executions):
    """Return the response to a request of the collection, in the form of a saved example."""
    response = executions[item["name"]]["response"]
    headers = [
        {"key": header["key"], "value": header["value"]}
        for header in response["header"]
        if header["key"] not in NOT_IN_EXAMPLES
    ]
    return {
        "name": f"{response['code']} {response['status'].title()}".replace(" Ok", " OK"),
        "status": response["status"],
        "code": response["code"],
        "header": headers,
        "body": bytes(response["stream"]["data"]).decode(),
    }


def comparable(example):
    """Return what the response and its example must have in common."""
    headers = {header["key"].title(): header["value"] for header in example["header"]}
    # Werkzeug lists the methods in any order.
    headers["Allow"] = sorted(headers.get("Allow", "").split(", "))
    if "Retry-After" in headers:
        headers["Retry-After"] = "some seconds"
    text = json.dumps([example["code"], headers, example["body"]], sort_keys=True)
    # The collection generates the usernames.
    return re.sub(r"(alice|bob)-[\w-]{36}", r"\1", normalised(text))


# What --update writes.


def write_fields(todo):
    """Write the fields of a todo into the scripts that list them."""
    text = COLLECTION_PATH.read_text(encoding="utf-8")
    names = ", ".join(f'\\"{name}\\"' for name in todo)
    text = re.sub(r'(all\.keys\()\\"id\\", \\"name\\"[^)]*', lambda found: found[1] + names, text)
    COLLECTION_PATH.write_text(text, encoding="utf-8")


def write_examples(executions):
    """Write the responses into the examples of the collection."""
    new = collection()
    for item in requests_of(new):
        [example] = item["response"]
        example["originalRequest"] = original(item["request"])
        response = response_to(item, executions)
        if comparable(example) != comparable(response):
            shown = json.dumps([example["header"], example["body"]])
            came = json.dumps([response["header"], response["body"]])
            response["header"], response["body"] = json.loads(keep_old_values(shown, came))
            example |= response
    text = json.dumps(new, indent=2, ensure_ascii=False)
    COLLECTION_PATH.write_text(text + "\n", encoding="utf-8")


def original(request):
    """Return what an example holds of its request."""
    return {key: request[key] for key in ("method", "header", "body", "url") if key in request}


def write_counts(run):
    """Write the number of requests and assertions into the README."""
    if counts(run) not in " ".join(README.text.split()):
        text = re.sub(r"\d+\s+requests,\s+\d+\s+assertions", counts(run), README.text)
        README.path.write_text(text, encoding="utf-8")


# What the collection holds.

COLLECTION = collection()
REQUESTS = requests_of(COLLECTION)


def test_collection_has_every_method_of_every_url():
    adapter = app.url_map.bind("")
    succeeding = [item for item in REQUESTS if item["response"][0]["code"] < 300]
    routes = {(adapter.match(route.path, route.method)[0], route.method) for route in ROUTES}
    assert {endpoint(adapter, item) for item in succeeding} - {None} == routes


def test_collection_has_every_error_code_that_it_can_provoke():
    provoked = {json.loads(item["response"][0]["body"]).get("error") for item in REQUESTS} - {None}
    assert provoked == ERROR_CODES.keys() - NOT_IN_THE_COLLECTION.keys()


def test_collection_needs_only_the_url():
    text = COLLECTION_PATH.read_text(encoding="utf-8")
    used = set(re.findall(r"{{(\w+)}}", text))
    used |= set(re.findall(r'collectionVariables\.\w+\(\\"(\w+)', text))
    variables = {variable["key"]: variable["value"] for variable in COLLECTION["variable"]}
    # Scripts set these two, for one request each.
    assert used - {"too_much", "victim"} == variables.keys()
    assert variables["url"] == "http://127.0.0.1:5000"


@pytest.mark.parametrize("item", REQUESTS, ids=lambda item: item["name"])
def test_request_has_a_description_an_example_and_a_test_of_its_status(item):
    request = item["request"]
    assert request["url"].startswith("{{url}}")
    assert request["description"]
    [example] = item["response"]
    assert f"pm.response.to.have.status({example['code']})" in json.dumps(item["event"])
    assert example["originalRequest"] == original(request)
    headers = {header["key"]: header["value"] for header in example["header"]}
    assert headers.items() >= HEADERS.items()
    assert "Content-Length" in headers


def test_collection_holds_no_token():
    assert not re.search(r"eyJ[\w-]", COLLECTION_PATH.read_text(encoding="utf-8"))


def test_collection_registers_few_users():
    """A client address can register 100 an hour, and a learner runs the collection repeatedly."""
    registrations = [item for item in REQUESTS if item["request"]["url"].endswith("/register")]
    assert len(registrations) < 10
