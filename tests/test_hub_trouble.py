"""The real daemon against a Hub that refuses, stammers and lies: what people are told, what is asked again, and when.

Waits of seconds are cut by the `retry` command, as a person would; where the server said how long, nothing cuts them.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api.commands import AddModel
from qwen_api.events import FollowPolicy
from tests.fakes import hub_kinds as kinds
from tests.fakes import model_folder
from tests.fakes.hub import Fault, SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

MIB = 1 << 20
WEIGHTS, REPO, KEY = "model.safetensors", "org/one", "org--one"
CONFIG = model_folder.transformers_model("Qwen2ForCausalLM")
BIG = model_folder.safetensors("w", floats=10 * MIB)
GZIPPED = {"content-encoding": "gzip"}


@pytest.fixture
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files={**CONFIG, WEIGHTS: BIG}))) as hub:
        yield hub


def small(name: str, **more: bytes) -> SimRepo:
    return SimRepo(id=name, files={**CONFIG, WEIGHTS: weights_of(name), **more})


def large(name: str, floats: int) -> SimRepo:
    return SimRepo(id=name, files={**CONFIG, WEIGHTS: weights_of(name, floats)})


def weights_of(repo: str, floats: int = 100) -> bytes:
    """Of its own: what another model of the cache has would not be asked for."""
    return model_folder.safetensors("w", floats=floats, seed=int.from_bytes(repo.encode()))


def key_of(repo: str) -> str:
    return repo.replace("/", "--")


def has_news(daemon: Running, tries: int) -> bool:
    return len(daemon.seen(e.FileRetry)) > tries or bool(daemon.seen(e.ModelComplete))


def has_tried(daemon: Running, tries: int, repo: str) -> bool:
    return len(daemon.seen(e.FileRetry, model=key_of(repo))) == tries


@pytest.mark.fault("H21", "H22", "H23", "H45", "H46", "H49", "X5")
def test_what_only_a_person_can_mend_is_said_once_and_not_asked_again(tmp_path: Path) -> None:
    """Gated, absent, unknown revision, hostile or useless: failed with its code, after a handful of requests."""
    forged = {
        "up": "../up",
        "absolute": "/etc/cron.d/x",
        "escape": "a\x1b[2J",
        "twice": "config.json/x",
        "dot": "a/./b",
    }
    expected = {
        "org/gated": "E_GATED",
        "org/absent": "E_NOT_FOUND",
        "org/one@no-such-branch": "E_REVISION_NOT_FOUND",
        "org/disabled": "E_DISABLED",
        "org/pointer": "E_STRUCTURE",
        "org/none": "E_NOTHING_WANTED",
        "org/empty": "E_NOTHING_WANTED",
        "org/size": "E_LISTING",
        "org/loop": "E_LISTING",
        "org/endless": "E_LISTING",
        "org/void": "E_LISTING",
        **{f"org/{name}": "E_LISTING" for name in forged},
    }
    repos = [
        SimRepo(id="org/gated", files={"config.json": b"{}", "secret.txt": b"only there"}, gated="manual"),
        SimRepo(id="org/disabled", files=CONFIG, disabled=True),
        SimRepo(id="org/pointer", files={**CONFIG, WEIGHTS: model_folder.POINTER}),
        *(SimRepo(id=f"org/{name}", files={}) for name in ("empty", "void")),
        *(small(f"org/{name}") for name in ("one", "none", "size", "loop", "endless", *forged)),
    ]
    with ThreadedSimHub(SimHub(*repos)) as hub:
        for name, path in forged.items():
            hub.faults.add(Fault(kinds.listing_adds(path), repo=f"org/{name}"))
        hub.faults.add(Fault(kinds.listing_sizes({WEIGHTS: -1}), repo="org/size"))
        hub.faults.add(Fault(kinds.CursorLoop(), repo="org/loop", path="tree/*"))
        for name in ("endless", "void"):  # void: pages of nothing, each with another one behind it
            hub.faults.add(Fault(kinds.CursorLoop(fresh=True), repo=f"org/{name}", path="tree/*"))
        models = [
            AddModel(model=name, include=("nothing/*",)) if name == "org/none" else AddModel(model=name)
            for name in expected
        ]
        with Running(tmp_path, endpoint=hub.endpoint, models=models) as daemon:
            for name in expected:
                daemon.wait_state(name.replace("/", "--"), "failed")
            said = {key: model.code for key, model in daemon.client.state().models.items()}
            assert said == {name.replace("/", "--"): code for name, code in expected.items()}
            assert daemon.seen(e.FileRetry) == []
            for repo in [r for r in expected if expected[r] == "E_LISTING"]:
                assert hub.log.served(repo=repo, server="cdn") == []
                assert not (daemon.cache / f"models--{repo.replace('/', '--')}").exists()
            asked = {r: len(hub.log.requests(repo=r.partition("@")[0])) for r in expected}
            assert 1000 < asked.pop("org/void") < 3000, "pages of nothing are followed, and not for ever"
            assert max(asked.values()) <= 7
            assert "Traceback" not in daemon.stderr and "\x1b[2J" not in daemon.stderr


@pytest.mark.fault("H19", "H24")
def test_resets_and_spent_addresses_cost_no_byte_twice(hub: SimHub, tmp_path: Path) -> None:
    """Ten resets, and an address that expires in mid-file, and the file arrives with every byte sent once.

    The address costs not even a retry: it is asked for anew at the byte where it was refused.
    """
    for n in range(10):
        hub.faults.add(Fault(kinds.Reset(), path=WEIGHTS, at_byte=(3 * n + 2) * MIB, times=1))
    expiring = hub.gate(WEIGHTS, 17 * MIB)
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        answered = 0
        while not daemon.seen(e.ModelComplete):
            daemon.wait_for(partial(has_news, daemon, answered), "a retry or the end")
            if len(daemon.seen(e.FileRetry)) == answered:
                break
            answered += 1
            if answered == 6:
                hub.expire_urls()
                expiring.open()
            daemon.client.retry(KEY)
        codes = [event.code for event in daemon.seen(e.FileRetry)]
        assert codes == ["E_CUT_SHORT"] * 10
        assert {event.attempt for event in daemon.seen(e.FileRetry)} == {2}, "progress resets the count"
        assert hub.log.bytes_twice() == 0 and hub.log.bytes_served(WEIGHTS) == len(BIG)


@pytest.mark.fault("H25")
def test_silence_is_cut_and_taken_up_at_the_same_byte(hub: SimHub, tmp_path: Path) -> None:
    """A connection that says nothing for read_timeout_s is given up; what came before it is kept."""
    hub.faults.add(Fault(kinds.Stall(), path=WEIGHTS, at_byte=5 * MIB + 1, times=1))
    config = "[disk]\nreserve_bytes = 0\n[network]\nread_timeout_s = 1\n"
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO], config=config) as daemon:
        told = daemon.wait_event(e.FileRetry)
        assert (told.code, told.kept_bytes) == ("E_STALLED", 5 * MIB + 1)
        daemon.client.retry(KEY)
        daemon.wait_complete(KEY)
        assert daemon.seen(e.FileResumed)[0].kept_bytes == 5 * MIB + 1
        assert hub.log.bytes_twice() == 0


@pytest.mark.fault("H14", "H15", "H16", "H17")
def test_the_servers_word_about_waiting_is_kept(hub: SimHub, tmp_path: Path) -> None:
    """Retry-After in seconds and as a date, and RateLimit: no request before that time, and people are told."""
    said: dict[str, kinds.Kind] = {
        "org/seconds": kinds.RetryAfter(seconds=2),
        "org/date": kinds.RetryAfter(seconds=3, http_date=True, code=503),
        "org/limit": kinds.RateLimited(reset_s=1),
    }
    for name, kind in said.items():
        hub.add(small(name))
        hub.faults.add(Fault(kind, repo=name, path="tree/*", times=1))
    hub.faults.add(Fault(kinds.RetryAfter(seconds=2), repo=REPO, on="resolve", path=WEIGHTS, times=1))
    with Running(tmp_path, endpoint=hub.endpoint, models=[*said, REPO]) as daemon:
        for name in (*said, REPO):
            daemon.wait_complete(name.replace("/", "--"))
        for name in said:
            refused, again = hub.log.requests(repo=name, path="tree/*")
            assert again.at_s - refused.at_s >= 2
        refused, again = hub.log.requests(repo=REPO, path=WEIGHTS, server="hub")
        assert again.at_s - refused.at_s >= 2
        assert len(daemon.seen(e.HubThrottled)) == 4
        assert [event.code for event in daemon.seen(e.FileRetry)] == ["E_RATE_LIMITED"]


@pytest.mark.fault("H36", "H37")
def test_bytes_that_lie_are_never_published(tmp_path: Path) -> None:
    """One wrong byte, the first, a middle or the last: once, and the file is fetched a second time; always, and it has
    failed after four times, however large, and no part is left. A small file is no other matter.
    """
    size = len(weights_of("org/any", MIB // 2))
    places = {"first": 0, "middle": size // 2 + 1, "last": size - 1}
    once, always = ([f"org/{how}-{where}" for where in places] for how in ("once", "always"))
    repos = {name: large(name, MIB // 2) for name in (*once, *always)} | {"org/small": small("org/small")}
    with ThreadedSimHub(SimHub(*repos.values())) as hub:
        for where, at in places.items():
            hub.faults.add(Fault(kinds.Corrupt(), repo=f"org/once-{where}", path=WEIGHTS, at_byte=at, times=1))
            hub.faults.add(Fault(kinds.Corrupt(), repo=f"org/always-{where}", path=WEIGHTS, at_byte=at))
        hub.faults.add(Fault(kinds.Corrupt(), repo="org/small", path=WEIGHTS, times=1))
        with Running(tmp_path, endpoint=hub.endpoint, models=[*once, "org/small"]) as daemon:
            for name in always:
                daemon.client.add(AddModel(model=name))
            for name in always:
                daemon.wait_event(e.FileVerified, model=key_of(name), path="config.json")
            for tries in range(1, 4):
                for name in always:
                    daemon.wait_for(partial(has_tried, daemon, tries, name), f"retry {tries}")
                    daemon.client.retry(key_of(name))
            for name in always:  # all of them first, at once: the next round begins after half a minute
                daemon.wait_event(e.FileFailed, model=key_of(name))
                daemon.client.pause(key_of(name))
            for name in always:
                daemon.wait_state(key_of(name), "paused")
                (failed,) = daemon.seen(e.FileFailed, model=key_of(name))
                assert (failed.code, failed.path) == ("E_CORRUPT", WEIGHTS)
                tries = [(event.attempt, event.kept_bytes) for event in daemon.seen(e.FileRetry, model=key_of(name))]
                assert tries == [(2, 0), (3, 0), (4, 0)]
                folder = daemon.cache / f"models--{key_of(name)}"
                assert not list((folder / "snapshots").rglob(WEIGHTS))
                assert [path.name for path in (folder / "blobs").iterdir()] == [repos[name].entry("config.json").oid]
                hub.log.settle()
                assert hub.log.bytes_served(WEIGHTS, repo=name) == 4 * size
            for name in (*once, "org/small"):
                daemon.wait_event(e.FileRetry, model=key_of(name))
                daemon.client.retry(key_of(name))
                path = Path(daemon.wait_complete(key_of(name)).path) / WEIGHTS
                assert path.read_bytes() == repos[name].entry(WEIGHTS).content.read(0, size)
                assert [event.where for event in daemon.seen(e.FileCorrupt, model=key_of(name))] == ["network"]
                # Which byte is wrong cannot be told from one hash of the whole: all of them come again, and only once.
                assert hub.log.bytes_served(WEIGHTS, repo=name) == 2 * path.stat().st_size
            assert {path.stem for path in (daemon.state_dir / "ready").glob("*")} == {*map(key_of, once), "org--small"}


@pytest.mark.fault(
    "H1", "H2", "H3", "H4", "H5", "H6", "H7", "H8", "H9", "H12", "H18", "H30", "H33", "H34", "H35", "H39"
)
def test_answers_that_are_not_the_bytes_asked_for_are_refused(tmp_path: Path) -> None:
    """Wrong ranges, codings, sizes, pages and redirects: each is named, none is written, and the next try is right."""
    lies: dict[str, tuple[kinds.Kind, str]] = {
        "shift": (kinds.WrongContentRange(), "E_BAD_RANGE"),
        "total": (kinds.WrongTotal(total=1), "E_CONTENT_CHANGED"),
        "none": (kinds.NoContentRange(), "E_BAD_RANGE"),
        "parts": (kinds.Multipart(), "E_BAD_RANGE"),
        "gzip": (kinds.Gzip(), "E_ENCODED"),
        "unpackable": (kinds.Status(code=200, headers=GZIPPED, body=b"not gzip"), "E_ENCODED"),
        "portal": (kinds.CaptivePortal(), "E_CAPTIVE_PORTAL"),
        "range": (kinds.RangeNotSatisfiable(), "E_HTTP"),
        "early": (kinds.CloseEarly(), "E_CUT_SHORT"),
        "chunked": (kinds.ChunkedTruncated(), "E_CUT_SHORT"),
        "lengths": (kinds.ContentLength(values=("10", "20")), "E_NETWORK"),
        "bomb": (kinds.HeaderBomb(), "E_NETWORK"),
        "circle": (kinds.RedirectLoop(), "E_REDIRECT"),
        "file": (kinds.Redirect(to="file:///etc/passwd"), "E_REDIRECT"),
        "proxy": (kinds.Status(code=407, body=b"<html>"), "E_HTTP"),
        "down": (kinds.Status(code=502), "E_HTTP"),
    }
    # Bytes behind the end may or may not come to light before the end is read; both ways end right.
    harmless: dict[str, kinds.Kind] = {
        "whole": kinds.IgnoreRange(),
        "star": kinds.WrongTotal(total="*"),
        "packed": kinds.Status(code=200, headers=GZIPPED, body=gzip.compress(weights_of("org/packed"))),
        "lengthless": kinds.NoContentLength(),
        "long": kinds.OverLong(),
    }
    repos = [small(f"org/{name}") for name in (*lies, *harmless)]
    with ThreadedSimHub(SimHub(*repos)) as hub:
        for name, (kind, _) in lies.items():
            on: kinds.Where | None = "cdn" if name in ("portal", "proxy", "down", "bomb") else None
            cut = 300 if name == "early" else None
            times = 5 if name == "circle" else 1
            hub.faults.add(Fault(kind, repo=f"org/{name}", path=WEIGHTS, on=on, at_byte=cut, times=times))
        for name, harmless_kind in harmless.items():
            hub.faults.add(Fault(harmless_kind, repo=f"org/{name}", path=WEIGHTS, times=1))
        with Running(tmp_path, endpoint=hub.endpoint, models=[repo.id for repo in repos]) as daemon:
            for name in lies:
                daemon.wait_event(e.FileRetry, model=f"org--{name}")
                daemon.client.retry(f"org--{name}")
            for repo in repos:
                daemon.wait_complete(repo.id.replace("/", "--"))
            retries = {(event.model.removeprefix("org--"), event.code) for event in daemon.seen(e.FileRetry)}
            assert sorted(retry for retry in retries if retry[0] != "long") == sorted(
                (name, code) for name, (_, code) in lies.items()
            )
            assert hub.log.leaks() == []


@pytest.mark.fault("H43")
def test_a_branch_that_moves_is_told_followed_or_left_alone(tmp_path: Path) -> None:
    """notify tells it once and waits for `update`, auto brings the new commit, pin does not even ask."""
    policies: tuple[FollowPolicy, ...] = ("notify", "auto", "pin")
    repos = {policy: small(f"org/{policy}") for policy in policies}
    old = {policy: repo.sha for policy, repo in repos.items()}
    with ThreadedSimHub(SimHub(*repos.values())) as hub:
        models = [AddModel(model=f"org/{policy}", follow=policy) for policy in policies]
        config = "[disk]\nreserve_bytes = 0\n[check]\nhub_interval_s = 0.3\n"
        with Running(tmp_path, endpoint=hub.endpoint, models=models, config=config) as daemon:
            for policy in policies:
                daemon.wait_complete(f"org--{policy}")
            mark = daemon.mark
            hub.log.clear()
            for repo in repos.values():
                repo.commit_files({"README.md": b"news"})
            assert daemon.wait_event(e.ModelMoved, model="org--notify").new_commit == repos["notify"].sha
            assert daemon.wait_complete("org--auto", after=mark).commit == repos["auto"].sha
            hub.log.wait(lambda log: len(log.requests(repo="org/notify")) >= 4)
            assert len(daemon.seen(e.ModelMoved, model="org--notify")) == 1
            assert hub.log.requests(repo="org/pin") == []
            refs = {policy: (daemon.cache / f"models--org--{policy}/refs/main").read_text() for policy in policies}
            assert refs == old | {"auto": repos["auto"].sha}
            assert daemon.client.state().models["org--notify"].newer_commit == repos["notify"].sha
            assert hub.log.bytes_served() == len(b"news")
            daemon.client.update("org--notify")
            assert daemon.wait_complete("org--notify", after=mark).commit == repos["notify"].sha
            assert hub.log.bytes_served() == len(b"news"), "the model that followed had it already"


@pytest.mark.fault("D13")
def test_a_disk_without_room_is_told_with_numbers(hub: SimHub, tmp_path: Path) -> None:
    """Nothing is fetched, the model waits with E_DISK_FULL, and the numbers are in the events."""
    config = f"[disk]\nreserve_bytes = {1 << 60}\n"
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO], config=config) as daemon:
        waiting = daemon.wait_state(KEY, "waiting")
        disk = daemon.wait_event(e.DiskChanged)
        assert (waiting.code, disk.state, disk.needed_bytes) == ("E_DISK_FULL", "full", len(BIG) + 86)
        assert "1.2 EB are kept in reserve" in waiting.detail and waiting.retry_at
        assert hub.log.bytes_served() == 0


@pytest.mark.fault("H24", "H27")
def test_a_hub_that_is_down_is_asked_again_when_it_is_back(tmp_path: Path) -> None:
    """Connection refused at start: waiting with a time; up again and told to retry, it completes. SIGTERM is prompt."""
    hub = SimHub(small(REPO))
    with ThreadedSimHub(hub):
        endpoint = hub.endpoint
    with Running(tmp_path, endpoint=endpoint, models=[REPO]) as daemon:
        daemon.wait_state(KEY, "checking")
        with ThreadedSimHub(hub):
            stalled = hub.faults.add(Fault(kinds.SlowFirstByte(), on="api", path="tree/*", times=1))
            daemon.client.retry(KEY)
            stalled.wait_hit()
            assert daemon.stop() == 0
            daemon.start()
            daemon.wait_complete(KEY)
