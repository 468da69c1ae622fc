"""How fast we are beside something named, measured on the user's own machine: `lynx-moe bench`."""

from lynx_moe.bench.block import bench_block
from lynx_moe.bench.cache import bench_cache
from lynx_moe.bench.step import bench_step

__all__ = ["bench_block", "bench_cache", "bench_step"]
