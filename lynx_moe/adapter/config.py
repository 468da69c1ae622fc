"""What can be set on a LynX adapter. Checked here, once; saved as `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig
from peft.utils import PeftType

from lynx_moe.errors import ConfigError, nearest
from lynx_moe.families.find import LAYER_CHOICES
from lynx_moe.ops.mixes import MIXES
from lynx_moe.ops.penalties import PENALTIES

EXPERT_KINDS = ("gated", "plain")
EXPERT_INITS = ("zero", "slice", "copy")
PROMPT_GATES = ("auto", "on", "off")


@dataclass(kw_only=True)
class LynxConfig(PeftConfig):
    """A second, trainable set of experts beside the frozen feed-forward blocks of a VLM's text decoder.

    Raises:
        ConfigError: a value that nothing can honour; the message names the nearest ones that work.

    >>> LynxConfig(num_experts=8, top_k=2).mix
    'additive'
    """

    num_experts: int = field(default=4, metadata={"help": "New experts per wrapped block."})
    top_k: int = field(default=2, metadata={"help": "New experts each token uses, 1 to num_experts."})
    expert_width: int | None = field(
        default=None,
        metadata={
            "help": "Hidden width of one new expert. None: the divisor of the base's FFN width nearest to "
            "FFN width / num_experts, so that all new experts together are about one FFN and every export host fits; "
            "a frozen MoE block's own expert width; the full FFN width when expert_init is copy."
        },
    )
    mix: str = field(
        default="additive",
        metadata={
            "help": "How new joins frozen: additive (sigmoid weights, each a gate), convex (one alpha per block), "
            "token (one gate per token)."
        },
    )
    layers: str | list[int] = field(
        default="every_other",
        metadata={
            "help": "Decoder layers to wrap: every_other (0, 2, 4, ...), all, upper_half, or indices. "
            "Not read when target_modules is given."
        },
    )
    expert_kind: str = field(
        default="gated",
        metadata={
            "help": "Form of a new expert: gated, down(act(gate x) * up x), or plain, down(act(up x)). Plain ones fold "
            "into a base whose FFNs have two matrices and no gate (OPT, Phi, BERT), gated ones into the others."
        },
    )
    expert_init: str = field(
        default="zero",
        metadata={
            "help": "Start of new experts: zero (random in, zero out), slice or copy of the frozen FFN. Under "
            "additive and token mixes the output projection always starts at zero, so a new adapter changes nothing."
        },
    )
    prompt_gate: str = field(
        default="auto",
        metadata={"help": "Whether new experts speak: on, off, or auto (a fitted head decides once per prompt)."},
    )
    attention_rank: int = field(
        default=0,
        metadata={
            "help": "Rank of deltas on the decoder's attention projections, from the lowest wrapped layer up, under "
            "the same prompt gate; 0: none, as in the paper."
        },
    )
    sparsity_penalty: str = field(
        default="l1", metadata={"help": "What open gates cost: l1, entropy, l0 or hoyer (not hoyer for convex)."}
    )
    gate_sparsity: float = field(
        default=1e-2, metadata={"help": "Gating strength: weight of the sparsity penalty, per block. 0 turns it off."}
    )
    balance: float = field(default=1e-2, metadata={"help": "Weight of the new router's load balance, per block."})
    router_z: float = field(default=0.0, metadata={"help": "Weight of the new router's z-loss, per block."})
    retention_kl: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the KL to the base on understanding prompts; read by lynx_moe.training, which has those "
            "prompts. The adapter itself adds nothing for it."
        },
    )
    alpha_init: float = field(
        default=0.9,
        metadata={"help": "Where convex's alpha starts, in (0, 1): the share of the frozen experts. Convex only."},
    )
    dialect: str | None = field(
        default=None,
        metadata={
            "help": "How the training answers wrote boxes. Noted by lynx_moe.training, carried into exports, so that "
            "whoever loads the adapter reads its answers rightly; the adapter computes nothing with it."
        },
    )
    base: dict | None = field(
        default=None,
        metadata={
            "help": "Family, shapes and number types of the base, noted when the adapter is attached; "
            "lynx_moe.training adds the sha256 over its tensors. Another base is refused. None for a fresh adapter."
        },
    )
    target_modules: str | list[str] | None = field(
        default=None,
        metadata={
            "help": "Which FFN or MoE blocks of the text decoder to wrap, as PEFT matches names (a regular expression "
            "or a list of name endings). None: found by structure, and `layers` chooses."
        },
    )
    exclude_modules: str | list[str] | None = field(
        default=None, metadata={"help": "Blocks to leave out, matched in the same way."}
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={
            "help": "Whole modules of the base to train a copy of, as in PEFT. A copy knows no prompt gate, so this "
            "goes with prompt_gate='on' only; disable_adapter() still gives the base bit for bit."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType.LYNX
        for name, least in (("num_experts", 1), ("top_k", 1), ("expert_width", 1), ("attention_rank", 0)):
            value = getattr(self, name)
            if value is None and name == "expert_width":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(
                    f"{name}={value!r}", why=f"it must be a whole number of at least {least}", fix=f"use {name}={least}"
                )
        if self.top_k > self.num_experts:
            raise ConfigError(
                f"top_k={self.top_k} with num_experts={self.num_experts}",
                why="a token cannot use more experts than there are",
                fix=f"use top_k={self.num_experts} or less",
            )
        self._one_of("mix", MIXES.names())
        self._one_of("sparsity_penalty", PENALTIES.names())
        self._one_of("expert_kind", EXPERT_KINDS)
        self._one_of("expert_init", EXPERT_INITS)
        if self.expert_kind == "plain" and self.expert_init != "zero":
            raise ConfigError(
                f"expert_init={self.expert_init!r} with expert_kind='plain'",
                why="a plain FFN has biases that a plain expert has not: a copy or a slice would compute something "
                "else",
                fix="use expert_init='zero'",
            )
        self._one_of("prompt_gate", PROMPT_GATES)
        if isinstance(self.layers, str):
            self._one_of("layers", LAYER_CHOICES)
        else:
            self.layers = list(self.layers)
            if not self.layers or not all(isinstance(i, int) and not isinstance(i, bool) for i in self.layers):
                raise ConfigError(
                    f"layers={self.layers!r}",
                    why="a list of layers holds at least one whole number",
                    fix=f"use for example layers=[0, 2, 4], or one of {', '.join(LAYER_CHOICES)}",
                )
        for name in ("gate_sparsity", "balance", "router_z", "retention_kl"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ConfigError(f"{name}={value!r}", why="a weight is a number of at least 0", fix=f"use {name}=0.0")
        if not isinstance(self.alpha_init, float) or not 0 < self.alpha_init < 1:
            raise ConfigError(
                f"alpha_init={self.alpha_init!r}",
                why="alpha is a sigmoid, so it starts strictly between 0 and 1",
                fix="use alpha_init=0.9",
            )
        if self.mix == "convex" and self.sparsity_penalty == "hoyer" and self.gate_sparsity > 0:
            raise ConfigError(
                "sparsity_penalty='hoyer' with mix='convex'",
                why="a block has one alpha, and the Hoyer measure of one number is constant: the penalty has no effect",
                fix="use sparsity_penalty='l1' or 'entropy', or gate_sparsity=0.0",
            )
        if self.modules_to_save and self.prompt_gate != "on":
            raise ConfigError(
                f"modules_to_save={self.modules_to_save!r} with prompt_gate={self.prompt_gate!r}",
                why="a retrained module speaks whatever the prompt gate decides: a shut prompt would not be the base's",
                fix="use prompt_gate='on', or leave modules_to_save out",
            )
        if isinstance(self.target_modules, set | tuple):
            self.target_modules = sorted(self.target_modules)
        if isinstance(self.exclude_modules, set | tuple):
            self.exclude_modules = sorted(self.exclude_modules)

    def _one_of(self, name: str, allowed) -> None:
        value = getattr(self, name)
        if value not in tuple(allowed):
            raise ConfigError(
                f"{name}={value!r} is not known",
                why=f"it is one of {', '.join(allowed)}",
                fix=f"did you mean {' or '.join(repr(n) for n in nearest(value, allowed))}?",
            )
