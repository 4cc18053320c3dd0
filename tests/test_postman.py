"""The Postman collection: it runs green, it can fail, and it has all that the API has."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from helpers import (
    CLEAN,
    COLLECTION,
    ERROR_CODES,
    PATH,
    README,
    REQUESTS,
    ROOT,
    Server,
    User,
    keep_what_is_new_each_time,
    normalised,
    procfile_command,
    served,
)

from app import app

NPX = shutil.which("npx", path=CLEAN["PATH"])
needs_npx = pytest.mark.skipif(not NPX, reason="newman needs npx, which comes with Node.js")

NOT_TO_BE_PROVOKED = {
    "internal_error": "takes a bug in the server",
    "database_unavailable": "takes a MongoDB that is away",
    "server_busy": "takes many logins at the same moment",
    "token_expired": "takes a wait of 15 minutes, or the server's secret",
}
DEVELOPMENT = pytest.param([sys.executable, "app.py"], id="development", marks=pytest.mark.slow)


@pytest.fixture(params=[pytest.param(procfile_command(), id="production"), DEVELOPMENT])
def each_server(request, mongod, database, tmp_path):
    """A production server with two workers, then the developer's."""
    server = Server(request.param, tmp_path / "log", mongod.uri, WEB_CONCURRENCY="2").wait()
    yield server
    server.kill()


def newman(url, tmp_path, collection=PATH):
    """Run a collection with the command of the README; return the process and newman's report."""
    command = re.search(r"^npx (.* run) \S+$", README, re.MULTILINE)[
        1
    ].split()  # Names the version, once.
    report = tmp_path / "report.json"
    options = [
        "--env-var",
        f"url={url}",
        "--reporters",
        "cli,json",
        "--reporter-json-export",
        report,
    ]
    done = subprocess.run(
        [NPX, *command, collection, *options],
        cwd=ROOT,
        env=CLEAN,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert report.exists(), done.stdout + done.stderr
    return done, json.loads(report.read_text(encoding="utf-8"))["run"]


@needs_npx
def test_runs_green_twice_and_leaves_the_database_as_it_was(
    each_server, database, tmp_path, update
):
    for name in ("alice", "bob"):
        User(each_server, name).add()
    before = stored(database)
    for _ in range(2):
        done, run = newman(each_server.url, tmp_path)
        assert done.returncode == 0 and not run["failures"], done.stdout
        # What a script sends stands in the report too, before the request itself and by its name.
        last = {execution["item"]["name"]: execution for execution in run["executions"]}
        assert list(last) == [item["name"] for item in REQUESTS]
        for execution, item in zip(last.values(), REQUESTS, strict=True):
            kinds = {check["assertion"].split(":")[0] for check in execution["assertions"]}
            assert kinds == {"status", "headers", "body"}, item["name"]
            assert_example_is_what_came(item, execution["response"], update)
        assert stored(database) == before
    counts = [run["stats"][kind]["total"] for kind in ("requests", "assertions")]
    assert "{} requests, {} assertions, and none failed".format(*counts) in " ".join(README.split())


def stored(database):
    """All users and todos. Not the blacklist: what is revoked stays so until it has expired."""
    return list(database.users.find()), list(database.todos.find())


def assert_example_is_what_came(item, response, update):
    """The answer that is saved with a request is what came, but for what is new each time."""
    [example] = item["response"]
    assert (example["code"], example["status"].upper()) == (
        response["code"],
        response["status"].upper(),
    )
    came = json.loads(bytes(response["stream"]["data"]))
    if comparable(json.loads(example["body"])) != comparable(came):
        assert update, (
            f"The example beside {item['name']!r} is not what comes: {came}. If what comes is"
            " right, write it down: python -m pytest tests/test_postman.py --update"
        )
        # The old ids, also for the example's headers: its `Location` names one.
        example["body"] = keep_what_is_new_each_time(example["body"], json.dumps(came))
        text = json.dumps(COLLECTION, indent=2, ensure_ascii=False)
        PATH.write_text(text + "\n", encoding="utf-8")


def comparable(body):
    return re.sub(r"(alice|bob)-[\w-]{36}", r"\1", normalised(json.dumps(body, sort_keys=True)))


@needs_npx
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("status", "have.status(201)", "have.status(299)"),
        ("headers", "no-store", "public"),
        ("body", "User created successfully.", "Welcome."),
    ],
)
def test_assertion_that_does_not_hold_fails_the_run(api, tmp_path, kind, right, wrong):
    broken = tmp_path / "broken.json"
    # The first place is in a script: the examples come after it.
    broken.write_text(PATH.read_text(encoding="utf-8").replace(right, wrong, 1), encoding="utf-8")
    done, run = newman(api.url, tmp_path, broken)
    assert done.returncode == 1
    assert {failure["error"]["test"].split(":")[0] for failure in run["failures"]} == {kind}


def test_has_every_method_of_every_resource():
    adapter = app.url_map.bind("")
    there = {
        (rule.endpoint, method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD"}
    }
    assert {served(adapter, item) for item in REQUESTS if item["response"][0]["code"] < 300} - {
        None
    } == there


def test_has_every_error_code_that_a_client_can_provoke():
    provoked = {json.loads(item["response"][0]["body"]).get("error") for item in REQUESTS} - {None}
    assert not provoked & NOT_TO_BE_PROVOKED.keys()
    assert provoked | NOT_TO_BE_PROVOKED.keys() == ERROR_CODES.keys()


def test_needs_nothing_but_the_url():
    text = PATH.read_text(encoding="utf-8")
    used = set(re.findall(r"{{(\w+)}}", text)) | set(
        re.findall(r'collectionVariables\.\w+\(\\"(\w+)', text)
    )
    variables = {variable["key"]: variable["value"] for variable in COLLECTION["variable"]}
    # Scripts set these two for a single request.
    assert used - {"too_much", "victim"} == variables.keys()
    assert variables["url"] == "http://127.0.0.1:5000"
    assert all(item["request"]["url"].startswith("{{url}}") for item in REQUESTS)


def test_every_request_is_described():
    assert all(item["request"]["description"] for item in REQUESTS)
    assert (
        COLLECTION["info"]["schema"]
        == "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
    )


def test_holds_no_token():
    assert not re.search(r"eyJ[\w-]", PATH.read_text(encoding="utf-8"))
