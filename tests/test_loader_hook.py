"""Waiting for a model: the real command, a real socket, a real cache; and the same wait from inside a program."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.client import Follower
from qwen_api.commands import AddModel
from qwen_loader import ModelUnavailable, ReadyModel, ReadyTimeout, Waiting, wait_ready, wait_ready_async
from qwen_loader.editing import read_picture
from qwen_loader.wait import Wait
from tests import canary
from tests.fakes.daemon import FakeDaemon
from tests.fakes.small_model import COMMIT, CONTENTS, REPO, WEIGHTS, SmallModel, folder_as_model

SHOW = (sys.executable, "-c", "import os; print(*[os.environ.get(n) for n in os.environ['SHOW'].split()], sep='\\n')")

IMPORT_S_MAX = 0.3

SHOW_IGNORED = "grep SigIgn /proc/self/status"


class Place:
    """One user's world: a home with a cache, a state directory and sockets, and the environment that leads there."""

    def __init__(self, home: Path) -> None:
        self.runtime = home / "run" / "qwen-daemon"
        self.state = home / "state" / "qwen-daemon"
        self.model = SmallModel(home / "hf" / "hub")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_STATE_HOME": str(home / "state"),
            "HF_HOME": str(home / "hf"),
        }
        canary.plant(self.env)

    def daemon(self, *script: e.Event) -> FakeDaemon:
        """A daemon on this user's sockets; its state directory is the sockets' folder."""
        return FakeDaemon(self.runtime, *script, bookmark_s=0.2)  # how soon it notices that a reader left

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """The command, with its warnings as errors; its output is piped."""
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "qwen_loader", REPO, *arguments],
            env={**self.env, **more},
            cwd=self.env["HOME"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """The same, run to its end."""
        with self.start(*arguments, **more) as process:
            out, err = process.communicate(timeout=200)
            return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def wait(self, timeout_s: float | None = None) -> tuple[ReadyModel, list[Waiting]]:
        """The same wait in this process, and everything it told."""
        told: list[Waiting] = []
        return wait_ready(REPO, env=self.env, on_event=told.append, timeout_s=timeout_s), told


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Lines of standard error up to the one with `text`."""
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"ended without {text!r}: {seen}")


def loader_states(daemon: FakeDaemon) -> list[str]:
    return [report.state for report in daemon.loader_reports()]


# A daemon that has it, or will.


@pytest.mark.fault("K8")
def test_a_complete_model_is_handed_over_at_once(place: Place) -> None:
    """COMMAND replaces the loader: offline, with the exact snapshot and the cache it lies in."""
    names = ("QWEN_MODEL_PATH", "HF_HUB_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE", "HF_HUB_CACHE")
    place.model.write().write_ready(place.runtime)
    with place.daemon(*place.model.wanted_events(), *place.model.complete_events()):
        done = place.command("--", *SHOW, SHOW=" ".join(names))
    assert done.stdout.splitlines() == [str(place.model.folder), "1", "1", str(place.model.cache)]
    assert done.returncode == 0


def test_waits_for_complete_and_says_how_far(place: Place) -> None:
    """Progress on standard error while it waits; the command's own code at the end."""
    place.model.write().write_ready(place.runtime)
    script = [*place.model.wanted_events(), place.model.verified_event(WEIGHTS)]
    nine = (sys.executable, "-c", "raise SystemExit(9)")
    with place.daemon(*script) as daemon, place.start("--", *nine) as process:
        assert "99 % 10.3/10.3 kB, 2 files missing, the daemon downloads it" in read_until(process, "waiting:")
        daemon.say(*place.model.complete_events())
        assert process.wait(60) == 9


def test_reports_itself_to_the_daemon(place: Place) -> None:
    """The monitor sees who waits, under a name, and that it is gone."""
    place.model.write().write_ready(place.runtime)
    with place.daemon(*place.model.wanted_events(), *place.model.complete_events()) as daemon:
        assert place.command("--name", "image-api", "--", "true").returncode == 0
        assert loader_states(daemon)[-1] == "gone"
        assert {c.subject for c in daemon.commands if c.verb == "loader"} == {"image-api"}


def test_a_daemon_that_refuses_reports_stops_nothing(place: Place) -> None:
    """Being shown is a courtesy."""
    place.model.write().write_ready(place.runtime)
    with place.daemon(*place.model.wanted_events(), *place.model.complete_events()) as daemon:
        for _ in range(2):
            daemon.refuse_next("E_INTERNAL", "no")
        assert place.command("--", "true").returncode == 0


@pytest.mark.fault("K8", "K9")
def test_follows_a_daemon_through_its_restart(place: Place) -> None:
    """A new daemon with a new epoch finishes what the old one began."""
    place.model.write().write_ready(place.runtime)
    script = place.model.wanted_events()
    with place.daemon(*script) as daemon, place.start("--", "true") as process:
        read_until(process, "waiting:")
        (place.runtime / "ready" / f"{place.model.ref.key}.json").rename(place.runtime / "later.json")
        daemon.stop()
        daemon.start(epoch="epoch-2")
        daemon.wait_for_readers(1)
        place.model.write_ready(place.runtime)
        daemon.say(*place.model.complete_events())
        assert process.wait(60) == 0


def test_an_unknown_model_is_asked_for(place: Place) -> None:
    """Whoever may command need not say `qwenctl add` first."""
    place.model.write().write_ready(place.runtime)
    with place.daemon() as daemon, place.start("--revision", "main", "--", "true") as process:
        read_until(process, "waiting:")
        (added,) = [c for c in daemon.commands if c.verb == "add"]
        assert msgspec.json.decode(added.body, type=AddModel) == AddModel(model=REPO)
        daemon.say(*place.model.wanted_events(), *place.model.complete_events())
        assert process.wait(60) == 0


def test_who_may_only_read_is_told_whom_to_ask(place: Place) -> None:
    """On the events socket a model cannot be added."""
    with place.daemon() as daemon:
        done = place.command("--socket", str(daemon.events), "--", "true")
    assert done.returncode == 3
    assert "error[E_UNKNOWN_MODEL]" in done.stderr
    assert f"fix: qwenctl add {REPO}" in done.stderr


def test_a_removed_model_is_not_added_again(place: Place) -> None:
    """Somebody's `qwenctl rm` is not fought."""
    with place.daemon(*place.model.wanted_events()) as daemon, place.start("--", "true") as process:
        read_until(process, "waiting:")
        daemon.say(e.ModelRemoved(model=place.model.ref.key))
        assert process.wait(60) == 3
        assert [c for c in daemon.commands if c.verb == "add"] == []


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("failed", "E_GATED", 5),
        ("failed", "E_NOT_FOUND", 3),
        ("failed", "E_DNS", 6),
        ("incomplete", "E_OFFLINE", 4),
    ],
)
def test_ends_where_only_a_person_can_help(place: Place, state: e.ModelState, code: str, expected: int) -> None:
    """The daemon's reason becomes the exit code; what lacks is in the JSON."""
    failed = e.ModelStateChanged(model=place.model.ref.key, state=state, code=code, detail="so said the Hub")
    with place.daemon(*place.model.wanted_events(), failed) as daemon:
        done = place.command("--json")
        assert loader_states(daemon)[-1] == "failed"  # the reason stays where the monitor shows it
    assert done.returncode == expected
    assert f"error[{code}]: {REPO} is not ready\n  why: so said the Hub" in done.stderr
    answer = json.loads(done.stdout)
    assert answer["error"]["code"] == code
    assert set(answer["error"]["missing"]) == set(place.model.contents)


