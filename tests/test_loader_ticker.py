"""Progress lines come often enough to be believed and seldom enough to be read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwen_loader.ticker import NUMBERS_EVERY_S, UNCHANGED_EVERY_S, Ticker

told = st.tuples(st.floats(0, 40), st.sampled_from(["1 %", "2 %"]), st.sampled_from(["downloads", "hashes"]))


class World:
    """A clock that stands until it is moved, and the lines printed so far with their times."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.lines: list[tuple[float, str]] = []
        self.ticker = Ticker(lambda line: self.lines.append((self.now_s, line)), lambda: self.now_s)

    def pass_s(self, seconds: float) -> None:
        """Let time pass, printing whatever falls due in it."""
        end_s = self.now_s + seconds
        while (due_in_s := self.ticker.due_in_s()) is not None and self.now_s + due_in_s <= end_s:
            self.now_s += due_in_s
            self.ticker.print_due()
        self.now_s = end_s


@given(st.lists(told, min_size=1, max_size=20))
def test_the_last_thing_told_is_printed_in_the_end(story: list[tuple[float, str, str]]) -> None:
    """And between two lines about the same thing lie at least three seconds."""
    world = World()
    for pause_s, numbers, about in story:
        world.pass_s(pause_s)
        world.ticker.tell(f"{numbers} {about}", about=about)
    world.pass_s(NUMBERS_EVERY_S + 0.001)
    assert world.lines[-1][1] == "{1} {2}".format(*story[-1])
    for (before_s, before), (after_s, after) in zip(world.lines, world.lines[1:], strict=False):
        assert before.split()[-1] != after.split()[-1] or after_s - before_s >= NUMBERS_EVERY_S - 0.001


def test_a_new_reason_is_printed_at_once_with_its_fix() -> None:
    """Three seconds are long when something breaks; numbers that move do not repeat the way out."""
    world = World()
    world.ticker.tell("1 % downloads", about="downloads")
    world.ticker.tell("1 % paused", about="paused", fix="resume it")
    world.ticker.tell("2 % paused", about="paused", fix="resume it")
    assert [line for _, line in world.lines] == ["1 % downloads", "1 % paused\n  fix: resume it"]
    world.pass_s(NUMBERS_EVERY_S)
    assert world.lines[-1][1] == "2 % paused"


def test_silence_is_broken_now_and_then() -> None:
    """The same line again, with the way out: still alive, and still in need of somebody."""
    world = World()
    world.ticker.tell("waits", about="waits", fix="mend it")
    world.pass_s(UNCHANGED_EVERY_S * 2)
    assert [line for _, line in world.lines] == ["waits\n  fix: mend it"] * 3


def test_what_is_over_is_said_to_its_end_and_not_again() -> None:
    """A line about loading has no place between the steps of the edit."""
    world = World()
    world.ticker.tell("99 % hashes", about="hashes")
    world.ticker.tell("100 % hashes", about="hashes")
    world.ticker.end()
    world.pass_s(UNCHANGED_EVERY_S * 2)
    world.ticker.end()
    assert [line for _, line in world.lines] == ["99 % hashes", "100 % hashes"]
