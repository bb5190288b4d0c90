"""What `qwenctl doctor` makes of each fact, and the real command against real servers with something wrong at each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from qwen_api.commands import Version
from qwen_api.probe import EndpointProbe, ThroughputProbe
from qwen_monitor import doctor, examine
from qwen_monitor.doctor import Group, Room
from qwen_monitor.host import Host
from tests import canary
from tests.fakes import download, model_folder
from tests.fakes.daemon import FakeDaemon
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

COMMAND = (sys.executable, "-W", "error", "-m", "qwen_monitor.control", "doctor")
REPO, TOKEN = "org/one", "hf_canaryDoctor0000"
FILES = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    "model.safetensors": model_folder.safetensors("w", floats=600_000),
}
GB = 1_000_000_000
VERSION = Version(
    version="1", wire=1, epoch="e", pid=7, cache_dir="/its/hub", state_dir="/s", endpoint="https://huggingface.co"
)

Env = dict[str, str]


def endpoint(**facts: Any) -> EndpointProbe:
    return EndpointProbe(name="hub", url="https://huggingface.co", **facts)


# Each check


def test_no_daemon_is_a_warning_and_one_that_may_not_be_talked_to_a_failure() -> None:
    """Downloads work without a daemon; a running one that is out of reach needs a person."""
    assert doctor.of_socket("/run/control.sock", VERSION, ("", "", "")).state == "ok"
    assert doctor.of_socket("", None, ("E_DAEMON_DOWN", "nobody", "start it")).state == "warn"
    denied = doctor.of_socket("", None, ("E_SOCKET_DENIED", "you may not", "join"))
    assert (denied.state, denied.fix) == ("fail", "join")
    assert doctor.of_socket("/run/events.sock", VERSION, ("", "", "")).state == "warn"


def test_a_group_that_was_joined_a_minute_ago_needs_a_new_log_in() -> None:
    """The usual mistake after usermod is told from never having joined."""
    late = doctor.of_groups("me", [Group(name="qwen-admin", is_ours=False, is_listed=True)])
    never = doctor.of_groups("me", [Group(name="qwen", is_ours=False, is_listed=False)])
    mine = doctor.of_groups("me", [Group(name="qwen", is_ours=True, is_listed=True)])

    assert late is not None and "newgrp qwen-admin" in late.fix
    assert never is not None and "usermod -aG qwen me" in never.fix
    assert mine is not None and mine.state == "ok"
    assert doctor.of_groups("me", []) is None


def test_a_cache_that_is_not_the_daemons_is_told_with_the_variable_to_set() -> None:
    """A program that looks elsewhere downloads all of it again."""
    assert doctor.of_cache("/its/hub", VERSION).state == "ok"
    found = doctor.of_cache("/my/hub", VERSION)
    assert (found.state, found.fix) == ("warn", "export HF_HUB_CACHE=/its/hub")


@pytest.mark.parametrize(
    ("room", "state", "code"),
    [
        (Room(place="/c", free_bytes=9 * GB, needed_bytes=GB, may_write=True), "ok", ""),
        (Room(place="/c", free_bytes=9 * GB, needed_bytes=None, may_write=True), "ok", ""),
        (Room(place="/c", free_bytes=GB, needed_bytes=9 * GB, may_write=True), "fail", "E_DISK_FULL"),
        (Room(place="/c", free_bytes=9 * GB, needed_bytes=8 * GB, may_write=True, reserve_bytes=GB), "ok", ""),
        (
            Room(place="/c", free_bytes=9 * GB, needed_bytes=8 * GB, may_write=True, reserve_bytes=GB + 1),
            "fail",
            "E_DISK_FULL",
        ),
        (Room(place="/c", free_bytes=GB, needed_bytes=0, may_write=True, reserve_bytes=9 * GB), "ok", ""),
        (Room(place="/c", free_bytes=9 * GB, needed_bytes=GB, may_write=False), "warn", "E_PERMISSION"),
        (Room(place="/c", free_bytes=None, needed_bytes=GB, may_write=True), "fail", "E_IO"),
    ],
)
def test_the_disk_must_hold_what_is_still_to_come(room: Room, state: str, code: str) -> None:
    """Room, with the reserve that a fetch may not touch, and permission, in this order."""
    found = doctor.of_disk(room)
    assert (found.state, found.code) == (state, code)


@pytest.mark.parametrize(
    ("probe", "state", "words"),
    [
        (endpoint(token="ok", user="somebody"), "ok", "somebody"),
        (endpoint(token="none"), "ok", "public models only"),
        (endpoint(token="refused"), "fail", "refuses the token"),
        (endpoint(token="unknown"), "ok", "does not say whose"),
    ],
)
def test_a_token_is_told_by_whose_it_is(probe: EndpointProbe, state: str, words: str) -> None:
    """Only a refused one is a failure: public models need none."""
    found = doctor.of_token(probe)
    assert (found.state, words in found.what) == (state, True)


@pytest.mark.parametrize(
    ("ahead_s", "state", "word"), [(3.0, "ok", "right"), (900.0, "warn", "ahead"), (-900.0, "warn", "behind")]
)
def test_the_clock_is_held_against_the_hubs(ahead_s: float, state: str, word: str) -> None:
    """Seconds are the network's; minutes are the clock's."""
    found = doctor.of_clock([endpoint(clock_ahead_s=ahead_s)])
    assert found is not None and (found.state, word in found.what) == (state, True)
    assert doctor.of_clock([endpoint(code="E_NETWORK")]) is None


def test_the_speed_is_told_with_what_it_means_for_what_is_left() -> None:
    """A slow line is a warning; a few kilobytes are no measurement; an error is a failure with its way out."""
    fast = doctor.of_throughput(ThroughputProbe(size_bytes=32_000_000, duration_s=1.0), 57_600_000_000)
    slow = doctor.of_throughput(ThroughputProbe(size_bytes=1_500_000, duration_s=3.0), None)
    few = doctor.of_throughput(ThroughputProbe(size_bytes=500, duration_s=0.1), None)
    failed = doctor.of_throughput(ThroughputProbe(code="E_GATED", detail="access must be granted"), None)

    assert fast.state == "ok" and "32.0 MB/s" in fast.what and "57.6 GB would take 30:00" in fast.what
    assert slow.state == "warn" and "mirror" in slow.fix
    assert few.state == "ok" and "too few" in few.what
    assert (failed.state, failed.code, bool(failed.fix)) == ("fail", "E_GATED", True)


def test_a_model_that_the_gpu_cannot_hold_is_told_before_it_is_fetched() -> None:
    """With offload it works, so it is a warning."""
    small, large = Host(ram_bytes=64 * GB, gpu_bytes=24 * GB), Host(ram_bytes=64 * GB, gpu_bytes=141 * GB)
    assert doctor.of_gpu("org/one", 58 * GB, large).state == "ok"
    found = doctor.of_gpu("org/one", 58 * GB, small)
    assert found.state == "warn" and "24.0 GB" in found.why
    assert doctor.of_gpu("org/one", None, small).what == "a GPU of 24.0 GB"


GROUP = Group(name="qwen", is_ours=True, is_listed=True)
SMALL_DISK = Room(place="/c", free_bytes=GB, needed_bytes=9 * GB, may_write=True)
OUTCOMES: dict[str, tuple[doctor.Finding | None, doctor.Finding | None]] = {
    "socket": (doctor.of_socket("/c.sock", VERSION, ("", "", "")), doctor.of_socket("", None, ("E_DAEMON_DOWN",) * 3)),
    "groups": (doctor.of_groups("me", [GROUP]), doctor.of_groups("me", [structs.replace(GROUP, is_ours=False)])),
    "cache": (doctor.of_cache("/its/hub", VERSION), doctor.of_cache("/my/hub", VERSION)),
    "disk": (doctor.of_disk(structs.replace(SMALL_DISK, needed_bytes=1)), doctor.of_disk(SMALL_DISK)),
    "hub": (doctor.of_endpoint(endpoint(latency_s=0.03)), doctor.of_endpoint(endpoint(latency_s=3.0))),
    "hub that fails": (None, doctor.of_endpoint(endpoint(code="E_DNS", detail="no such host"))),
    "proxy that fails": (
        doctor.of_proxy([endpoint(proxy="lan:3128")]),
        doctor.of_endpoint(endpoint(code="E_PROXY", detail="lan:3128 refuses")),  # its endpoint's line says so
    ),
    "token": (doctor.of_token(endpoint(token="ok", user="me")), doctor.of_token(endpoint(token="refused"))),
    "clock": (doctor.of_clock([endpoint(clock_ahead_s=1.0)]), doctor.of_clock([endpoint(clock_ahead_s=99.0)])),
    "speed": (
        doctor.of_throughput(ThroughputProbe(size_bytes=32_000_000, duration_s=1.0), GB),
        doctor.of_throughput(ThroughputProbe(size_bytes=1_500_000, duration_s=9.0), GB),
    ),
    "gpu": (
        doctor.of_gpu("org/one", 58 * GB, Host(ram_bytes=64 * GB, gpu_bytes=80 * GB)),
        doctor.of_gpu("org/one", 58 * GB, Host(ram_bytes=8 * GB, gpu_bytes=24 * GB)),
    ),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_each_item_has_a_good_line_and_a_bad_one_with_a_way_out(name: str) -> None:
    """What is well is one fact; what is not has a reason and something to do."""
    good, bad = OUTCOMES[name]
    assert good is None or (good.state, good.code, bool(good.what)) == ("ok", "", True)
    assert bad is not None and bad.state in ("warn", "fail")
    assert bad.what and bad.why and bad.fix


def test_each_disk_is_told_once_with_all_that_comes_to_it(tmp_path: Path) -> None:
    """A model's own folder may be on another disk than the cache, or on the same."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:  # another file system, if there is one
        places = {"cache": tmp_path / "hub", "beside": tmp_path / "own", "elsewhere": Path(elsewhere) / "own"}
        needs = [(places["cache"], None), (places["cache"], GB), (places["beside"], GB), (places["elsewhere"], 3 * GB)]
        rooms = list(examine.rooms_in(needs, reserve_bytes=7, is_ours_to_write=True))

        assert [(room.place, room.needed_bytes, room.reserve_bytes) for room in rooms] == [
            (str(places["cache"]), 2 * GB, 7),
            (str(places["elsewhere"]), 3 * GB, 7),
        ]


