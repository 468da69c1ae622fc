"""What a route promises before anything is computed: the contract between the routes and the plan.

A route is a module with three functions:

    refusal(adapted) -> str | None      why it cannot take this model, in words that follow "because"; None when it can
    promise(adapted) -> Promise         what comes out; asked only where `refusal` gave None
    build(adapted, folder) -> Built     config, class and tensors; code that travels with them is written into `folder`
"""

from __future__ import annotations

from dataclasses import dataclass, field

EXACTNESS = ("bitwise", "rounding")


@dataclass(frozen=True)
class Promise:
    """What a route makes of one model.

    Args:
        host: the architecture that will hold it.
        exactness: "bitwise" when logits are the live model's bit for bit in the live model's number type (with the
            gate that the export has), "rounding" when they differ by the order of additions or a folded factor.
        bound: largest logit difference promised, relative to the largest logit; 0.0 for bitwise. In float32; the
            comparison widens it for half precision.
        keeps: one sentence: what the exported model keeps of the live one.
        costs: what one gives up, or should know.
        served_by: server or library to "yes", "yes, by source", "no: reason" or "unknown".

    Raises:
        ValueError: an exactness that is none, or one that its bound contradicts: a mistake of whoever wrote the route.
    """

    host: str
    exactness: str
    bound: float
    keeps: str
    costs: tuple[str, ...] = ()
    served_by: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.exactness not in EXACTNESS:
            raise ValueError(f"exactness={self.exactness!r} is none of {EXACTNESS}")
        if (self.exactness == "bitwise") != (self.bound == 0.0):
            raise ValueError(f"{self.exactness} cannot have the bound {self.bound}")
