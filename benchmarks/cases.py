"""The cases: which files, over which line, with which clients, and what is asked of us. Pure; `--list` prints this.

A case may have several variants, which are compared within themselves only. `scale` shrinks sizes and counts alike, so
that everything can be tried in a minute; goals are judged at scale 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.origin import Line

MIB, GIB = 1 << 20, 1 << 30
CDN_STREAM_BPS = 28 * MIB  # the real CDN, as recorded: one stream
CDN_FIRST_BYTE_S = 0.65  # the real CDN's median
CDN_STREAMS = 16  # the connection budget that the ideal is computed for
FILE_BYTES_MIN = 4096

Files = Sequence[tuple[str, int]]
Scenario = Literal["fetch", "kill", "flip", "hole", "sealed", "full", "wait"]
Origin = Literal["nginx", "nginx-tls"] | Line
VERIFYING = ("ours", "curl, openssl", "aria2c -x8 --checksum")
EVERYONE = (
    "ours",
    "hf download",
    "hf_transfer",
    "aria2c -x8",
    "aria2c -x16",
    "aria2c -x8 --checksum",
    "curl",
    "curl, openssl",
    "durable copy",
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One comparison. `ideal_s` is the wall time that nothing can beat, if it is known; `config` is ours (TOML).

    `in_memory`: what is fetched goes to a memory file system, so that the disk's speed decides nothing.
    """

    name: str
    model: str
    files: Files
    origin: Origin
    clients: Sequence[str]
    scenario: Scenario = "fetch"
    ideal_s: float | None = None
    config: str = ""
    in_memory: bool = False
    limit_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table of goals."""

    key: str
    title: str
    goal: str
    variants: Callable[[float], Sequence[Variant]]


def one_file(scale: float, size_bytes: int = 2 * GIB) -> Files:
    """One large shard."""
    return [("model.safetensors", _scaled(size_bytes, scale))]


def pipeline(scale: float) -> Files:
    """35 files, 2.1 GB: ten shards of several sizes, the rest small, as pipelines are."""
    shards = [("transformer", 5, 300), ("text_encoder", 4, 120), ("vae", 1, 100)]
    large = [
        (f"{part}/model-{i + 1:05}-of-{count:05}.safetensors", _scaled(mib * MIB, scale))
        for part, count, mib in shards
        for i in range(count)
    ]
    small = [(f"parts/{i:02}/config.txt", 2_000 + 3_000 * i) for i in range(25)]
    return [*small, *large]


def shards(scale: float) -> Files:
    """Four shards of 256 MiB and one of 2 GiB."""
    sizes = [256 * MIB] * 4 + [2 * GIB]
    return [(f"model-{i + 1:05}-of-00005.safetensors", _scaled(size, scale)) for i, size in enumerate(sizes)]


def small_files(count: int, size_bytes: int = 20_000) -> Files:
    """Many small ones."""
    return [(f"data/{i // 500:02}/{i:05}.dat", size_bytes) for i in range(count)]


def _scaled(size_bytes: int, scale: float) -> int:
    return max(FILE_BYTES_MIN, int(size_bytes * scale))


def _total(files: Files) -> int:
    return sum(size_bytes for _, size_bytes in files)


def _unthrottled(scale: float) -> Sequence[Variant]:
    one, many = one_file(scale), pipeline(scale)
    return (
        Variant(
            name="2 GiB file, http, to memory", model="one", files=one, origin="nginx", clients=EVERYONE,
            in_memory=True,
        ),
        Variant(
            name="2 GiB file, TLS, to memory", model="one", files=one, origin="nginx-tls", clients=EVERYONE,
            in_memory=True,
        ),
        Variant(name="2 GiB file, http", model="one", files=one, origin="nginx", clients=EVERYONE),
        Variant(name="35 files, http", model="pipeline", files=many, origin="nginx", clients=EVERYONE),
    )  # fmt: skip


def _line_bound(scale: float) -> Sequence[Variant]:
    one, total_bps = one_file(scale), 300 * MIB
    clients = ("ours", "hf download", "hf_transfer", "aria2c -x8", "curl")
    line = Line(total_bps=total_bps)
    ideal_s = _total(one) / total_bps
    name = "2 GiB file, line of 300 MiB/s"
    return (Variant(name=name, model="one", files=one, origin=line, clients=clients, ideal_s=ideal_s),)


def _cdn(scale: float) -> Sequence[Variant]:
    files = shards(scale)
    line = Line(first_byte_s=CDN_FIRST_BYTE_S, stream_bps=CDN_STREAM_BPS)
    ideal_s = _total(files) / (CDN_STREAMS * CDN_STREAM_BPS) + CDN_FIRST_BYTE_S
    clients = ("ours", "hf download", "aria2c -x8", "aria2c -x16", "aria2c -x8 --checksum", "discard")
    name = "4 x 256 MiB + 2 GiB, CDN-like"
    return (Variant(name=name, model="shards", files=files, origin=line, clients=clients, ideal_s=ideal_s),)


def _tail(scale: float) -> Sequence[Variant]:
    files = one_file(scale)
    line = Line(
        first_byte_s=CDN_FIRST_BYTE_S, stream_bps=CDN_STREAM_BPS, slow_connection=3, slow_bps=CDN_STREAM_BPS // 28
    )
    ideal_s = _total(files) / (8 * CDN_STREAM_BPS) + CDN_FIRST_BYTE_S
    clients = ("ours", "aria2c -x8")
    name = "2 GiB shard, the fourth connection 28 times slower"
    return (Variant(name=name, model="one", files=files, origin=line, clients=clients, ideal_s=ideal_s),)


def _resets(scale: float) -> Sequence[Variant]:
    span = (max(1, int(16_000_000 * scale)), max(2, int(256_000_000 * scale)))
    line = Line(stream_bps=100 * MIB, reset_after_bytes=span)
    clients = ("ours", "hf download", "aria2c -x8")
    name = "2 GiB file, connections reset after 16-256 MB"
    return (Variant(name=name, model="one", files=one_file(scale), origin=line, clients=clients),)


def _kill(scale: float) -> Sequence[Variant]:
    line = Line(total_bps=300 * MIB)
    clients = ("ours", "hf download", "aria2c -x8")
    name = "2 GiB file, SIGKILL at 50 %, started again"
    return (Variant(name=name, model="one", files=one_file(scale), origin=line, clients=clients, scenario="kill"),)


def _damage(scale: float) -> Sequence[Variant]:
    one, clients = one_file(scale), ("ours", "hf download", "aria2c -x8 --checksum")
    return (
        Variant(name="one byte flipped", model="one", files=one, origin="nginx", clients=clients, scenario="flip"),
        Variant(name="1 MiB of zeros", model="one", files=one, origin="nginx", clients=clients, scenario="hole"),
    )


def _recheck(scale: float) -> Sequence[Variant]:
    many = pipeline(scale)
    return (
        Variant(
            name="35 files, sealed", model="pipeline", files=many, origin="nginx", scenario="sealed",
            clients=("ours", "hf download"),
        ),
        Variant(
            name="35 files, full", model="pipeline", files=many, origin="nginx", scenario="full",
            clients=("ours", "openssl"),
        ),
    )  # fmt: skip


def _many_small(scale: float) -> Sequence[Variant]:
    files = small_files(max(4, int(2000 * scale)))
    clients = ("ours", "hf download", "aria2c -x8", "curl")
    return (Variant(name="2,000 files of 20 kB", model="small", files=files, origin="nginx", clients=clients),)


def _to_complete(scale: float) -> Sequence[Variant]:
    clients = ("ours", "hf download, openssl", "aria2c -x8 --checksum", "curl, openssl")
    files = shards(scale)
    line = Line(first_byte_s=CDN_FIRST_BYTE_S, total_bps=300 * MIB)
    return (
        Variant(
            name="last byte to complete, 3 GiB",
            model="shards",
            files=files,
            origin=line,
            clients=clients,
            scenario="wait",
        ),
    )


def _growth(scale: float) -> Sequence[Variant]:
    sizes = [
        Variant(
            name=f"size {gigabytes} GB", model=f"size{gigabytes}", origin="nginx", clients=("ours",), limit_s=1200,
            files=[(f"model-{i:05}.safetensors", _scaled(int(gigabytes * 1e9 / 4), scale)) for i in range(4)],
        )
        for gigabytes in (0.1, 1, 5, 20)
    ]  # fmt: skip
    counts = [
        Variant(
            name=f"{count} files of 20 kB", model=f"count{count}", files=small_files(max(4, int(count * scale))),
            origin="nginx", clients=("ours",), limit_s=1200,
        )
        for count in (10, 100, 1000, 10_000)
    ]  # fmt: skip
    streams = [
        Variant(
            name=f"{count} connections", model="shards", files=shards(scale), origin="nginx", clients=("ours",),
            config=f"[network]\n{{connections}} = {count}\n",
        )
        for count in (1, 2, 4, 8, 16)
    ]  # fmt: skip
    return (*streams, *counts, *sizes)


CASES: Sequence[Case] = (
    Case(
        key="1", title="Unthrottled", variants=_unthrottled,
        goal="wall with sha256 <= 1.0x hf_transfer, aria2c, hf download; <= 1.1x curl; >= 3x faster than "
        "aria2c --checksum; CPU <= 1.0x curl + openssl (TLS: 1.2x); RSS <= 150 MB",
    ),
    Case(key="1b", title="Line-bound", goal="wall <= 1.02x the fastest", variants=_line_bound),
    Case(
        key="2", title="CDN-like: 650 ms to the first byte, 28 MiB/s a stream", variants=_cdn,
        goal=">= 0.9 of what 16 streams or a discarding client reach; >= 6x hf download, >= 1.3x aria2c -x8; "
        "bytes twice <= 1 %",
    ),
    Case(key="3", title="Tail: one slow stream among eight", goal="wall <= 1.1x ideal", variants=_tail),
    Case(key="4", title="Connections reset at random", goal="completes; bytes twice <= 2 %", variants=_resets),
    Case(
        key="5", title="SIGKILL at 50 %, restart", variants=_kill,
        goal="bytes twice <= 64 MiB x connections",
    ),
    Case(
        key="6", title="Damage in a published file", variants=_damage,
        goal="fetched <= one 16 MiB segment + 1 %, and the file is right again",
    ),
    Case(
        key="7", title="Re-check of a complete model", variants=_recheck,
        goal="sealed: <= 100 ms of the daemon's time for 35 files; full: >= 0.9x openssl on every core",
    ),
    Case(key="8", title="Many small files", goal=">= 2x hf download in files/s", variants=_many_small),
    Case(key="9", title="Last byte to complete", goal="<= 1 s", variants=_to_complete),
    Case(key="10", title="Growth", goal="CPU per GB and RSS flat (largest <= 1.5x smallest)", variants=_growth),
)  # fmt: skip
