"""What a model needs is derived from its own files: no listing, no Hub, no component name known beforehand."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_api.inventory import look
from qwen_api.models import ModelRef
from qwen_api.report import Report, make_report
from qwen_api.structure import Structure, find_structure
from qwen_daemon.shell.store import HubCache
from qwen_daemon.shell.structure import SnapshotStructure
from tests.fakes.model_folder import (
    REPO,
    Files,
    diffusers_config,
    in_folder,
    listing,
    model_index,
    qwen,
    safetensors,
    sharded,
    to_json,
    transformers_model,
    write,
    write_cache,
)

VAE = ["diffusers", "AutoencoderKL"]
WEIGHTS = "diffusion_pytorch_model.safetensors"

# What a loader opens and does without: tried one by one with diffusers 0.42 and transformers 5.
NOT_NEEDED = {
    "README.md",
    "text_encoder/generation_config.json",
    "processor/added_tokens.json",
    "processor/chat_template.jinja",
    "processor/tokenizer_config.json",
    "processor/video_preprocessor_config.json",
    "tokenizer/added_tokens.json",
    "tokenizer/chat_template.jinja",
    "tokenizer/tokenizer_config.json",
}
EITHER = {"processor/vocab.json", "processor/merges.txt", "processor/tokenizer.json"}  # the first two, or the last


def structure_of(folder: Path, files: Files) -> Structure:
    return find_structure(look(write(folder, files)))


def report_of(folder: Path, files: Files) -> Report:
    return make_report(ref=None, inventory=look(write(folder, files)))


def causes_of(folder: Path, files: Files) -> dict[str, str]:
    return {problem.path: problem.cause for problem in report_of(folder, files).findings}


def pipeline(named: dict[str, object], files: Files, *, class_name: object = "SomePipeline") -> Files:
    return {"model_index.json": model_index(class_name, named), **files}


def vae(weights: Files) -> Files:
    return pipeline({"vae": VAE}, in_folder("vae", {"config.json": diffusers_config("AutoencoderKL"), **weights}))


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("shards", [5, 9])
def test_a_whole_pipeline_is_complete_by_its_structure(tmp_path: Path, native: bool, shards: int) -> None:
    """The Hub's names and transformers 5's own are both accepted, with as many shards as the index names."""
    report = report_of(tmp_path, qwen(native=native, shards=shards))

    assert (report.complete, report.source, report.verified, report.findings) == (True, "structure", "none", ())
    index = next(c.index for c in report.components if c.name == "transformer")
    assert index is not None
    assert (index.shards_found, index.shards_expected) == (shards, shards)


def test_every_single_absent_file_is_judged_as_the_loader_would(tmp_path: Path) -> None:
    """A file is reported missing exactly if the real loader fails, or worse does not, without it."""
    files = qwen()
    for n, path in enumerate(sorted(files)):
        folder = tmp_path / str(n)
        report = report_of(folder, {p: c for p, c in files.items() if p != path})
        assert (path in NOT_NEEDED | EITHER) == report.complete, path
        assert report.complete or path in {p.path for p in report.findings}, path


@settings(max_examples=40, deadline=None)
@given(data=st.data(), native=st.booleans())
def test_any_set_of_absent_files_is_reported_exactly(data: st.DataObject, native: bool) -> None:
    """Whatever is taken from a pipeline: what was needed is reported, what was not is not."""
    files = qwen(native=native)
    index_files = {p for p in files if p.endswith("index.json")}
    # An index taken away leaves nothing to tell a component's shards by; that case has its own tests.
    gone = data.draw(st.sets(st.sampled_from(sorted(set(files) - index_files))))
    folder = Path(tempfile.mkdtemp())
    try:
        report = report_of(folder, {p: c for p, c in files.items() if p not in gone})
    finally:
        shutil.rmtree(folder)
    needed = {p for p in gone - NOT_NEEDED - EITHER if not p.startswith("processor/")}
    reported = {p.path for p in report.findings if not p.path.startswith("processor/")}
    if {"tokenizer/vocab.json", "tokenizer/merges.txt"} <= gone:  # then the one file that would do is asked for
        needed = (needed - {"tokenizer/vocab.json", "tokenizer/merges.txt"}) | {"tokenizer/tokenizer.json"}
    assert needed == reported


def test_an_absent_text_encoder_config_is_the_trap_it_is(tmp_path: Path) -> None:
    """transformers would build a default model of more than 100 GB; diffusers would only refuse."""
    files = {p: c for p, c in qwen().items() if p not in ("text_encoder/config.json", "transformer/config.json")}

    assert causes_of(tmp_path, files) == {
        "text_encoder/config.json": "missing_config_builds_default_model",
        "transformer/config.json": "config_missing",
    }


def test_a_tokenizer_without_vocabulary_is_not_complete(tmp_path: Path) -> None:
    """transformers 5 loads it without a word and turns every prompt into nothing."""
    files = {p: c for p, c in qwen(native=True).items() if p != "tokenizer/tokenizer.json"}

    assert causes_of(tmp_path, files) == {"tokenizer/tokenizer.json": "tokenizer_missing"}


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model", "vocab.txt", "tokenizer.json"])
def test_other_vocabularies_do_as_well(tmp_path: Path, name: str) -> None:
    """SentencePiece, WordPiece and fast tokenizers need one file."""
    named: dict[str, object] = {"tokenizer_2": ["transformers", "T5TokenizerFast"]}

    assert causes_of(tmp_path, pipeline(named, {f"tokenizer_2/{name}": b"{}"})) == {}


def test_null_components_need_no_folder(tmp_path: Path) -> None:
    """`[null, null]` is a component left out on purpose, and plain values are arguments."""
    named: dict[str, object] = {
        "image_encoder": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "_ignore_files": ["a", "b"],
    }

    assert report_of(tmp_path, pipeline(named, {})).complete


def test_a_component_without_a_folder_names_what_would_be_in_it(tmp_path: Path) -> None:
    """A whole folder that is absent is one cause, said of every file that is known to belong there."""
    files = {p: c for p, c in qwen().items() if not p.startswith(("scheduler/", "vae/"))}

    assert causes_of(tmp_path, files) == {
        "scheduler/scheduler_config.json": "component_missing",
        "vae/config.json": "component_missing",
        "vae/diffusion_pytorch_model.safetensors": "component_missing",
    }


def test_component_names_mean_nothing(tmp_path: Path) -> None:
    """An SDXL-like pipeline: the classes decide, a folder that model_index does not name is not asked for."""
    clip = transformers_model("CLIPTextModel") | {"model.safetensors": safetensors("w")}
    words = {"vocab.json": b"{}", "merges.txt": b"a b\n"}
    named: dict[str, object] = {
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "transformer_2": ["diffusers", "WanTransformer3DModel"],
        "vae_decoder": VAE,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    }
    models = {"config.json": diffusers_config("X"), WEIGHTS: safetensors("w")}
    files = pipeline(
        named,
        {
            **in_folder("text_encoder", clip),
            **in_folder("text_encoder_2", clip),
            **in_folder("tokenizer", words),
            **in_folder("tokenizer_2", words),
            **in_folder("unet", {**models, "model.onnx": b"\x08", "openvino_model.bin": bytes(50)}),
            **in_folder("transformer_2", models),
            **in_folder("vae_decoder", models),
            **in_folder("image_encoder", clip),
            **in_folder("safety_checker", clip),
            "scheduler/scheduler_config.json": b"{}",
            "feature_extractor/preprocessor_config.json": b"{}",
            "vae_encoder/model.onnx": b"\x08",
        },
    )

    report = report_of(tmp_path / "whole", files)

    assert report.complete
    assert (report.has_code, report.has_pickle) == (False, False)
    assert not next(c for c in report.components if c.name == "vae_encoder").required
    broken = {p: c for p, c in files.items() if p not in ("unet/" + WEIGHTS, "text_encoder_2/model.safetensors")}
    assert causes_of(tmp_path / "broken", broken) == {
        "unet/" + WEIGHTS: "weights_missing",
        "text_encoder_2/model.safetensors": "weights_missing",
    }


@pytest.mark.parametrize(
    "weights",
    [
        {WEIGHTS: safetensors("w")},
        {"diffusion_pytorch_model.fp16.safetensors": safetensors("w")},
        {"diffusion_pytorch_model.non_ema.safetensors": safetensors("w")},
        {"diffusion_pytorch_model.bin": b"\x80\x02"},
        sharded("diffusion_pytorch_model", 3),
        sharded(
            "diffusion_pytorch_model",
            3,
            index="diffusion_pytorch_model.safetensors.index.fp16.json",
            shard="diffusion_pytorch_model.fp16-{n:05d}-of-{count:05d}.safetensors",
        ),
        sharded(
            "diffusion_pytorch_model",
            3,
            index="diffusion_pytorch_model.safetensors.fp16.index.json",
            shard="diffusion_pytorch_model-{n:05d}-of-{count:05d}.fp16.safetensors",
        ),
    ],
)
def test_every_spelling_of_weights_is_known(tmp_path: Path, weights: Files) -> None:
    """Variants, both spellings of their indexes, the legacy shards; and the loss of any file of them is noticed."""
    assert causes_of(tmp_path / "whole", vae(weights)) == {}
    for n, name in enumerate(weights):
        without = vae({w: c for w, c in weights.items() if w != name})
        assert not report_of(tmp_path / str(n), without).complete, name


def test_unused_duplicates_are_not_judged(tmp_path: Path) -> None:
    """A .bin beside safetensors, or a cut variant, is nothing a loader opens: a remark, not a fault."""
    cut = safetensors("w")[:-5]
    files = vae({WEIGHTS: safetensors("w"), "diffusion_pytorch_model.fp16.safetensors": cut, "x.bin": b"\x80"})

    report = report_of(tmp_path, files)

    assert (report.complete, report.has_pickle) == (True, False)
    assert any("fp16" in note for note in report.notes)


def test_half_of_the_plain_safetensors_decides(tmp_path: Path) -> None:
    """Loaders take the plain safetensors first, so its missing shard is a fault even beside a whole pickle."""
    weights = sharded("diffusion_pytorch_model", 2) | {"diffusion_pytorch_model.bin": b"\x80"}
    del weights["diffusion_pytorch_model-00002-of-00002.safetensors"]

    assert causes_of(tmp_path, vae(weights)) == {
        "vae/diffusion_pytorch_model-00002-of-00002.safetensors": "shard_missing"
    }


@pytest.mark.fault("X3")
def test_pickles_that_would_be_loaded_are_a_fact(tmp_path: Path) -> None:
    """Only when the chosen weights are one."""
    assert structure_of(tmp_path, vae({"diffusion_pytorch_model.bin": b"\x80"})).has_pickle


def test_shards_without_their_index_ask_for_it_and_for_the_gaps(tmp_path: Path) -> None:
    """The numbering says which shards there must be when nothing else does."""
    weights = sharded("diffusion_pytorch_model", 3)
    del weights["diffusion_pytorch_model.safetensors.index.json"]
    del weights["diffusion_pytorch_model-00002-of-00003.safetensors"]

    assert causes_of(tmp_path, vae(weights)) == {
        "vae/diffusion_pytorch_model.safetensors.index.json": "index_missing",
        "vae/diffusion_pytorch_model-00002-of-00003.safetensors": "shard_missing",
    }


def test_the_libraries_prefer_different_files(tmp_path: Path) -> None:
    """Beside a whole file, diffusers still reads the index; transformers does not."""
    lonely = {"model.safetensors": safetensors("w"), "model.safetensors.index.json": index({"a": "gone.safetensors"})}
    assert causes_of(tmp_path / "t", transformers_model("BertModel") | lonely) == {}

    weights = {WEIGHTS: safetensors("w"), WEIGHTS + ".index.json": index({"a": "gone.safetensors"})}
    assert causes_of(tmp_path / "d", vae(weights)) == {"vae/gone.safetensors": "shard_missing"}


def index(weight_map: object) -> bytes:
    return to_json({"metadata": {}, "weight_map": weight_map})


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (index({"a": "../../etc/passwd"}), "unsafe_shard_name"),
        (index({"a": "deep/x.safetensors"}), "unsafe_shard_name"),
        (index({"a": 1}), "bad_index"),
        (index({}), "bad_index"),
        (b"[]", "bad_index"),
        (b'{"weight_map": {"a": "diffusion_pytorch_model-00001-of-00001.safetensors"}}', "index_without_metadata"),
        (b'{"weight_map": {"a', "bad_json"),
        (b"", "empty"),
    ],
)
def test_an_index_that_loaders_refuse_is_a_fault(tmp_path: Path, content: bytes, cause: str) -> None:
    """Each reason is told apart, and the shard beside it is still known by its number."""
    weights = sharded("diffusion_pytorch_model", 1) | {WEIGHTS + ".index.json": content}

    assert causes_of(tmp_path, vae(weights)) == {f"vae/{WEIGHTS}.index.json": cause}


def test_a_shard_of_another_revision_lacks_its_tensors(tmp_path: Path) -> None:
    """The right name and a perfect header, but not what the index looks for in it."""
    shard = "diffusion_pytorch_model-00002-of-00003.safetensors"
    weights = sharded("diffusion_pytorch_model", 3) | {shard: safetensors("old.1", "old.2")}

    assert causes_of(tmp_path, vae(weights)) == {f"vae/{shard}": "other_revision"}


def test_shards_under_each_others_names_are_named(tmp_path: Path) -> None:
    """Loaders read by tensor and do not notice; the report does, and says whose content it is."""
    one, two = (f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2))
    weights = sharded("diffusion_pytorch_model", 3)
    weights[one], weights[two] = weights[two], weights[one]

    found = {p.path: (p.cause, p.other_path) for p in report_of(tmp_path, vae(weights)).findings}

    assert found == {
        f"vae/{one}": ("swapped_with", f"vae/{two}"),
        f"vae/{two}": ("swapped_with", f"vae/{one}"),
    }


def test_a_wrong_total_size_is_a_remark(tmp_path: Path) -> None:
    """No library checks it."""
    weights = sharded("diffusion_pytorch_model", 2)
    weights[WEIGHTS + ".index.json"] = weights[WEIGHTS + ".index.json"].replace(b"1024", b"1025")

    report = report_of(tmp_path, vae(weights))

    assert report.complete
    assert any("total_size 1025" in note for note in report.notes)


@pytest.mark.fault("X3")
@pytest.mark.parametrize(
    "files",
    [
        pipeline({"thing": ["my_code", "Thing"]}, {"thing/my_code.py": b""}),
        pipeline({}, {}, class_name=["pipeline.py", "Custom"]),
        pipeline({}, {"transformer/transformer.py": b""}),
        transformers_model("X") | {"model.safetensors": safetensors("w"), "modeling_x.py": b""},
        {"config.json": to_json({"architectures": ["X"], "auto_map": {"AutoModel": "a/b--x.X"}})},
    ],
)
def test_code_is_a_fact(tmp_path: Path, files: Files) -> None:
    """Python files, unknown libraries, a class from a file and auto_map all mean code that is not installed."""
    assert structure_of(tmp_path, files).has_code


def test_an_unknown_library_must_bring_its_code(tmp_path: Path) -> None:
    """diffusers looks for <component>/<library>.py and fails without it."""
    files = pipeline({"thing": ["my_code", "Thing"]}, {"thing/config.json": b"{}"})

    assert causes_of(tmp_path, files) == {"thing/my_code.py": "custom_code_missing"}


def test_a_pipeline_without_its_model_index_is_still_recognised(tmp_path: Path) -> None:
    """And what its folders show is judged: both faults are told in one go."""
    gone = ("model_index.json", "transformer/diffusion_pytorch_model-00003-of-00005.safetensors")
    files = {p: c for p, c in qwen().items() if p not in gone}

    assert causes_of(tmp_path, files) == {
        "model_index.json": "model_index_missing",
        "transformer/diffusion_pytorch_model-00003-of-00005.safetensors": "shard_missing",
    }


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"", "empty"), (b'{"_class_name": "Qw', "bad_json"), (b"[]", "bad_index"), (b"{}", "bad_index")],
)
def test_a_damaged_model_index_is_one_fault(tmp_path: Path, content: bytes, cause: str) -> None:
    """The folders are judged by what they show, and nothing else is blamed."""
    assert causes_of(tmp_path, qwen() | {"model_index.json": content}) == {"model_index.json": cause}


def test_a_transformers_model_lives_at_the_root(tmp_path: Path) -> None:
    """config.json and the shards of its index, in the root component."""
    files = transformers_model("Qwen3ForCausalLM") | sharded("model", 3) | {"tokenizer.json": b"{}"}
    whole = structure_of(tmp_path / "whole", files)
    assert (whole.shape, whole.class_name) == ("transformers", "Qwen3ForCausalLM")
    assert causes_of(tmp_path / "whole", files) == {}

    del files["model-00002-of-00003.safetensors"], files["config.json"]
    assert causes_of(tmp_path / "broken", files) == {
        "config.json": "missing_config_builds_default_model",
        "model-00002-of-00003.safetensors": "shard_missing",
    }


def test_a_lone_diffusers_model_is_known_by_its_config(tmp_path: Path) -> None:
    """A ControlNet has diffusers' names at the root."""
    files = {"config.json": diffusers_config("ControlNetModel")}
    assert causes_of(tmp_path, files) == {WEIGHTS: "weights_missing"}


