"""Load the API, and print how fast it responds.

    python tests/benchmark.py                 start a MongoDB and the Procfile's server, load each
                                              endpoint, log in a thousand times, and read during a
                                              flood of logins
    python tests/benchmark.py --url URL       load your own instance that is running already, as a
                                              user that is created for it
    python tests/benchmark.py --floor FILE    compare with a bare WSGI file that does the same work
                                              on the same database
    python tests/benchmark.py --growth        compare a collection of a million todos with one of a
                                              thousand

wrk generates the load. It is one small C program, so it takes little of the processor time that it
measures, and it needs no Python package. A response after more than 2 seconds counts as an error.
"""

import argparse
import contextlib
import html
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median

import psutil
import requests
from bson import ObjectId
from pymongo import MongoClient

sys.path.insert(
    0, str(Path(__file__).parent.parent)
)  # For the app: Python looks beside this file only.

from support.clients import User
from support.connections import dripping
from support.processes import ROOT, Mongod, Server, free_port, procfile_command, wait_for

CONNECTIONS = 16
# For logins fewer, because each waits for the hashes of the others.
LOGIN_CONNECTIONS = 4
HOW_TO_GET_WRK = """There is no wrk here, which generates the load.
  Debian, Ubuntu:  apt install wrk
  macOS:           brew install wrk
  Windows:         there is none; run this in WSL"""
SETTINGS = dict(
    re.findall(r"^(processes|gevent) = (\d+)$", (ROOT / "uwsgi.ini").read_text(), re.MULTILINE)
)
WORKERS, GREENLETS = int(SETTINGS["processes"]), int(SETTINGS["gevent"])

# `method`, `headers` and `calls` are put before this. The requests are built before the load, not
# during it.
LUA = """
local requests, n = {}, 0
function init()
  for i, call in ipairs(calls) do requests[i] = wrk.format(method, call[1], headers, call[2]) end
end
function request()
  n = n % #requests + 1
  return requests[n]
end
function done(summary, latency)
  local e = summary.errors
  local form = '{"requests": %d, "rate": %f, "p50": %f, "p99": %f, "longest": %f, "errors": %d}'
  print(string.format(form, summary.requests, summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000,
    e.status + e.connect + e.read + e.write + e.timeout))
end
"""


def lua(method, token, calls):
    """Return the wrk script for an endpoint: it sends the (path, body) pairs in `calls` in turn."""
    # A JSON string in plain ASCII is also a Lua string.
    pairs = [
        f"{{{json.dumps(path)}, {json.dumps(body) if body else 'nil'}}}" for path, body in calls
    ]
    headers = ['["Content-Type"] = "application/json"'] + [
        f'["Authorization"] = "Bearer {token}"'
    ] * bool(token)
    values = f'"{method}", {{{", ".join(headers)}}}, {{{", ".join(pairs)}}}'
    return f"local method, headers, calls = {values}\n{LUA}"


def connections_for(name):
    """Return how many connections load an endpoint."""
    return LOGIN_CONNECTIONS if name == "POST /login" else CONNECTIONS


def load(url, endpoint, seconds, connections=CONNECTIONS):
    """Load an endpoint; return requests, rate (per second), p50, p99 (milliseconds), errors."""
    return run_wrk(url, lua(*endpoint), seconds, connections)


