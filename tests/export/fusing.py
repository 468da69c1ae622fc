"""What vLLM's Transformers back-end takes for a mixture-of-experts block, said once more in our own words.

From the source of vLLM 0.33 (`models/transformers/moe.py` and `fusers/moe.py`): a child called `experts` that holds
only 3-D weights runs by vLLM's kernel; router, experts and frozen FFN run there together where the block is
`experts(x, ids, weights) + shared(x)` with `_, weights, ids = router(x)` and nothing else that holds weights.
"""

from __future__ import annotations

import ast
import inspect
import textwrap

from torch import fx, nn

CASTS = ("to", "float", "reshape", "view")


class _Children(fx.Tracer):
    """Every child module is one step."""

    def is_leaf_module(self, module, name):
        return True


def _steps(module: nn.Module) -> fx.Graph | None:
    try:
        return _Children().trace(module)
    except (TypeError, ValueError, RuntimeError, fx.proxy.TraceError):
        return None  # it depends on values, or on arguments that are not named


def _bare(node):
    while isinstance(node, fx.Node) and node.op == "call_method" and node.target in CASTS:
        node = node.args[0]
    return node


def _is(node, name: str) -> bool:
    called = getattr(node.target, "__name__", node.target) if isinstance(node, fx.Node) else None
    return called == name


def _above(node: fx.Node) -> set[fx.Node]:
    found, left = set(), [node]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += one.all_input_nodes
    return found


def own_kernel(block: nn.Module) -> bool:
    """Whether the block's experts run by vLLM's kernel."""
    experts = dict(block.named_children()).get("experts")
    return experts is not None and all(p.ndim == 3 for p in experts.parameters())


def router_scores(router: nn.Module) -> str | None:
    """ "sigmoid" or "softmax" of a router vLLM can run itself, None for others."""
    steps = _steps(router)
    if steps is None or set(router.state_dict()) - {"weight", "e_score_correction_bias"}:
        return None
    top = [node for node in steps.nodes if _is(node, "topk")]
    scorers = [node for node in steps.nodes if _is(node, "sigmoid") or _is(node, "softmax")]
    if len(top) != 1 or len(scorers) != 1:
        return None
    (scorer,) = scorers
    in_line = top[0] in _above(scorer) or scorer in _above(top[0])
    return scorer.target if in_line and any(_is(node, "linear") for node in _above(scorer)) else None


def fuses_whole(block: nn.Module) -> bool:
    """Whether router, experts and frozen FFN run as one block of vLLM."""
    forward = ast.parse(textwrap.dedent(inspect.getsource(type(block).forward)))
    returns = [node.value for node in ast.walk(forward) if isinstance(node, ast.Return)]
    if any(isinstance(part, ast.Tuple) for value in returns for part in ast.walk(value)):
        return False
    steps = _steps(block)
    if steps is None or not own_kernel(block):
        return False
    x = next(node for node in steps.nodes if node.op == "placeholder")
    out = _bare(next(node for node in steps.nodes if node.op == "output").args[0])
    if not _is(out, "add"):
        return False
    sides = {_bare(side).target: _bare(side) for side in out.args}
    experts = sides.pop("experts", None)
    if experts is None or len(sides) != 1 or len(experts.args) != 3:
        return False
    ((shared, called),) = sides.items()
    if called.op != "call_module" or [_bare(a) for a in called.args] != [x] or called.kwargs:
        return False
    read, ids, weights = map(_bare, experts.args)
    router = ids.args[0]
    taken = (ids.args, weights.args) == ((router, 2), (router, 1))
    if read is not x or not taken or router.op != "call_module" or [_bare(a) for a in router.args] != [x]:
        return False
    holding = {name for name, child in block.named_children() if child.state_dict()}
    return (
        holding <= {"experts", shared, router.target} and router_scores(block.get_submodule(router.target)) is not None
    )