@pytest.mark.parametrize(("has_links", "lacking"), [(True, 0), (False, 2)])
def test_what_is_lacking_is_what_a_download_would_write(tmp_path: Path, has_links: bool, lacking: int) -> None:
    """With links a blob is enough; without, each name is a file of its own in the snapshot."""
    files = {"a.txt": b"x", "b.txt": b"x"}
    snapshot = model_folder.write_cache(tmp_path, files)
    manifest = model_folder.listing(files)
    assert examine.lacking_bytes(tmp_path, manifest, has_links=has_links) == 0
    for name in files:
        (snapshot / name).unlink()
    assert examine.lacking_bytes(tmp_path, manifest, has_links=has_links) == lacking


# The real command


@pytest.fixture
def env(tmp_path: Path) -> Env:
    """A home of its own, no daemon, and a GPU of 24 GiB (a program in the place of nvidia-smi)."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "nvidia-smi").write_text("#!/bin/sh\necho 24576\n")
    (programs / "nvidia-smi").chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ.get('PATH', '')}",
        "HOME": str(tmp_path),
        "QWEN_DAEMON_SOCKET": str(tmp_path / "nobody.sock"),
        "PYTHONUTF8": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def run(env: Env, *words: str) -> subprocess.CompletedProcess[str]:
    return canary.run([*COMMAND, *words], env=env)


def checks(env: Env, *words: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and the findings by what was checked."""
    done = run(env, REPO, "--json", *words)
    assert TOKEN not in done.stdout + done.stderr
    return done.returncode, {found["check"]: found for found in json.loads(done.stdout)["checks"]}


