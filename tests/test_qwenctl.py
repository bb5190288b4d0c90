"""The real command `qwenctl` as a process: what it prints where, how it ends, and what it asks of a daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.commands import Whereabouts
from qwen_api.manifest import make_manifest, write_tree
from qwen_monitor.control_commands import COMMANDS
from tests import canary
from tests.fakes import download as cast
from tests.fakes import model_folder as fake
from tests.fakes.daemon import FakeDaemon

COMMAND = (sys.executable, "-W", "error", "-m", "qwen_monitor.control")
MODEL = "qwen-image-edit"
SHARD = "transformer/diffusion_pytorch_model-00003-of-00005.safetensors"
RUN_S = 60  # only a hung command reaches it

Env = dict[str, str]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def env(tmp_path: Path) -> Env:
    """No daemon, no network, a home and a cache of its own."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "QWEN_DAEMON_SOCKET": str(tmp_path / "nobody.sock"),
        "PYTHONUTF8": "1",
    }


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where huggingface_hub keeps models for this HOME."""
    return tmp_path / ".cache" / "huggingface" / "hub"


@pytest.fixture
def run(env: Env) -> Run:
    """Run qwenctl to its end, with more environment if given."""

    def call(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
        return canary.run([*COMMAND, *map(str, words)], env={**env, **more})

    return call


@pytest.fixture
def daemon(env: Env) -> Iterator[FakeDaemon]:
    """A scripted daemon half-way through a download, where the command will look for one."""
    with tempfile.TemporaryDirectory(prefix="qd-") as folder, FakeDaemon(Path(folder), *cast.half_way()) as running:
        env["QWEN_DAEMON_SOCKET"] = str(running.control)
        yield running


def start(env: Mapping[str, str], *words: str) -> subprocess.Popen[str]:
    """Run qwenctl and do not wait for it."""
    return subprocess.Popen(
        [*COMMAND, *words], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# --- check: no daemon, no network ---


def test_a_complete_model_is_0(run: Run, cache: Path) -> None:
    """The report is on stdout; nothing is on stderr."""
    fake.write_cache(cache, fake.qwen())

    done = run("check", MODEL)

    assert (done.returncode, done.stderr) == (0, "")
    assert "Model complete: yes" in done.stdout.splitlines()


def test_a_missing_shard_is_4_and_named_with_the_command_that_fetches_it(run: Run, cache: Path) -> None:
    """Which file, and what to do at what price."""
    (fake.write_cache(cache, fake.qwen()) / SHARD).unlink()

    done = run("check", MODEL)

    assert done.returncode == 4
    assert f"  {SHARD}  704 B" in done.stdout.splitlines()
    assert f"To do: qwenctl download {fake.REPO}" in done.stdout
    assert "fetches 704 B at most" in done.stdout


def test_a_short_file_is_4_and_said_to_be_incomplete(run: Run, cache: Path) -> None:
    """A truncated shard passes an existence check, not this one."""
    blob = (fake.write_cache(cache, fake.qwen()) / SHARD).resolve()
    blob.write_bytes(blob.read_bytes()[:300])

    done = run("check", MODEL)

    assert done.returncode == 4
    assert "Files: 32 total, 31 found, 0 missing, 1 incomplete" in done.stdout


def test_a_changed_byte_is_seen_by_full_and_only_by_full(run: Run, cache: Path) -> None:
    """Sizes agree, the hash does not."""
    blob = (fake.write_cache(cache, fake.qwen()) / SHARD).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")

    assert run("check", MODEL).returncode == 0
    full = run("check", MODEL, "--verify", "full")

    assert full.returncode == 4
    assert "its hash differs" in full.stdout


def test_an_odd_file_of_the_right_size_is_hashed_at_once(run: Run, cache: Path) -> None:
    """What the repository holds so is no damage; real damage is told apart, without --verify full."""
    files = fake.qwen() | {"notes.json": b"not json {"}
    folder = fake.write_cache(cache, files)

    assert run("check", MODEL).returncode == 0
    (folder / "notes.json").resolve().write_bytes(b"not JSON {")
    done = run("check", MODEL)

    assert done.returncode == 4
    assert "its hash differs" in done.stdout


def test_what_the_repository_itself_lacks_is_4_and_no_command_is_advised(run: Run, cache: Path) -> None:
    """Downloading it again would bring the same."""
    fake.write_cache(cache, {path: content for path, content in fake.qwen().items() if path != SHARD})

    done = run("check", MODEL)

    assert done.returncode == 4
    assert SHARD in done.stdout and "the repository itself does not have this file" in done.stdout
    assert "To do" not in done.stdout


def test_a_first_download_that_was_stopped_is_reported_by_its_listing(run: Run, cache: Path) -> None:
    """No refs/ yet, but one commit alone was ever heard of: that is no guess, and nothing is remarked."""
    fake.write_cache(cache, fake.qwen(), ref="", snapshot=False)

    done = run("check", MODEL)

    assert (done.returncode, done.stderr) == (4, "")
    assert "0 found, 32 missing" in done.stdout


def test_full_proves_a_good_model(run: Run, cache: Path) -> None:
    """Every hash, sha256 and git's, and says so."""
    fake.write_cache(cache, fake.qwen())

    done = run("check", MODEL, "--verify", "full", "--json")

    assert (done.returncode, json.loads(done.stdout)["verified"]) == (0, "sha256")