def run_wrk(url, script, seconds, connections):
    """Run wrk with a script; return what the script prints at the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "load.lua")
        path.write_text(script)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(path), url]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    # wrk ends before its last responses. The server should be done with them at the next load.
    time.sleep(0.5)
    return json.loads(done.stdout.splitlines()[-1])


def flawless(*arguments):
    """Load an endpoint, and exit if there were errors, because failures can be fast."""
    result = load(*arguments)
    if result["errors"]:
        sys.exit(
            f"\n{result['errors']} of {result['requests']} requests failed,"
            " so there is nothing to compare."
        )
    return result


def measured(name, *arguments):
    """Return one of the measured values of a load without errors."""
    return flawless(*arguments)[name]


class Instance(Server):
    """A server that is running already."""

    def __init__(self, url):
        self.url, self.session = url.rstrip("/"), requests.Session()


class Local(contextlib.ExitStack):
    """A MongoDB in a temporary folder and servers that use it. All of it ends with the block."""

    def __init__(self):
        super().__init__()
        self.folder = Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.mongod = Mongod(self.folder)
        self.callback(self.mongod.kill)

    def serve(self, command, uri=None, port=None):
        """Start a server, and return it without waiting for it."""
        port = port or free_port()
        server = Server(command, self.folder / f"{port}.log", uri or self.mongod.uri, port)
        self.callback(server.stop)
        return server


class Caller(User):
    """A user that exists for the load."""

    def __init__(self, api):
        super().__init__(api, f"benchmark-{secrets.token_hex(4)}", secrets.token_hex(16))
        self.ids = []

    def endpoints(self):
        """Return what can be loaded, by name: the method, the token, and the (path, body) pairs to
        send in turn."""
        # New ones, since an access token may not last through all of the load.
        access, refresh = self.login()
        login = json.dumps({"username": self.name, "password": self.password})
        # Values that change: MongoDB does not write what is there already.
        changes = ['{"done": true}', '{"done": false}']
        todo = json.dumps({"name": "milk", "description": "semi-skimmed", "done": False})
        return {
            "GET /todos?limit=20": ("GET", access, [("/todos?limit=20", None)]),
            "GET /todos/<id>": ("GET", access, [(f"/todos/{i}", None) for i in self.ids]),
            "PUT /todos/<id>": (
                "PUT",
                access,
                [(f"/todos/{i}", change) for change in changes for i in self.ids],
            ),
            "POST /todos": ("POST", access, [("/todos", todo)]),
            "POST /login": ("POST", None, [("/login", login)]),
            "POST /refresh": ("POST", refresh, [("/refresh", None)]),
        }

    def add_todos(self):
        """Add the todos that GET and PUT find."""
        print("adding 100 todos", flush=True)
        self.ids = [self.add(f"todo {number}")["id"] for number in range(100)]

    def delete(self):
        """Delete the user with all todos. Repeat it if there are more todos than the API deletes
        within its 3.5 seconds."""
        print("deleting the user with all todos", flush=True)
        path = f"/user/{self.name}"
        wait_for(lambda: self.api.delete(path, self.login()[0]).status_code == 200, seconds=120)


def run_table(caller, options):
    """Load one endpoint after the other, print the table, write the chart; return whether there
    were no errors."""
    caller.add_todos()
    print(f"{'endpoint':<22}{'requests/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
    results = {}
    for name in caller.endpoints():
        if options.only in name:
            print(f"{name:<22}", end="", flush=True)
            # With tokens of a new session, because a hundred logins end an older one.
            endpoint = caller.endpoints()[name]
            results[name] = result = load(
                caller.api.url, endpoint, options.seconds, connections_for(name)
            )
            print("{rate:10.0f}{p50:9.1f}{p99:9.1f}{errors:8}".format(**result), flush=True)
    options.chart.write_text(chart({name: result["rate"] for name, result in results.items()}))
    print(f"chart: {os.path.relpath(options.chart)}")
    return not any(result["errors"] for result in results.values())


def chart(rates):
    """Return an SVG with one bar for each rate."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{60 + 30 * len(rates)}"'
        ' font-family="sans-serif" font-size="14">',
        '<rect width="100%" height="100%" fill="white"/>',  # To be read in a dark window too.
        '<text x="170" y="30" font-weight="bold">'
        f"Requests per second, {CONNECTIONS} connections</text>",
    ]
    for line, (name, rate) in enumerate(rates.items()):
        y, width = 50 + 30 * line, 400 * rate / max([*rates.values(), 1])
        parts.append(f'<text x="160" y="{y + 15}" text-anchor="end">{html.escape(name)}</text>')
        parts.append(f'<rect x="170" y="{y}" width="{width:.0f}" height="20" fill="#4078c0"/>')
        parts.append(f'<text x="{width + 178:.0f}" y="{y + 15}">{rate:,.0f}</text>')
    return "\n".join([*parts, "</svg>\n"])


def compare(name, first, second, rounds):
    """Take two measurements alternately, because the speed of a machine drifts, and print
    first / second for each pair."""
    print(f"{name:<42}", end="", flush=True)
    ratios = []
    for _ in range(rounds):
        ratios.append(first() / second())
        print(f"{ratios[-1]:6.2f}", end="", flush=True)
    print(f"   median {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def run_all(options):
    """Print the table, and what else matters about a server that has just been started."""
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} processors,"
        f" {WORKERS} workers of {GREENLETS} greenlets,"
    )
    print(
        f"{CONNECTIONS} connections ({LOGIN_CONNECTIONS} for logins),"
        f" {options.seconds} s for each endpoint"
    )
    with Local() as local:
        started = time.perf_counter()
        api = local.serve(procfile_command()).wait()
        boot = time.perf_counter() - started
        caller = Caller(api)
        good = run_table(caller, options)
        print(f"{'boot to the first response':<42}{boot:6.2f} s")
        print(f"{'memory after that and 1,000 more logins':<42}", end="", flush=True)
        print(memory_after_logins(api.process.pid, caller, options.seconds), flush=True)
        compare_reads_beside_logins(caller, options)
        compare_reads_beside_slow_clients(caller, options)
        run_floods(options, caller)
    return good


