"""The one line that systemctl shows: what a person would ask first."""

from __future__ import annotations

from qwen_api.status import ModelStatus, Status
from qwen_daemon.core.amounts import size_text
from qwen_daemon.core.pace import eta_s


def status_line(status: Status) -> str:
    """For example `downloading 34.8 % 20.1/57.7 GB 84.9 MB/s ETA 7:23; 1 retrying`."""
    models = list(status.models.values())
    if not models:
        return "no model is wanted; add one: qwenctl add MODEL"
    busy = [m for m in models if m.state in ("downloading", "checking")]
    if busy:
        return _busy_line(busy)
    counts = {state: sum(m.state == state for m in models) for state in dict.fromkeys(m.state for m in models)}
    line = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return line + _trouble(models)


def _trouble(models: list[ModelStatus]) -> str:
    """What is in the way of the first that has something in its way, and until when."""
    model = next((m for m in models if m.code), None)
    if model is None:
        return ""
    again = f", again at {model.retry_at[11:19]} UTC" if model.retry_at else ""
    return f"; {model.model}: {model.code}{again}" + (f": {model.detail}" if model.detail else "")


def _busy_line(models: list[ModelStatus]) -> str:
    size = sum(m.size_bytes for m in models)
    done = sum(m.done_bytes for m in models)
    rate = sum(m.rate_bps for m in models)
    if not size:
        return "checking" + _trouble(models)
    left_s = eta_s(size - done, rate)
    eta = f" ETA {int(left_s) // 60}:{int(left_s) % 60:02}" if left_s else ""
    files = [f for m in models for f in m.files.values()]
    retrying = sum(f.state in ("retrying", "stalled") for f in files)
    trouble = f"; {retrying} retrying" if retrying else ""
    amount = f"{100 * done / size:.1f} % {size_text(done)}/{size_text(size)}"
    return f"{models[0].state} {amount} {size_text(rate)}/s{eta}{trouble}{_trouble(models)}"
