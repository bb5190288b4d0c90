"""The fold: any events in any order give a status, and a snapshot with what follows equals the whole story."""

from __future__ import annotations

from typing import get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from qwen_api import events as e
from qwen_api.status import ENDED_LOADERS_MAX, ModelStatus, Status, decode_status, encode_status, fold, fold_all

KEYS, PATHS = ("org--a", "org--b"), ("w", "text/w", "vae/config.json")
TEXT = st.sampled_from(("", "E_X", "2026-11-23T14:00:00.000Z"))
COUNT = st.integers(0, 1 << 50)
FIELDS: dict[str, st.SearchStrategy[object]] = {
    "seq": st.just(0),
    "model": st.sampled_from(KEYS),
    "path": st.sampled_from(PATHS),
    "name": st.sampled_from(("gpu0", "gpu1")),
    "paths": st.lists(st.sampled_from(PATHS), unique=True).map(tuple),
    "size_bytes": st.just(1 << 50),
    "commit": st.sampled_from(("a" * 40, "b" * 40)),
}


def any_event(kind: type[e.Event]) -> st.SearchStrategy[e.Event]:
    """Events of one type: few names, so that they meet, and any numbers."""
    fields = {
        field.name: FIELDS[field.name] if field.name in FIELDS else _values_of(field.type)
        for field in msgspec.structs.fields(kind)
    }
    return st.builds(kind, **fields)


def _values_of(kind: object) -> st.SearchStrategy[object]:
    if kind is str:
        return TEXT
    if kind is int:
        return COUNT
    if kind is float:
        return st.floats(0, 1e9)
    if kind is tuple[e.ListedFile, ...] or "ListedFile" in str(kind):
        listed = st.builds(e.ListedFile, path=FIELDS["path"], size_bytes=COUNT, etag=st.just("a" * 40))
        return st.lists(listed, max_size=3, unique_by=lambda file: file.path).map(tuple)
    if "CheckedFile" in str(kind):
        findings = st.sampled_from(get_args(e.Finding))
        checked = st.builds(e.CheckedFile, path=FIELDS["path"], finding=findings, done_bytes=COUNT)
        return st.lists(checked, max_size=3).map(tuple)
    return st.from_type(kind)  # type: ignore[arg-type]


stories = st.lists(st.one_of([any_event(kind) for kind in get_args(e.Event)]), max_size=30)


def told(story: list[e.Event], status: Status | None = None) -> Status:
    """The status after a story, its events stamped as the bus does."""
    status = status or Status()
    for event in story:
        status = fold(status, msgspec.structs.replace(event, seq=status.seq + 1))
    return status


@given(stories)
def test_any_story_folds(story: list[e.Event]) -> None:
    """Total: nothing raises, the number of the last event is kept, sums are sums."""
    status = told(story)
    assert status.seq == len(story)
    for model in status.models.values():
        components = model.components()
        assert sum(c.size_bytes for c in components) == model.size_bytes
        assert sum(c.done_bytes for c in components) == model.done_bytes
        assert sum(c.files for c in components) == len(model.files)
        assert model.verified_bytes <= model.size_bytes
        assert (model.path != "") <= (model.state in ("complete", "checking"))


@given(stories, st.data())
def test_a_reader_who_came_late_knows_the_same(story: list[e.Event], data: st.DataObject) -> None:
    """Snapshot, over the wire, plus what follows equals the fold of everything."""
    cut = data.draw(st.integers(0, len(story)))
    snapshot = decode_status(encode_status(told(story[:cut])))
    assert told(story[cut:], snapshot) == told(story)


@given(stories)
def test_many_events_at_once_fold_as_one_by_one(story: list[e.Event]) -> None:
    """Whoever folds a run of events together comes to the same status."""
    stamped = [msgspec.structs.replace(event, seq=number) for number, event in enumerate(story, 1)]
    assert fold_all(Status(), stamped) == told(story)


