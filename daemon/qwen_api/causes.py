"""Why a file is not what it should be: one stable code per cause, with its sentence, finding and error code.

The codes are for programs and for translation; the sentences are the English originals (the monitor translates them
by code). Which cause applies is decided in `contents`, `headers`, `structure` and `judgement`.
"""

from __future__ import annotations

from typing import NamedTuple

from qwen_api.events import Finding
from qwen_api.language import N_


class _Cause(NamedTuple):
    finding: Finding
    code: str
    sentence: str


_TABLE: dict[str, _Cause] = {
    # Not there.
    "missing": _Cause("missing", "E_MISSING", N_("the file is not there")),
    "dangling_link": _Cause("missing", "E_MISSING", N_("the link is there, but the content it leads to is not")),
    "component_missing": _Cause(
        "missing", "E_MISSING", N_("model_index.json names this component, and its whole folder is absent")
    ),
    "config_missing": _Cause("missing", "E_MISSING", N_("without this configuration the component cannot be built")),
    "missing_config_builds_default_model": _Cause(
        "missing",
        "E_MISSING",
        N_(
            "without this small file transformers builds the class's default model instead of failing: for a large "
            "language model that is more than 100 GB of memory"
        ),
    ),
    "tokenizer_missing": _Cause(
        "missing",
        "E_MISSING",
        N_(
            "without its vocabulary transformers builds an empty tokenizer instead of failing, and every prompt "
            "becomes nothing"
        ),
    ),
    "index_missing": _Cause(
        "missing", "E_MISSING", N_("shards are there, but not the index that says what is in them")
    ),
    "shard_missing": _Cause("missing", "E_MISSING", N_("the index names this shard")),
    "weights_missing": _Cause("missing", "E_MISSING", N_("the component has no weights")),
    "model_index_missing": _Cause(
        "missing", "E_MISSING", N_("the folders are a pipeline's, but the file that names its components is not there")
    ),
    "custom_code_missing": _Cause(
        "missing", "E_MISSING", N_("model_index.json names code of its own that is not in the component's folder")
    ),
    "no_model_here": _Cause(
        "missing",
        "E_MISSING",
        N_("nothing here is a file that a model is loaded from, and no listing says what should be"),
    ),
    # There in part.
    "empty": _Cause("empty", "E_INCOMPLETE", N_("the file has no content")),
    "truncated": _Cause("short", "E_INCOMPLETE", N_("the file ends too early")),
    "unfinished_download": _Cause("short", "E_INCOMPLETE", N_("a download of this file was begun and not finished")),
    # There in full, but wrong.
    "trailing_bytes": _Cause("long", "E_CORRUPT", N_("the file goes on after its content ends")),
    "lfs_pointer": _Cause(
        "corrupt", "E_CORRUPT", N_("this is a Git LFS pointer, a note of 130 bytes that stands for the file")
    ),
    "html_page": _Cause("corrupt", "E_CORRUPT", N_("this is a web page (a login or an error page), saved as the file")),
    "zero_filled_header": _Cause(
        "corrupt", "E_CORRUPT", N_("the file begins with zeros: its room was reserved and never written")
    ),
    "zero_filled": _Cause(
        "corrupt", "E_CORRUPT", N_("the file holds only zeros: its room was reserved and never written")
    ),
    "bad_header": _Cause("corrupt", "E_CORRUPT", N_("the file does not begin as a weights file must")),
    "bad_json": _Cause("corrupt", "E_CORRUPT", N_("the file is not valid JSON")),
    "bad_index": _Cause("corrupt", "E_CORRUPT", N_("the file is JSON, but not with the content that a loader needs")),
    "index_without_metadata": _Cause(
        "corrupt", "E_CORRUPT", N_("the index has no `metadata`, which diffusers and transformers both require")
    ),
    "unsafe_shard_name": _Cause(
        "corrupt", "E_CORRUPT", N_("the index names a shard outside its own folder, which loaders refuse")
    ),
    "other_revision": _Cause("corrupt", "E_CORRUPT", N_("the file is whole, but it is another revision's")),
    "swapped_with": _Cause("corrupt", "E_CORRUPT", N_("the file holds what belongs under another file's name")),
    "hole_of_zeros": _Cause(
        "corrupt",
        "E_CORRUPT",
        N_("the size is right, but a large part was reserved and never written: it is all zeros"),
    ),
    "hash_mismatch": _Cause("corrupt", "E_CORRUPT", N_("the size is right, but the content is not: its hash differs")),
    "not_a_file": _Cause("corrupt", "E_CORRUPT", N_("something else stands where the file should be")),
    "unreadable": _Cause("corrupt", "E_UNREADABLE", N_("the file cannot be read")),
}

CAUSES: dict[str, str] = {cause: row.sentence for cause, row in _TABLE.items()}


def finding_of(cause: str) -> Finding:
    """The finding that a cause leads to. Raises KeyError for a cause that is not in CAUSES."""
    return _TABLE[cause].finding


def code_of(cause: str) -> str:
    """The E_ code that a cause is reported under. Raises KeyError for a cause that is not in CAUSES."""
    return _TABLE[cause].code
