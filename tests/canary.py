"""Two secrets that are in play in every test and must be found nowhere: a token, and a signature of addresses.

Whoever starts an installed command plants the token where huggingface_hub keeps one, and the Hub simulator signs with
the other. What a test left behind (files and their names, streams, events, a process's arguments and environment) is
then looked through: here is how; conftest, watched and running.Running do it in each test.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

TOKEN = "hf_" + "canaryToken" + "0123456789abcdefABCDEFG"  # as long as a real one
SIGNATURE = "canarySignature"
PLANTED = (TOKEN, SIGNATURE)
WHOLE_BYTES = 4 << 20  # of a longer file, a model's weights, only so much at both ends is looked at
RUN_S = 60.0  # only a hung process reaches it


class Leaked(AssertionError):
    """A secret lies where it must not: all such places, one a line."""


def plant(env: Mapping[str, str]) -> None:
    """Put the token where a command with this environment finds it as its user's own; nothing if it has one by name."""
    if "HF_TOKEN" in env or not (env.get("HF_HOME") or env.get("HOME")):
        return
    home = Path(env["HF_HOME"]) if env.get("HF_HOME") else Path(env["HOME"], ".cache", "huggingface")
    place = home / "token"
    if not place.exists():
        home.mkdir(parents=True, exist_ok=True)
        place.touch(mode=0o600)
        place.write_text(f"{TOKEN}\n")


def run(
    command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path | None = None, timeout: float = RUN_S
) -> subprocess.CompletedProcess[str]:
    """An installed command to its end, with the token planted and nobody at its input."""
    plant(env)
    return subprocess.run(
        command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )


def refuse(said: Mapping[str, str | bytes], secrets: Iterable[str] = PLANTED) -> None:
    """Leaked if a secret is in one of these texts, each under the name of its place."""
    found = [(place, secret) for place, text in said.items() for secret in secrets if _holds(text, secret)]
    _complain(found)


def refuse_in_files(root: Path, secrets: Iterable[str] = PLANTED) -> None:
    """Leaked if a secret is in a name, a link or a file under `root`, but for a file that is the token and no more."""
    # What a disk cannot read, not even its names, nobody else can either: os.walk passes it over.
    paths = [Path(folder, name) for folder, folders, files in os.walk(root) for name in (*folders, *files)]
    _complain([(str(path), secret) for path in paths for secret in secrets if _keeps(path, secret)])


def refuse_in_open(handle: int, place: str, secrets: Iterable[str] = PLANTED) -> None:
    """Leaked if a secret is in a file that is open and has no name."""
    refuse({place: os.pread(handle, os.fstat(handle).st_size, 0)}, secrets)


def refuse_in_process(pid: int, secrets: Iterable[str] = PLANTED) -> None:
    """Leaked if everybody may read a secret in the arguments of a process, or its user in its environment."""
    places = [Path("/proc", str(pid), name) for name in ("cmdline", "environ")]
    refuse({str(place): place.read_bytes() for place in places}, secrets)


def _complain(found: Sequence[tuple[str, str]]) -> None:
    if found:
        raise Leaked("\n".join(f"{secret} is in {place}" for place, secret in found))


def _keeps(path: Path, secret: str) -> bool:
    if secret in path.name or (path.is_symlink() and secret in os.readlink(path)):
        return True
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return _in_file(file.fileno(), secret.encode())
    except OSError:  # gone, not for us, or of a disk that is broken on purpose
        return False


def _in_file(handle: int, secret: bytes) -> bool:
    """Read and not mapped: a page that a broken disk cannot give ends a process that maps it."""
    size, half = os.fstat(handle).st_size, WHOLE_BYTES // 2
    if size <= WHOLE_BYTES:
        content = os.pread(handle, size, 0)
        return secret in content and content.strip() != secret
    return secret in os.pread(handle, half, 0) or secret in os.pread(handle, half, size - half)


def _holds(text: str | bytes, secret: str) -> bool:
    return (secret.encode() if isinstance(text, bytes) else secret) in text  # type: ignore[operator]
