"""The clients: how each is started for a job, where it puts the files, and whether it verifies them itself.

Everyone runs with its defaults as installed from its package; what differs from them stands in the name. Adding a peer
is adding an entry to CLIENTS.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.content import Item, Model

DISCARD_STREAMS = 32  # more than anyone's budget: what limits it is this machine
HF_TRANSFER_SCRIPT = Path(__file__).with_name("hf_transfer_client.py")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be fetched. `target` is where files go, `work` where anything else may be put."""

    model: Model
    endpoint: str
    address: Callable[[Item], str]
    target: Path
    work: Path
    socket: Path
    ca: Path | None
    config: str
    bin_folders: tuple[Path, ...]

    def program(self, name: str) -> str:
        """The program, from the given environments first. Raises FileNotFoundError."""
        path = os.pathsep.join([*map(str, self.bin_folders), os.environ.get("PATH", ""), "/usr/bin"])
        found = shutil.which(name, path=path)
        if found is None:
            raise FileNotFoundError(f"{name} is not installed")
        return found

    def environment(self) -> dict[str, str]:
        """A clean environment: nothing of the user's Hub configuration reaches a client."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
        ca = {} if self.ca is None else {"SSL_CERT_FILE": str(self.ca), "CURL_CA_BUNDLE": str(self.ca)}
        hub = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.target), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ""}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "QWEN_DAEMON_LOG": "json"}
        return {**kept, **ca, **hub, **quiet, "HOME": str(self.work), "no_proxy": "127.0.0.1,localhost"}


Command = Callable[[Job], Sequence[str]]
Placement = Callable[[Job, Item], Path]


@dataclass(frozen=True, kw_only=True)
class Client:
    """One client. `verifies`: it compares the bytes with the Hub's sha256 itself; `keeps`: it writes files at all."""

    name: str
    command: Command
    place: Placement
    verifies: bool
    needs: str
    keeps: bool = True


def _in_cache(job: Job, item: Item) -> Path:
    repo = "models--" + job.model.repo.replace("/", "--")
    return job.target / "hub" / repo / "snapshots" / job.model.commit / item.path


def _in_folder(job: Job, item: Item) -> Path:
    return job.target / item.path


def _ours(job: Job) -> Sequence[str]:
    config = job.work / "config.toml"
    config.write_text(job.config)
    places = ("--config", str(config), "--socket", str(job.socket), "--state-dir", str(job.work / "state"))
    return (job.program("qwen-daemon"), "--once", job.model.repo, *places)


def _hf(job: Job) -> Sequence[str]:
    return (job.program("hf"), "download", job.model.repo)


def _hf_transfer(job: Job) -> Sequence[str]:
    jobs = job.work / "addresses"
    jobs.write_text("".join(f"{job.address(item)}\t{_made(job, item)}\n" for item in job.model.items))
    return (str(_with_hf_transfer(job.bin_folders)[0] / "python"), str(HF_TRANSFER_SCRIPT), str(jobs))


def _made(job: Job, item: Item) -> Path:
    path = _in_folder(job, item)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _aria2c(job: Job, *, streams: int, checksum: bool) -> Sequence[str]:
    lines = []
    for item in job.model.items:
        lines += [job.address(item), f"  out={item.path}"]
        lines += [f"  checksum=sha-256={item.sha256}"] if checksum else []
    jobs = job.work / "addresses"
    jobs.write_text("\n".join(lines) + "\n")
    split = (f"-x{streams}", f"-s{streams}", "-j5", "--file-allocation=none", "--allow-overwrite=true", "--no-conf")
    quiet = ("--quiet=true", "--check-integrity=true") if checksum else ("--quiet=true",)
    ca = () if job.ca is None else (f"--ca-certificate={job.ca}",)
    return (job.program("aria2c"), f"--input-file={jobs}", f"--dir={job.target}", *split, *quiet, *ca)


def _curl(job: Job) -> Sequence[str]:
    jobs = job.work / "addresses"
    jobs.write_text("".join(f'url = "{job.address(i)}"\noutput = "{_in_folder(job, i)}"\n' for i in job.model.items))
    parallel = ("--parallel", "--parallel-max", "8") if len(job.model.items) > 1 else ()
    return (job.program("curl"), "-sSfL", "--create-dirs", *parallel, "--config", str(jobs))


def _curl_openssl(job: Job) -> Sequence[str]:
    return ("/bin/sh", "-c", f"{shlex.join(_curl(job))} && {_compared(job, _in_folder)}")


def _hf_verified(job: Job) -> Sequence[str]:
    return ("/bin/sh", "-c", f"{shlex.join(_hf(job))} && {_compared(job, _in_cache)}")