# Proofs: seals, hashes, repair.


def test_seals_spare_the_hashing(place: Place) -> None:
    """Untouched since the daemon verified it: nothing is read through."""
    place.model.write().write_ready(place.runtime)
    with place.daemon(*place.model.wanted_events(), *place.model.complete_events()):
        ready, told = place.wait()
    expected = ReadyModel(
        repo=REPO,
        commit=COMMIT,
        path=str(place.model.folder),
        verified="sha256",
        source="daemon",
        seals=place.model.ready().seals,
    )
    assert expected == ready
    assert told == []


@pytest.mark.fault("D29")
def test_a_broken_seal_is_hashed_again(place: Place) -> None:
    """Touched, and still right: ready after one hash, and only of what was touched."""
    place.model.write().write_ready(place.runtime)
    os.utime(place.model.file(WEIGHTS), ns=(1, 1))
    with place.daemon(*place.model.wanted_events(), *place.model.complete_events()):
        ready, told = place.wait()
    assert ready.source == "daemon"
    assert {(w.phase, w.why, w.size_bytes) for w in told} == {
        ("hashing", "hashing what no seal proves: unet", len(place.model.contents[WEIGHTS]))
    }


def test_unreadable_seals_mean_hashing_all(place: Place) -> None:
    """A ready file that is no ready file proves nothing."""
    place.model.write()
    (place.runtime / "ready").mkdir(parents=True)
    (place.runtime / "ready" / f"{place.model.ref.key}.json").write_text("{")
    with place.daemon(*place.model.wanted_events(), *place.model.complete_events()):
        ready, told = place.wait()
    assert ready.source == "daemon"
    assert {w.size_bytes for w in told} == {place.model.manifest.size_bytes}