def test_without_a_listing_the_models_own_files_decide(run: Run, cache: Path) -> None:
    """The index names the shards; the hint says that the Hub was not asked."""
    (fake.write_cache(cache, fake.qwen(), tree=False) / SHARD).unlink()

    done = run("check", MODEL)

    assert done.returncode == 4
    assert "by the model's own files" in done.stdout
    assert SHARD in done.stdout
    assert "HF_HUB_OFFLINE is set" in done.stderr


def test_a_folder_is_checked_by_its_path(run: Run, tmp_path: Path) -> None:
    """Nobody knows which repository a plain folder is, so no command is advised."""
    files = fake.qwen()
    del files[SHARD]
    fake.write(tmp_path / "plain", files)

    done = run("check", tmp_path / "plain")

    assert done.returncode == 4
    assert SHARD in done.stdout
    assert "To do" not in done.stdout


def test_a_folder_is_compared_with_the_listing_of_a_model(run: Run, tmp_path: Path, cache: Path) -> None:
    """--model says what the folder should be; a file that no index names is then missed too."""
    fake.write_cache(cache, fake.qwen(), snapshot=False)
    files = fake.qwen()
    del files["text_encoder/generation_config.json"]
    fake.write(tmp_path / "plain", files)

    done = run("check", tmp_path / "plain", "--model", MODEL)

    assert done.returncode == 4
    assert "text_encoder/generation_config.json" in done.stdout


def test_a_snapshot_given_by_its_path_finds_its_own_listing(run: Run, tmp_path: Path) -> None:
    """And the advised command fills the cache it lies in."""
    snapshot = fake.write_cache(tmp_path / "elsewhere", fake.qwen())
    (snapshot / SHARD).unlink()

    done = run("check", snapshot)

    assert "names and sizes of the Hub's listing" in done.stdout
    assert f"--revision {fake.COMMIT} --cache-dir {tmp_path / 'elsewhere'}" in done.stdout


def test_patterns_choose_what_is_wanted(run: Run, cache: Path) -> None:
    """As `hf download` reads them: the missing shard is outside, so the rest is complete."""
    (fake.write_cache(cache, fake.qwen()) / SHARD).unlink()

    assert run("check", MODEL, "--exclude", "transformer/*").returncode == 0
    assert run("check", MODEL, "--include", "transformer/*").returncode == 4


def test_a_model_that_is_not_here_is_4_with_the_way_to_get_it(run: Run) -> None:
    """Nothing in the cache and no network: incomplete, not an error."""
    done = run("check", "some/thing")

    assert done.returncode == 4
    assert "To do: qwenctl download some/thing" in done.stdout


