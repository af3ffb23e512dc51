"""Tokens and grid: the content stays where it belongs, not only the shape."""

import pytest
import torch

from causalseg.spectral.grid import grid_to_tokens, split_prefix, tokens_to_grid


def test_a_one_hot_token_lands_on_its_patch():
    h, w, c = 3, 5, 2
    for row in range(h):
        for column in range(w):
            tokens = torch.zeros(1, h * w, c)
            tokens[0, row * w + column, 1] = 1
            grid = tokens_to_grid(tokens, (h, w))
            assert grid[0, row, column, 1] == 1
            assert grid.sum() == 1


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 32), (37, 37), (64, 128)])
def test_grid_and_back_is_the_identity(grid):
    tokens = torch.randn(2, grid[0] * grid[1], 3)
    assert torch.equal(grid_to_tokens(tokens_to_grid(tokens, grid)), tokens)


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
def test_prefix_tokens_are_split_off_in_front(num_prefix):
    tokens = torch.arange(num_prefix + 6).float()[None, :, None]
    prefix, patches = split_prefix(tokens, num_prefix)
    assert prefix.flatten().tolist() == list(range(num_prefix))
    assert patches.flatten().tolist() == list(range(num_prefix, num_prefix + 6))


def test_a_token_count_that_does_not_fill_the_grid_is_refused():
    with pytest.raises(ValueError, match="12 patch tokens do not fill a grid of 3 x 5"):
        tokens_to_grid(torch.zeros(1, 12, 2), (3, 5))