def damage(path: Path) -> bytes:
    """One flipped bit, as a disk does it."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return bytes(content)


def test_damage_goes_back_to_the_daemon_for_repair(place: Place) -> None:
    """`complete` with a wrong bit on the disk: the daemon is asked to verify, and waited for again."""
    place.model.write().write_ready(place.runtime)
    damage(place.model.file(WEIGHTS))
    key = place.model.ref.key
    script = [*place.model.wanted_events(), *place.model.complete_events()]
    with place.daemon(*script) as daemon, place.start("--", "true") as process:
        read_until(process, "asked to verify and repair")
        assert [c.subject for c in daemon.commands if c.verb == "verify"] == [key]
        daemon.say(e.ModelStateChanged(model=key, state="checking"))
        place.model.file(WEIGHTS).write_bytes(place.model.contents[WEIGHTS])
        place.model.write_ready(place.runtime)
        daemon.say(*place.model.complete_events())
        assert process.wait(60) == 0


def test_damage_that_the_daemon_never_sees_ends_it(place: Place) -> None:
    """Two disks, or a bad one: after two verifications a person is asked."""
    place.model.write()
    damage(place.model.file(WEIGHTS))
    script = [*place.model.wanted_events(), *place.model.complete_events()]
    with place.daemon(*script) as daemon, place.start("--", "true") as process:
        for count in (1, 2):
            wait_for_verb(daemon, "verify", count)
            daemon.say(*place.model.complete_events())
        assert process.wait(60) == 10
        assert process.stderr is not None
        assert "do not see the same files" in process.stderr.read()


def wait_for_verb(daemon: FakeDaemon, verb: str, count: int) -> None:
    """Block until this many such commands came."""
    known = 0
    while sum(c.verb == verb for c in daemon.commands) < count:
        known = len(daemon.wait_for_commands(known + 1))


@pytest.mark.fault("X3")
@pytest.mark.parametrize("flag", ["", "--allow-code"])
def test_code_is_let_in_by_name_only(place: Place, flag: str) -> None:
    """The daemon verified it, which says nothing of what it does."""
    place.model.write().write_ready(place.runtime)
    with place.daemon(*place.model.wanted_events(), *place.model.complete_events(has_code=True)):
        done = place.command(*flag.split(), "--", "true")
    assert done.returncode == (0 if flag else 1)
    assert ("E_HAS_CODE" in done.stderr) == (not flag)


@pytest.mark.parametrize("flag", ["", "--allow-code", "--allow-pickle"])
def test_pickles_are_let_in_by_name_only(place: Place, flag: str) -> None:
    """And for COMMAND: what is let in of one kind lets in nothing of another."""
    place.model.write().write_ready(place.runtime)
    with place.daemon(*place.model.wanted_events(), *place.model.complete_events(has_pickle=True)):
        done = place.command(*flag.split(), "--", "true")
    assert done.returncode == (0 if flag == "--allow-pickle" else 1)
    assert ("E_HAS_PICKLE" in done.stderr) == (flag != "--allow-pickle")


@pytest.mark.fault("X6")
def test_a_file_slipped_into_the_snapshot_is_refused(place: Place) -> None:
    """Not in the listing, so not verified, but an import would find it."""
    place.model.write().write_ready(place.runtime)
    (place.model.folder / "unet" / "weights.py").write_text("print('hello')")
    with place.daemon(*place.model.wanted_events(), *place.model.complete_events()):
        done = place.command("--json")
    assert json.loads(done.stdout)["error"]["missing"] == ["unet/weights.py"]
    assert done.returncode == 1


@pytest.mark.fault("X6")
@pytest.mark.parametrize("stray", ["unet/model.safetensors", "unet/adapter_config.json"])
def test_weights_slipped_into_the_snapshot_are_refused(place: Place, stray: str) -> None:
    """transformers takes them before the model's own, and every file of the listing is right all the same."""
    place.model.write().write_ready(place.runtime)
    (place.model.folder / stray).write_bytes(CONTENTS[WEIGHTS])
    with place.daemon(*place.model.wanted_events(), *place.model.complete_events()):
        done = place.command("--", "true")
    assert done.returncode == 1
    assert "error[E_STRAY]" in done.stderr and stray in done.stderr