def test_json_has_the_whole_report_in_bytes(run: Run, cache: Path) -> None:
    """The keys that scripts rely on."""
    (fake.write_cache(cache, fake.qwen()) / SHARD).unlink()

    report = json.loads(run("check", MODEL, "--json").stdout)

    assert report["complete"] is False
    assert report["commit"] == fake.COMMIT
    assert report["totals"]["missing"] == 1
    assert [(p["path"], p["code"], p["cause"]) for p in report["findings"]] == [(SHARD, "E_MISSING", "shard_missing")]
    assert report["advice"]["command"] == f"qwenctl download {fake.REPO}"
    assert report["advice"]["fetch_bytes"] == 704


@pytest.mark.fault("X1")
def test_a_hostile_name_on_disk_cannot_reach_the_terminal(run: Run, tmp_path: Path) -> None:
    """Escapes are shown, not sent."""
    fake.write(tmp_path / "plain", {**fake.qwen(), "vae/\x1b[31mred.safetensors": b"x" * 9})

    done = run("check", tmp_path / "plain", "--all")

    assert "\x1b" not in done.stdout + done.stderr
    assert "\\x1b[31mred" in done.stdout


def test_a_closed_pipe_is_no_error(env: Env, cache: Path) -> None:
    """`qwenctl check ... | head -1` ends quietly."""
    fake.write_cache(cache, fake.qwen())
    process = start(env, "check", MODEL)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()

    assert process.wait(RUN_S) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


# --- what is written wrong ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stauts",), "did you mean: qwenctl status"),
        (("check", MODEL, "--inclde", "x"), "did you mean: --include"),
        (("download", MODEL, "--cache_dir=/x"), "did you mean: --cache-dir"),
        (("check", "qwen-image-edt"), "fix: did you mean: qwenctl check qwen-image-edit\n"),
        (("check", "qwen-image-edt@v1", "--all"), "fix: did you mean: qwenctl check qwen-image-edit@v1 --all\n"),
        (("prio", "qwen-imgae", "5"), "fix: did you mean: qwenctl prio qwen-image 5\n"),
        (("download", "--model=qwen-imgae"), "fix: did you mean: qwen-image\n"),
        (("check", "nothing-like-it"), "fix: see --help"),
        (("check",), "no model and no folder was given"),
        (("download",), "no model was given"),
        (("pause", MODEL, "extra"), "one argument too many"),
        (("wait", MODEL, "--timeout", "soon"), "is not a duration"),
        (("check", MODEL, "--verify", "all"), "invalid choice"),
        ((), "no command was given"),
    ],
)
def test_bad_input_is_2_and_says_what_was_meant(run: Run, words: tuple[str, ...], said: str) -> None:
    """Three lines on stderr, nothing on stdout."""
    done = run(*words)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error[E_USAGE]: ")
    assert said in done.stderr
    assert [line[:7] for line in done.stderr.splitlines()[1:]] == ["  why: ", "  fix: "]


def test_help_has_examples_for_the_whole_and_for_each_command(run: Run) -> None:
    """And ends with 0."""
    whole, one = run("--help"), run("download", "--help")

    assert (whole.returncode, one.returncode) == (0, 0)
    assert "qwenctl wait qwen-image-edit" in whole.stdout
    assert "--dry-run" in one.stdout and "examples:" in one.stdout


def test_bad_input_is_json_too(run: Run) -> None:
    """As docs/errors.md says of every error."""
    done = run("limit", "--max-files", "65", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "E_USAGE")


def test_every_command_has_examples(run: Run) -> None:
    """Of what a person types, not of what there is."""
    assert [name for name, (_purpose, examples, _build) in COMMANDS.items() if "qwenctl" not in examples] == []


def test_a_path_that_is_not_there_is_3(run: Run, tmp_path: Path) -> None:
    """In JSON too: the error stands on stdout where a script looks for the answer."""
    done = run("check", tmp_path / "nothing", "--json")

    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["code"] == "E_NOT_FOUND"
    assert done.stderr.startswith("error[E_NOT_FOUND]: ")


# --- without a daemon ---


