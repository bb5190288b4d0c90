"""What a component of a pipeline is, told from its library and class, and which small files its loader opens.

Pure, and blind to the component's name: `text_encoder_2`, `vae_decoder` or `unet` are what their classes are. Rules
as tried against diffusers 0.42 and transformers 5.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from qwen_api.language import _

Kind = Literal[
    "model", "onnx", "scheduler", "guider", "tokenizer", "processor", "image_processor", "video_processor",
    "pipeline", "custom",
]  # fmt: skip

# Modules of diffusers.pipelines that have model classes, so that model_index.json may name them as a library
# (diffusers 0.42.1, and its `deprecated` folder).
_PIPELINE_MODULES = frozenset(
    {
        "ace_step",
        "alt_diffusion",
        "audioldm2",
        "blip_diffusion",
        "cosmos",
        "deepfloyd_if",
        "flux",
        "ideogram4",
        "kandinsky",
        "kolors",
        "latent_diffusion",
        "ltx",
        "ltx2",
        "paint_by_example",
        "shap_e",
        "spectrogram_diffusion",
        "stable_audio",
        "stable_audio_3",
        "stable_diffusion",
        "stable_diffusion_safe",
        "unclip",
        "unidiffuser",
        "versatile_diffusion",
        "vq_diffusion",
        "wuerstchen",
    }
)
_LIBRARIES = frozenset({"diffusers", "transformers", "onnxruntime.training"})

# Processors that wrap no tokenizer.
_WITHOUT_TOKENIZER = ("Sam", "Tvlt", "EdgeTam")
# Tokenizers that need no vocabulary file: they count bytes or characters.
_WITHOUT_VOCABULARY = ("ByT5", "Canine", "Perceiver")
# Tokenizers whose vocabulary is vocab.json alone.
_WITHOUT_MERGES = ("CTC", "Speech2Text", "Vits", "EsmTokenizer")

_VOCABULARY_SUFFIXES = (".model", ".spm", ".tiktoken", ".tokenizer")
_VOCABULARY_NAMES = frozenset({"tokenizer.json", "vocab.txt", "tekken.json", "byte_maps.json"})
_TOKENIZER_TRACES = frozenset({"tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"})

READ_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".spm", ".tiktoken"})
"""Small files that are opened when they are there, so they must be sound even where nothing requires them."""


class Needed(NamedTuple):
    """A file name within the component's folder, and the cause to report when it is absent."""

    name: str
    cause: str
    detail: str = ""


def is_known_library(library: str) -> bool:
    """True for libraries whose code is installed, False for code that would come with the model."""
    return library in _LIBRARIES or library in _PIPELINE_MODULES


def kind_of(library: str, class_name: str) -> Kind:
    """What a component is. Everything of a known library that is nothing else is a model with weights."""
    if not is_known_library(library):
        return "custom"
    if class_name == "OnnxRuntimeModel" or library.startswith("onnxruntime"):
        return "onnx"
    by_ending: tuple[tuple[tuple[str, ...], Kind], ...] = (
        (("Scheduler",), "scheduler"),
        (("Guidance", "Guider"), "guider"),
        (("Tokenizer", "TokenizerFast"), "tokenizer"),
        (("VideoProcessor",), "video_processor"),
        (("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor"), "image_processor"),
        (("Processor",), "processor"),
        (("Pipeline",), "pipeline"),
    )
    return next((kind for endings, kind in by_ending if class_name.endswith(endings)), "model")


def small_files(kind: Kind, *, library: str, class_name: str, present: Collection[str]) -> tuple[Needed, ...]:
    """The configuration and vocabulary files that this component cannot do without; weights are not among them."""
    match kind:
        case "model":
            # diffusers refuses to begin; transformers builds the class's default model.
            trap = library == "transformers"
            return (Needed("config.json", "missing_config_builds_default_model" if trap else "config_missing"),)
        case "onnx":
            return (Needed("model.onnx", "weights_missing"),)
        case "scheduler":
            return (Needed("scheduler_config.json", "config_missing"),)
        case "guider":
            return (Needed("guider_config.json", "config_missing"),)
        case "pipeline":
            return (Needed("model_index.json", "model_index_missing"),)
        case "tokenizer":
            return vocabulary(class_name, present)
        case "image_processor":
            return _one_of(("preprocessor_config.json", "processor_config.json"), present)
        case "video_processor":
            return _one_of(
                ("video_preprocessor_config.json", "processor_config.json", "preprocessor_config.json"), present
            )
        case "processor":
            config = _one_of(("preprocessor_config.json", "processor_config.json"), present)
            return config if class_name.startswith(_WITHOUT_TOKENIZER) else config + vocabulary(class_name, present)
        case "custom":
            return (Needed(f"{library.removesuffix('.py')}.py", "custom_code_missing"),)


def vocabulary(class_name: str, present: Collection[str]) -> tuple[Needed, ...]:
    """tokenizer.json, or vocab.json with merges.txt, or a file of SentencePiece's kind; by what is there.

    None of them is not an error to transformers 5: it builds an empty tokenizer, silently.
    """
    if any(mark in class_name for mark in _WITHOUT_VOCABULARY):
        return ()
    whole = sorted(n for n in present if n in _VOCABULARY_NAMES or n.endswith(_VOCABULARY_SUFFIXES))
    pair = {"vocab.json", "merges.txt"}
    if not pair & set(present):
        detail = "or vocab.json with merges.txt, or a SentencePiece model"
        return (
            Needed(whole[0], "tokenizer_missing") if whole else Needed("tokenizer.json", "tokenizer_missing", detail),
        )
    if whole and not pair <= set(present):
        return (Needed(whole[0], "tokenizer_missing"),)
    if "merges.txt" not in present and any(mark in class_name for mark in _WITHOUT_MERGES):
        return (Needed("vocab.json", "tokenizer_missing"),)
    return tuple(Needed(name, "tokenizer_missing") for name in sorted(pair))


def has_tokenizer_traces(present: Collection[str]) -> bool:
    """True when the folder has been meant to hold a tokenizer."""
    return bool(_TOKENIZER_TRACES & set(present))


def is_read_if_present(name: str) -> bool:
    """True for names whose content a loader opens when it is there."""
    return PurePosixPath(name).suffix in READ_SUFFIXES


def _one_of(names: tuple[str, ...], present: Collection[str]) -> tuple[Needed, ...]:
    name = next((n for n in names if n in present), names[0])
    others = ", ".join(n for n in names if n != name)
    return (Needed(name, "config_missing", _("or {others}", others=others)),)
