"""Compare this API with the same work in FastAPI, and print the ratios.

    python tests/compare.py [--rounds 8] [--seconds 3]

The two servers (`uwsgi uwsgi.ini`, and tests/peer/main.py under uvicorn) have two processes each
and use the same MongoDB. They are measured alternately, because the speed of a machine drifts. The
first run installs FastAPI into a virtual environment in your cache folder.
"""

import argparse
import shutil
import subprocess
import sys
import venv
from functools import partial
from hashlib import sha256
from pathlib import Path

from benchmark import HOW_TO_GET_WRK, Caller, Local, compare, connections_for, measured
from support.processes import ROOT, free_port, procfile_command

PEER = ROOT / "tests" / "peer"
ROWS = ["GET /todos/<id>", "GET /todos?limit=20", "POST /todos", "POST /login"]


def peer_environment():
    """Return the `bin` folder of an environment with the peer's packages; create it if needed."""
    pins = (PEER / "requirements.txt").read_bytes()
    name = f"{sys.version_info.major}.{sys.version_info.minor}-{sha256(pins).hexdigest()[:12]}"
    folder = Path.home() / ".cache" / "todo-api-peer" / name
    if not (folder / "complete").exists():
        print(f"installing FastAPI into {folder}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pip = [folder / "bin/pip", "install", "-q", "-r", PEER / "requirements.txt"]
        subprocess.run(pip, check=True)
        (folder / "complete").touch()
    return folder / "bin"


def peer_command(port):
    """Return the command that serves the peer at a port, in two processes."""
    uvicorn = [peer_environment() / "uvicorn", "main:app", "--app-dir", PEER]
    uvicorn += ["--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    return [*uvicorn, "--no-access-log", "--log-level", "warning"]


def compare_servers(rounds, seconds):
    """Load both servers alternately, and print the ratio of their rates for each request."""
    with Local() as local:
        database = f"mongodb://127.0.0.1:{local.mongod.port}"
        ours = Caller(local.serve(procfile_command(), f"{database}/ours").wait())
        port = free_port()
        peer = Caller(local.serve(peer_command(port), f"{database}/peer", port).wait())
        for caller in (ours, peer):
            caller.add_todos()
        print("requests per second, this API / FastAPI")
        for row in ROWS:
            compare(row, load_of(row, ours, seconds), load_of(row, peer, seconds), rounds)


def load_of(row, caller, seconds):
    """Return a function that loads a server with one kind of request and returns the rate."""
    endpoint = caller.endpoints()[row]
    return partial(measured, "rate", caller.api.url, endpoint, seconds, connections_for(row))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8, help="how many rounds (8)")
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement (3)")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit(HOW_TO_GET_WRK)
    compare_servers(options.rounds, options.seconds)


if __name__ == "__main__":
    main()
