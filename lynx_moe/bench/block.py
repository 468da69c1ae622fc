"""`lynx-moe bench block`: the new experts of one block against a dense FFN of the same active FLOPs, and others."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lynx_moe.adapter.branch import Branch
from lynx_moe.bench.rivals import TRANSFORMERS, DenseFFN, in_the_block, plain_loop, transformers_experts
from lynx_moe.bench.timing import compare, in_turn, prepared
from lynx_moe.errors import ConfigError
from lynx_moe.ops.experts import choose_path

PASSES = ("forward", "forward+backward")
# batched_mm copies an expert's weights for every row; beyond this many bytes it is left out, and the report says so.
LARGEST_COPY = 2 << 30


def bench_block(
    *,
    tokens: Sequence[int] = (1, 64, 1024, 4096),
    experts: Sequence[int] = (2, 4, 8),
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    width: int = 4096,
    ffn_width: int = 11008,
    repeats: int = 5,
    seconds: float = 1.0,
    threads: int | None = None,
) -> dict:
    """Times the block's experts (router, experts, mix) and its rivals on the same weights, in turn.

    A token uses min(2, E) experts of `ffn_width / E` each; the dense FFN is as wide as those together. Weights and
    inputs are of one type, and everything gets a gradient.

    Returns:
        "rows" with `tokens, experts, dtype, pass, path, ratio_to_dense, ratio_low, ratio_high` (quartiles), `seconds`
        and `rounds`; "left_out", what would not fit; "setting", what was measured where.

    Raises:
        ConfigError: `ffn_width` does not divide by a number of experts.
    """
    for number in experts:
        if ffn_width % number:
            raise ConfigError(
                f"an FFN of {ffn_width} cannot be divided among {number} experts",
                why="each of E experts is 1/E of the FFN's width",
                fix="choose --ffn-width as a multiple of every number of experts",
            )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, left_out = [], []
    torch.manual_seed(0)
    with prepared(threads):
        for number, dtype in itertools.product(experts, dtypes):
            branch = _branch(width, number, ffn_width // number, getattr(torch, dtype), device)
            dense = DenseFFN(width, branch.top_k * branch.down_EDF.shape[-1], branch.down_EDF.dtype, device)
            for count in tokens:
                case = {"tokens": count, "experts": number, "dtype": dtype}
                found = _measure(branch, dense, case, left_out, repeats, seconds)
                print(_lines(case, found), file=sys.stderr)
                rows += found
        setting = {"device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return {"ok": True, "rows": rows, "left_out": left_out, "setting": setting | {"width": width, "ffn": ffn_width}}


def _measure(
    branch: Branch, dense: DenseFFN, case: dict, left_out: list[dict], repeats: int, seconds: float
) -> list[dict]:
    ways = _ways(branch, dense, left_out, case)
    trained = [*branch.parameters(), *dense.parameters()]

    rows = []
    for name in PASSES:
        run = _forward if name == "forward" else _forward_backward
        timed = in_turn(
            {path: run(way, trained) for path, way in ways.items()},
            lambda: _inputs(case["tokens"], branch.router_ED),
            repeats=repeats,
            seconds=seconds,
        )
        for path, found in compare(timed, to="dense").items():
            rows.append({**case, "pass": name, "path": path, "ratio_to_dense": found.pop("ratio"), **found})
    return rows


def _branch(width: int, num_experts: int, expert_width: int, dtype: torch.dtype, device: torch.device) -> Branch:
    branch = Branch(
        width=width,
        num_experts=num_experts,
        expert_width=expert_width,
        top_k=min(2, num_experts),
        mix="additive",
        activation=F.silu,
        alpha_init=0.9,
        sparsity_penalty="l1",
        gate_sparsity=0.0,
        balance=0.0,
        router_z=0.0,
        dtype=dtype,
        device=device,
    )
    with torch.no_grad():  # as after some training: zeros might be multiplied faster
        branch.down_EDF.normal_(std=expert_width**-0.5)
    return branch


def _ways(branch: Branch, dense: DenseFFN, left_out: list, case: dict) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    num_experts, width, hidden = branch.down_EDF.shape
    dtype, device = branch.down_EDF.dtype, branch.down_EDF.device
    shape = {"rows": case["tokens"] * branch.top_k, "num_experts": num_experts, "top_k": branch.top_k}
    chosen = choose_path(device, dtype, **shape, widths=(width, hidden))
    ways = {"dense": lambda x_TD, f_TD: dense(x_TD), f"lynx:{chosen}": lambda x_TD, f_TD: branch.speak(x_TD, f_TD).y_TD}
    for name in TRANSFORMERS:
        copied = case["tokens"] * branch.top_k * 3 * width * hidden * dtype.itemsize
        if name == "batched_mm" and copied > LARGEST_COPY:
            left_out.append({**case, "path": name, "why": f"it would copy {copied / 2**30:.1f} GiB of weights"})
        else:
            ways[name] = in_the_block(branch, transformers_experts(branch, name))
    return ways | {"plain_loop": in_the_block(branch, plain_loop(branch))}


def _inputs(tokens: int, router_ED: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, frozen output and the gradient that comes back."""
    shape, like = (tokens, router_ED.shape[1]), {"dtype": router_ED.dtype, "device": router_ED.device}
    x_TD, f_TD, grad_TD = (torch.randn(shape, **like) for _ in range(3))
    return x_TD.requires_grad_(), f_TD, grad_TD


def _forward(way: Callable, trained: list) -> Callable:
    def run(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        with torch.no_grad():
            way(*inputs[:2])

    return run


def _forward_backward(way: Callable, trained: list) -> Callable:
    def run(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        x_TD, f_TD, grad_TD = inputs
        for leaf in (x_TD, *trained):  # as optimisers leave it: what comes next is written, not added
            leaf.grad = None
        way(x_TD, f_TD).backward(grad_TD)

    return run


def _lines(case: dict, rows: list[dict]) -> str:
    """A case for people, one line per pass."""
    lines = []
    for name in PASSES:
        of_pass = [row for row in rows if row["pass"] == name and row["path"] != "dense"]
        ratios = ", ".join(f"{row['path']} {row['ratio_to_dense']:.2f}" for row in of_pass)
        lines.append(f"{case['dtype']:8} {case['tokens']:4} tokens {case['experts']} experts {name:16} {ratios}")
    return "\n".join(lines)
