import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def warnings_are_errors() -> Iterator[None]:
    """Any warning, but for those that pandas 3 gives to anndata, mudata and scvi-tools."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The '.*' option is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "The inplace keyword in", DeprecationWarning)
        yield
