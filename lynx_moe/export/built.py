"""A model that is about to be written: its class, config and tensors, and where each tensor came from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lynx_moe.errors import ExportError
from lynx_moe.export.fresh import taken_out, tensor_sha256


@dataclass(frozen=True)
class Fold:
    """What was done to a base tensor, so that it can be undone: put into a wider one, multiplied, added to.

    Attributes:
        text: the same in words, for people; made from the rest when empty.
        factor: what the base's numbers were multiplied by, and rounded once.
        axis, spans: where they lie in the wider tensor: (from, to) along `axis`, one after the other; () when it is not
            wider.
        rank: a matrix of at most this rank was added, and the sum rounded once; 0 for none.
    """

    text: str = ""
    factor: float = 1.0
    axis: int = 0
    spans: tuple[tuple[int, int], ...] = ()
    rank: int = 0

    def __str__(self) -> str:
        if self.text:
            return self.text
        what = []
        if self.spans:
            way = ("rows ", "columns ")[self.axis] if self.axis < 2 else f"axis {self.axis}, "
            what.append(way + " and ".join(f"{start}:{end}" for start, end in self.spans))
        if self.factor != 1.0:
            what.append(f"times {self.factor!r}")
        if self.rank:
            what.append(f"plus a delta of rank {self.rank}")
        return ", ".join(what)

    @property
    def only_wider(self) -> bool:
        """Whether all bytes of the base's tensor lie in it as they were."""
        return bool(self.spans) and self.factor == 1.0 and not self.rank

    @property
    def undo(self) -> dict:
        """What the fresh process is told: numbers only."""
        return {"factor": self.factor, "axis": self.axis, "spans": [list(s) for s in self.spans], "rank": self.rank}


@dataclass(frozen=True)
class Built:
    """A model to be written: its config, every tensor by module name, and what was folded.

    `origin` maps a name here to the base tensor it came from; `folds` says what was done to it, for the names whose
    bytes differ from the base's. A fold that is only a sentence cannot be undone, and `verify` against a base says so.
    `stacked` maps a name to the base tensors of equal shape that lie on top of each other in it. `adapter` is what a
    reader needs to take the export apart again, None where nothing can.
    """

    config: object
    model_class: type
    tensors: dict[str, torch.Tensor]
    origin: dict[str, str]
    folds: dict[str, Fold | str] = field(default_factory=dict)
    stacked: dict[str, tuple[str, ...]] = field(default_factory=dict)
    adapter: dict | None = None


def instantiate(built: Built):
    """The model of `built` around its tensors, without a copy of them, but for two that were tied by hand.

    Raises:
        ExportError: names or shapes do not fit, which means that the base has a structure this library has not met; or
            the class ties two tensors that differ in the base.
    """
    with torch.device("meta"):
        model = built.model_class(built.config)
    try:
        model.load_state_dict(_untied(built.tensors, model), strict=True, assign=True)
    except RuntimeError as error:
        raise ExportError(
            f"the tensors do not fit {built.model_class.__name__}",
            why=str(error)[:2000],
            fix="export with route='adapter'",
        ) from error
    model.tie_weights()
    for name, tensor in model.state_dict().items():
        own = built.tensors[name]
        if tensor.data_ptr() != own.data_ptr() and not torch.equal(tensor, own):
            raise ExportError(
                f"{name} would be replaced by the tensor that {built.model_class.__name__} ties it to",
                why="the config says that they are one, and in the base they differ",
                fix="set tie_word_embeddings=False in the base's config before attaching, or use route='adapter'",
            )
    return model.eval()


def _untied(tensors: dict[str, torch.Tensor], model) -> dict[str, torch.Tensor]:
    """`tensors`, where names that share memory and that `model` does not tie get a copy each.

    Saved together, only one name would be written, and the other would come back random.
    """
    ties = {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
    found, first = {}, {}
    for name, tensor in tensors.items():
        other = first.setdefault((tensor.data_ptr(), tensor.shape, tensor.dtype), name)
        shares = other != name and tensor.numel() > 0 and not tensor.is_meta
        found[name] = tensor.clone() if shares and ties.get(name) != ties.get(other) else tensor
    return found


def account(built: Built, base_hashes: dict[str, str]) -> tuple[dict, dict]:
    """For every tensor of the export its hash, and where it came from: the base's bytes, the base's folded, or new.

    Of the folded ones, those that only grew hold all bytes of the base's: that is looked at as well.

    Raises:
        ExportError: a tensor that should be the base's has other bytes, or a base tensor is left out.
    """
    tensors, unchanged, widened = {}, 0, 0
    for name, tensor in built.tensors.items():
        entry = {"sha256": tensor_sha256(tensor)}
        if name in built.origin:
            entry["base"] = built.origin[name]
            wanted = base_hashes[entry["base"]]
            if name in built.folds:
                fold = built.folds[name]
                entry |= {"fold": str(fold), "base_sha256": wanted}
                if isinstance(fold, Fold):
                    entry["undo"] = fold.undo
                    if fold.only_wider:
                        widened += 1
                        if tensor_sha256(taken_out(tensor, fold.undo)) != wanted:
                            raise _lost(f"{entry['base']} in {name}")
            elif entry["sha256"] != wanted:
                raise _lost(name)
            else:
                unchanged += 1
        elif name in built.stacked:
            entry["stacked"] = list(built.stacked[name])
            entry["base_sha256"] = [base_hashes[base_name] for base_name in entry["stacked"]]
            for part, base_name in zip(tensor.chunk(len(entry["stacked"])), entry["stacked"], strict=True):
                if tensor_sha256(part) != base_hashes[base_name]:
                    raise _lost(f"{base_name} in {name}")
                unchanged += 1
        tensors[name] = entry
    held = {*built.origin.values(), *(name for names in built.stacked.values() for name in names)}
    left_out = sorted(set(base_hashes) - held)
    if left_out:
        raise ExportError(
            f"{left_out[0]} is not in the export", why="no rule carries it over", fix="use route='adapter'"
        )
    counts = {"unchanged": unchanged, "folded": len(built.folds)}
    return tensors, counts | ({"widened": widened} if widened else {})


def _lost(name: str) -> ExportError:
    return ExportError(
        f"{name} lost the base's bytes", why="it was changed while the export was built", fix="report this bug"
    )