def test_what_the_listing_knows_is_hashed_though_nobody_asked_for_it(place: Place) -> None:
    """`qwenctl add --exclude` and an `hf download` before it: right, it is the model's; wrong, it is not loaded."""
    place.model.write()
    others = {path: seal for path, seal in place.model.ready().seals.items() if path != "config.json"}
    ready = msgspec.structs.replace(place.model.ready(), seals=others)
    place.model.write_ready(place.state)
    places.ready_file(place.state, place.model.ref.key).write_bytes(msgspec.json.encode(ready))
    found, told = place.wait()
    assert set(found.seals) == set(CONTENTS)
    assert {w.phase for w in told} == {"hashing"}
    damage(place.model.file("config.json"))
    with pytest.raises(ReadyTimeout) as raised:
        place.wait(timeout_s=0)
    assert raised.value.missing == ("config.json",)


# No daemon.


def test_the_ready_file_serves_without_a_daemon(place: Place) -> None:
    """The daemon may be stopped once it has done its work."""
    place.model.write().write_ready(place.state)
    ready, told = place.wait()
    assert (ready.source, ready.path) == ("ready-file", str(place.model.folder))
    assert told == []


def test_broken_seals_without_a_daemon_are_hashed(place: Place) -> None:
    """A restored backup has other inodes and the same content."""
    place.model.write().write_ready(place.state)
    os.utime(place.model.file(WEIGHTS), ns=(1, 1))
    ready, told = place.wait()
    assert ready.source == "ready-file"
    assert {w.phase for w in told} == {"hashing"}


def test_the_disk_serves_without_daemon_and_ready_file(place: Place) -> None:
    """What `hf download` brought is hashed once against the Hub's listing."""
    place.model.write()
    ready, told = place.wait()
    assert (ready.source, ready.commit) == ("disk", COMMIT)
    assert told[-1].done_bytes == told[-1].size_bytes == place.model.manifest.size_bytes


def test_a_missing_file_on_the_disk_is_named(place: Place) -> None:
    """Nobody is at work on it, as far as can be seen, but somebody may yet be."""
    place.model.write().file(WEIGHTS).unlink()
    done = place.command("--timeout", "0", "--json")
    assert done.returncode == 75
    assert "1 file missing" in done.stderr
    assert WEIGHTS in done.stderr
    assert json.loads(done.stdout)["error"]["missing"] == [WEIGHTS]


