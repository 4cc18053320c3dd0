"""What is installed here is what the two requirements files pin."""

import ast
import re
import sys
from importlib.metadata import distributions, packages_distributions

import pytest
from helpers import ROOT

FILES = ["requirements.txt", "tests/requirements.txt"]
# A name, its extra if it has one, the version, and where the pin holds, as in
# `; sys_platform == "win32"`. A line that a tool wrote ends with a comment, `# via ...`.
PIN = re.compile(
    r"(?P<name>[\w.-]+)(\[\w+\])?==(?P<version>[\w.]+)(?P<marker> ; [^#]+?)?(?P<via> +# via .+)?"
)
# They come with a virtual environment, or make the pins.
TOOLS = {"pip", "setuptools", "wheel", "uv"}


def normalised(name):
    """PyPI takes `Flask_RESTful` and `flask-restful` for the same package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_lines(path):
    """The lines of a requirements file that are no comment and not empty."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins(*paths):
    """The pins of these files, by the names of their packages."""
    lines = [line for path in paths for line in requirement_lines(path)]
    matches = [PIN.fullmatch(line) for line in lines if line != "-r ../requirements.txt"]
    return {normalised(match["name"]): match for match in matches}


def installed():
    """The versions of all packages of this environment, by their names."""
    versions = {normalised(found.name): found.version for found in distributions()}
    return {name: version for name, version in versions.items() if name not in TOOLS}


def imported(*paths):
    """The names of the packages that these Python files import from outside the repository."""
    ours = {path.stem for path in [*ROOT.glob("*"), *ROOT.glob("tests/*.py")]}
    modules = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module.split(".")[0])
    packages = packages_distributions()
    foreign = modules - ours - sys.stdlib_module_names
    return {normalised(package) for module in foreign for package in packages[module]}


@pytest.mark.parametrize("path", FILES)
def test_every_line_pins_one_version_of_one_package(path):
    for line in requirement_lines(path):
        assert PIN.fullmatch(line) or line == "-r ../requirements.txt", line


def test_everything_that_is_installed_is_pinned_with_its_version():
    versions = {name: pin["version"] for name, pin in pins(*FILES).items()}
    different = {
        name: f"installed: {version}, pinned: {versions.get(name)}"
        for name, version in installed().items()
        if version != versions.get(name)
    }
    assert different == {}, (
        "Where a pin is None: if the code needs the package, add it to requirements.txt or"
        " tests/requirements.txt and make their lower parts anew, as the comment there says; else"
        " `pip uninstall` it. For the others: pip install -r tests/requirements.txt"
    )


def test_everything_that_is_pinned_for_every_system_is_installed():
    everywhere = {name for name, pin in pins(*FILES).items() if not pin["marker"]}
    assert everywhere - installed().keys() == set(), (
        "Run: pip install -r tests/requirements.txt. If nothing needs them any more: make the lower"
        " part of the file anew, as the comment there says"
    )


@pytest.mark.parametrize("folder", ["app", "tests"])
def test_what_the_code_imports_by_name_is_pinned_by_hand(folder):
    if folder == "app":
        by_name = imported(*ROOT.glob("*.py"), *ROOT.glob("resources/*.py"))
        pinned = pins("requirements.txt")
    else:
        by_name = imported(*ROOT.glob("tests/*.py"))
        pinned = pins(*FILES)
    by_hand = {name for name, pin in pinned.items() if not pin["via"]}
    assert by_name - by_hand == set(), (
        "Name these in the upper part of the file, with the reason and a version, and make its"
        " lower part anew, as the comment there says"
    )
