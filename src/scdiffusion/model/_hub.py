"""Sharing a model through the hub of scvi-tools: its metadata, and a card that says what it generates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scvi.hub import HubModel

_CARD = """\
# {title}

{description}

A latent diffusion model of single-cell expression, made with [scdiffusion](https://scdiffusion.readthedocs.io)
{version}. It generates new cells under any subset of its conditions. Generated cells are not measurements.

## Use

```python
from scvi.hub import HubModel

hub = HubModel.pull_from_huggingface_hub("user/model", pull_anndata=False)
hub.load_model(adata=False)  # the training cells are not needed
cells = hub.model.generate(1000, obs_conditions={example})
```

## What it was trained on

{n_cells:,} cells and {n_genes:,} genes, {values}.

| condition | values |
| --- | --- |
{conditions}

## Settings

```json
{settings}
```

## References

{references}
"""


class HubMixin:
    """Sharing a model."""

    def to_hub(
        self,
        dir_path: str | Path,
        license_info: str,
        *,
        title: str = "Single-cell diffusion model",
        description: str = "",
        references: str = "None given.",
        tissues: Sequence[str] = (),
        save_anndata: bool = False,
        overwrite: bool = False,
    ) -> HubModel:
        """Save the model with the metadata and the model card that the hub of scvi-tools wants.

        Parameters
        ----------
        dir_path
            Directory to make.
        license_info
            Licence that the model is shared under, e.g. `"cc-by-4.0"`.
        title, description, references
            What the card says, in Markdown, beside what the model knows of itself: its conditions with their
            categories, its settings, how to load it and generate.
        tissues
            What the cells are from, as tags.
        save_anndata
            Whether to share the training cells too, which are not needed to generate.
        overwrite
            Whether to replace files of an existing directory.

        Returns
        -------
        :class:`~scvi.hub.HubModel`. Push it by `hub.push_to_huggingface_hub("user/model", push_anndata=False)`. What is
        pulled is loaded by `hub.load_model(adata=False)` into `hub.model`.

        Raises
        ------
        ValueError
            If the model is not trained, or the directory exists and `overwrite` is not set.
        ImportError
            If huggingface_hub is not installed.

        Notes
        -----
        A model card names the categories of all conditions. Where these are not to be public, edit `README.md` in the
        directory before pushing.

        Examples
        --------
        >>> import tempfile
        >>> import scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
        >>> model = scd.SCDiffusion(adata)
        >>> model.train(max_epochs=1, progress=False)
        >>> hub = model.to_hub(tempfile.mkdtemp(), "cc-by-4.0", title="PBMC 68k", overwrite=True)
        >>> hub.metadata.model_cls_name
        'SCDiffusion'
        """
        try:
            from huggingface_hub import ModelCard, ModelCardData
            from scvi.hub import HubMetadata, HubModel
        except ImportError as error:
            raise ImportError('Sharing a model needs huggingface_hub: pip install "scdiffusion[hub]"') from error

        self._require_trained("to_hub")
        self.save(dir_path, overwrite=overwrite, save_anndata=save_anndata)
        metadata = HubMetadata(
            self.registry_["scvi_version"], version("anndata"), type(self).__name__, model_parent_module="scdiffusion"
        )
        tags = [
            "biology",
            "genomics",
            "single-cell",
            "diffusion",
            f"model_cls_name:{metadata.model_cls_name}",
            f"scvi_version:{metadata.scvi_version}",
            f"anndata_version:{metadata.anndata_version}",
            *(f"modality:{modality.kind}" for modality in self.modalities.values()),
            *(f"tissue:{tissue}" for tissue in tissues),
        ]
        header = ModelCardData(license=license_info, library_name="scvi-tools", tags=tags).to_yaml()
        text = self._card(title=title, description=description, references=references)
        hub = HubModel(str(dir_path), metadata=metadata, model_card=ModelCard(f"---\n{header}\n---\n\n{text}"))
        hub.save(overwrite=True)
        return hub

    def _card(self, **words: str) -> str:
        composition = self.composition
        rows = [
            f"| `{key}`{', the batch' if key == self.batch_key else ''} | {', '.join(names)} |"
            for key, names in composition.categories.items()
        ]
        rows += [
            f"| `{key}` | {low:g} to {high:g} |"
            for key, low, high in zip(
                composition.continuous, composition.values.min(0), composition.values.max(0), strict=True
            )
        ]
        first = dict(zip(self.condition_keys[:1], composition.largest, strict=False))
        return _CARD.format(
            version=version("scdiffusion"),
            example={key: composition.categories[key][code] for key, code in first.items()} or None,
            n_cells=composition.n_trained,
            n_genes=self.module.autoencoder.n_genes,
            values=self._values,
            conditions="\n".join(rows or ["| none | |"]),
            settings=json.dumps(self._settings, indent=2, default=_plain),
            **words,
        )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
