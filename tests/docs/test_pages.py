import re
from pathlib import Path
from unittest import mock

import pytest

import scdiffusion as scd
from scdiffusion.autoencoders import autoencoders
from scdiffusion.diffusion import samplers
from scdiffusion.tl._metric_table import METRICS

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["extending.md", "user_guide/conditions.md"])
def test_the_code_of_a_page_runs_from_top_to_bottom(page, monkeypatch):
    train, short = scd.SCDiffusion.train, {"max_epochs": 1, "progress": False}
    monkeypatch.setattr(scd.SCDiffusion, "train", lambda model, **settings: train(model, **{**short, **settings}))
    blocks = BLOCK.findall((DOCS / page).read_text())
    assert blocks
    namespace = {}
    tables = METRICS, samplers._members, autoencoders._members
    with mock.patch.dict(tables[0]), mock.patch.dict(tables[1]), mock.patch.dict(tables[2]):
        for block in blocks:
            exec(compile(block, page, "exec"), namespace)
