"""The examples in the docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

from scdiffusion import metrics


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(metrics.__path__)])
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(f"scdiffusion.metrics.{name}"))
    assert failed == 0