def _durable_copy(job: Job) -> Sequence[str]:
    """The files copied and made durable, with no network and no hash: what the disk allows at best."""
    copies = [
        f"dd if={shlex.quote(str(job.model.source(item)))} of={shlex.quote(str(_made(job, item)))} "
        "bs=64k conv=fdatasync status=none"
        for item in job.model.items
    ]
    return ("/bin/sh", "-c", " && ".join(copies))


def _openssl(job: Job) -> Sequence[str]:
    return ("/bin/sh", "-c", _compared(job, lambda job, item: job.model.source(item)))


def _compared(job: Job, place: Placement) -> str:
    """Shell: hash what was fetched, one openssl per core, and compare."""
    names, expected = job.work / "names", job.work / "expected"
    found = {str(place(job, item)): item.sha256 for item in job.model.items}
    names.write_text("".join(f"{name}\0" for name in found))
    expected.write_text("".join(sorted(f"{sha256} *{name}\n" for name, sha256 in found.items())))
    cores = os.cpu_count() or 1
    each = max(1, min(64, -(-len(found) // cores)))
    hashed = f"xargs -0 -n {each} -P {cores} {job.program('openssl')} dgst -sha256 -r < {shlex.quote(str(names))}"
    return f"{hashed} | LC_ALL=C sort | cmp - {shlex.quote(str(expected))}"


def _discard(job: Job) -> Sequence[str]:
    """As many ranges as streams, all at once, to nowhere: what can be received here at all."""
    piece_bytes = max(1, -(-job.model.size_bytes // DISCARD_STREAMS))
    jobs, lines = job.work / "addresses", []
    for item in job.model.items:
        pieces = max(1, round(item.size_bytes / piece_bytes))
        edges = [item.size_bytes * i // pieces for i in range(pieces + 1)]
        for start, end in pairwise(edges):
            lines.append(f'url = "{job.address(item)}"\nrange = {start}-{end - 1}\noutput = "/dev/null"\nlocation\n')
    jobs.write_text("next\n".join(lines))
    parallel = ("--parallel", "--parallel-immediate", "--parallel-max", "64")
    return (job.program("curl"), "-sSfL", *parallel, "--config", str(jobs))


def _aria(streams: int, *, checksum: bool) -> Command:
    return lambda job: _aria2c(job, streams=streams, checksum=checksum)


_ALL = (
    Client(name="ours", command=_ours, place=_in_cache, verifies=True, needs="qwen-daemon"),
    Client(name="hf download", command=_hf, place=_in_cache, verifies=False, needs="hf"),
    Client(name="hf download, openssl", command=_hf_verified, place=_in_cache, verifies=True, needs="hf"),
    Client(name="hf_transfer", command=_hf_transfer, place=_in_folder, verifies=False, needs="python"),
    Client(name="aria2c -x8", command=_aria(8, checksum=False), place=_in_folder, verifies=False, needs="aria2c"),
    Client(name="aria2c -x16", command=_aria(16, checksum=False), place=_in_folder, verifies=False, needs="aria2c"),
    Client(
        name="aria2c -x8 --checksum", command=_aria(8, checksum=True), place=_in_folder, verifies=True, needs="aria2c"
    ),
    Client(name="curl", command=_curl, place=_in_folder, verifies=False, needs="curl"),
    Client(name="curl, openssl", command=_curl_openssl, place=_in_folder, verifies=True, needs="curl"),
    Client(name="durable copy", command=_durable_copy, place=_in_folder, verifies=False, needs="dd"),
    Client(name="discard", command=_discard, place=_in_folder, verifies=False, needs="curl", keeps=False),
    Client(name="openssl", command=_openssl, place=_in_folder, verifies=True, needs="openssl", keeps=False),
)
CLIENTS: Mapping[str, Client] = {client.name: client for client in _ALL}


def is_here(client: Client, bin_folders: Sequence[Path]) -> bool:
    """Whether its program is installed; hf_transfer is a Python package and is looked for as one."""
    path = os.pathsep.join([*map(str, bin_folders), os.environ.get("PATH", ""), "/usr/bin"])
    if client.name != "hf_transfer":
        return shutil.which(client.needs, path=path) is not None
    return bool(_with_hf_transfer(bin_folders))


def _with_hf_transfer(bin_folders: Sequence[Path]) -> list[Path]:
    return [folder for folder in bin_folders if any(folder.parent.glob("lib/python3*/site-packages/hf_transfer"))]


def own_bin() -> Path:
    """Where this environment's commands are."""
    return Path(sys.executable).parent
