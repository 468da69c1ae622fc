"""Features of a frozen vision backbone of transformers (DINOv2, ViT, SigLIP ..): latents that mean something."""

from __future__ import annotations

import inspect
import json
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lynx_moe.errors import ConfigError
from lynx_moe.objectives.tokenizers.base import TOKENIZERS, NetworkTokenizer

PREPROCESSOR = "preprocessor_config.json"


@TOKENIZERS.register("features")
class Features(NetworkTokenizer):
    """Last states of patch tokens, each normalised without weights (our choice: backbones' scales differ a lot).

    Pictures get the mean and deviation of the backbone's preprocessor, and a patch of its size per token.
    """

    def __init__(self, path: str | None = None, fold: int | None = None):
        super().__init__(path, fold)
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("vision_config") or config
        if not {"patch_size", "hidden_size"} <= config.keys():
            raise ConfigError(
                f"{self.path} is no backbone of patches ({config.get('model_type')})",
                why="its config has no patch_size and hidden_size",
                fix="use a ViT (DINOv2, SigLIP, CLIP, DeiT)",
            )
        self.stride, self.depth = config["patch_size"], config["hidden_size"]

    def load(self) -> tuple[nn.Module, list[str]]:
        from transformers import AutoModel

        model, found = AutoModel.from_pretrained(
            self.folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        # Poolers come behind what is read here, and text towers beside it.
        model, names = getattr(model, "vision_model", model), found["missing_keys"]
        return model, sorted(name for name in names if "pooler" not in name and not name.startswith("text_model."))

    @cached_property
    def _normal(self) -> tuple[Tensor, Tensor]:
        known = self.folder / PREPROCESSOR
        settings = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
        mean, deviation = settings.get("image_mean", [0.5] * 3), settings.get("image_std", [0.5] * 3)
        return torch.tensor(mean)[:, None, None], torch.tensor(deviation)[:, None, None]

    @torch.no_grad()
    def encode(self, picture_3HW: Tensor) -> dict[str, Tensor]:
        mean, deviation = (value.to(picture_3HW) for value in self._normal)
        model = self.network.to(picture_3HW.device)
        takes = inspect.signature(model.forward).parameters
        sized = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
        states_LM = model(((picture_3HW - mean) / deviation)[None], **sized).last_hidden_state[0]
        rows, columns = (side // self.stride for side in picture_3HW.shape[1:])
        # Class and register tokens stand in front.
        patches = F.layer_norm(states_LM[-rows * columns :], states_LM.shape[-1:])
        return {"mean": patches.T.reshape(self.depth, rows, -1)}

    def mean(self, known: dict[str, Tensor]) -> Tensor:
        return known["mean"]
