"""`lynx-moe bench export`: exported models against the live adapter model, and a dense fold against its base."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lynx_moe.adapter import LynxConfig
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.bench.step import BATCHES, POCKET, batch_of
from lynx_moe.bench.timing import compare, in_turn, prepared
from lynx_moe.errors import ConfigError, ExportError
from lynx_moe.export import export
from lynx_moe.loading import load

# What can be folded is one expert behind a constant gate; the others hold the default adapter.
ADAPTERS = {
    "dense": {"num_experts": 1, "top_k": 1, "mix": "convex", "layers": "all"},
    "native": {},
    "code": {},
}
PASSES = ("forward", "generate")


def bench_export(
    path: str = POCKET,
    *,
    routes: tuple[str, ...] = tuple(ADAPTERS),
    layers: str = "every_other",
    mix: str = "additive",
    rows: int = 8,
    new_tokens: int = 32,
    repeats: int = 10,
    seconds: float = 30.0,
    dtype: str = "float32",
    threads: int | None = None,
) -> dict:
    """Times forward and greedy generation of what `export` wrote, of the live model and of the base, in turn.

    Adapters are not trained, but their weights are drawn, so that they speak; their gate is on, as that of a dense or a
    native export is. Every folder is written, proven and opened again as a user would.

    Args:
        routes: of "dense" (one expert behind a constant gate in every layer), "native" and "code" (the default one).
        layers, mix: of the default adapter; they decide which host a native export goes into, and whether layers
            without a block need experts of zeros there.
        rows: of a batch; forward counts its tokens, padding included, generation the new ones.

    Returns:
        "rows", one per route and pass, with `route, host, pass, tokens_per_second, live_tokens_per_second,
        ratio_to_live` (of seconds, below 1 is faster), `ratio_low, ratio_high` (quartiles), `seconds, rounds` and
        `ratio_to_base`; of "dense" also `flops_to_base, over_flops`: how many times the base's FLOPs, and what the
        seconds are beyond them (1.05: five per cent more); "left_out", routes that this base cannot take; "setting",
        what was measured where.

    Raises:
        ConfigError: a route that cannot be measured.
    """
    unknown = sorted(set(routes) - set(ADAPTERS))
    if unknown:
        raise ConfigError(f"no route {unknown[0]!r} to time", why=f"it is one of {', '.join(ADAPTERS)}", fix="name one")
    found, left_out = [], []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = load(path, dtype=dtype)
    batches = [batch_of(base.processor, rows, number, device) for number in range(BATCHES)]
    batches = [{k: v.to(base.model.dtype) if v.is_floating_point() else v for k, v in b.items()} for b in batches]
    model = base.model.to(device).eval()
    with prepared(threads), TemporaryDirectory() as folder:
        for route in routes:
            live = _speaking(path, dtype, ADAPTERS[route] or {"layers": layers, "mix": mix}).to(device).eval()
            try:
                with redirect_stdout(sys.stderr):
                    report = export(live, base.processor, Path(folder) / route, route=route, new_tokens=4)
            except ExportError as problem:
                left_out.append({"route": route, "why": problem.why})
                continue
            exported = load(report["path"], dtype=dtype, trust_remote_code=route == "code").model.to(device).eval()
            models = {"base": model, "live": live, route: exported}
            for name in PASSES:
                row = {"route": route, "host": report["host"], "pass": name}
                found.append(row | _measure(models, route, name, batches, new_tokens, repeats, seconds))
                print(_line(found[-1]), file=sys.stderr)
        setting = {"base": path, "device": str(device), "threads": torch.get_num_threads(), "dtype": dtype}
    setting |= {"layers": layers, "mix": mix, "rows": rows, "new_tokens": new_tokens, "torch": torch.__version__}
    return {"ok": True, "rows": found, "left_out": left_out, "setting": setting}


def _speaking(path: str, dtype: str, settings: dict) -> nn.Module:
    model = attach_adapter(load(path, dtype=dtype).model, LynxConfig(prompt_gate="on", **settings))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * parameter.shape[-1] ** -0.5)
    return model


def _measure(
    models: dict[str, nn.Module],
    route: str,
    name: str,
    batches: list[dict[str, Tensor]],
    new_tokens: int,
    repeats: int,
    seconds: float,
) -> dict:
    run = {"forward": _forward, "generate": partial(_generate, new_tokens=new_tokens)}[name]
    ways = {way: run(model) for way, model in models.items()}
    taken = in_turn(ways, partial(next, itertools.cycle(batches)), repeats=repeats, seconds=seconds, most=20 * repeats)
    to_live, to_base = compare(taken, to="live"), compare(taken, to="base")
    tokens = [b["input_ids"].numel() if name == "forward" else len(b["input_ids"]) * new_tokens for b in batches]
    # Batches are taken in turn, so that each way saw the mean of them.
    per_round = sum(tokens) / len(tokens)
    own, ratio = to_live[route], to_base[route]["ratio"]
    found = {
        "tokens_per_second": per_round / own["seconds"],
        "live_tokens_per_second": per_round / to_live["live"]["seconds"],
        "ratio_to_live": own["ratio"],
        **{key: own[key] for key in ("ratio_low", "ratio_high", "seconds", "rounds")},
        "ratio_to_base": ratio,
    }
    if route == "dense":  # torch counts no grouped matmul, so of experts it would count none
        more = _flops(ways[route], batches[0]) / _flops(ways["base"], batches[0])
        found |= {"flops_to_base": more, "over_flops": ratio / more}
    return found


def _forward(model: nn.Module) -> Callable[[dict], None]:
    @torch.no_grad()
    def run(batch: dict[str, Tensor]) -> None:
        model(**{name: value for name, value in batch.items() if name != "labels"})

    return run


def _generate(model: nn.Module, new_tokens: int) -> Callable[[dict], None]:
    length = {"do_sample": False, "min_new_tokens": new_tokens, "max_new_tokens": new_tokens}

    @torch.no_grad()
    def run(batch: dict[str, Tensor]) -> None:
        model.generate(**{name: value for name, value in batch.items() if name != "labels"}, **length)

    return run


def _flops(run: Callable[[dict], None], batch: dict[str, Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        run(batch)
    return counter.get_total_flops()


def _line(row: dict) -> str:
    return (
        f"{row['route']:6} {row['pass']:8} {row['tokens_per_second']:10,.0f} tokens/s, live "
        f"{row['live_tokens_per_second']:10,.0f}; seconds to live's {row['ratio_to_live']:.3f} (quartiles "
        f"{row['ratio_low']:.3f} to {row['ratio_high']:.3f}, {row['rounds']} rounds); to the base's "
        f"{row['ratio_to_base']:.3f}"
        + (f" with {row['flops_to_base']:.3f} of its FLOPs" if "flops_to_base" in row else "")
    )
