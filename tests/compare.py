"""Compare this API with the same work in FastAPI: rates, and the processor time of one request.

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
from hashlib import sha256
from pathlib import Path
from statistics import median

from benchmark import HOW_TO_GET_WRK, Caller, Local, connections_for, flawless, processor_time
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
    """Load both servers alternately, and print what was measured for each kind of request."""
    with Local() as local:
        database = f"mongodb://127.0.0.1:{local.mongod.port}"
        ours = Caller(local.serve(procfile_command(), f"{database}/ours").wait())
        port = free_port()
        peer = Caller(local.serve(peer_command(port), f"{database}/peer", port).wait())
        for caller in (ours, peer):
            caller.add_todos()
        print("this API / FastAPI: requests per second, the median of the rounds (and the range);")
        print(
            "microseconds of processor time for one request, the least of the rounds (and the most)"
        )
        for row in ROWS:
            measured = [
                (measure(row, ours, seconds), measure(row, peer, seconds)) for _ in range(rounds)
            ]
            print_row(row, measured)


def measure(row, caller, seconds):
    """Load a server with one kind of request; return the rate and the processor time of one."""
    endpoint = caller.endpoints()[row]
    server = caller.api.process.pid
    before = processor_time(server)
    result = flawless(caller.api.url, endpoint, seconds, connections_for(row))
    return result["rate"], (processor_time(server) - before) / result["requests"]


def print_row(row, measured):
    """Print the results of all rounds, each a pair of (rate, processor time), ours and FastAPI's.

    Rates on a shared machine swing by a factor of two, the least processor time much less.
    """
    ratios = [our_rate / peer_rate for (our_rate, _), (peer_rate, _) in measured]
    ours, peers = [[pair[side][1] * 1e6 for pair in measured] for side in (0, 1)]
    print(
        f"{row:<22}{median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        f"   {min(ours):7,.0f} ({max(ours):,.0f}) / {min(peers):,.0f} ({max(peers):,.0f})"
        f" = {min(ours) / min(peers):.2f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8, help="how many rounds (8)")
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement (3)")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit(HOW_TO_GET_WRK)
    if not Path("/proc/self/schedstat").exists():
        sys.exit("Only Linux tells how much processor time a process has used.")
    compare_servers(options.rounds, options.seconds)


if __name__ == "__main__":
    main()