def memory_after_logins(pid, caller, seconds):
    """Return the memory of the server and its workers after a thousand logins."""
    logins = 0
    while logins < 1000:
        login = caller.endpoints()["POST /login"]
        logins += flawless(caller.api.url, login, seconds, LOGIN_CONNECTIONS)["requests"]
    if not Path("/proc/self/smaps_rollup").exists():
        return "   n/a (only Linux tells what processes share)"
    # PSS counts what n processes share as 1/n for each.
    files = [folder / "smaps_rollup" for folder in server_processes(pid)]
    kib = sum(
        int(re.search(r"^Pss: +(\d+) kB", file.read_text(), re.MULTILINE)[1]) for file in files
    )
    return f"{kib * 1024 / 1e6:6.0f} MB in {len(files)} processes"


def server_processes(pid):
    """Return the folders in /proc of a server's process and of those that it has started."""
    process = psutil.Process(pid)
    return [Path(f"/proc/{p.pid}") for p in [process, *process.children(recursive=True)]]


def processor_time(pid):
    """Return the seconds of processor time that a server has used. Only Linux tells.

    The first number in `schedstat`, in nanoseconds, is exact. Other counters go by hundredths of a
    second, and belong to whatever runs when the clock ticks.
    """
    files = [file for folder in server_processes(pid) for file in folder.glob("task/*/schedstat")]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def compare_reads_beside_logins(caller, options):
    """Print the share of their rate that 16 reading connections keep while 8 clients log in."""
    url, p99s = caller.api.url, []
    reads = caller.endpoints()["GET /todos?limit=20"]
    # Another user logs in, because a hundred logins of the reader would end the reader's session.
    logins = Caller(caller.api).endpoints()["POST /login"]

    def beside_logins():
        with ThreadPoolExecutor() as pool:
            others = pool.submit(load, url, logins, options.seconds + 2, 8)
            time.sleep(1)  # Until all of them are in progress.
            result = flawless(url, reads, options.seconds)
            others.result()
        p99s.append(result["p99"])
        return result["rate"]

    alone = partial(measured, "rate", url, reads, options.seconds)
    compare("reads beside 8 clients that log in", beside_logins, alone, options.rounds)
    print(f"{'their p99, worst of all rounds':<42}{max(p99s):6.0f} ms")


def compare_reads_beside_slow_clients(caller, options):
    """Print the share of their rate that 16 reading connections keep beside 300 that drip."""
    url, p99s = caller.api.url, []
    reads = caller.endpoints()["GET /todos?limit=20"]

    def beside_slow_clients():
        with dripping(caller.api, 300):
            result = flawless(url, reads, options.seconds)
        p99s.append(result["p99"])
        return result["rate"]

    alone = partial(measured, "rate", url, reads, options.seconds)
    compare("reads beside 300 clients that drip", beside_slow_clients, alone, options.rounds)
    print(f"{'their p99, worst of all rounds':<42}{max(p99s):6.0f} ms")


# The wrk script of an attacker. NAME and ADDRESS are replaced by Lua expressions, which wrk
# evaluates for each request. Heroku's router would write the address; here the attacker does.
ATTACK = """
function request()
  local body = '{"username": "' .. NAME .. '", "password": "wrong password"}'
  local headers = {["Content-Type"] = "application/json", ["X-Forwarded-For"] = ADDRESS}
  return wrk.format("POST", "/login", headers, body)
end
function done(summary, latency)
  local e = summary.errors
  print(string.format('{"rate": %f, "errors": %d}',
    summary.requests / summary.duration * 1e6, e.connect + e.read + e.write + e.timeout))
end
"""
ANY_NAME = "'user' .. math.random(1, 1e9)"
ANY_ADDRESS = """string.format("10.0.%d.%d", math.random(255), math.random(255))"""
FLOODS = [
    ("32 clients, other names, other addresses", 32, ANY_NAME, ANY_ADDRESS),
    ("100 clients, other names, other addresses", 100, ANY_NAME, ANY_ADDRESS),
    ("300 clients, other names, other addresses", 300, ANY_NAME, ANY_ADDRESS),
    ("32 clients, one name, one address", 32, "'victim'", "'198.51.100.7'"),
]
READERS = 8