def test_a_wrong_file_on_the_disk_is_not_loaded(place: Place) -> None:
    """Right size, wrong content: no library would notice."""
    damage(place.model.write().file(WEIGHTS))
    with pytest.raises(ReadyTimeout) as raised:
        place.wait(timeout_s=0)
    assert raised.value.missing == (WEIGHTS,)


@pytest.mark.parametrize(("fault", "code", "expected"), [("missing", "E_INCOMPLETE", 4), ("flipped", "E_CORRUPT", 10)])
def test_what_nobody_mends_is_not_waited_for_for_ever(place: Place, fault: str, code: str, expected: int) -> None:
    """At once what is wrong, that nobody repairs it and what would; after --patience the same as an error."""
    weights = place.model.write().file(WEIGHTS)
    weights.unlink() if fault == "missing" else damage(weights)
    done = place.command("--patience", "0.2")
    assert done.returncode == expected
    said, _, error = done.stderr.partition(f"error[{code}]")
    for text in (said, error):
        assert WEIGHTS in text
        assert "nobody repairs it: no daemon answers" in text
        assert f"fix: qwenctl download {REPO}\n" in text


def test_somebody_who_writes_to_the_cache_is_waited_for(place: Place) -> None:
    """`hf download` in another terminal: what it has so far lies beside the blobs, and then the file is there."""
    weights = place.model.write().file(WEIGHTS)
    part = weights.with_name(f"{weights.name}.incomplete")
    weights.rename(place.model.cache / "elsewhere")

    def hear(_: Waiting) -> None:
        if part.exists():
            part.rename(weights)
        elif not weights.exists():
            (place.model.cache / "elsewhere").rename(part)

    wait = Wait(place.model.ref, env=place.env, on_event=hear, patience_s=0.01)
    assert wait.run().source == "disk"


def test_nothing_anywhere_is_its_own_exit_code(place: Place) -> None:
    """No daemon and nothing on the disk: start a daemon."""
    done = place.command("--timeout", "0")
    assert done.returncode == 69
    assert "error[E_DAEMON_DOWN]" in done.stderr
    assert "fix: start it with" in done.stderr


def test_a_daemon_that_comes_later_is_found(place: Place) -> None:
    """Containers start in any order."""
    place.model.write().write_ready(place.runtime)
    place.model.file(WEIGHTS).rename(place.model.cache / "elsewhere")
    with place.start("--", "true") as process:
        read_until(process, "no daemon answers")
        with place.daemon(*place.model.wanted_events()) as daemon:
            daemon.wait_for_readers(1)
            (place.model.cache / "elsewhere").rename(place.model.file(WEIGHTS))
            daemon.say(*place.model.complete_events())
            assert process.wait(60) == 0


# How a wait ends.


def test_a_timeout_says_how_far_it_was(place: Place) -> None:
    """And names what lacks."""
    with place.daemon(*place.model.wanted_events()):
        done = place.command("--timeout", "0.2", "--", "true")
    assert done.returncode == 75
    assert "error[E_WAIT_TIMEOUT]" in done.stderr
    assert (
        f"0 % 0.0/10.3 kB, 3 files missing, the daemon downloads it: README.md, config.json, {WEIGHTS}" in done.stderr
    )


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_wait(place: Place, number: signal.Signals, expected: int) -> None:
    """As a shell tells it, and the daemon hears that the loader is gone."""
    with place.daemon(*place.model.wanted_events()) as daemon:
        with place.start("--", "true") as process:
            read_until(process, "waiting:")
            process.send_signal(number)
            assert process.wait(60) == expected
        assert loader_states(daemon)[-1] == "gone"


