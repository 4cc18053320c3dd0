"""The README's commands: whoever pastes them gets to see what the README shows."""

import os
import re
import shutil
import subprocess

import pytest
from helpers import CLEAN, blocks, chapter, normalised

pytestmark = pytest.mark.skipif(
    os.name == "nt" or not (shutil.which("bash") and shutil.which("curl")),
    reason="needs bash and curl",
)


def mismatches(text, url):
    """Run the commands of a chapter in one shell; return (shown, came) for outputs that differ."""
    end = "--- the end of a block ---\n"
    script = f"echo '{end.strip()}'\n".join(commands for commands, _ in blocks(text))
    done = subprocess.run(
        ["bash", "-c", script.replace("http://127.0.0.1:5000", url)],
        env=CLEAN,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    # Normalised as a whole, since ids of one block come back in later ones.
    shown = normalised(end.join(output for _, output in blocks(text))).split(end)
    came = normalised(done.stdout).split(end)
    return [pair for pair in zip(shown, came, strict=True) if pair[0] != pair[1]]


def test_quick_start_shows_what_comes(api):
    assert len(blocks(chapter("Quick start"))) == 1
    assert mismatches(chapter("Quick start"), api.url) == []


def test_curl_chapter_shows_what_comes_each_time(api, alice):
    alice.add()  # Whatever else is in the database does not matter.
    text = chapter("Testing with curl")
    assert len(blocks(text)) == text.count("```sh") >= 4  # No commands without their output.
    assert mismatches(text, api.url) == []
    assert mismatches(text, api.url) == []


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
def test_output_that_is_not_what_comes_is_found(api, shown, wrong):
    assert shown in chapter("Quick start")
    assert len(mismatches(chapter("Quick start").replace(shown, wrong), api.url)) == 1
