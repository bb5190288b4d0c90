"""Network, on-disk and verified bytes as they are watched: a fall is explained, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwen_api import events as e
from qwen_api.status import ModelStatus, Status, fold
from qwen_monitor.amounts import Amounts

MODEL = "org--name"
SIZES = {"a": 1000, "b": 300, "c/d": 7}
COMMIT = "1" * 40


def listed(commit: str = COMMIT) -> e.ModelResolved:
    files = tuple(e.ListedFile(path=path, size_bytes=size, etag="") for path, size in SIZES.items())
    return e.ModelResolved(model=MODEL, commit=commit, files=files, size_bytes=sum(SIZES.values()))


def started() -> Status:
    return fold(Status(), e.ModelAdded(model=MODEL, repo="org/name", revision="main"))


def progress(path: str, done: int, received: int, *, verifying: bool = False) -> e.FileProgress:
    size = SIZES[path]
    return e.FileProgress(
        model=MODEL, path=path, done_bytes=done % (size + 1), size_bytes=size, received_bytes=received, rate_bps=1,
        verifying=verifying,
    )  # fmt: skip


PATHS, COUNTS = st.sampled_from(sorted(SIZES)), st.integers(0, 1000)
EVENTS = st.one_of(
    st.just(listed()),
    st.builds(progress, PATHS, COUNTS, COUNTS, verifying=st.booleans()),
    st.builds(lambda p, n: e.FileStarted(model=MODEL, path=p, attempt=1, size_bytes=1, offset_bytes=n), PATHS, COUNTS),
    st.builds(lambda p, n: e.FileResumed(model=MODEL, path=p, kept_bytes=n, size_bytes=1), PATHS, COUNTS),
    st.builds(
        lambda p: e.FileVerified(
            model=MODEL, path=p, size_bytes=SIZES[p], algorithm="sha256", received_bytes=9, duration_s=1
        ),
        PATHS,
    ),
    st.builds(
        lambda p, n: e.FileCorrupt(model=MODEL, path=p, where="disk", expected="x", found="y", kept_bytes=n % SIZES[p]),
        PATHS,
        COUNTS,
    ),
    st.builds(lambda p: e.FileFailed(model=MODEL, path=p, code="E_NETWORK"), PATHS),
    st.builds(
        lambda state: e.ModelStateChanged(model=MODEL, state=state),
        st.sampled_from(["checking", "downloading", "complete", "paused", "waiting"]),
    ),
    st.builds(
        lambda p, finding: e.ModelChecked(
            model=MODEL,
            commit=COMMIT,
            missing=0,
            incomplete=0,
            unverified=0,
            reason="start",
            files=(e.CheckedFile(path=p, finding=finding, done_bytes=0),),
        ),
        PATHS,
        st.sampled_from(["present", "missing", "incomplete"]),
    ),
    st.just("restart"),
)


@given(st.lists(EVENTS, max_size=60))
def test_on_disk_network_and_verified_never_fall_without_a_word(happened: list[e.Event | str]) -> None:
    """What leaves the disk is counted as dropped, what is unproven again as doubted, and the network only grows."""
    status, amounts = fold(started(), listed()), Amounts()
    before = (0, 0, 0, 0)
    for event in happened:
        status = started() if isinstance(event, str) else fold(status, event)
        told = status.models[MODEL]
        amounts = amounts.fed(told)
        shown = amounts.shown(told)
        now = (
            shown.done_bytes + amounts.dropped_bytes,
            amounts.dropped_bytes,
            shown.verified_bytes + amounts.doubted_bytes,
            shown.received_bytes + amounts.earlier_bytes,
        )
        assert all(new >= old for new, old in zip(now, before, strict=True)), (event, before, now)
        assert shown.verified_bytes <= shown.size_bytes
        before = now


def seen(*events: e.Event) -> tuple[Amounts, ModelStatus]:
    status, amounts = started(), Amounts()
    for event in events:
        status = fold(status, event) if not isinstance(event, e.DaemonStopping) else started()
        amounts = amounts.fed(status.models[MODEL])
    return amounts, amounts.shown(status.models[MODEL])


DOWNLOADING = e.ModelStateChanged(model=MODEL, state="downloading")
CHECKING = e.ModelStateChanged(model=MODEL, state="checking")
RESTART = e.DaemonStopping()  # here: the next daemon knows only that the model is wanted
WHOLE = e.FileVerified(model=MODEL, path="a", size_bytes=1000, algorithm="sha256", received_bytes=1000, duration_s=1)


def test_a_restarted_daemon_that_has_not_looked_yet_shows_what_was_seen() -> None:
    """No list, and then a list of files of which nothing is said, is no news of the disk; what it finds is."""
    before = (listed(), DOWNLOADING, WHOLE, progress("b", 200, 200))
    for after in ((RESTART,), (RESTART, CHECKING, listed())):
        amounts, shown = seen(*before, *after)
        assert (shown.done_bytes, shown.verified_bytes, amounts.dropped_bytes) == (1200, 1000, 0)
        assert shown.received_bytes + amounts.earlier_bytes == 1200
        assert shown.commit == COMMIT
    found = (
        e.CheckedFile(path="a", finding="present", done_bytes=1000),
        e.CheckedFile(path="b", finding="incomplete", done_bytes=150),
    )
    checked = e.ModelChecked(
        model=MODEL, commit=COMMIT, missing=1, incomplete=1, unverified=0, reason="start", files=found
    )
    amounts, shown = seen(*before, RESTART, CHECKING, listed(), checked, DOWNLOADING, progress("b", 160, 10))
    assert (shown.done_bytes, shown.verified_bytes, amounts.dropped_bytes) == (1160, 1000, 50)
    assert shown.received_bytes + amounts.earlier_bytes == 1210


def test_a_damaged_file_is_dropped_and_in_doubt_until_it_is_right_again() -> None:
    """The two that fell are told with what they lack; a repaired file is in doubt no more, but was dropped."""
    damaged = e.FileCorrupt(model=MODEL, path="a", where="disk", expected="x", found="y", kept_bytes=900)
    amounts, shown = seen(listed(), DOWNLOADING, WHOLE, damaged)
    assert (shown.done_bytes, amounts.dropped_bytes) == (900, 100)
    assert (shown.verified_bytes, amounts.doubted_bytes) == (0, 1000)
    amounts, shown = seen(listed(), DOWNLOADING, WHOLE, damaged, WHOLE)
    assert (shown.done_bytes, amounts.dropped_bytes, amounts.doubted_bytes) == (1000, 100, 0)


def test_another_commit_begins_anew() -> None:
    """Other files are no drop; what came over the network came."""
    amounts, shown = seen(listed(), DOWNLOADING, WHOLE, listed("2" * 40))
    assert (shown.done_bytes, amounts.dropped_bytes, amounts.doubted_bytes) == (0, 0, 0)
    assert shown.received_bytes + amounts.earlier_bytes == 1000


def test_another_choice_of_the_same_commit_counts_no_byte_twice() -> None:
    """A file of both keeps its count; what came for one that is not wanted any more is still told."""

    def chosen(*paths: str) -> e.ModelResolved:
        files = tuple(e.ListedFile(path=path, size_bytes=SIZES[path], etag="") for path in paths)
        return e.ModelResolved(model=MODEL, commit=COMMIT, files=files, size_bytes=0)

    status, amounts = started(), Amounts()
    for event in (chosen("a", "b"), progress("a", 900, 900), progress("b", 100, 100), chosen("a", "c/d")):
        status = fold(status, event)
        amounts = amounts.fed(status.models[MODEL])
    assert (status.models[MODEL].received_bytes, amounts.earlier_bytes) == (900, 100)
