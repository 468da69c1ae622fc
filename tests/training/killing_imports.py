"""What the server of `killing` has imported and looked up before it forks: each run would do it again."""

from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import lynx_moe.training.running  # noqa: F401
import tests.training.killing  # noqa: F401

extract_model_from_parallel(nn.Identity())  # imports DeepSpeed
get_checkpoint_conversion_mapping("llava")  # compiles a thousand expressions