def test_command_gets_its_signals_undisturbed(place: Place) -> None:
    """After exec nothing of the loader's handlers is left: SIGPIPE and SIGTERM do what they do."""
    place.model.write().write_ready(place.state)
    script = "import signal,os; print(signal.pthread_sigmask(0,[]), flush=True); os.kill(os.getpid(), 15); input()"
    done = place.command("--", sys.executable, "-c", script)
    assert done.stdout == "set()\n"
    assert done.returncode == -signal.SIGTERM
    as_here = subprocess.run(["sh", "-c", SHOW_IGNORED], capture_output=True, text=True, check=True).stdout
    assert place.command("--", "sh", "-c", SHOW_IGNORED).stdout == as_here


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_was_ignored_stays_so(place: Place, number: signal.Signals) -> None:
    """`nohup qwen-loader MODEL -- cmd` and `qwen-loader MODEL -- cmd &`: for the loader and for the command."""
    place.model.write().write_ready(place.state)
    loader = f"{sys.executable} -W error -m qwen_loader {REPO} -- sh -c '{SHOW_IGNORED}'"
    done = subprocess.run(
        ["sh", "-c", f"trap '' {number.name.removeprefix('SIG')}; {SHOW_IGNORED}; exec {loader}"],
        env=place.env,
        cwd=place.env["HOME"],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = done.stdout.splitlines()
    assert before == after and int(before.split()[1], 16) >> (number - 1) & 1


@pytest.mark.parametrize(("command", "expected"), [("no-such-command", 127), ("./none", 127), ("/", 126)])
def test_a_command_that_cannot_run(place: Place, command: str, expected: int) -> None:
    """The codes of a shell, and before anything is waited for."""
    done = place.command("--", command)
    assert done.returncode == expected
    assert "waiting" not in done.stderr and "check" in done.stderr


def test_a_full_disk_under_the_log_stops_no_wait(place: Place) -> None:
    """It is full exactly when a model comes to it; what is only told is not told then."""
    place.model.write()
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "qwen_loader", REPO, "--", "sh", "-c", "exit 7"]
        assert subprocess.run(command, env=place.env, stderr=full, timeout=200).returncode == 7


@pytest.mark.parametrize(("sink", "expected", "said"), [("/dev/full", 1, "No space left"), ("|", 0, "")])
@pytest.mark.loader
def test_a_result_that_nobody_takes(tiny: Path, tmp_path: Path, sink: str, expected: int, said: str) -> None:
    """Its path cannot be written: an error; whoever was to read it is gone: none. No traceback either way."""
    folder_as_model(tmp_path / "hub", tiny).write()
    env = {**Place(tmp_path).env, "HF_HUB_CACHE": str(tmp_path / "hub"), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "qwen_loader", REPO, "--device", "cpu"]
    reading, writing = (None, os.open(sink, os.O_WRONLY)) if sink != "|" else os.pipe()
    if reading is not None:
        os.close(reading)
    done = subprocess.run(command, env=env, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=200)
    os.close(writing)
    assert done.returncode == expected, done.stderr
    assert said in done.stderr and ("error[E_IO]" in done.stderr) == bool(said)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="a new PID namespace needs root")