@pytest.mark.parametrize("words", [("ls",), ("pause", MODEL), ("add", MODEL), ("rm", MODEL), ("events",)])
def test_commands_that_need_a_daemon_are_69_without_one(run: Run, words: tuple[str, ...]) -> None:
    """With the way to start it."""
    done = run(*words)

    assert (done.returncode, done.stdout) == (69, "")
    assert "systemctl start qwen-daemon" in done.stderr


def test_wait_with_no_wait_is_69_without_a_daemon(run: Run) -> None:
    """Without the flag it waits for the daemon as well."""
    assert run("wait", MODEL, "--no-wait").returncode == 69


def test_wait_gives_up_in_time_without_a_daemon(run: Run) -> None:
    """75, and says what it waited for."""
    done = run("wait", MODEL, "--timeout", "0.1s")

    assert done.returncode == 75
    assert "waiting for the daemon" in done.stderr


def test_status_reads_the_disk_itself(run: Run, cache: Path) -> None:
    """One model in short, or all of the cache; the same JSON as from a daemon."""
    (fake.write_cache(cache, fake.qwen()) / SHARD).unlink()

    one, every, found = run("status", MODEL), run("status"), run("status", "--json")

    assert (one.returncode, every.returncode, found.returncode) == (4, 4, 4)
    assert "Model complete: no" in one.stdout
    assert "incomplete" in every.stdout
    listed = json.loads(found.stdout)
    assert (listed["source"], listed["models"][0]["missing"]) == ("disk", [SHARD])


def test_dry_run_lists_what_would_be_fetched(run: Run, cache: Path) -> None:
    """From the cached listing; JSON in bytes, which `hf download --dry-run --json` has not."""
    (fake.write_cache(cache, fake.qwen()) / SHARD).unlink()

    text, found = run("download", MODEL, "--dry-run"), run("download", MODEL, "--dry-run", "--json")

    assert (text.returncode, found.returncode) == (0, 0)
    assert "Will download 1 file (out of 32) totalling 704 B" in text.stdout
    plan = json.loads(found.stdout)
    assert (plan["fetch_files"], plan["fetch_bytes"]) == (1, 704)
    assert [f["path"] for f in plan["files"] if f["fetch"]] == [SHARD]


def test_dry_run_without_any_listing_is_4(run: Run) -> None:
    """Nothing is known of the model, and the network may not be used."""
    assert run("download", "some/thing", "--dry-run").returncode == 4


# --- with a daemon ---


def test_status_shows_what_the_daemon_knows(run: Run, daemon: FakeDaemon) -> None:
    """Components, what is wrong and why; 4 until it is complete."""
    text, found = run("status", MODEL), run("status", "--json")

    assert (text.returncode, found.returncode) == (4, 4)
    assert cast.RETRYING in text.stdout and "E_NETWORK" in text.stdout
    listed = json.loads(found.stdout)
    assert (listed["source"], listed["models"][0]["found_files"]) == ("daemon", len(cast.VERIFIED))


def test_status_shows_one_file_whole(run: Run, daemon: FakeDaemon) -> None:
    """What Enter shows in the monitor, for scripts too; without the model, or of no file of it, it says so."""
    daemon.whereabouts[cast.RETRYING] = Whereabouts(etag="e", endpoint="hub", present=((0, 1_000_000),))
    text, found = (run("status", MODEL, "--file", cast.RETRYING, *more) for more in ((), ("--json",)))

    assert (text.returncode, found.returncode) == (4, 4)
    assert cast.RETRYING in text.stdout and "segments" in text.stdout and "E_NETWORK" in text.stdout
    assert json.loads(found.stdout)["whereabouts"]["present"] == [[0, 1_000_000]]
    assert run("status", "--file", cast.RETRYING).returncode == 2
    assert run("status", MODEL, "--file", "no/such").returncode == 3


def test_ls_is_one_line_for_each_model(run: Run, daemon: FakeDaemon) -> None:
    """State and share."""
    done = run("ls")

    assert done.returncode == 0
    assert done.stdout.startswith("Qwen/Qwen-Image-Edit-2511@6f3ccc0b  downloading")


