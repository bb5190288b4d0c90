"""For all tests: none is judged by how long it took, and none changes the environment of another."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from qwen_api import language

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