def test_works_as_pid_1(place: Place) -> None:
    """In a container the kernel drops a signal that PID 1 has no handler for; the loader has one."""
    command = ["unshare", "--pid", "--fork", sys.executable, "-m", "qwen_loader", REPO, "--", "true"]
    with (
        place.daemon(*place.model.wanted_events()),
        subprocess.Popen(command, env=place.env, stderr=subprocess.PIPE, text=True) as outer,
    ):
        read_until(outer, "waiting:")
        (inner,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        os.kill(int(inner), signal.SIGTERM)
        assert outer.wait(60) == 143


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="a new PID namespace needs root")
def test_command_is_pid_1_after_it(place: Place) -> None:
    """And gets the signals of a container that is stopped, with no shell or loader between."""
    place.model.write().write_ready(place.state)
    stay = "trap 'exit 7' TERM; echo $$; read never"
    command = ["unshare", "--pid", "--fork", sys.executable, "-m", "qwen_loader", REPO, "--", "bash", "-c", stay]
    with subprocess.Popen(
        command, env=place.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "1\n"
        (inner,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        os.kill(int(inner), signal.SIGTERM)
        assert outer.wait(60) == 7


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="a new PID namespace needs root")
def test_as_pid_1_it_takes_the_dead_away(place: Place) -> None:
    """An orphan of `docker exec` is its child while it waits; COMMAND finds no dead and the signal as it was."""
    place.model.write().write_ready(place.runtime)
    command = ["unshare", "--pid", "--kill-child", "--mount-proc", sys.executable, "-m", "qwen_loader", REPO, "--"]
    look = "import signal, glob; print(*glob.glob('/proc/[0-9]*'), signal.getsignal(signal.SIGCHLD).name)"
    with (
        place.daemon(*place.model.wanted_events()) as daemon,
        subprocess.Popen(
            [*command, sys.executable, "-c", look],
            env=place.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as outer,
    ):
        read_until(outer, "waiting:")
        (inner,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        enter = ["nsenter", "--target", inner, "--pid", "sh", "-c", "exec 3<&0; sh -c 'read end <&3' &"]
        read_end, write_end = os.pipe()
        subprocess.run(enter, stdin=read_end, stdout=subprocess.DEVNULL, check=True)
        (orphan,) = Path(f"/proc/{inner}/task/{inner}/children").read_text().split()
        end = os.pidfd_open(int(orphan))
        for one in (read_end, write_end):
            os.close(one)
        select.select([end], [], [])
        os.close(end)
        daemon.say(*place.model.complete_events())
        out, _ = outer.communicate(timeout=200)
    assert out.split() == ["/proc/1", "SIG_DFL"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--"],
        ["--steps", "4"],
        ["--edit", "none.png", "--prompt", "x", "--output", "o.png"],
        ["--timeout", "-1"],
        ["--name", "two\nlines"],  # the daemon would not take it, and nobody would see the loader
        ["--name", 65 * "x"],
        ["--revision", "../x"],
        ["--keep", "--", "true"],
        ["--device", "cuda", "--placement", "cpu"],
        ["--device", "cpu", "--placement", "full"],
        ["--fallback", "hub", "--placement", "model-offload"],
        ["--fallback", "hub", "--placement", "cpu"],
        ["--placement", "gpu"],
        ["--dtype", "int8"],
        ["--nonsense"],
    ],
)
def test_what_cannot_work_is_refused_before_waiting(place: Place, arguments: list[str]) -> None:
    """Nobody waits an hour to hear of a typing error."""
    done = place.command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error[E_USAGE]")


def test_one_step_is_refused(place: Place) -> None:
    """One step gives a black picture, silently."""
    picture = Path(place.env["HOME"]) / "in.png"
    picture.touch()
    done = place.command("--edit", str(picture), "--prompt", "x", "--output", "out.png", "--steps", "1")
    assert done.returncode == 2
    assert "the picture is black" in done.stderr


@pytest.mark.loader
@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("bad.png", ["--output", "out.png"], "cannot identify"),
        ("cut.png", ["--output", "out.png"], "truncated"),
        ("none.png", ["--output", "out.png"], "no such file"),
        ("in.png", ["--output", "folder.png"], "is a folder"),
        ("in.png", ["--output", "none/out.png"], "no such folder"),
        ("in.png", ["--output", "out.txt"], "must end in"),
        ("in.png", ["--output", "out.png", "--seed", str(1 << 64)], "64 bits"),
    ],
)
def test_pictures_are_looked_at_before_waiting(place: Place, name: str, more: list[str], why: str) -> None:
    """What cannot be read or written is found now, not when the model is loaded."""
    from PIL import Image

    home = Path(place.env["HOME"])
    (home / "folder.png").mkdir()
    Image.effect_noise((64, 64), 50).save(home / "in.png")
    (home / "cut.png").write_bytes((home / "in.png").read_bytes()[:200])
    (home / "bad.png").write_bytes(b"GIF87")
    done = place.command("--edit", name, "--prompt", "x", *more)
    assert done.returncode == 2
    assert why in done.stderr and "waiting" not in done.stderr


