"""A MongoDB on a developer's machine: finds the one that is running, or starts one.

For `python app.py` and the tests. In production MONGODB_URI names the MongoDB.
"""

import atexit
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import ConfigurationError, PyMongoError

URI = "mongodb://localhost:27017"

HOW_TO_GET_MONGODB = """\
No MongoDB answers on localhost:27017, and there is no mongod here to start. Do one of these:
* pip install -r tests/requirements.txt installs one, on macOS, and on Linux and Windows on x86-64.
* Install MongoDB (Linux packages, a Windows .msi, macOS brew):
  https://www.mongodb.com/docs/manual/installation/
* Use another MongoDB, for example a free Atlas cluster:
  export MONGODB_URI='mongodb+srv://...' (in PowerShell: $env:MONGODB_URI = 'mongodb+srv://...')"""

# What to do, for the exit codes of mongod that say it. If a signal has ended it, Python reports the
# number of the signal as a negative exit code.
NO_AVX = (
    "this processor cannot run it. MongoDB 5.0 and newer need a processor with AVX. Set MONGODB_URI"
    " to another MongoDB"
)
ADVICE = {
    -signal.SIGILL: NO_AVX,
    # The same on Windows: STATUS_ILLEGAL_INSTRUCTION.
    0xC000001D: NO_AVX,
    # SIGKILL, by its number, because Windows does not have it.
    -9: "another program has killed it, or Linux itself, if the memory was full",
    62: (
        "another version of MongoDB has written the data. Install that version, or move the folder"
        " away: then you begin with an empty database"
    ),
}


def start_if_needed():
    """Start a MongoDB on localhost:27017 if none is running there. It ends with this process."""
    if is_listening(27017):
        # It may still be starting, so it has some seconds.
        if not answers(27017, seconds=5):
            sys.exit(
                "Port 27017 is in use by a program other than MongoDB, or by a MongoDB that"
                " requires TLS. End the program, or set MONGODB_URI: with TLS to"
                " 'mongodb://localhost:27017/?tls=true'"
            )
        return
    # On SIGTERM Python ends without calling the functions that are registered with atexit. So
    # SIGTERM becomes an ordinary exit.
    signal.signal(signal.SIGTERM, exit_on_signal)
    folder = Path(__file__).parent.parent / ".mongodb"
    start_mongod(folder, 27017)
    print(f" * Started a MongoDB on 127.0.0.1:27017, data and log in {folder}", flush=True)


def exit_on_signal(_number, _frame):
    """End this process as at the end of its work."""
    sys.exit()


def is_listening(port):
    """Return whether a program listens on this port of localhost."""
    try:
        # PyMongo does not try the IPv6 address of localhost either.
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def answers(port, seconds=0.5):
    """Return whether a MongoDB answers on this port of localhost within so many seconds."""
    # Directly, because PyMongo would look for the primary if this is a member of a replica set.
    options = {"serverSelectionTimeoutMS": int(seconds * 1000), "directConnection": True}
    with MongoClient("127.0.0.1", port, **options) as client:
        try:
            client.admin.command("ping")
        except ConfigurationError:
            # A MongoDB that is too old for PyMongo. resources/check_mongodb.py says so.
            return True
        except PyMongoError:
            return False
        return True


def start_mongod(folder, port, options=()):
    """Start a mongod for 127.0.0.1:`port`, with data and log below `folder`; return its Popen.

    `options` are further options of mongod. Waits until it answers. It ends with this process. If
    there is no mongod, or it cannot run, this process ends with a message that says what to do.
    """
    data = Path(folder, "data")
    command = [find_mongod(), "--bind_ip", "127.0.0.1", "--port", str(port), "--dbpath", data]
    # Small files: by default a new folder takes 315 MB, and diagnostic data up to 200 MB more.
    command += ["--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=8MB)"]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    if os.name != "nt":
        # A socket file of another user in the temporary folder would stop it.
        command += ["--nounixsocket"]
    command += options
    log = Path(folder, "mongod.log")
    process = start_process(command, data, log)
    # atexit calls its functions in reverse order: first terminate, then wait.
    atexit.register(process.wait)
    atexit.register(process.terminate)
    while not answers(port):
        code = process.poll()
        if code is not None:
            sys.exit(describe_end(code, log))
    return process


def find_mongod():
    """Return the path of a mongod: an installed one, or the one from tests/requirements.txt."""
    # The package is a folder `fiftyone`, wherever Python finds it. This does not import it.
    package = importlib.util.find_spec("fiftyone")
    folders = package.submodule_search_locations if package else []
    path = os.pathsep.join(os.path.join(folder, "db", "bin") for folder in folders)
    mongod = shutil.which("mongod") or shutil.which("mongod", path=path)
    if mongod is None:
        sys.exit(HOW_TO_GET_MONGODB)
    return mongod


def start_process(command, data, log):
    """Start mongod with a new log, which is all that it prints; return its Popen."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        # mongod opens this file as well. Here, a folder of another user ends in one line.
        open(data / "mongod.lock", "ab").close()
        output = open(log, "wb")
    except OSError as error:
        sys.exit(
            f"Cannot write to {error.filename}: {error.strerror}. Change the owner or the rights of"
            " the folder, or set MONGODB_URI to a MongoDB that is running"
        )
    with output:
        try:
            return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        except OSError as error:
            # For example, it is compiled for another processor.
            sys.exit(f"mongod cannot run: {error}. Set MONGODB_URI to another MongoDB.")


def describe_end(code, log):
    """Return why mongod has ended, and what to do."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    # Each line is JSON, with the severity: E is an error, F a fatal one. The first has the reason.
    errors = [line for line in lines if '"s":"E"' in line or '"s":"F"' in line]
    # If it cannot even write its log, for lack of a library, it prints a few lines of text.
    reason = errors[:1] or lines[-5:]
    end = f"mongod ended with exit code {code}"
    if code < 0:
        end = f"mongod was ended by the signal {signal.Signals(-code).name}"
    if code in ADVICE:
        end += f": {ADVICE[code]}"
    return "\n".join([*reason, f"{end}. All that it has printed is in {log}"])