def test_gguf_and_single_files_are_judged_one_by_one(tmp_path: Path) -> None:
    """Their numbering is all that says what is absent; their content what is damaged."""
    files = {
        "q4-00001-of-00003.gguf": b"GGUF",
        "q4-00003-of-00003.gguf": b"GGUF",
        "flux1-dev.safetensors": safetensors("w")[:-1],
        "ae.safetensors": safetensors("w"),
    }

    assert causes_of(tmp_path, files) == {
        "q4-00002-of-00003.gguf": "shard_missing",
        "flux1-dev.safetensors": "truncated",
    }


def test_a_config_beside_gguf_is_complete(tmp_path: Path) -> None:
    """GGUF repositories often keep the original's config.json; no safetensors is asked of them."""
    assert causes_of(tmp_path, transformers_model("X") | {"x-Q4_K_M.gguf": b"GGUF\x03"}) == {}


@pytest.mark.parametrize("files", [{}, {"README.md": b"hello"}])
def test_where_no_model_is_nothing_is_complete(tmp_path: Path, files: Files) -> None:
    """An empty folder is never called a complete model."""
    assert causes_of(tmp_path, files) == {"": "no_model_here"}


@pytest.mark.loader
@pytest.mark.parametrize("layout", ["tiny", "native"])
def test_a_real_tiny_pipeline_is_complete_by_its_structure(
    request: pytest.FixtureRequest, tmp_path: Path, layout: str
) -> None:
    """Built by diffusers and transformers themselves; every absent file agrees with what their loaders did without."""
    folder = Path(shutil.copytree(request.getfixturevalue(layout), tmp_path / "m"))
    free = NOT_NEEDED | {".gitattributes"} | {f"{c}/special_tokens_map.json" for c in ("tokenizer", "processor")}
    if layout == "tiny":
        free |= EITHER

    assert make_report(ref=None, inventory=look(folder)).complete
    for path in sorted(f.path for f in look(folder).files):
        (folder / path).rename(tmp_path / "aside")
        report = make_report(ref=None, inventory=look(folder))
        (tmp_path / "aside").rename(folder / path)
        assert (path in free) == report.complete, path


@pytest.mark.fault("X5")
async def test_a_verified_snapshot_that_lacks_a_shard_of_its_index_is_no_complete_model(tmp_path: Path) -> None:
    """Every file is the Hub's and nothing can load them; unless the shard is only outside the patterns."""
    shard = "transformer/diffusion_pytorch_model-00003-of-00005.safetensors"
    files = {path: content for path, content in qwen().items() if path != shard}
    ref = ModelRef(repo=REPO)
    write_cache(tmp_path / "lacking", files)
    write_cache(tmp_path / "patterns", qwen())

    lacking = await SnapshotStructure(HubCache(tmp_path / "lacking"))(ref, listing(files))
    patterns = await SnapshotStructure(HubCache(tmp_path / "patterns"))(ref, listing(qwen()).keep(files))

    assert (lacking.problem, patterns.problem) == (f"{shard}: the index names this shard", "")