@pytest.mark.parametrize(
    ("words", "verb", "body"),
    [
        (("pause", MODEL), "pause", b""),
        (("resume", MODEL), "resume", b""),
        (("retry", MODEL), "retry", b""),
        (("update", MODEL), "update", b""),
        (("verify", MODEL), "verify", b"{}"),
        (("verify", MODEL, "--quick"), "verify", b'{"full":false}'),
        (("rm", MODEL), "remove", b"{}"),
        (("rm", MODEL, "--delete-files", "--yes"), "remove", b'{"delete_files":true}'),
        (("add", MODEL, "--exclude", "*.md"), "add", b'{"model":"Qwen/Qwen-Image-Edit-2511","exclude":["*.md"]}'),
    ],
)
def test_commands_reach_the_daemon(
    run: Run, daemon: FakeDaemon, words: tuple[str, ...], verb: str, body: bytes
) -> None:
    """One command, with what was asked and no more."""
    done = run(*words)

    assert done.returncode == 0
    (command,) = daemon.wait_for_commands(1)
    assert (command.verb, command.subject, command.body) == (verb, cast.MODEL, body)


def test_deleting_files_without_a_yes_is_refused(run: Run, daemon: FakeDaemon) -> None:
    """Nobody is there to be asked, so nothing is deleted."""
    done = run("rm", MODEL, "--delete-files")

    assert (done.returncode, daemon.commands) == (2, [])
    assert "--yes" in done.stderr


@pytest.mark.parametrize(("answer", "code", "verbs"), [("n", 2, []), ("", 2, []), ("y", 0, ["remove"])])
def test_rm_asks_on_a_terminal(env: Env, daemon: FakeDaemon, answer: str, code: int, verbs: list[str]) -> None:
    """Only a yes removes."""
    ours, theirs = os.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, "rm", MODEL], env=env, stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL
        )
        question = b""
        while b"[y/N]" not in question:
            question += os.read(ours, 1024)
        os.write(ours, f"{answer}\n".encode())
        assert process.wait(RUN_S) == code
    finally:
        os.close(ours)
        os.close(theirs)
    assert [c.verb for c in daemon.commands] == verbs


def test_a_refusal_of_the_daemon_is_told_in_its_words(run: Run, daemon: FakeDaemon) -> None:
    """Its code decides the exit code."""
    daemon.refuse_next("E_READ_ONLY", "this socket only answers questions", status=403)

    assert run("pause", MODEL).stderr.startswith("error[E_READ_ONLY]: this socket only answers questions")
    assert run("pause", "other/model").returncode == 3


def test_add_warns_of_a_model_that_the_machine_cannot_hold(run: Run, daemon: FakeDaemon, cache: Path) -> None:
    """Before the first byte, from the cached listing."""
    huge = fake.wanted("transformer/diffusion_pytorch_model.safetensors", b"x")
    listed = make_manifest(fake.REPO, fake.COMMIT, [msgspec.structs.replace(huge, size_bytes=1 << 42)])
    repo = places.repo_dir(cache, fake.REPO)
    fake.write(repo / "trees", {f"{fake.COMMIT}.json": write_tree(listed)})
    fake.write(repo / "refs", {"main": fake.COMMIT.encode()})

    done = run("add", MODEL)

    assert done.returncode == 0
    assert "warning: the weights (4.4 TB) are larger than" in done.stderr


def test_what_a_daemon_answers_costs_few_imports(env: Env, daemon: FakeDaemon) -> None:
    """Looking at the disk, the Hub and the screen are other commands' business: `status` is asked all day."""
    command = [sys.executable, "-X", "importtime", *COMMAND[COMMAND.index("-m") :], "status"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=RUN_S)

    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"qwen_api.client", "qwen_monitor.status_text"} <= imported
    unwanted = {"asyncio", "aiohttp", "textual", "rich", "huggingface_hub", "qwen_api.report", "qwen_monitor.check"}
    assert unwanted & imported == set()


