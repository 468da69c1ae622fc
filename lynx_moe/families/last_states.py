"""The text decoder's last hidden states, taken from an ordinary forward without asking for those of every layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lynx_moe.errors import FamilyError
from lynx_moe.families.find import find_ffn_blocks


class LastStates:
    """What a forward inside `last_states` left.

    Attributes:
        value_BLD: states behind the decoder's last norm, with their graph; None before a forward.
    """

    value_BLD: Tensor | None = None

    def over(self, input_ids: Tensor) -> Tensor:
        """(B, L, D) the states, one for each of `input_ids` (B, L).

        Raises:
            FamilyError: the decoder does not run over the prompt's tokens.
        """
        if self.value_BLD is None or self.value_BLD.shape[:2] != input_ids.shape:
            found = None if self.value_BLD is None else tuple(self.value_BLD.shape)
            raise FamilyError(
                f"the decoder's states are of shape {found}, the tokens of shape {tuple(input_ids.shape)}",
                why="objectives read a state for each token of question, picture and answer, in one sequence",
                fix="train this base without objectives beside the answer",
            )
        return self.value_BLD


@contextmanager
def last_states(model: nn.Module) -> Iterator[LastStates]:
    """Inside, every forward of `model` leaves its decoder's last states; afterwards nothing is watched any more.

    Args:
        model: the VLM itself, with or without an adapter inside.

    Raises:
        FamilyError: there is no telling where its text decoder is.
    """
    decoder = decoder_of(model)
    seen = LastStates()

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        seen.value_BLD = output[0] if isinstance(output, tuple) else output.last_hidden_state

    hook = decoder.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def decoder_of(model: nn.Module) -> nn.Module:
    """The module that runs the text decoder's layers and the norm behind them.

    Raises:
        FamilyError: the text decoder cannot be found.
    """
    layers = find_ffn_blocks(model)[0].inside.rpartition(".")[0]
    return model.get_submodule(layers.rpartition(".")[0])


def width_of(model: nn.Module) -> int:
    """How wide the text decoder's states are."""
    return model.config.get_text_config().hidden_size
