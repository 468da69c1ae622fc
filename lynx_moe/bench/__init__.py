"""How fast we are beside something named, measured on the user's own machine: `lynx-moe bench`."""

from lynx_moe.bench.block import bench_block
from lynx_moe.bench.cache import bench_cache
from lynx_moe.bench.export import bench_export
from lynx_moe.bench.packing import bench_packing
from lynx_moe.bench.step import bench_step
from lynx_moe.bench.stepwise import bench_stepwise

__all__ = ["bench_block", "bench_cache", "bench_export", "bench_packing", "bench_step", "bench_stepwise"]