def test_wait_ends_with_the_path_when_the_model_is_complete(env: Env, daemon: FakeDaemon) -> None:
    """It follows the stream; completion is a state as well, so a second wait returns at once."""
    process = start(env, "wait", MODEL)
    daemon.wait_for_readers(1)
    daemon.say(complete())
    out, _ = process.communicate(timeout=RUN_S)

    assert (process.returncode, out) == (0, "/srv/hf/snapshot\n")
    again = subprocess.run([*COMMAND, "wait", MODEL, "--json"], env=env, capture_output=True, text=True, timeout=RUN_S)
    assert json.loads(again.stdout)["complete"] is True


def test_wait_that_times_out_is_75_with_what_is_missing(run: Run, daemon: FakeDaemon) -> None:
    """EX_TEMPFAIL: trying again is reasonable."""
    done = run("wait", MODEL, "--timeout", "0.3s", "--json")

    assert done.returncode == 75
    assert cast.RETRYING in json.loads(done.stdout)["missing"]


def test_wait_does_not_wait_for_what_needs_a_person(run: Run, daemon: FakeDaemon) -> None:
    """Gated is 5; a model that nobody asked for is 3."""
    daemon.say(e.ModelStateChanged(model=cast.MODEL, state="failed", code="E_GATED"))

    refused = run("wait", MODEL)
    assert refused.returncode == 5
    assert "MODEL" not in refused.stderr and f"qwenctl retry {MODEL}" in refused.stderr
    assert run("wait", "other/model").returncode == 3
    failed = run("wait", MODEL, "--for", "failed")
    assert (failed.returncode, failed.stdout) == (0, "E_GATED\n")


def test_wait_for_verified_waits_while_files_are_hashed_again(run: Run, daemon: FakeDaemon) -> None:
    """A complete model stays complete meanwhile, so `complete` would not tell."""
    daemon.say(complete(), e.ModelVerifying(model=cast.MODEL, files=8, size_bytes=9, done_files=1, done_bytes=1))
    assert run("wait", MODEL).returncode == 0
    assert run("wait", MODEL, "--for", "verified", "--timeout", "0.3s").returncode == 75
    daemon.say(e.ModelVerified(model=cast.MODEL, files=8, size_bytes=9))
    assert run("wait", MODEL, "--for", "verified").returncode == 0


def test_a_mistyped_model_is_answered_with_the_whole_command(run: Run, daemon: FakeDaemon) -> None:
    """With everything else that was typed."""
    typo = cast.REPO.replace("Edit", "Edti")
    limited = run("limit", typo, "5MB/s")
    assert (limited.returncode, f"did you mean: qwenctl limit {cast.REPO} 5MB/s" in limited.stderr) == (3, True)
    assert f"did you mean: qwenctl prio {cast.REPO} 3" in run("prio", typo, "3").stderr


def test_events_of_a_model_that_nobody_has_say_so(run: Run, daemon: FakeDaemon) -> None:
    """It may be added later, so they are waited for; but not in silence."""
    typo = cast.REPO.replace("Edit", "Edti")
    done = run("events", typo, "--no-follow")
    assert (done.returncode, cast.MODEL in done.stdout) == (0, False)
    assert f"was not asked for {typo}" in done.stderr and f"did you mean: {cast.REPO}" in done.stderr
    assert "qwenctl add org/other" in run("events", "org/other", "--no-follow").stderr


def test_events_are_filtered_and_end_when_told_not_to_follow(run: Run, daemon: FakeDaemon) -> None:
    """By type and model; as lines, or as they stand on the wire."""
    text = run("events", "--no-follow", "--types", "file.retry")
    raw = run("events", MODEL, "--since", "0", "--no-follow", "--types", "file.*", "--json")

    assert text.stdout.count("\n") == 1 and "connection failed" in text.stdout
    types = [json.loads(line)["type"] for line in raw.stdout.splitlines()]
    assert set(types) == {"file.verified", "file.started", "file.retry"}
    assert run("events", "other/model", "--no-follow", "--types", "file.*").stdout == ""


def test_version_tells_both(run: Run, daemon: FakeDaemon) -> None:
    """And where the daemon keeps things."""
    found = json.loads(run("version", "--json").stdout)

    assert found["daemon"]["version"] == "1.2.3"
    assert found["qwenctl"]


