"""A Qwen2 tokenizer made from nothing but the text below.

The tiny pipeline needs a real tokenizer, and a real one lives on the Hub. This module counts byte-pair merges
over a built-in text and numbers the tokens as Qwen does: bytes, merges, then Qwen's special and added tokens.
Which files these become is left to demo.tiny_pipeline.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

MERGES = 200  # enough for words to form and few enough to fit the smallest vocabulary many times over
CONTEXT_TOKENS = 131_072  # as the real tokenizer says

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_TEXT = """
Describe the key features of the input image (color, shape, size, texture, objects, background), then explain
how the user's text instruction should alter or modify the image. Generate a new image that meets the user's
requirements while maintaining consistency with the original input where appropriate.
Make the sky orange and keep the house as it is. Put a red hat on the cat. Turn the photograph into a drawing.
Remove the people in the background. Replace the text on the sign with other text in the same colour and size.
Let the two persons of the two pictures stand side by side in front of the lake in the light of the evening.
system user assistant Picture 1: Picture 2: Picture 3:
Сделай небо оранжевым и оставь дом как есть. Надень на кошку красную шляпу. Преврати фотографию в рисунок.
Убери людей на заднем плане. Замени текст на вывеске другим текстом того же цвета и размера.
"""


def merges() -> list[tuple[str, str]]:
    """The most frequent pairs, most frequent first; ties are broken by the pair itself, so always the same."""
    words = [list(piece) for piece in _pieces(_TEXT)]
    found: list[tuple[str, str]] = []
    for _ in range(MERGES):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        found.append(best)
        words = [_merged(word, best) for word in words]
    return found


def vocabulary(pairs: list[tuple[str, str]]) -> dict[str, int]:
    """Number the byte alphabet, then what each merge makes."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*sorted(ByteLevel.alphabet()), *(left + right for left, right in pairs)]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def tokenizer() -> Any:
    """A transformers Qwen2Tokenizer over all of the above."""
    from transformers import AddedToken, Qwen2Tokenizer

    pairs = merges()
    made = Qwen2Tokenizer(
        vocab=vocabulary(pairs),
        merges=pairs,
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),  # the first is already its pad and end token
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN_TOKENS])
    made.chat_template = CHAT_TEMPLATE
    return made


def added_tokens() -> dict[str, int]:
    """The numbers of special and plain added tokens: they follow the vocabulary, as in the real model."""
    first = len(vocabulary(merges()))
    return {token: first + place for place, token in enumerate((*SPECIAL_TOKENS, *PLAIN_TOKENS))}


def hub_files() -> dict[str, str]:
    """The files that transformers 4 wrote for it and the real repository holds, by name."""
    pairs = merges()
    return {
        "vocab.json": json.dumps(vocabulary(pairs), ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in pairs),
        "added_tokens.json": _pretty(added_tokens()),
        "special_tokens_map.json": _pretty(_special_tokens_map()),
        "tokenizer_config.json": _pretty(_tokenizer_config()),
    }


def _special_tokens_map() -> dict[str, object]:
    return {
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }


def _tokenizer_config() -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    decoder = {
        str(number): {"content": token, **flags, "special": token in SPECIAL_TOKENS}
        for token, number in added_tokens().items()
    }
    return _special_tokens_map() | {
        "added_tokens_decoder": decoder,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": CONTEXT_TOKENS,
        "processor_class": "Qwen2VLProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _pieces(text: str) -> list[str]:
    """Words in the byte alphabet, cut as byte-level tokenizers cut them."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [piece for piece, _ in ByteLevel(add_prefix_space=False).pre_tokenize_str(text)]


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged
