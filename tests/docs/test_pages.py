import re
from pathlib import Path
from unittest import mock

import pytest

from scdiffusion.autoencoders import autoencoders
from scdiffusion.diffusion import samplers
from scdiffusion.tl._metric_table import METRICS

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["extending.md"])
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    blocks = BLOCK.findall((DOCS / page).read_text())
    assert blocks
    namespace = {}
    tables = METRICS, samplers._members, autoencoders._members
    with mock.patch.dict(tables[0]), mock.patch.dict(tables[1]), mock.patch.dict(tables[2]):
        for block in blocks:
            exec(compile(block, page, "exec"), namespace)
