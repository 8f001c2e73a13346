"""The way from state to state: which real cells go it, and what they are on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor
from tqdm.auto import tqdm

from scdiffusion.diffusion import Guide, Sampler
from scdiffusion.model._constants import Key
from scdiffusion.networks import Conditions
from scdiffusion.tl._methods import check_sees_conditions, read_method, settings_of, warn_of_extrapolation

from ._base import Interpolation, Leg, interpolations
from ._stops import assign, cells_of, draw_rows, plan_between, plans_at, read_stops, shown

if TYPE_CHECKING:
    from scdiffusion.model import SCDiffusion


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
    sampler: str | Sampler | None = None,
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
          interpolated condition, which the denoiser must see: with `preset="scdiffusion"` name another method.
          Settings: `start_level`, `path` (`"spherical"` or `"linear"`).
        - `"gradient"`: scDiffusion's Gradient Interpolation, equations 6 and 7. Cells of the source are noised to
          `start_level` and denoised from there, guided by the gradients of two labels of one classifier, whose weights
          run from source to target. It needs :meth:`~scdiffusion.SCDiffusion.train_classifier`. Settings:
          `start_level` (as noisy as in the paper: 0.6 of the linear schedule, 0.9 of the cosine one), `total_scale` (2),
          the sum of the two weights.
        - `"condition"`: the same, with the denoiser under the interpolated condition, which it must see, in place of a
          classifier. Setting: `start_level` (as for `"gradient"`).
        - `"latent"`: latents between those of paired cells, decoded. Setting: `path`.
        - `"expression"`: counts between those of paired cells: of the cell each is kept with a probability of one minus
          the weight, of its partner with the weight. A baseline, and not the paper's, whose pairs are random.
        - a :class:`~scdiffusion.tl.Interpolation`.
    n_cells
        Number of cells to follow, drawn from those of the source without replacement. By default all, at most 1,000.
    keep
        Condition keys whose values at the start the states keep, such as the donor. Others are left to the model. The
        batch is not shown to the diffusion; cells are decoded as of the batch of their start. So are other covariates
        of a model made from one of scvi-tools.
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
        If the model is not trained, has no such condition or state, or lacks what the method needs, a classifier or a
        denoiser that sees conditions; if a state is named twice, or `adata` has no cells of it; or a number is out of
        range.
    TypeError
        If the method has no such setting.

    Warns
    -----
    UserWarning
        If a number lies outside the range of training, and the method goes by it.

    References
    ----------
    Luo et al., *scDiffusion*, Bioinformatics 2024, equations 6 and 7.

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
    stops = read_stops(model, key, source, target)
    if n_states != int(n_states) or n_states < 2:
        raise ValueError(f"n_states must be a whole number, 2 or more; got {n_states!r}.")
    name = method if isinstance(method, str) else type(method).__name__
    method = read_method(interpolations, method, settings)
    if method.needs_classifier and key not in model.classifiers_:
        raise ValueError(f"There is no classifier of {key!r}: call model.train_classifier({key!r}).")
    if method.needs_conditions:
        check_sees_conditions(model, name, "pass method='gradient', which classifiers guide")
    sampler = model._read_sampler(sampler)
    seeds = np.random.default_rng(rng)
    cells = model._cells_to_start_from(adata)
    if not cells.obs_names.is_unique:
        raise ValueError(
            "adata.obs_names are not unique, so that no cell can be followed: adata.obs_names_make_unique()"
        )
    with_cells = stops if method.needs_target else stops[:-1]
    rows = draw_rows([cells_of(cells, model, key, stop) for stop in with_cells], n_cells, seeds)
    plans = plans_at(model, cells.obs.iloc[rows[0]], key, stops, keep, seeds)
    if method.needs_conditions or method.needs_classifier:
        for plan in plans:
            warn_of_extrapolation(model, plan)
    counts = [cells.X[chosen] for chosen in rows]
    covariates = [model._observed_covariates(cells.obs.iloc[chosen], plans[0]) for chosen in rows]
    features = [
        model._features(drawn, told, model._generator(seeds)) for drawn, told in zip(counts, covariates, strict=True)
    ]
    for i in range(1, len(rows)):
        order = assign(features[i - 1], features[i])
        counts[i], features[i] = counts[i][order], features[i][order]
    if not method.needs_target:
        counts, features = [*counts, None], [*features, None]

    conditions = [shown(model, plan) for plan in plans]
    told = model._covariates(plans[0])
    told = None if told is None else told.to(model.device)
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
        drawn, drawn_from = method.counts(legs[leg], weight, told, model._generator(seeds))
        blocks.append(drawn)
        latents.append(drawn_from)
        frame = model._obs(plan_between(*plans[leg : leg + 2], weight))
        frame = frame.assign(state=state, weight=where / len(legs), start_cell=names)
        obs.append(frame.set_axis([f"{name}_state_{state}" for name in names]))

    obsm = {} if latents[0] is None else {Key.LATENT: model.module.split(torch.cat(latents))[0].cpu().numpy()}
    return model._annotate(
        sp.vstack(blocks, format="csr"),
        pd.concat(obs),
        obsm,
        {
            **model._sampling_provenance(sampler, n_steps, rng),
            "key": key,
            "states": [str(stop) for stop in stops],
            "method": name,
            **settings_of(method),
            **({"values": model._values} if latents[0] is None else {}),
        },
    )
