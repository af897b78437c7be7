"""Write an estimate as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from dti_repro.cost.device import Device
from dti_repro.cost.estimate import Estimate, Memory
from dti_repro.cost.model import ModelCost

GIB = 2**30
SPARE = 0.9  # share of a device's memory that is planned with
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def report(title: str, found: Estimate, device: Device) -> str:
    """Return blocks of aligned lines, and what was assumed."""
    disk = ", ".join(f"{name} {_bytes(size)}" for name, size in found.disk.items())
    blocks = [
        title,
        *(_table(_model(model)) for model in found.models),
        _table(_units(found)),
        _table(_stages(found), right=True),
        _table([(f"memory, {entry.name}", _memory(entry, device)) for entry in found.memory]),
        f"disk  {_bytes(sum(found.disk.values()))}: {disk}",
        _assumptions(found, device),
    ]
    return "\n\n".join(block for block in blocks if block)


def _model(model: ModelCost) -> list[tuple[str, str]]:
    denoiser = model.denoiser
    return [
        ("architecture", model.source),
        ("parameters", ", ".join(f"{name} {_number(count)}" for name, count in model.parameters.items())),
        (f"one sample, {model.resolution} px", f"{_flops(model.sample.flops)}, forward and back to the vectors"),
        ("  denoiser", f"{_flops(denoiser.forward)} forward, {_flops(denoiser.flops)} with the way back"),
        ("  text", f"{_flops(model.text.flops)} with the way back"),
        ("one photo", f"{_flops(model.photo.flops)}, encoded once"),
    ]


def _units(found: Estimate) -> list[tuple[str, str]]:
    lines = []
    if (step := found.step) is not None:
        cost = f"{_flops(step['flops'])}, {_duration(step['seconds'])} ({step['samples']} samples)"
        lines.append(("one step of one concept", cost))
    if (one := found.picture) is not None:
        how = f"{one['height']} x {one['width']} px, {one['steps']} steps, guidance {one['guidance']:g}"
        lines.append(("one picture", f"{_flops(one['flops'])}, {_duration(one['seconds'])} ({how})"))
    for network in {e.checkpoint: e for e in found.evaluators}.values():
        text = f" and {_flops(network.text)} a text" if network.text else ""
        lines.append((f"scored by {network.checkpoint}", f"{_flops(network.image)} an image{text}"))
    return lines


def _stages(found: Estimate) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", "all", "done", "to do", "operations", "hours")]
    for s in found.stages:
        counts = (f"{count:,}" for count in (s.total, s.done, s.total - s.done))
        rows.append((f"{s.name} ({s.unit})", *counts, _flops(s.flops), _hours(s.hours)))
    flops, hours = sum(s.flops for s in found.stages), sum(s.hours for s in found.stages)
    return [*rows, ("total", "", "", "", _flops(flops), _hours(hours))]


def _memory(memory: Memory, device: Device) -> str:
    parts = f"weights {memory.weights / GIB:.3g} + {memory.at_once} {memory.unit} x {memory.each / GIB:.3g}"
    text = f"{memory.total / GIB:.3g} GiB = {parts}"
    if device.memory_gib is None:
        return text
    available = SPARE * device.memory_gib * GIB
    if memory.total <= available:
        return f"{text}: fits"
    return f"{text}: DOES NOT FIT into {SPARE:.0%} of {device.memory_gib:g} GiB, {memory.fitting(available)} would"


def _assumptions(found: Estimate, device: Device) -> str:
    peaks = ", ".join(f"{peak:g} TFLOP/s in {dtype}" for dtype, peak in device.peak_tflops.items())
    lines = [
        "assumed:",
        f"{device.name}: {peaks}, of which {device.utilisation:.0%} is reached (device.utilisation)",
        "operations are those of matrix products, convolutions and attention; reading and saving files is left out",
        "memory leaves out the allocator's gaps and the libraries' workspaces",
        "what a killed run has done of an unfinished concept counts as to do",
        *(f"not counted: {what}" for what in found.uncounted),
    ]
    return "\n  ".join(lines)


def _table(rows: Sequence[tuple[str, ...]], right: bool = False) -> str:
    """Align the columns; right: those behind the first one to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        aligned = [text.rjust(width) if right else text for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *aligned]))
    return "\n".join(lines)


def _flops(count: float) -> str:
    return f"{_number(count)}FLOP"


def _number(count: float) -> str:
    """Write four digits and a prefix: 3.641 T."""
    for size, prefix in PREFIXES:
        if count >= size:
            return f"{count / size:.4g} {prefix}" if size >= 1e6 else f"{count / size:.3g} {prefix}"
    return f"{count:g} "


def _bytes(size: float) -> str:
    return f"{size / GIB:.3g} GiB" if size >= GIB / 10 else f"{size / 2**20:.3g} MiB"


def _hours(hours: float) -> str:
    return f"{hours:.3g}" if hours < 100 else f"{hours:,.0f}"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"
