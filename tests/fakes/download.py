"""A download half-way, told in events: a small cast for tests of whatever draws or prints the stream."""

from __future__ import annotations

from qwen_api import events as e

MODEL = "Qwen--Qwen-Image-Edit-2511"
REPO = "Qwen/Qwen-Image-Edit-2511"
COMMIT = "6f3ccc0b" + "a" * 32
RETRY_AT = "2026-11-23T14:25:57.000Z"

SIZES = {
    "model_index.json": 512,
    "scheduler/scheduler_config.json": 485,
    "text_encoder/model-00001-of-00002.safetensors": 4_970_000_000,
    "text_encoder/model-00002-of-00002.safetensors": 4_990_000_000,
    "tokenizer/tokenizer.json": 5_100_000,
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": 9_970_000_000,
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors": 9_940_000_000,
    "vae/diffusion_pytorch_model.safetensors": 253_800_000,
}
VERIFIED = ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json")
RETRYING = "vae/diffusion_pytorch_model.safetensors"
ACTIVE = "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"


def added(model: str = MODEL, repo: str = REPO, revision: str = "main") -> e.ModelAdded:
    """The model is wanted."""
    return e.ModelAdded(model=model, repo=repo, revision=revision)


def resolved(model: str = MODEL) -> e.ModelResolved:
    """Its files are known."""
    files = tuple(e.ListedFile(path=p, size_bytes=s, etag="0" * 40) for p, s in SIZES.items())
    return e.ModelResolved(model=model, commit=COMMIT, files=files, size_bytes=sum(SIZES.values()))


def verified(path: str, model: str = MODEL) -> e.FileVerified:
    """One file is right."""
    size = SIZES[path]
    return e.FileVerified(
        model=model, path=path, size_bytes=size, algorithm="sha256", received_bytes=size, duration_s=2.0
    )


def progress(done_bytes: int) -> e.FileProgress:
    """The arriving file is so far."""
    return e.FileProgress(
        model=MODEL,
        path=ACTIVE,
        done_bytes=done_bytes,
        size_bytes=SIZES[ACTIVE],
        received_bytes=done_bytes,
        rate_bps=84_900_000,
    )


def half_way() -> list[e.Event]:
    """A model with three verified files, one arriving, one in retry, a loader that waits, and room on the disk."""
    return [
        added(),
        resolved(),
        e.ModelStateChanged(model=MODEL, state="downloading"),
        *[verified(path) for path in VERIFIED],
        e.FileStarted(model=MODEL, path=ACTIVE, attempt=1, size_bytes=SIZES[ACTIVE]),
        progress(6_120_000_000),
        e.FileRetry(
            model=MODEL,
            path=RETRYING,
            attempt=3,
            attempts_max=4,
            retry_at=RETRY_AT,
            code="E_NETWORK",
            detail="connection reset by peer",
            ts="2026-11-23T14:25:47.000Z",
        ),
        e.DiskChanged(path="/srv/hf", state="ok", free_bytes=412_000_000_000, needed_bytes=27_600_000_000),
        e.LoaderChanged(name="image-api", state="waiting", model=MODEL, pid=4121, device="cuda:0"),
    ]


def completed() -> list[e.Event]:
    """The rest arrives and the model is complete."""
    rest = [verified(path) for path in SIZES if path not in VERIFIED]
    done = e.ModelComplete(
        model=MODEL,
        repo=REPO,
        commit=COMMIT,
        path=f"/srv/hf/hub/models--Qwen--Qwen-Image-Edit-2511/snapshots/{COMMIT}",
        files=len(SIZES),
        size_bytes=sum(SIZES.values()),
    )
    return [*rest, done]
