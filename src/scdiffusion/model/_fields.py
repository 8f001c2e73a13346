"""The expression as scvi-tools registers it."""

from __future__ import annotations

from typing import Any

from anndata import AnnData
from scvi.data.fields import LayerField, MuDataWrapper

from scdiffusion.model._constants import Key
from scdiffusion.model._expression_checks import check_expression


class ExpressionField(LayerField):
    """A layer whose values are checked by us, wherever they lie, and which is left as it is.

    Parameters
    ----------
    registry_key, layer
        As for :class:`~scvi.data.fields.LayerField`.
    values
        What the expression is, `"counts"` or `"log-normalised"`.
    """

    def __init__(self, registry_key: str, layer: str | None, values: str) -> None:
        super().__init__(registry_key, layer, is_count_data=False, correct_data_format=False)
        self.values = values

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any) -> dict[str, Any]:
        """Register other cells, which :meth:`~scdiffusion.SCDiffusion.setup_anndata` has not seen, once checked."""
        if Key.POSTERIORS not in adata_target.obsm:  # else the expression is not read, and may not be there
            check_expression(adata_target, self.attr_key, self.values)
        return super().transfer_field(state_registry, adata_target, **kwargs)


#: The same of a modality of a MuData.
MuDataExpressionField = MuDataWrapper(ExpressionField)
