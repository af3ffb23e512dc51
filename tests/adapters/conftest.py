"""What the tests of adapters share."""

import pytest
import torch

from tiny_vit import SIZE, make_vit


@pytest.fixture
def vit():
    return make_vit()


@pytest.fixture
def images():
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(2))
