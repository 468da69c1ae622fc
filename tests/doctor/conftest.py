"""The tiny base and the small folder of records that training's tests use."""

from tests.training.conftest import base_folder, data_folder

__all__ = ["base_folder", "data_folder"]
