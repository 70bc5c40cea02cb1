"""What a run says of the source that computed it."""

import subprocess

import pytest

from wavetune.runtimes import provenance


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    (tmp_path / "__init__.py").touch()
    return tmp_path


def git(folder, *arguments):
    given = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", "-C", folder, *given, *arguments], check=True, capture_output=True, text=True).stdout


def test_the_commit_of_the_source_is_told_and_whether_it_was_changed(package, monkeypatch):
    assert provenance.commit.__wrapped__() is None
    git(package, "init", "--quiet")
    assert provenance.commit.__wrapped__() is None  # a checkout, but of something else
    git(package, "add", "__init__.py")
    git(package, "commit", "--quiet", "--message", "All there is")
    head = git(package, "rev-parse", "HEAD")[:12]
    assert provenance.commit.__wrapped__() == head
    (package / "__init__.py").write_text("changed = True\n")
    assert provenance.commit.__wrapped__() == f"{head}-dirty"
    monkeypatch.setattr(provenance, "_GIT_S", 0.0)
    assert provenance.commit.__wrapped__() is None  # nobody waits for it
