"""What CLIP would have behind the frozen tower: a head on the picture's features, one on the text, and their cosine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lynx_moe.ops.contrast import info_nce
from lynx_moe.ops.patch_pooling import pacl_cosine, rotary

DROPOUT, TEMPERATURE = 0.1, 0.1  # PACL's, in lst627/CLIP-Embeds
WIDTH = 128  # in which pictures and texts are compared; ours, for a small tower
LEARNING_RATE = 1e-3  # ours: PACL's 1e-4 is for batches of 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """How a head looks and reads.

    Attributes:
        looks: at the "class" token, the "mean" of the patches, their mean weighed by a learned query ("attention"), or
            all "patches", each text weighing them (PACL).
        rope: patches are turned by their place before anything learned sees them.
        reads: "trained", a small text encoder learned with the head; "frozen", the base's own last state of the text.
    """

    name: str
    looks: str
    rope: bool = False
    reads: str = "trained"


CLASS = Kind(name="class token", looks="class")
KINDS = (
    Kind(name="mean of patches", looks="mean"),
    Kind(name="attention pool", looks="attention"),
    Kind(name="attention pool + RoPE", looks="attention", rope=True),
    Kind(name="PACL patches", looks="patches"),
    Kind(name="PACL patches + RoPE", looks="patches", rope=True),
    Kind(name="PACL patches + RoPE, text of the frozen LM", looks="patches", rope=True, reads="frozen"),
)


class Projection(nn.Module):
    """LayerNorm, dropout, then P(x) = Linear(x) + Linear(GELU(Linear(x))): PACL's head of a patch."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(DROPOUT)
        self.straight = nn.Linear(width, WIDTH)
        self.bent = nn.Sequential(nn.Linear(width, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(x))
        return self.straight(x) + self.bent(x)


class TextEncoder(nn.Module):
    """Two layers of a transformer over token ids; the mean of its states."""

    def __init__(self, num_tokens: int, longest: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(num_tokens + 1, WIDTH, padding_idx=0), nn.Embedding(longest, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, DROPOUT, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids_ML: Tensor) -> Tensor:
        """(M, WIDTH) of ids counted from 1, padded with 0."""
        given_ML = ids_ML > 0
        state_MLD = self.tokens(ids_ML) + self.places.weight[: ids_ML.shape[1]]
        state_MLD = self.layers(state_MLD, src_key_padding_mask=~given_ML)
        return (state_MLD * given_ML[..., None]).sum(1) / given_ML.sum(1, keepdim=True)


class Head(nn.Module):
    """Cosines of pictures, by their frozen features, and texts.

    Args:
        width: of the features. texts: (C, L) ids of every text there is, or (C, D) frozen states of it.
    """

    def __init__(self, kind: Kind, width: int, texts: Tensor):
        super().__init__()
        self.kind = kind
        self.picture = Projection(width)
        self.query = nn.Parameter(torch.zeros(width)) if kind.looks == "attention" else None
        self.register_buffer("texts", texts, persistent=False)
        if kind.reads == "trained":
            self.encoder = TextEncoder(int(texts.max()), texts.shape[1])
        inner = WIDTH if kind.reads == "trained" else texts.shape[1]
        self.text = nn.Sequential(nn.LayerNorm(inner), nn.Dropout(DROPOUT), nn.Linear(inner, WIDTH))

    def forward(self, seen: Tensor, text_M: Tensor) -> Tensor:
        """(N, M) cosines of pictures, (N, P, D) patches or (N, D) class tokens, and texts by number."""
        texts = self.texts[text_M]
        text_MD = self.text(self.encoder(texts) if self.kind.reads == "trained" else texts)
        seen = rotary(seen) if self.kind.rope else seen
        if self.kind.looks == "patches":
            return pacl_cosine(self.picture(seen), text_MD)
        if self.kind.looks == "attention":
            weight_NP = (self.picture.norm(seen) @ self.query / seen.shape[-1] ** 0.5).softmax(dim=1)
            seen = torch.einsum("np,npd->nd", weight_NP, seen)
        elif self.kind.looks == "mean":
            seen = seen.mean(1)
        return F.normalize(self.picture(seen), dim=-1) @ F.normalize(text_MD, dim=-1).T


def train_head(head: Head, seen: Tensor, text_N: Tensor, batches: list[list[int]]) -> None:
    """Symmetric InfoNCE at temperature 0.1 over each batch of pictures; a text that stands twice is not told apart.

    Args:
        seen: features of all pictures. text_N: number of the true text of each.
    """
    optimiser = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)
    head.train()
    for batch in batches:
        text_B = text_N[batch]
        cosine_BB = head(seen[batch], text_B)
        loss = info_nce(cosine_BB / TEMPERATURE, text_B[:, None] == text_B[None]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    head.eval()


def numbered(tokenizer, texts: list[str]) -> Tensor:
    """(C, L) token ids of texts, counted from 1 and padded with 0."""
    return pad_sequence(
        [torch.tensor(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]], batch_first=True
    )