@pytest.fixture
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES), tokens=[TOKEN, canary.TOKEN])) as simulator:
        yield simulator


def test_a_machine_in_order_is_0_and_every_line_says_what_was_seen(env: Env, hub: SimHub) -> None:
    """Each check has a line; the token's account is named and the token is not."""
    done = run(env | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}, REPO)

    assert done.returncode == 0, done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith(" ")] == [
        ["warn", "daemon"],
        ["ok", "cache"],
        ["ok", "disk"],
        ["ok", "Hub"],
        ["ok", "token"],
        ["ok", "proxy"],
        ["ok", "clock"],
        ["ok", "speed"],
        ["ok", "GPU"],
    ]
    assert "good, of the account somebody" in done.stdout
    assert all(len(line) <= 80 or "/" in line for line in lines)


def test_a_refused_token_is_5_and_a_wrong_clock_is_said(env: Env) -> None:
    """The first failure decides the exit code; what is only odd does not."""
    late = SimHub(SimRepo(id=REPO, files=FILES), wall=lambda: time.time() - 7200)
    with ThreadedSimHub(late) as simulator:
        code, found = checks(env | {"HF_ENDPOINT": simulator.endpoint, "HF_TOKEN": TOKEN})

    assert (code, found["token"]["state"], found["token"]["code"]) == (5, "fail", "E_AUTH")
    assert found["clock"]["state"] == "warn" and "ahead" in found["clock"]["what"]


