"""The controlled comparison of arXiv 2411.05195 on one frozen encoder: what a picture's features say, and who hears it.

The same pictures of two things, the same number of pairs seen, pairs of things held out: heads as CLIP has them on the
tower's frozen features, against the language model behind the same tower, as an encoder and as a generator.
"""

from lynx_moe.perception.run import Comparison, perception
from lynx_moe.perception.table import markdown, written

__all__ = ["Comparison", "markdown", "perception", "written"]