def attack(url, clients, name, address, seconds):
    """Send wrong passwords in a closed loop; return the rate and the connections that failed."""
    script = ATTACK.replace("NAME", name).replace("ADDRESS", address)
    return run_wrk(url, script, seconds, clients)


def log_in_beside(caller, going, waits):
    """Log in ten times a second; note the seconds of each login that was admitted."""
    while going.is_set():
        begin = time.perf_counter()
        body = {"username": caller.name, "password": caller.password}
        headers = {"X-Forwarded-For": "192.0.2.1"}
        if caller.api.post("/login", json=body, headers=headers).status_code == 200:
            waits.append(time.perf_counter() - begin)
        time.sleep(0.1)


def flood(caller, clients, name, address, seconds):
    """Read and log in during a flood of wrong passwords; return what the readers and logins saw."""
    going, waits = threading.Event(), []
    going.set()
    read = caller.endpoints()["GET /todos/<id>"]
    with ThreadPoolExecutor() as pool:
        attackers = pool.submit(attack, caller.api.url, clients, name, address, seconds + 2)
        pool.submit(log_in_beside, caller, going, waits)
        time.sleep(1)  # Until all of them are in progress.
        result = load(caller.api.url, read, seconds, READERS)
        going.clear()
        result["failed"] = result["errors"] + attackers.result()["errors"]
        result["attacks"] = attackers.result()["rate"]
    return result | {"admitted": len(waits), "slowest_login": max(waits, default=0)}


def run_floods(options, caller):
    """Print a table of what readers and logins notice of each flood."""
    read = caller.endpoints()["GET /todos/<id>"]
    alone = load(caller.api.url, read, options.seconds, READERS)["rate"]
    print(f"{READERS} connections that read alone: {alone:.0f} requests/s. During a flood:")
    for title, clients, name, address in FLOODS:
        results = [flood(caller, clients, name, address, options.seconds) for _ in range(3)]
        shares = [result["rate"] / alone for result in results]
        print(
            f"{title:<42}{median(shares):5.2f} ({min(shares):.2f} to {max(shares):.2f})"
            f"  p50 {median(result['p50'] for result in results):4.0f} ms"
            f"  longest {max(result['longest'] for result in results):5.0f} ms"
            f"  failed {sum(result['failed'] for result in results)}"
        )
        print(
            f"{'':<42}{median(result['attacks'] for result in results):5.0f} attacks/s,"
            f" {sum(result['admitted'] for result in results)} logins admitted,"
            f" the slowest {max(result['slowest_login'] for result in results):.2f} s",
            flush=True,
        )


def run_floor(options):
    """Print the API's rate as a share of a bare WSGI file's, and for logins of passlib's alone."""
    with Local() as local:
        caller = Caller(local.serve(procfile_command()).wait())
        caller.add_todos()
        floor = serve_floor(local, options.floor)
        print("requests per second of the API as a share of the floor's, for each pair of windows")
        for name in caller.endpoints():
            if options.only in name and name != "POST /refresh":  # The floor does not serve it.
                what = caller.endpoints()[name], options.seconds, connections_for(name)
                of_api = partial(measured, "rate", caller.api.url, *what)
                of_floor = partial(measured, "rate", floor.url, *what)
                if name == "POST /login":
                    of_floor = partial(passlib_rate, options.seconds)
                compare(name, of_api, of_floor, options.rounds)


def serve_floor(local, file):
    """Start a WSGI file under uWSGI, with the settings of uwsgi.ini that matter for speed."""
    port = free_port()
    command = ["uwsgi", "--wsgi-file", str(file.resolve()), "--need-app"]
    command += ["--http-socket", f"127.0.0.1:{port}", "--add-header", "Connection: close"]
    command += ["--master", "--enable-threads", "--disable-logging", "--single-interpreter"]
    command += ["--processes", str(WORKERS), "--gevent", str(GREENLETS)]
    command += ["--gevent-early-monkey-patch"]
    uri = local.mongod.uri + "?w=majority&journal=true"  # As in db.py.
    floor = local.serve(command, uri, port)
    wait_for(lambda: floor.process.poll() or "spawned uWSGI worker" in floor.log.read_text())
    assert floor.process.poll() is None, floor.log.read_text()
    return floor