@given(stories)
def test_every_event_survives_the_wire(story: list[e.Event]) -> None:
    """Encoding and decoding a line gives the event again."""
    assert [e.decode_line(e.encode_line(event)) for event in story] == story


def test_loaders_that_ended_do_not_pile_up() -> None:
    """A thousand that came and went leave a few, the last ones; one that is at work is never among the forgotten."""
    story: list[e.Event] = [e.LoaderChanged(name="server", state="ready")]
    for number in range(1000):
        story += [e.LoaderChanged(name=f"job-{number}", state=state) for state in ("waiting", "gone")]
    loaders = fold_all(Status(), story).loaders
    assert "server" in loaders and "job-999" in loaders
    assert len(loaders) <= ENDED_LOADERS_MAX + 2


def test_unknown_lines_are_not_errors() -> None:
    """A newer daemon's line is Unknown; garbage is BadLine; a newer daemon's state is read as far as it is known."""
    assert isinstance(e.decode_line(b'{"type":"file.teleported","path":"x"}\n'), e.Unknown)
    assert isinstance(e.decode_line(b'{"type":"file.retry","path":7}\n'), e.Unknown)
    assert decode_status(b'{"seq":3,"mood":"good"}') == Status(seq=3)


def test_a_new_commit_forgets_the_files_of_the_old_one() -> None:
    """And patterns that change keep what is known of files that stay."""
    listed = tuple(e.ListedFile(path=path, size_bytes=10, etag="a" * 40) for path in PATHS)
    story: list[e.Event] = [
        e.ModelAdded(model="org--a", repo="org/a", revision="main"),
        e.ModelResolved(model="org--a", commit="a" * 40, files=listed, size_bytes=30),
        e.FileVerified(model="org--a", path="w", size_bytes=10, algorithm="sha256"),
        e.ModelResolved(model="org--a", commit="a" * 40, files=listed[:2], size_bytes=20),
    ]
    same = model_of(told(story))
    assert list(same.files) == list(PATHS[:2]) and same.files["w"].is_verified
    moved = model_of(told([*story, e.ModelResolved(model="org--a", commit="b" * 40, files=listed, size_bytes=30)]))
    assert not any(file.is_verified for file in moved.files.values())


def model_of(status: Status) -> ModelStatus:
    return status.models["org--a"]


def test_what_a_person_wants_of_a_file_outlives_checks_and_commits() -> None:
    """A pause stops it at once: the last word of its connections does not show it at work again."""
    files = (e.ListedFile(path="w", size_bytes=9, etag="a" * 40),)
    asked = [
        e.ModelAdded(model="m", repo="r", revision="main"),
        e.ModelResolved(model="m", commit="a" * 40, files=files, size_bytes=9),
        e.FileStarted(model="m", path="w", attempt=1, size_bytes=9),
        e.FilesPrioritised(model="m", paths=("w", "gone"), priority=3),
        e.FilesPaused(model="m", paths=("w",)),
        e.FileProgress(model="m", path="w", done_bytes=5, size_bytes=9, rate_bps=7),
    ]
    file = told(asked).models["m"].files["w"]
    assert (file.state, file.done_bytes, file.rate_bps, file.paused, file.priority) == ("queued", 5, 0, True, 3)
    checked = e.ModelChecked(
        model="m", commit="a" * 40, reason="timer", files=(e.CheckedFile(path="w", finding="missing"),)
    )
    moved = e.ModelResolved(model="m", commit="b" * 40, files=files, size_bytes=9)
    file = told([*asked, checked, moved]).models["m"].files["w"]
    assert (file.state, file.done_bytes, file.is_held, file.priority) == ("queued", 0, True, 3)
    here = e.FileVerified(model="m", path="w", size_bytes=9, algorithm="sha256")
    model = told([*asked, here]).models["m"]
    assert (model.files["w"].is_held, model.components()[0].paused_files) == (False, 0)
    assert not told([*asked, e.FilesResumed(model="m", paths=("w",))]).models["m"].files["w"].paused
