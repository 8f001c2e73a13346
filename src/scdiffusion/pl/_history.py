"""How training went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scdiffusion.pl._docs import shared_docs
from scdiffusion.pl._utils import GENERATED, GREY, REAL, add_legend, finish, make_axes

SUFFIX = "_train_loss"


@shared_docs
def history(
    model: Any,
    *,
    ax: Axes | Iterable[Axes] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> list[Axes] | Figure | None:
    """Loss of training and of held-out cells by epoch, one panel per stage of training.

    The vertical line is the epoch with the least held-out loss, whose weights the model kept. Training that ends while
    both curves still fall was too short.

    Parameters
    ----------
    model
        Trained :class:`~scdiffusion.SCDiffusion`, or its ``history``.
    ax
        As many Axes as stages.
    $shown

    Returns
    -------
    One Axes per stage $returned

    Raises
    ------
    ValueError
        If the model is not trained.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import pandas as pd
    >>> import scdiffusion as scd
    >>> losses = {"diffusion_train_loss": [0.31, 0.26, 0.22], "diffusion_validation_loss": [0.27, 0.21, 0.19]}
    >>> axes = scd.pl.history({key: pd.DataFrame({key: loss}) for key, loss in losses.items()}, show=False)
    >>> [ax.get_title() for ax in axes]
    ['Diffusion']
    >>> plt.close(axes[0].figure)
    """
    losses = _losses(model if isinstance(model, Mapping) else model.history)
    panels = make_axes(ax, len(losses), (3.6, 2.8))
    for panel, (stage, (train, held_out)) in zip(panels, losses.items(), strict=True):
        panel.plot(train.index, train, ".-", color=REAL, label="training cells")
        if held_out is not None:
            panel.plot(held_out.index, held_out, ".-", color=GENERATED, label="held-out cells")
            panel.axvline(held_out.idxmin(), color=GREY, ls="--", lw=1, label="weights kept", zorder=0)
        panel.set(title=stage.replace("_", " ").capitalize(), xlabel="Epoch", ylabel="Loss")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, _ = panels[0].get_legend_handles_labels()
    add_legend(panels, handles, own_figure=ax is None)
    return finish(panels, show, return_fig)


def _losses(history: Mapping[str, pd.DataFrame] | None) -> dict[str, tuple[pd.Series, pd.Series | None]]:
    """Training and held-out loss by stage, in the order of training."""
    stages = [key.removesuffix(SUFFIX) for key in history or {} if key.endswith(SUFFIX)]
    if not stages:
        raise ValueError("There is no history of training yet: call model.train() first.")
    losses = {}
    for stage in stages:
        held_out = history.get(f"{stage}_validation_loss")
        losses[stage] = history[f"{stage}{SUFFIX}"].iloc[:, 0], None if held_out is None else held_out.iloc[:, 0]
    return losses
