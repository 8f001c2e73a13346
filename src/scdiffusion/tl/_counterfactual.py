"""The same cells under another condition: methods in a registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from torch import Tensor

from scdiffusion._registry import Registry
from scdiffusion.diffusion import Sampler
from scdiffusion.model._combinations import CombinationMeans
from scdiffusion.model._composition import Plan, unique_rows
from scdiffusion.model._conditions import fill_from_training, read_conditions
from scdiffusion.model._constants import Key
from scdiffusion.model._latents import LibrarySize
from scdiffusion.model._messages import did_you_mean, name_some

from ._interpolation._base import check_level
from ._interpolation._stops import shown
from ._methods import check_sees_conditions, read_method, settings_of, warn_of_extrapolation

if TYPE_CHECKING:
    from scdiffusion.model import SCDiffusion

counterfactuals = Registry("counterfactual method")


@dataclass(frozen=True)
class Change:
    """Cells that are to come under other conditions.

    Parameters
    ----------
    model
        The trained model.
    keys
        Condition keys that change.
    source, target
        What the cells are, and are to be.
    features
        The cells as the diffusion sees them: standardised latents and log library sizes, `(n_cells, n_features)`.
    denoise
        `denoise(level)` noises the features to a level and denoises them under the target's conditions.
    """

    model: SCDiffusion
    keys: Sequence[str]
    source: Plan
    target: Plan
    features: Tensor
    denoise: Callable[[float], Tensor]


class Counterfactual(ABC):
    """A method of :func:`~scdiffusion.tl.counterfactual`; a subclass is registered, or passed as an instance.

    Attributes
    ----------
    needs_conditions
        Whether the denoiser must see conditions.
    """

    needs_conditions: bool = False

    @abstractmethod
    def features(self, change: Change) -> Tensor:
        """Latents and log library sizes under the new conditions, standardised, `(n_cells, n_features)`."""


@counterfactuals.register("shift")
@dataclass(frozen=True)
class ShiftCounterfactual(Counterfactual):
    """Moves each cell in the latents by what the change makes of the training cells, those like it before others.

    What distinguishes a cell from others of its kind stays as it is. The shift is the difference of two means of
    training cells, averaged over all combinations of the other conditions that have been seen with both; the nearer to
    the cells, and the better known, the more a combination counts.

    References
    ----------
    Lotfollahi et al., *scGen predicts single-cell perturbation responses*, Nature Methods 2019, where the average is
    over all cells.
    """

    def features(self, change: Change) -> Tensor:
        composition, means = change.model.composition, CombinationMeans.from_dict(change.model.combination_means_)
        n_keys = means.codes.shape[1]
        source, target = change.source.codes[:, :n_keys], change.target.codes[:, :n_keys]
        for key in change.keys:
            position = composition.keys.index(key)
            if key in composition.continuous:
                raise ValueError(f"{key!r} is continuous, and only categories can be shifted: pass method='refined'.")
            if (source[:, position] < 0).any():
                raise ValueError(
                    f"adata.obs does not say what {key!r} is now, so that it is not known what to change: add it, or "
                    "pass method='refined'."
                )
        first, group, _ = unique_rows(np.column_stack([source, target]))
        shifts = [means.shift(source[row], target[row]) for row in first]
        if any(shift is None for shift in shifts):
            raise ValueError(
                f"No training cells show what the change of {', '.join(change.keys)} does: none agree in their other "
                "conditions and differ in it. Pass method='refined'."
            )
        return change.features + torch.from_numpy(np.stack(shifts)[group]).to(change.features)


@counterfactuals.register("refined")
@dataclass(frozen=True)
class RefinedCounterfactual(Counterfactual):
    """Noises each cell and denoises it under the new condition, as :meth:`~scdiffusion.SCDiffusion.refine` does.

    Parameters
    ----------
    level
        Share of the process to noise by, above 0 (the cell stays what it is) and up to 1 (nothing is left of it but the
        conditions that it keeps).

    References
    ----------
    Meng et al., *SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations*, ICLR 2022.
    """

    level: float = 0.7
    needs_conditions = True

    def __post_init__(self) -> None:
        check_level(self.level)

    def features(self, change: Change) -> Tensor:
        return change.denoise(self.level)


def counterfactual(
    model: SCDiffusion,
    adata: AnnData | MuData,
    obs_conditions: Mapping[str, Any],
    *,
    method: str | Counterfactual = "shift",
    library_size: LibrarySize = None,
    sampler: str | Sampler | None = None,
    n_steps: int | None = None,
    rng: int | np.random.Generator | None = None,
    **settings: Any,
) -> AnnData | MuData:
    """Generate what cells would be under other conditions.

    Parameters
    ----------
    model
        A trained :class:`~scdiffusion.SCDiffusion`.
    adata
        Real cells, with the genes of the training data, expression in the same layer, and their conditions in `obs`.
    obs_conditions
        What changes, `{"condition": "stim"}`: of any condition keys one category or number for all cells, or one per
        cell. What else `adata.obs` says of a cell it keeps. The combination need not have been trained on.
    method
        - `"shift"`: cells are moved in the latents by what the change makes of training cells that are like them. What
          distinguishes a cell from others of its kind stays.
        - `"refined"`: cells are noised and denoised under the new conditions, which may be numbers. Setting: `level`
          (0.7), the share of the process to noise by, above 0 and up to 1. The less, the more of a cell stays, the
          condition that is to change included. The denoiser must see conditions, which that of `preset="scdiffusion"`
          does not.
        - a :class:`~scdiffusion.tl.Counterfactual`.
    library_size
        As for :meth:`~scdiffusion.SCDiffusion.generate`. By default that of the cell, changed with it.
    sampler, n_steps
        As for :meth:`~scdiffusion.SCDiffusion.generate`; only `"refined"` samples.
    rng
        Seed. The same seed gives the same cells.
    **settings
        Settings of the method, by name.

    Returns
    -------
    Cells as :meth:`~scdiffusion.SCDiffusion.generate` returns them, one per cell of `adata` in the
    same order and of the same name, with `obs["start_cell"]`, the name, and for each key that changes
    `obs["start_<key>"]`, what the cell is in `adata`.

    Raises
    ------
    ValueError
        If the model is not trained; a key or category is unknown; cells are already what they are to become; genes or
        counts are missing; no training cells show what the change does; the denoiser does not see conditions and the
        method needs that; or an argument does not fit.

    Warns
    -----
    UserWarning
        If a number lies outside the range of training, and the method goes by it.

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys=["bulk_labels", "phase"])
    >>> model = scd.SCDiffusion(adata)
    >>> model.train(max_epochs=1, progress=False)
    >>> resting = adata[adata.obs["phase"] == "G1"]
    >>> dividing = scd.tl.counterfactual(model, resting, {"phase": "S"}, rng=0)
    >>> dividing.obs["phase"].unique().tolist(), bool((dividing.obs_names == resting.obs_names).all())
    (['S'], True)
    """
    model._require_trained("counterfactual")
    name = method if isinstance(method, str) else type(method).__name__
    method = read_method(counterfactuals, method, settings)
    if method.needs_conditions:
        check_sees_conditions(
            model, name, "pass method='shift', or guide by classifiers, model.refine(adata, obs_conditions=...)"
        )
    sampler = model._read_sampler(sampler)
    seeds = np.random.default_rng(rng)
    cells = model._cells_to_start_from(adata)
    keys = _read_keys(obs_conditions, model)
    known = cells.obs[[key for key in model.composition.keys if key in cells.obs]]
    source = read_conditions(known, cells.n_obs, model.composition, seeds)
    target = read_conditions(known.assign(**obs_conditions), cells.n_obs, model.composition, seeds)
    _check_change(source, target, obs_conditions)
    if method.needs_conditions:
        warn_of_extrapolation(model, target)
    source = fill_from_training(source, model.composition, model.covariate_keys, seeds)
    target = _with_covariates_of(source, target, model)
    library = model._read_library_size(library_size, cells.n_obs)
    told = model._covariates(source) if model.module.autoencoder.encodes_covariates else None
    features = model._features(cells.X, told, model._generator(seeds))
    conditions = shown(model, target)

    def denoise(level: float) -> Tensor:
        return model.module.sample(conditions, sampler, n_steps, model._generator(seeds), origin=features, level=level)

    features = method.features(Change(model, keys, source, target, features, denoise))
    told = model._covariates(target)
    told = None if told is None else told.to(model.device)
    expression = model._draw_expression(features, told, model._generator(seeds), library)
    before = {f"start_{key}": known[key].to_numpy() for key in keys if key in known}
    return model._annotate(
        expression,
        model._obs(target).set_axis(cells.obs_names).assign(start_cell=cells.obs_names, **before),
        {Key.LATENT: model.module.split(features)[0].cpu().numpy()},
        {
            **model._sampling_provenance(sampler, n_steps, rng),
            "method": name,
            **settings_of(method),
            "library_size": model._library_provenance(library),
        },
    )


def _with_covariates_of(source: Plan, target: Plan, model: SCDiffusion) -> Plan:
    """The target, with what the decoder has to be told and nobody asked for as it is in the source."""
    is_told = np.isin(model.composition.keys, model.covariate_keys)
    of_codes, of_values = np.split(is_told, [target.codes.shape[1]])
    return Plan(
        np.where(of_codes & (target.codes < 0), source.codes, target.codes),
        np.where(of_values & np.isnan(target.values), source.values, target.values),
    )


def _read_keys(obs_conditions: Mapping[str, Any], model: SCDiffusion) -> list[str]:
    available = [key for key in model.composition.keys if key != model.batch_key]
    unknown = [key for key in obs_conditions if key not in available]
    if unknown:
        raise ValueError(f"The model has no condition {unknown[0]!r}.{did_you_mean(unknown[0], available)}")
    left_open = [key for key, value in obs_conditions.items() if np.any(pd.isna(value))]
    if not obs_conditions or left_open:
        raise ValueError(f"obs_conditions must say what is to become of one or more of {name_some(available)}.")
    return list(obs_conditions)


def _check_change(source: Plan, target: Plan, obs_conditions: Mapping[str, Any]) -> None:
    same = (source.codes == target.codes).all(1)
    same &= ((source.values == target.values) | (np.isnan(source.values) & np.isnan(target.values))).all(1)
    if same.any():
        asked = ", ".join(f"{key}={value!r}" for key, value in obs_conditions.items())
        raise ValueError(
            f"{same.sum()} of {len(same)} cells are {asked} already. Leave them out, e.g. "
            f"adata[adata.obs[{next(iter(obs_conditions))!r}] == ...]."
        )
