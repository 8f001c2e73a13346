"""The way from state to state: which real cells go it, and what they are on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor
from tqdm.auto import tqdm

from scdiffusion.diffusion import Guide, Sampler, samplers
from scdiffusion.model._checks import did_you_mean, name_some
from scdiffusion.model._composition import Plan
from scdiffusion.model._conditions import NEARBY, fill_from_training, read_conditions
from scdiffusion.model._constants import Key
from scdiffusion.networks import Conditions

from ._base import Interpolation, Leg, interpolations

if TYPE_CHECKING:
    from scdiffusion.model import SCDiffusion

MAX_CELLS = 1000


def interpolate(
    model: SCDiffusion,
    adata: AnnData,
    key: str,
    source: Any,
    target: Any,
    *,
    n_states: int = 10,
    method: str | Interpolation = "refined",
    n_cells: int | None = None,
    keep: str | Sequence[str] = (),
    sampler: str | Sampler = "dpmpp_2m",
    n_steps: int | None = None,
    rng: int | np.random.Generator | None = None,
    progress: bool = False,
    **settings: Any,
) -> AnnData:
    r"""Generate the states that cells pass through from one condition to another.

    Real cells of the source are followed: each is paired with a real cell of the target, so that all pairs together are
    as near in the latents as can be (optimal transport), and states are generated between them.

    Parameters
    ----------
    model
        A trained :class:`~scdiffusion.SCDiffusion`.
    adata
        Real cells to start from, with the genes of the training data, and counts in the same layer.
    key
        Condition key, categorical or continuous.
    source
        Category or number to start from.
    target
        Category or number to go to, or several, which are passed in turn. Of a continuous key, the states in between
        are numbers in between, whether or not the model has seen them.
    n_states
        Number of states, evenly spaced, source and last target among them. Between two targets lies an equal share of
        the way, whatever their numbers.
    method
        - `"refined"`: latents between those of paired cells, noised to `start_level` (0.6) and denoised under the
          interpolated condition. Settings: `start_level`, `path` (`"spherical"` or `"linear"`).
        - `"gradient"`: scDiffusion's Gradient Interpolation, equations 6 and 7. Cells of the source are noised to
          `start_level` and denoised from there, guided by the gradients of two labels of one classifier, whose weights
          run from source to target. It needs :meth:`~scdiffusion.SCDiffusion.train_classifier`. Settings:
          `start_level` (as noisy as in the paper: 0.6 of the linear schedule, 0.9 of the cosine one), `total_scale` (2),
          the sum of the two weights.
        - `"condition"`: the same, with the denoiser under the interpolated condition in place of a classifier.
          Setting: `start_level` (as for `"gradient"`).
        - `"latent"`: latents between those of paired cells, decoded. Setting: `path`.
        - `"expression"`: counts between those of paired cells, the paper's baseline: of the cell each is kept with a
          probability of one minus the weight, of its partner with the weight.
        - an instance of an :class:`~scdiffusion.tl.Interpolation`.
    n_cells
        Number of cells to follow, drawn from those of the source without replacement. By default all, at most 1,000.
    keep
        Condition keys whose values at the start the states keep, such as the donor. Others are left to the model. The
        batch is not shown to the diffusion; cells are decoded as of the batch of their start.
    sampler, n_steps
        As for :meth:`~scdiffusion.SCDiffusion.generate`.
    rng
        Seed. The same seed gives the same states. All states of a cell share their noise.
    progress
        Whether to show a progress bar.
    **settings
        Settings of the method, by name.

    Returns
    -------
    :class:`~anndata.AnnData`, the cells of state 0 first, then those of state 1, each time in the same order, with

    - `X`: counts, int32 CSR, `(n_states * n_cells, n_genes)`.
    - `obs["state"]`: 0 to `n_states` - 1.
    - `obs["weight"]`: share of the whole way, 0 at the source and 1 at the last target.
    - `obs["start_cell"]`: name of the real cell that it started from.
    - `obs[key]`: of a continuous key the number; of a categorical one the category at source and targets, missing in
      between. Of other conditions, those that are kept, and the batch.
    - `var`: as in training.
    - `obsm["X_scdiffusion"]`: latents; not of `"expression"`.
    - `uns["scdiffusion"]`: how the states were made.

    Raises
    ------
    ValueError
        If the model is not trained, has no such condition or state, or lacks a classifier; if a state is named twice,
        or `adata` has no cells of it; or a number is out of range.
    TypeError
        If the method has no such setting.

    References
    ----------
    Luo et al., *scDiffusion*, Bioinformatics 2024, section 2.5 and equations 6 and 7.

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="phase")
    >>> model = scd.SCDiffusion(adata)
    >>> model.train(max_epochs=1, progress=False)
    >>> states = scd.tl.interpolate(model, adata, "phase", "G1", ["S", "G2M"], n_states=5, n_cells=20, rng=0)
    >>> states.obs.groupby("weight").size().to_dict()
    {0.0: 20, 0.25: 20, 0.5: 20, 0.75: 20, 1.0: 20}
    """
    model._require_trained("interpolate")
    keep = [keep] if isinstance(keep, str) else list(keep)
    stops = _read_stops(model, key, source, target)
    if n_states != int(n_states) or n_states < 2:
        raise ValueError(f"n_states must be a whole number, 2 or more; got {n_states!r}.")
    name = method if isinstance(method, str) else type(method).__name__
    method = _read_method(method, settings)
    if method.needs_classifier and key not in model.classifiers_:
        raise ValueError(f"There is no classifier of {key!r}: call model.train_classifier({key!r}).")
    sampler = samplers.resolve(sampler)
    seeds = np.random.default_rng(rng)
    cells = model._cells_to_start_from(adata)
    if not cells.obs_names.is_unique:
        raise ValueError(
            "adata.obs_names are not unique, so that no cell can be followed: adata.obs_names_make_unique()"
        )
    with_cells = stops if method.needs_target else stops[:-1]
    rows = _draw_rows([_cells_of(cells, model, key, stop) for stop in with_cells], n_cells, seeds)
    counts = [cells.X[chosen] for chosen in rows]
    features = [model._features(drawn, model._generator(seeds)) for drawn in counts]
    for i in range(1, len(rows)):
        order = _assign(features[i - 1], features[i])
        counts[i], features[i] = counts[i][order], features[i][order]
    if not method.needs_target:
        counts, features = [*counts, None], [*features, None]

    plans = _plans(model, cells.obs.iloc[rows[0]], key, stops, keep, seeds)
    conditions = [_seen(model, plan) for plan in plans]
    batch = torch.from_numpy(plans[0].codes[:, -1]).to(model.device) if model.batch_key else None
    noise_seed = int(seeds.integers(2**63))

    def denoise(origin: Tensor, level: float, conditions: Conditions, guide: Guide | None = None) -> Tensor:
        generator = torch.Generator(model.device).manual_seed(noise_seed)
        return model.module.sample(conditions, sampler, n_steps, generator, guide, origin=origin, level=level)

    position = model.composition.keys.index(key)
    legs = [
        Leg(model, position, *conditions[i : i + 2], *counts[i : i + 2], *features[i : i + 2], denoise)
        for i in range(len(stops) - 1)
    ]
    names = cells.obs_names[rows[0]]
    blocks, latents, obs = [], [], []
    along = np.linspace(0, len(legs), int(n_states)).round(9)  # whole at each stop
    for state, where in enumerate(tqdm(along, desc="Interpolating", unit="state", disable=not progress)):
        leg = min(int(where), len(legs) - 1)
        weight = float(where - leg)
        drawn, drawn_from = method.counts(legs[leg], weight, batch, model._generator(seeds))
        blocks.append(drawn)
        latents.append(drawn_from)
        frame = model._obs(_plan_between(*plans[leg : leg + 2], weight))
        frame = frame.assign(state=state, weight=where / len(legs), start_cell=names)
        obs.append(frame.set_axis([f"{name}_state_{state}" for name in names]))

    obsm = {} if latents[0] is None else {Key.LATENT: torch.cat(latents)[:, :-1].cpu().numpy()}
    return AnnData(
        sp.vstack(blocks, format="csr"),
        obs=pd.concat(obs),
        var=model.var_.copy(),
        obsm=obsm,
        uns={
            Key.PROVENANCE: {
                "version": version("scdiffusion"),
                "key": key,
                "states": [str(stop) for stop in stops],
                "method": name,
                **_settings(method),
                "sampler": type(sampler).__name__,
                "n_steps": "default" if n_steps is None else n_steps,
                "rng": int(rng) if isinstance(rng, int | np.integer) else "none",
                "values": "counts",
            }
        },
    )


def _read_stops(model: SCDiffusion, key: str, source: Any, target: Any) -> list[Any]:
    """Categories, or numbers, of the states to pass in turn."""
    composition = model.composition
    available = [name for name in composition.keys if name != model.batch_key]
    if not available:
        raise ValueError(
            "Interpolation needs a condition, and the model was trained without. Train one with "
            f"SCDiffusion.setup_anndata(adata, condition_keys=[{key!r}])."
        )
    if key not in available:
        raise ValueError(f"The model has no condition {key!r}.{did_you_mean(key, available)}")
    given = [source, *(target if pd.api.types.is_list_like(target) else [target])]
    if len(given) < 2 or any(pd.isna(stop) for stop in given):
        raise ValueError(f"Name a source and one target or several; got {source!r} and {target!r}.")
    if key in composition.continuous:
        stops = [composition.value(key, stop) for stop in given]
    else:
        stops = [composition.categories[key][composition.code(key, stop)] for stop in given]
    twice = [stop for stop, following in pairwise(stops) if stop == following]
    if twice:
        raise ValueError(f"There is no way from {twice[0]!r} to itself: source and targets must differ.")
    return stops


def _read_method(method: str | Interpolation, settings: dict[str, Any]) -> Interpolation:
    method = interpolations.resolve(method)
    known = [field.name for field in fields(method)] if is_dataclass(method) else []
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise TypeError(f"{type(method).__name__} has no setting {unknown[0]!r}.{did_you_mean(unknown[0], known)}")
    return replace(method, **settings) if settings else method


def _settings(method: Interpolation) -> dict[str, Any]:
    """Settings of a method for `uns`, where there can be no None."""
    settings = asdict(method) if is_dataclass(method) else {}
    return {name: value for name, value in settings.items() if value is not None}


def _cells_of(adata: AnnData, model: SCDiffusion, key: str, stop: Any) -> np.ndarray:
    """Rows of the cells of a state; of a number, those of about the same."""
    if key not in adata.obs:
        raise ValueError(f"adata.obs has no column {key!r}.{did_you_mean(key, adata.obs.columns)}")
    column, composition = adata.obs[key], model.composition
    if key not in composition.continuous:
        rows = np.flatnonzero(column.astype(str) == stop)
        if not len(rows):
            there = column.dropna().astype(str).unique()
            raise ValueError(f"adata has no cells with {key}={stop!r}, only {name_some(there)}.")
        return rows
    near = NEARBY * composition.standard_deviations[composition.continuous.index(key)]
    distance = np.abs(column.to_numpy(float) - stop)
    rows = np.flatnonzero(distance <= near)
    if not len(rows):
        nearest = column.iloc[int(np.nanargmin(distance))]
        raise ValueError(
            f"adata has no cells with {key} within {near:.2g} of {stop:g}; the nearest is at {nearest:g}. "
            "Real cells are needed at the source and at each target; method='condition' does without at the last one."
        )
    return rows


def _draw_rows(populations: list[np.ndarray], n_cells: int | None, rng: np.random.Generator) -> list[np.ndarray]:
    """As many rows of each population; of those with fewer cells, each as often as any other."""
    available = len(populations[0])
    n_cells = min(available, MAX_CELLS) if n_cells is None else n_cells
    if n_cells != int(n_cells) or not 1 <= n_cells <= available:
        raise ValueError(f"n_cells must be between 1 and {available}, the cells of the source; got {n_cells!r}.")
    first, *others = (np.resize(rng.permutation(rows), int(n_cells)) for rows in populations)
    return [np.sort(first), *others]


def _assign(a: Tensor, b: Tensor) -> np.ndarray:
    """Order of the rows of `b` in which the sum of their squared distances to those of `a` is least."""
    return linear_sum_assignment(cdist(a.cpu().numpy(), b.cpu().numpy(), "sqeuclidean"))[1]


def _plans(
    model: SCDiffusion, obs: pd.DataFrame, key: str, stops: list[Any], keep: list[str], rng: np.random.Generator
) -> list[Plan]:
    """What the cells are at each stop, with the batch of their start, and what they are to keep of it."""
    composition, batch = model.composition, [model.batch_key] if model.batch_key else []
    missing = [name for name in keep if name not in obs]
    if missing:
        raise ValueError(f"adata.obs has no column {missing[0]!r}, which is to be kept.")
    kept = obs[[name for name in dict.fromkeys([*keep, *batch]) if name in obs]]
    at_stops = [read_conditions(kept.assign(**{key: stop}), len(obs), composition, rng) for stop in stops]
    start = fill_from_training(at_stops[0], composition, batch, rng)
    if batch:
        for plan in at_stops:
            plan.codes[:, -1] = start.codes[:, -1]
    return at_stops


def _seen(model: SCDiffusion, plan: Plan) -> Conditions:
    """Conditions as the diffusion is shown them: without the batch."""
    conditions = model.module.conditions(torch.from_numpy(plan.codes), torch.from_numpy(plan.values)).to(model.device)
    return conditions.without(*([plan.codes.shape[1] - 1] if model.batch_key else []))


def _plan_between(source: Plan, target: Plan, weight: float) -> Plan:
    """What cells are on the way: numbers in between, and no category where it is neither that nor this."""
    if weight in (0, 1):
        return target if weight else source
    differ = source.codes != target.codes
    return Plan(np.where(differ, -1, source.codes), (1 - weight) * source.values + weight * target.values)