def test_download_asks_a_running_daemon_and_follows_it(env: Env, daemon: FakeDaemon) -> None:
    """The path on stdout at the end, as `hf download` does."""
    process = start(env, "download", MODEL, "--include", "vae/*")
    daemon.wait_for_readers(1)
    daemon.say(e.ModelStateChanged(model=cast.MODEL, state="checking"), complete())
    out, err = process.communicate(timeout=RUN_S)

    assert (process.returncode, out) == (0, "/srv/hf/snapshot\n")
    assert daemon.commands[0].body == b'{"model":"Qwen/Qwen-Image-Edit-2511","include":["vae/*"]}'
    assert "complete" in err


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (e.ModelStateChanged(model=cast.MODEL, state="failed", code="E_GATED"), 5),
        (e.ModelStateChanged(model=cast.MODEL, state="failed", code="E_NOT_FOUND"), 3),
        (e.ModelStateChanged(model=cast.MODEL, state="failed", code="E_DISK_FULL"), 9),
        (e.ModelStateChanged(model=cast.MODEL, state="incomplete", code="E_OFFLINE"), 4),
        (e.ModelStateChanged(model=cast.MODEL, state="paused"), 7),
        (e.ModelRemoved(model=cast.MODEL), 7),
    ],
)
def test_download_ends_with_the_code_of_what_stopped_it(
    env: Env, daemon: FakeDaemon, event: e.Event, code: int
) -> None:
    """Each ending has its number."""
    process = start(env, "download", MODEL, "--quiet")
    daemon.wait_for_readers(1)
    daemon.say(event)
    out, err = process.communicate(timeout=RUN_S)

    assert (process.returncode, out) == (code, "")
    assert err.startswith("error[E_")


def test_ctrl_c_leaves_a_running_daemon_at_work(env: Env, daemon: FakeDaemon) -> None:
    """130, and how to stop it for real."""
    process = start(env, "download", MODEL)
    daemon.wait_for_readers(1)
    process.send_signal(2)
    _, err = process.communicate(timeout=RUN_S)

    assert process.returncode == 130
    assert err.startswith("qwen-daemon works on Qwen/Qwen-Image-Edit-2511 already")
    assert "qwenctl pause Qwen/Qwen-Image-Edit-2511" in err
    assert [c.verb for c in daemon.commands] == ["add"]


def complete() -> e.ModelComplete:
    """The model is whole."""
    return e.ModelComplete(
        model=cast.MODEL, repo=cast.REPO, commit=cast.COMMIT, path="/srv/hf/snapshot", files=8, size_bytes=1
    )


# --- what was probably meant ---


def test_a_model_that_the_daemon_does_not_know_is_answered_with_the_nearest(run: Run, daemon: FakeDaemon) -> None:
    """A typing error in a name that could be one: the whole command, mended."""
    daemon.refuse_next("E_UNKNOWN_MODEL", "the daemon does not know this model", status=404, fix="qwenctl ls")

    done = run("pause", "Qwen/Qwen-Image-Edit-2151")

    assert done.returncode == 3
    assert "did you mean: qwenctl pause Qwen/Qwen-Image-Edit-2511" in done.stderr


def test_a_choice_is_answered_with_the_nearest(run: Run) -> None:
    """As commands and flags are."""
    done = run("check", MODEL, "--verify", "fulll")
    assert done.returncode == 2
    assert "did you mean: full" in done.stderr


def test_an_event_type_that_there_is_none_of_is_said(run: Run, daemon: FakeDaemon) -> None:
    """It may be a newer daemon's, so the stream is read all the same."""
    done = run("events", "--types", "file.retri", "--no-follow")
    assert (done.returncode, done.stdout) == (0, "")
    assert "did you mean: file.retry" in done.stderr


def test_events_since_a_time_begin_there(run: Run, daemon: FakeDaemon) -> None:
    """What happened before is left out; the script's events are of 2026 and a month is the longest time."""
    everything = run("events", "--since", "0", "--no-follow", "--json")
    none = run("events", "--since", "1s", "--no-follow", "--json")
    assert everything.stdout and (none.returncode, none.stdout) == (0, "")
