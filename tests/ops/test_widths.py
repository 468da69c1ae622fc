import pytest

from lynx_moe.ops.widths import default_expert_width, divisors


@pytest.mark.parametrize("number", [1, 12, 49, 11008, 13696, 4864])
def test_divisors_are_all_and_only_the_divisors(number):
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


@pytest.mark.parametrize("ffn_width", [11008, 18944, 8960, 4864, 14336, 12288, 2560, 1536, 64, 576, 49])
@pytest.mark.parametrize("num_experts", [1, 2, 3, 4, 6, 8, 16])
def test_default_width_divides_the_ffn_and_makes_about_one_ffn_together(ffn_width, num_experts):
    width = default_expert_width(ffn_width, num_experts)
    assert ffn_width % width == 0
    if ffn_width > 1000:
        assert 0.5 <= width * num_experts / ffn_width <= 2
        assert width % 8 == 0
