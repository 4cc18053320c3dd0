"""The requirements files pin what is installed, what the code imports, and what that needs."""

import ast
import re
import sys
from importlib.metadata import distributions, packages_distributions, requires

import pytest
from support.processes import ROOT

FILES = ["requirements.txt", "tests/requirements.txt"]
PEER = "tests/peer/requirements.txt"
# A name, perhaps an extra, the version, and perhaps the systems on which the pin applies, such as
# `; sys_platform == "win32"`. A line that a tool has written ends with a comment, `# via ...`.
PIN = re.compile(
    r"(?P<name>[\w.-]+)(\[\w+\])?==(?P<version>[\w.]+)( ; [^#]+?)?( +# via (?P<via>.+))?"
)
# The packages of a virtual environment itself, and the one that writes the pins.
TOOLS = {"pip", "setuptools", "wheel", "uv"}


def normalised(name):
    """Return the name of a package as PyPI compares it: `Flask_RESTful` is `flask-restful`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_lines(path):
    """Return the lines of a requirements file without comments and empty lines."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins(*paths):
    """Return the pins of these files, by the names of their packages."""
    lines = [line for path in paths for line in requirement_lines(path)]
    matches = [PIN.fullmatch(line) for line in lines if line != "-r ../requirements.txt"]
    return {normalised(match["name"]): match for match in matches}


def installed():
    """Return the versions of all packages of this environment, by their names."""
    versions = {normalised(found.name): found.version for found in distributions()}
    return {name: version for name, version in versions.items() if name not in TOOLS}


def imported(paths):
    """Return the packages that these Python files import from outside the repository."""
    files = [*ROOT.glob("*"), *ROOT.glob("tests/**/*.py")]
    own = {path.stem for path in files} | {path.parent.name for path in files}
    modules = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module.split(".")[0])
    packages = packages_distributions()
    foreign = modules - own - sys.stdlib_module_names
    # uWSGI puts the module `uwsgi` into its own processes. gevent is not installed on Windows.
    return {
        normalised(name)
        for module in foreign - {"uwsgi"}
        for name in packages.get(module, [module])
    }


def required_by(name):
    """Return the packages that an installed package requires, on any system."""
    return {normalised(re.match(r"[\w.-]+", line)[0]) for line in requires(name) or []}


@pytest.mark.parametrize("path", [*FILES, PEER])
def test_every_line_pins_one_version_of_one_package(path):
    for line in requirement_lines(path):
        assert PIN.fullmatch(line) or line == "-r ../requirements.txt", line


def test_every_installed_package_is_pinned_to_its_version():
    versions = {name: pin["version"] for name, pin in pins(*FILES).items()}
    different = {
        name: f"installed: {version}, pinned: {versions.get(name)}"
        for name, version in installed().items()
        if version != versions.get(name)
    }
    assert different == {}, (
        "If a pin is None and the code needs the package, add it to requirements.txt or"
        " tests/requirements.txt, and write their lower parts again, as the comment there says. If"
        " the code does not need it, uninstall it. For all others:"
        " pip install -r tests/requirements.txt"
    )


def test_every_package_of_a_lower_part_is_required_by_those_that_it_names():
    here = installed()
    stale = {
        name: f"via {other}"
        for name, pin in pins(*FILES).items()
        for other in (pin["via"] or "").split(", ")
        if other in here and name not in required_by(other)
    }
    assert stale == {}, "Write the lower part of the file again, as the comment there says"


def test_comparison_with_fastapi_uses_the_same_versions():
    ours, theirs = pins(*FILES), pins(PEER)
    common = ours.keys() & theirs.keys()
    assert "pymongo" in common
    different = [name for name in common if ours[name]["version"] != theirs[name]["version"]]
    assert different == [], f"Change these versions in {PEER} as well"


@pytest.mark.parametrize("folder", ["app", "tests"])
def test_every_imported_package_is_pinned_by_hand(folder):
    if folder == "app":
        paths = [*ROOT.glob("*.py"), *ROOT.glob("resources/*.py")]
        files = ["requirements.txt"]
    else:
        # These two have their own environments.
        others = {ROOT / "tests/peer/main.py", ROOT / "tests/common_passwords.py"}
        paths = set(ROOT.glob("tests/**/*.py")) - others
        files = FILES
    by_hand = {name for name, pin in pins(*files).items() if not pin["via"]}
    assert imported(paths) - by_hand == set(), (
        "Add these to the upper part of the file, with a reason and a version, and write its lower"
        " part again, as the comment there says"
    )