def test_a_hub_that_is_away_is_6_and_a_mirror_beside_it_is_asked(env: Env, hub: SimHub, tmp_path: Path) -> None:
    """Every endpoint of the configuration has its line, and bytes come from the one that works."""
    (tmp_path / "config.toml").write_text(f'[mirrors]\nlan = "{hub.endpoint}"\n')
    config = {"QWEN_DAEMON_CONFIG": str(tmp_path / "config.toml"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    code, found = checks(env | config)

    assert (code, found["hub"]["state"]) == (6, "fail")
    assert found["mirror lan"]["state"] == "ok"
    assert found["speed"]["state"] == "ok"


def test_a_proxy_is_named_without_its_password(env: Env) -> None:
    """It is the proxy that cannot be reached, and its own line says which."""
    proxy = {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": "http://me:secretword@127.0.0.1:9"}
    done = run(env | proxy, REPO, "--json")

    found = {one["check"]: one for one in json.loads(done.stdout)["checks"]}
    assert found["proxy"]["what"] == "127.0.0.1:9"
    assert found["hub"]["code"] == "E_PROXY"
    assert "secretword" not in done.stdout + done.stderr


def test_without_the_network_the_rest_is_looked_at(env: Env) -> None:
    """HF_HUB_OFFLINE is a wish: nothing is asked, and nothing has failed."""
    code, found = checks(env | {"HF_HUB_OFFLINE": "1"})
    assert (code, found["hub"]["state"], found["hub"]["code"]) == (0, "warn", "E_OFFLINE")
    assert "speed" not in found


def test_the_daemons_cache_and_its_models_are_what_counts(env: Env) -> None:
    """Another HF_HOME than the daemon's is said; the model to fit in is the daemon's."""
    with tempfile.TemporaryDirectory(prefix="qd-") as folder, FakeDaemon(Path(folder), *download.half_way()) as fake:
        done = run(env | {"QWEN_DAEMON_SOCKET": str(fake.control), "HF_HUB_OFFLINE": "1"}, "--json")

    answer = json.loads(done.stdout)
    found = {one["check"]: one for one in answer["checks"]}
    assert answer["model"] == download.REPO
    assert found["socket"]["state"] == "ok"
    assert (found["cache"]["state"], found["cache"]["fix"]) == ("warn", "export HF_HUB_CACHE=/cache")


def test_a_listing_comes_from_the_endpoints_of_the_configuration(env: Env, hub: SimHub, tmp_path: Path) -> None:
    """`qwenctl check` asks as the daemon does: the Hub is away, a mirror knows the model."""
    (tmp_path / "config.toml").write_text(f'[mirrors]\nlan = "{hub.endpoint}"\n')
    config = {"QWEN_DAEMON_CONFIG": str(tmp_path / "config.toml"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-W", "error", "-m", "qwen_monitor.control", "check", REPO, "--json"]
    done = canary.run(command, env=env | config)

    assert done.returncode == 4, done.stderr
    report = json.loads(done.stdout)
    assert (report["source"], report["totals"]["missing"]) == ("listing", len(FILES))


def test_the_reserve_of_the_configuration_counts(env: Env, hub: SimHub, tmp_path: Path) -> None:
    """Also with no daemon: the one that a download starts keeps it free too."""
    (tmp_path / "config.toml").write_text("[disk]\nreserve_bytes = 4_000_000_000_000_000\n")
    config = {"QWEN_DAEMON_CONFIG": str(tmp_path / "config.toml"), "HF_ENDPOINT": hub.endpoint}
    code, found = checks(env | config, "--quick")

    assert (code, found["disk"]["state"], found["disk"]["code"]) == (9, "fail", "E_DISK_FULL")
    assert "4.0 PB kept in reserve" in found["disk"]["what"]


def test_a_fix_names_the_model_that_was_asked_about(env: Env) -> None:
    """A command to copy, not one to fill in."""
    gated = SimHub(SimRepo(id=REPO, files=FILES, gated="manual", readers=["hf_other"]), tokens=[TOKEN, "hf_other"])
    with ThreadedSimHub(gated) as simulator:
        _code, found = checks(env | {"HF_ENDPOINT": simulator.endpoint, "HF_TOKEN": TOKEN})

    assert (found["speed"]["code"], f"qwenctl retry {REPO}" in found["speed"]["fix"]) == ("E_GATED", True)


def test_a_model_larger_than_the_gpu_is_a_warning_with_both_sizes(env: Env, hub: SimHub, tmp_path: Path) -> None:
    """Before 57 GB are fetched for it; it is no failure, for with offload it may work."""
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 1\n")
    code, found = checks(env | {"HF_ENDPOINT": hub.endpoint}, "--quick")
    assert (code, found["gpu"]["state"], found["gpu"]["code"]) == (0, "warn", "E_NO_VRAM")
    assert "a GPU of 1.0 MB; the weights of org/one are 2.4 MB" in found["gpu"]["what"]


def test_a_daemon_that_runs_for_real_is_in_order(env: Env, hub: SimHub, tmp_path: Path) -> None:
    """Its own environment, its own cache: nothing is amiss."""
    with Running(tmp_path / "d", endpoint=hub.endpoint, models=[REPO]) as daemon:
        daemon.wait_complete("org--one")
        code, found = checks(env | daemon.env | {"PATH": env["PATH"]}, "--quick", "--socket", str(daemon.control))

    assert code == 0
    assert {one["state"] for one in found.values()} == {"ok"}
