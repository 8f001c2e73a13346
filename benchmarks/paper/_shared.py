"""What the scripts of the papers' experiments share: reading and checking files, training, and tables with both sides."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import scdiffusion as scd

sys.path.append(str(Path(__file__).parents[1]))  # the other benchmarks
from interpolation import markdown
from main_job import holds_counts, log_of

__all__ = ["LOUVAIN", "drawing", "log_of", "need", "parser_of", "read", "show", "some_of", "trained"]

#: Cells on each side of a comparison, at most: what the papers' own evaluation takes.
MAX_CELLS = 10_000
#: The obs column of the clusters that SCLD's experiments are about.
LOUVAIN = "louvain"


def parser_of(description: str, **columns: str) -> argparse.ArgumentParser:
    """A parser of what all scripts take.

    Parameters
    ----------
    description
        Docstring of the script.
    columns
        `obs` columns that may have another name, and what they are by default.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("path", type=Path, help="h5ad file with the cells; see scdiffusion.datasets")
    for column, default in columns.items():
        parser.add_argument(f"--{column}-key", default=default, help=f"obs column, by default {default}")
    parser.add_argument("--preset", choices=["scdiffusion", "scld"], help="by default our own model")
    parser.add_argument("--max-epochs", type=int, help="of each stage")
    parser.add_argument("--max-cells", type=int, default=MAX_CELLS, help="on each side of a comparison")
    parser.add_argument("--sampler", help="by default the preset's")
    parser.add_argument("--n-steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    warnings.filterwarnings("ignore")
    return parser


def read(arguments: argparse.Namespace, *keys: str) -> ad.AnnData:
    """Read the file and check that it has what the experiment needs, before any time is spent.

    Genes are kept that are in 3 cells or more, and cells with 10 genes or more, as scDiffusion does. `split` is filled
    with a random quarter of `"test"` cells where it is missing. `louvain`, which the 10x files of SCLD's experiments lack,
    is filled with clusters of the counts.
    """
    if not arguments.path.exists():
        raise SystemExit(f"There is no file {arguments.path}. scdiffusion.datasets has loaders of the papers' data.")
    adata = ad.read_h5ad(arguments.path)
    missing = [key for key in keys if key not in adata.obs]
    if missing not in ([], [LOUVAIN]):
        raise SystemExit(
            f"{arguments.path.name} has no obs column {missing[0]!r}, only {', '.join(map(repr, adata.obs.columns))}. "
            "Name it: see --help for the arguments that end in -key."
        )
    adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    if adata.X.nnz and adata.X.data.min() < 0:
        raise SystemExit(f"X of {arguments.path.name} has negative values: counts or log-normalised values are needed.")
    adata.obs_names_make_unique()
    adata.var_names_make_unique()
    detected = adata.X > 0
    kept = adata[np.asarray(detected.sum(1)).ravel() >= 10, np.asarray(detected.sum(0)).ravel() >= 3].copy()
    if missing:
        if not holds_counts(kept):
            raise SystemExit(
                f"{arguments.path.name} has no obs column {LOUVAIN!r}, nor counts in X to find clusters in."
            )
        scd.pp.cluster(kept, method="louvain", key_added=LOUVAIN, rng=arguments.seed)
    for key in keys:
        kept = kept[kept.obs[key].notna()].copy()
        kept.obs[key] = kept.obs[key].astype(str).astype("category")
    if "split" not in kept.obs:
        is_test = np.random.default_rng(0).random(kept.n_obs) < 0.25
        kept.obs["split"] = np.where(is_test, "test", "train")
    return kept


def need(adata: ad.AnnData, key: str, names: Sequence[str], path: Path) -> None:
    """Stop where a column lacks some of the categories that the experiment is about."""
    available = adata.obs[key].unique()
    missing = [name for name in names if name not in available]
    if missing:
        raise SystemExit(
            f"obs[{key!r}] of {path.name} has no {missing[0]!r}, only {', '.join(map(repr, available[:12]))}: "
            "the experiment is about it."
        )


def trained(train: ad.AnnData, arguments: argparse.Namespace, keys: list[str], **settings: Any) -> scd.SCDiffusion:
    """A model of the cells; of log-normalised expression scDiffusion's, which is the one that reads it."""
    values = "counts" if holds_counts(train) else "log-normalised"
    preset = settings.pop("preset", arguments.preset) or (None if values == "counts" else "scdiffusion")
    for key in keys:
        train.obs[key] = train.obs[key].cat.remove_unused_categories()
    scd.SCDiffusion.setup_anndata(train, condition_keys=keys or None, values=values)
    # Post-guidance is asked for where an experiment has it: its scorer is trained on cells drawn as all others are.
    model = scd.SCDiffusion(train, preset=preset, rng=arguments.seed, keep_top="none", **settings)
    model.train(arguments.max_epochs, progress=False, rng=arguments.seed)
    return model


def drawing(arguments: argparse.Namespace) -> dict[str, Any]:
    """How cells are drawn, as `generate` and `interpolate` take it."""
    return {"sampler": arguments.sampler, "n_steps": arguments.n_steps, "rng": arguments.seed}


def some_of(cells: ad.AnnData, n_cells: int, seed: int) -> ad.AnnData:
    """As many cells at random, or all."""
    order = np.random.default_rng(seed).permutation(cells.n_obs)[:n_cells]
    return cells[order].copy()


def show(title: str, rows: dict[str, dict[str, float]], digits: int = 3) -> pd.DataFrame:
    """Print a table, a row per model; figures that a paper does not give are dashes."""
    table = pd.DataFrame(rows).T.rename_axis("cells")
    print(f"\n{title}\n\n{markdown(table, digits=digits).replace('nan', '-')}")
    return table