def passlib_rate(seconds):
    """Return how many passwords per second as many processes verify that do nothing else."""
    with ProcessPoolExecutor(WORKERS) as pool:
        return sum(pool.map(verify_alone, [seconds] * WORKERS))


def verify_alone(seconds):
    """Verify a password repeatedly; return how often per second."""
    from resources.passwords import hashes  # Here, since only this needs the app itself.

    password = secrets.token_hex(16)
    password_hash = hashes.hash(password)
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        hashes.verify_and_update(password, password_hash)
        count += 1
    return count / passed


def run_growth(options):
    """Print the time of a response with a million todos, divided by the time with a thousand.

    Both are on one MongoDB, each with its own server, so that they can be measured alternately.
    """
    with Local() as local:
        small, big = grown(local, "small", 1000, every=1), grown(local, "big", 1_000_000, every=49)
        deep_page = ("GET", big.access, [(thousandth_page(big), None)])
        in_small, in_big, page, todo = (
            small.endpoints(),
            big.endpoints(),
            "GET /todos?limit=20",
            "GET /todos/<id>",
        )
        print("time of a response (p50, one connection), a million todos against a thousand")
        for name, first, second in [
            (f"{page}, first page", (big, in_big[page]), (small, in_small[page])),
            (f"{page}, 1,000th page to first", (big, deep_page), (small, in_small[page])),
            ("the same, both among a million", (big, deep_page), (big, in_big[page])),
            (todo, (big, in_big[todo]), (small, in_small[todo])),
        ]:
            sides = [
                (caller.api.url, endpoint, options.seconds, 1)
                for caller, endpoint in (first, second)
            ]
            compare(name, *[partial(measured, "p50", *side) for side in sides], options.rounds)


def grown(local, database, total, every):
    """Start a server on a database with that many todos; return a caller that owns each
    `every`th."""
    uri = f"mongodb://127.0.0.1:{local.mongod.port}/{database}"
    caller = Caller(local.serve(procfile_command(), uri).wait())  # The server creates the indexes.
    owner, others = ObjectId(caller.id), [ObjectId() for _ in range(1000)]
    print(f"inserting {total:,} todos ", end="", flush=True)
    with MongoClient(uri, w=1) as client:
        for start in range(0, total, 10_000):
            numbers = range(start, min(start + 10_000, total))
            new = [document(n, others[n % 1000] if n % every else owner) for n in numbers]
            client[database].todos.insert_many(new, ordered=False)
            print("." * (start % 50_000 == 0), end="", flush=True)
            caller.ids += [str(todo["_id"]) for todo in new if todo["owner_id"] == owner][::100]
        # So that writing them to the disk is over before the measurement.
        client.admin.command("fsync")
    print()
    return caller


def document(number, owner):
    """Return a todo as the API stores it."""
    created_at = datetime(2026, 1, 1) + timedelta(seconds=number)
    return {
        "owner_id": owner,
        "name": f"todo {number}",
        "description": "",
        "done": False,
        "created_at": created_at,
    }


def thousandth_page(caller):
    """Return the path of the 1,000th page, found as a client finds it."""
    print("following the next links to page 1,000", flush=True)
    path = "/todos?limit=20"
    for _ in range(999):
        path = caller.api.get(path, caller.access).json()["next"]
    return path


def run_url(options):
    """Print the table for an instance that is running already."""
    caller = Caller(Instance(options.url))
    try:
        return run_table(caller, options)
    finally:
        caller.delete()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--url", help="load this instance, which must be yours")
    mode.add_argument("--floor", type=Path, metavar="FILE", help="compare with this WSGI file")
    mode.add_argument(
        "--growth", action="store_true", help="compare a million todos with a thousand"
    )
    parser.add_argument("--seconds", type=int, default=3, help="the length of each window (3)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="how many pairs of windows to compare (5)"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only the endpoints that contain this text"
    )
    parser.add_argument("--chart", type=Path, metavar="FILE", default=ROOT / "tests/benchmark.svg")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit(HOW_TO_GET_WRK)
    run = (
        run_url
        if options.url
        else run_floor
        if options.floor
        else run_growth
        if options.growth
        else run_all
    )
    if run(options) is False:
        sys.exit("Some requests failed.")


if __name__ == "__main__":
    main()
