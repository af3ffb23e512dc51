"""What the tests of reports share."""

import pytest

from report.runs import make_two


@pytest.fixture
def two(tmp_path):
    return make_two(tmp_path)
