"""For all tests: none is judged by how long it took, none changes the environment of another, none lets a secret out.

`make test` runs them in several processes (pytest-xdist), in any order: a test has its own folders, sockets and ports,
and what is costly to make is made once for all processes, under a lock.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from demo import tiny_pipeline
from qwen_api import language
from qwen_api.places import is_offline
from tests import canary, watched

watched.install()
settings.register_profile("unhurried", deadline=None, max_examples=60)
settings.load_profile("unhurried")

# What is tested in English is English on everybody's machine.
os.environ[language.VARIABLE] = "en"
os.environ.pop("LANGUAGE", None)

# A shell starts what stands behind `&` with Ctrl-C ignored, and every process below inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """What a test sets (loading a pipeline sets HF_HUB_OFFLINE, as documented; a language) ends with it."""
    before = dict(os.environ)
    yield
    language.speak("en")
    os.environ.clear()
    os.environ.update(before)
    if "huggingface_hub.constants" in sys.modules:  # it keeps what it read
        sys.modules["huggingface_hub.constants"].HF_HUB_OFFLINE = is_offline(before)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def secrets_stay(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing that a test leaves, takes away or starts shows a canary: set up first, this looks when all is over."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        watched.look(lambda: canary.refuse_in_files(folder))
    assert watched.found() == []


@pytest.fixture(autouse=True, scope="session")
def secrets_stay_to_the_end() -> Iterator[None]:
    """What modules and the session share ends after their last test."""
    yield
    watched.end()
    assert watched.found() == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that passed and printed or logged a canary has not passed."""
    report = yield
    try:
        canary.refuse(dict(report.sections))
    except canary.Leaked as leaked:
        report.outcome, report.longrepr = "failed", f"{report.longreprtext}\n{leaked}"
    return report


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's own under a shorter name: xdist adds a folder, and a socket's path has at most 107 bytes."""
    return tmp_path_factory.mktemp(re.sub(r"\W", "_", request.node.name)[:20])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny real pipeline. It is everybody's: who changes a file copies it."""
    return _built(tmp_path_factory, "hub")


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same under the names that transformers 5 writes."""
    return _built(tmp_path_factory, "native")


def _built(tmp_path_factory: pytest.TempPathFactory, layout: tiny_pipeline.Layout) -> Path:
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # above the workers' own
    with FileLock(root / f"{layout}.lock"):
        return tiny_pipeline.build(root / layout / "model", size="22mb", layout=layout)
