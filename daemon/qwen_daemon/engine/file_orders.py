"""What a command about single files of one model does: find what it means, change and tell it, wake who is concerned.

How the change reaches a fetch under way is engine.file_controls' business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwen_api import events as e
from qwen_daemon.core.choice import choose_files
from qwen_daemon.core.errors import FilesUnknown
from qwen_daemon.engine.file_controls import FileControls
from qwen_daemon.engine.keeper import Keeper


class FileOrders:
    """Commands about the files that `words` (paths, patterns) mean; each returns them.

    All raise UnknownFile for a word that means none, and FilesUnknown before the files are known.
    """

    def __init__(self, keeper: Keeper, controls: FileControls, publish: Callable[[e.Event], int]) -> None:
        self._keeper = keeper
        self._controls = controls
        self._publish = publish

    def pause(self, words: Sequence[str]) -> tuple[str, ...]:
        """Fetch them no more until they are resumed."""
        paths = self._choose(words)
        if changed := self._controls.pause(paths):
            self._publish(e.FilesPaused(model=self._keeper.ref.key, paths=changed))
            self._keeper.nudge(also_after_round=False)  # so that it says why it is incomplete
        return paths

    def resume(self, words: Sequence[str]) -> tuple[str, ...]:
        """Fetch them again."""
        paths = self._choose(words)
        if changed := self._controls.resume(paths):
            self._publish(e.FilesResumed(model=self._keeper.ref.key, paths=changed))
            self._call(changed)
        return paths

    def retry(self, words: Sequence[str]) -> tuple[str, ...]:
        """Try them now, if they wait for anything but to be resumed."""
        paths = self._choose(words)
        self._call(paths)
        return paths

    def prioritise(self, words: Sequence[str], priority: int) -> tuple[str, ...]:
        """Begin them before the model's others, or after; what is under way goes on."""
        paths = self._choose(words)
        if changed := self._controls.prioritise(paths, priority):
            self._publish(e.FilesPrioritised(model=self._keeper.ref.key, paths=changed, priority=priority))
        return paths

    def _call(self, paths: Sequence[str]) -> None:
        if not self._controls.call(paths):
            self._keeper.nudge(also_after_round=True)

    def _choose(self, words: Sequence[str]) -> tuple[str, ...]:
        manifest = self._keeper.manifest
        if manifest is None:
            raise FilesUnknown(self._keeper.ref.key)
        return choose_files([file.path for file in manifest.files], words)
