"""The README's commands: whoever pastes them gets to see what the README shows.

If the server is right and the README is not, `--update` writes down what comes.
"""

import os
import re
import shutil
import subprocess

import pytest
from helpers import (
    CLEAN,
    ROOT,
    Server,
    blocks,
    chapter,
    keep_what_is_new_each_time,
    normalised,
)

pytestmark = pytest.mark.skipif(
    os.name == "nt" or not (shutil.which("bash") and shutil.which("curl")),
    reason="needs bash and curl",
)

END = "--- the end of a block ---\n"
WHAT_TO_DO = (
    "README.md shows other answers than those that come. If those that come are right, write them"
    " down: python -m pytest tests/test_curl.py --update"
)


def outputs(text, server, mongod):
    """Run the commands of a chapter in one shell; return what each block printed."""
    script = f"echo '{END.strip()}'\n".join(commands for commands, _ in blocks(text))
    # What a reader has on their machine, the test has elsewhere.
    script = script.replace("http://127.0.0.1:5000", server.url)
    script = script.replace("mongodb://localhost:27017", f"mongodb://127.0.0.1:{mongod.port}")
    script = script.replace(".todolistapp", ".test")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=CLEAN,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.stdout.split(END)


def mismatches(text, came):
    """The outputs that are not as shown, each as (shown, came), without what is new each time."""
    # Normalised as a whole, since ids of one block come back in later ones.
    shown = normalised(END.join(output for _, output in blocks(text))).split(END)
    came = normalised(END.join(came)).split(END)
    return [pair for pair in zip(shown, came, strict=True) if pair[0] != pair[1]]


def check(text, server, mongod, update):
    """Run a chapter, and compare it with what the README shows."""
    came = outputs(text, server, mongod)
    different = mismatches(text, came)
    if different and update:
        write_down(text, came)
        return
    assert different == [], WHAT_TO_DO


def write_down(text, came):
    """Put the outputs that came into the README."""
    path = ROOT / "README.md"
    readme = path.read_text(encoding="utf-8")
    for (commands, shown), output in zip(blocks(text), came, strict=True):
        output = keep_what_is_new_each_time(shown, output)
        # Found by its commands: another test may have written down another output already.
        place = re.compile(rf"({re.escape(commands)}```\n\n```(?:json|text)\n)[^`]*```")
        readme = place.sub(lambda match, new=output: f"{match[1]}{new}```", readme)
    path.write_text(readme, encoding="utf-8")


def test_quick_start_shows_what_comes(api, mongod, update):
    assert len(blocks(chapter("Quick start"))) == 1
    check(chapter("Quick start"), api, mongod, update)


def test_ideas_show_what_comes(api, mongod, update):
    ideas = chapter("Ideas before code")
    assert len(blocks(ideas)) == 7
    # The commands come after those of the quick start, whose variables they use.
    start = chapter("Quick start")
    check(start + ideas, api, mongod, update)


def test_request_and_response_are_shown_as_curl_shows_them(mongod, database, tmp_path):
    """With the developer's server, which says more about itself than uWSGI."""
    server = Server(
        [shutil.which("python", path=CLEAN["PATH"]), "app.py"], tmp_path / "log", mongod.uri
    )
    try:
        server.wait()
        pattern = r"```sh\n([^`]*curl -v[^`]*)```\n\n```http\n([^`]*)```"
        commands, shown = re.search(pattern, chapter("Ideas before code")).groups()
        [(start, _)] = blocks(chapter("Quick start"))
        script = f"{start}\necho '{END.strip()}'\n{commands}"
        script = script.replace("http://127.0.0.1:5000", server.url)
        done = subprocess.run(
            ["bash", "-c", script],
            env=CLEAN,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        came = done.stdout.split(END)[1]
        assert exchange(shown) == exchange(came)
    finally:
        server.kill()


def exchange(text):
    """The lines of a request and a response, without what changes. The body is shown elsewhere."""
    lines = [line.rstrip() for line in text.splitlines() if line.startswith(("<", ">"))]
    changing = r"(< Content-Length|(Host|User-Agent|Authorization|Server|Date|Location)):.*"
    return [re.sub(changing, r"\1", line) for line in lines]


def test_walk_through_shows_what_comes(api, mongod, update):
    assert len(blocks(chapter("Code walk-through"))) == 1
    check(chapter("Code walk-through"), api, mongod, update)


def test_curl_chapter_shows_what_comes_each_time(api, alice, mongod, update):
    alice.add()  # Whatever else is in the database does not matter.
    text = chapter("Testing with curl")
    assert len(blocks(text)) == text.count("```sh") >= 6  # No commands without their output.
    check(text, api, mongod, update)
    check(text, api, mongod, update)


MILK, BREAD = re.findall(r'"id": "(\w+)", "name": "(?:milk|bread)"', chapter("Quick start"))[1:3]


@pytest.mark.parametrize(
    ("shown", "wrong"),
    [
        ("Todo not found.", "No such todo."),
        ('"done": true', '"done": false'),
        ('{"message": "Todo deleted."}\n', ""),
        (f'"{BREAD}", "name": "bread"', f'"{MILK}", "name": "bread"'),
        (" -X DELETE", ""),
    ],
)
def test_output_that_is_not_what_comes_is_found(api, mongod, shown, wrong):
    text = chapter("Quick start")
    assert shown in text
    text = text.replace(shown, wrong)
    assert len(mismatches(text, outputs(text, api, mongod))) == 1