@pytest.mark.loader
def test_a_picture_is_taken_as_it_was_seen(tmp_path: Path) -> None:
    """Cameras only note how they were held."""
    from PIL import Image

    held = Image.Exif()
    held[0x0112] = 6  # Orientation: turned to the right
    Image.new("L", (40, 20)).save(tmp_path / "in.jpg", exif=held)
    picture = read_picture(tmp_path / "in.jpg")
    assert (picture.size, picture.mode) == ((20, 40), "RGB")


def test_what_is_not_installed_is_said_before_waiting(place: Place) -> None:
    """Here an old diffusers: nobody waits an hour for it; COMMAND may do with what it likes."""
    about = Path(place.env["HOME"]) / "diffusers-0.35.2.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: diffusers\nVersion: 0.35.2\n")
    done = place.command(PYTHONPATH=place.env["HOME"])
    assert done.returncode == 1
    assert "error[E_OLD_DIFFUSERS]" in done.stderr and "waiting" not in done.stderr
    place.model.write()
    assert place.command("--", "true", PYTHONPATH=place.env["HOME"]).returncode == 0


def test_a_repository_that_is_no_pipeline_says_so_without_torch(place: Place) -> None:
    """The gate is passed; loading it is somebody else's work."""
    place.model.write().write_ready(place.state)
    done = place.command()
    assert "error[E_NOT_DIFFUSERS]" in done.stderr
    assert f"qwen-loader {REPO} -- COMMAND" in done.stderr
    assert done.returncode == 1


def test_waiting_holds_no_torch() -> None:
    """Importing the package costs neither the seconds nor the gigabytes."""
    heavy = "import sys, qwen_loader.__main__; print(sorted({'torch','diffusers','transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_the_hook_costs_little() -> None:
    """A server that only waits starts as fast as without it: processor time, beside that of a bare Python."""

    def least_s(code: str) -> float:
        took = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", code], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        return min(took)

    assert least_s("import qwen_loader") - least_s("pass") < IMPORT_S_MAX


def test_waiting_costs_little_memory(place: Place) -> None:
    """A process that waits for hours beside others: 60 MB until the gate opens."""
    with place.daemon(*place.model.wanted_events()), place.start("--", "true") as process:
        read_until(process, "waiting:")
        peak_kib = int(Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1].split()[0])
        process.kill()
    assert peak_kib * 1024 <= 60_000_000


# From inside a program.


def test_gives_up_with_an_exception_a_program_can_read(place: Place) -> None:
    """Code, why, fix and the files."""
    failed = e.ModelStateChanged(model=place.model.ref.key, state="failed", code="E_GATED")
    with place.daemon(*place.model.wanted_events(), failed), pytest.raises(ModelUnavailable) as raised:
        place.wait()
    assert raised.value.code == "E_GATED"
    assert set(raised.value.missing) == set(place.model.contents)


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert {t.name for t in set(threading.enumerate()) - before if not t.name.startswith("asyncio")} == set()


def test_closing_while_it_connects_ends_it(tmp_path: Path) -> None:
    """close() may come before there is a socket to shut, and must not be lost: this daemon never says a word."""
    mute = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(mute))
        listening.listen()

        def find() -> Path:
            follower.close()
            return mute

        follower = Follower(find)
        assert list(follower) == []


async def test_the_async_form_returns_the_same(place: Place) -> None:
    """And tells on the loop."""
    place.model.write()
    told: list[Waiting] = []
    ready = await wait_ready_async(REPO, env=place.env, on_event=told.append)
    assert ready.source == "disk"
    assert {w.phase for w in told} == {"hashing"}


@pytest.mark.usefixtures("no_threads_left")
async def test_cancelling_leaves_nothing_behind(place: Place) -> None:
    """The stream is closed and the thread has ended when the cancelled call returns."""
    heard = asyncio.Event()
    with place.daemon(*place.model.wanted_events()) as daemon:
        waiting = asyncio.create_task(wait_ready_async(REPO, env=place.env, on_event=lambda _: heard.set()))
        await heard.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        daemon.wait_for_readers(0)
