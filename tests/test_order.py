"""Which file goes first, and which files a command means: decisions, without a daemon."""

from __future__ import annotations

import itertools

import pytest
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # it is exported lazily
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_api.manifest import WantedFile
from qwen_daemon.core.choice import UnknownFile, choose_files, nearest
from qwen_daemon.core.order import SMALL_BYTES, Place, component_order, file_places

SHA = "a" * 40
GB = 10**9
# The flagship's components, as the Hub lists them (sizes rounded).
QWEN = {
    "model_index.json": 512,
    "processor/tokenizer.json": 11_400_000,
    "scheduler/scheduler_config.json": 485,
    "text_encoder/config.json": 3_000,
    "text_encoder/model-00001-of-00004.safetensors": 5 * GB,
    "text_encoder/model-00002-of-00004.safetensors": 5 * GB,
    "tokenizer/vocab.json": 2_800_000,
    "transformer/config.json": 400,
    "transformer/diffusion_pytorch_model-00001-of-00005.safetensors": 10 * GB,
    "transformer/diffusion_pytorch_model-00002-of-00005.safetensors": 10 * GB,
    "vae/diffusion_pytorch_model.safetensors": 250_000_000,
}
PATHS = tuple(QWEN)


def files_of(sizes: dict[str, int]) -> list[WantedFile]:
    return [WantedFile(path=path, size_bytes=size, git_sha1=SHA) for path, size in sizes.items()]


def in_order(sizes: dict[str, int], told: tuple[str, ...] = ()) -> list[str]:
    places = file_places(files_of(sizes), told)
    return sorted(places, key=lambda path: places[path])


def test_small_files_come_first_then_the_largest_component() -> None:
    """Within a component by name, so that shards come in their order."""
    assert in_order(QWEN)[:5] == [
        "transformer/config.json",
        "text_encoder/config.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "transformer/diffusion_pytorch_model-00001-of-00005.safetensors",
    ]
    assert component_order(files_of(QWEN)) == ("transformer", "text_encoder", "vae", "processor", "tokenizer")


def test_a_loaders_order_goes_before_that_by_size() -> None:
    """What it does not name comes after; what the model lacks, or it names twice, does no harm."""
    told = ("vae", "text_encoder", "safety_checker", "vae")
    assert component_order(files_of(QWEN), told) == ("vae", "text_encoder", "transformer", "processor", "tokenizer")
    assert in_order(QWEN, told)[4] == "vae/diffusion_pytorch_model.safetensors"


def test_what_lies_beside_a_pipeline_comes_last() -> None:
    """A checkpoint for another program at the root of a pipeline's repository; elsewhere the root is the model."""
    whole = {"all-in-one.safetensors": 90 * GB}
    assert component_order(files_of(QWEN | whole))[-1] == ""
    assert component_order(files_of(whole | {"extra/w.bin": GB})) == ("", "extra")


@given(
    sizes=st.dictionaries(
        st.sampled_from([f"{folder}{name}" for folder in ("", "a/", "b/", "c/") for name in "wxyz"]),
        st.integers(0, 3 * SMALL_BYTES),
    ),
    told=st.lists(st.sampled_from(["", "a", "b", "c", "d"]), max_size=4),
)
def test_every_file_has_a_place_of_its_own_and_small_ones_lead(sizes: dict[str, int], told: list[str]) -> None:
    """Whatever a loader told; and large files of one component stand together."""
    places = file_places(files_of(sizes), told)
    assert places.keys() == sizes.keys()
    assert len(set(places.values())) == len(sizes)
    ordered = sorted(places, key=lambda path: places[path])
    assert [sizes[path] > SMALL_BYTES for path in ordered] == sorted(size > SMALL_BYTES for size in sizes.values())
    folders = [path.rpartition("/")[0] for path in ordered if sizes[path] > SMALL_BYTES]
    assert sum(a != b for a, b in itertools.pairwise(folders)) == max(0, len(set(folders)) - 1)


@given(st.permutations(["transformer", "text_encoder", "vae"]), st.integers(1, 100))
def test_no_other_order_is_ready_sooner_on_a_line_slower_than_the_loader(others: list[str], load_percent: int) -> None:
    """Downloading is one machine, loading the next: the time to ready, for every other order of the components."""
    sizes = {"transformer": 40_900_000_000, "text_encoder": 16_600_000_000, "vae": 250_000_000}

    def ready_at(order: list[str]) -> int:
        here = loaded = 0
        for name in order:
            here += 100 * sizes[name]
            loaded = max(loaded, here) + load_percent * sizes[name]
        return loaded

    files = files_of({f"{name}/w": size for name, size in sizes.items()})
    assert ready_at(list(component_order(files))) <= ready_at(others)


def test_places_of_one_component_are_one_for_the_connections() -> None:
    """So that its files share connections as they need them, not by name."""
    one, other = Place(turn=1, component=2, number=7), Place(turn=1, component=2, number=9)
    assert one < other and one.of_component == other.of_component
    assert one.of_component > Place(turn=1, component=1, number=99).of_component


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("vae/*",), ("vae/diffusion_pytorch_model.safetensors",)),
        (("vae/",), ("vae/diffusion_pytorch_model.safetensors",)),
        (("*vocab*", "model_index.json"), ("model_index.json", "tokenizer/vocab.json")),
        (("transformer/*-0000[2-9]-*",), (PATHS[9],)),
        (("*",), PATHS),
    ],
)
def test_words_are_paths_or_patterns(words: tuple[str, ...], meant: tuple[str, ...]) -> None:
    """In the model's own order, each file once."""
    assert choose_files(PATHS, words) == meant


@given(
    st.lists(st.text("ab/[]*?!.", min_size=1, max_size=6), unique=True, max_size=8),
    st.text("ab/[]*?!.", min_size=1, max_size=5),
)
@example(["a/b"], "a/")
def test_patterns_mean_what_they_mean_to_hf_download(paths: list[str], pattern: str) -> None:
    """By huggingface_hub's own code; only a word that is a path itself means that file alone."""
    theirs = tuple(filter_repo_objects(paths, allow_patterns=[pattern]))
    if pattern in paths:
        assert choose_files(paths, [pattern]) == (pattern,)
    elif theirs:
        assert choose_files(paths, [pattern]) == theirs
    else:
        with pytest.raises(UnknownFile):
            choose_files(paths, [pattern])


@pytest.mark.parametrize(
    ("word", "resembled"),
    [
        ("vae/difusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"),
        ("vocab.json", "tokenizer/vocab.json"),
        ("nothing-like-it-at-all", ""),
    ],
)
def test_a_word_that_means_nothing_is_refused_with_the_nearest_name(word: str, resembled: str) -> None:
    """Also beside words that mean something: a command is carried out whole or not at all."""
    with pytest.raises(UnknownFile) as refused:
        choose_files(PATHS, ["vae/*", word])
    assert (refused.value.word, refused.value.nearest) == (word, resembled)


def test_nothing_is_guessed_for_a_word_that_is_no_name() -> None:
    """A file's name has at most 255 characters; comparing longer ones with everything would be dear."""
    path = "a" * 300
    assert nearest([path], "a" * 255) == path
    assert nearest([path], "a" * 256) == ""
    assert nearest([f"folder/{path}"], path) == f"folder/{path}", "but its very name is found"
