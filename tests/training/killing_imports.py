"""What the server of `killing` imports before it forks."""

import lynx_moe.training.running  # noqa: F401
import tests.training.killing  # noqa: F401
