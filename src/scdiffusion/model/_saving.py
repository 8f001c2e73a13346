"""Model files: tensors and plain settings only, written aside and moved into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData, read_h5ad
from mudata import MuData
from scvi.model._utils import parse_device_args

from scdiffusion.model._modalities import feature_names

_MODEL_FILE = "model.pt"
# Data beside a model, by the method it was set up with.
_DATA_FILES = {"setup_anndata": ("adata.h5ad", read_h5ad), "setup_mudata": ("mdata.h5mu", mudata.read_h5mu)}


class SavingMixin:
    """Saving and loading a model."""

    def save(
        self,
        dir_path: str | Path,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model; :meth:`load` needs no data to generate from it.

        Parameters
        ----------
        dir_path
            Directory to make. It appears only when everything in it is written.
        prefix
            Prefix of the file names.
        overwrite
            Whether to replace files of an existing directory.
        save_anndata
            Whether to write the training data beside the model.
        **anndata_write_kwargs
            Passed on to :meth:`~anndata.AnnData.write_h5ad`, or to :meth:`~mudata.MuData.write_h5mu`.

        Raises
        ------
        ValueError
            If the directory exists and `overwrite` is not set.
        """
        attributes = {name: value for name, value in self._get_user_attributes() if name.endswith("_")}
        contents = {
            "model_state_dict": {key: tensor.cpu() for key, tensor in self.module.state_dict().items()},
            "var_names": [name for modality in self.modalities.values() for name in modality.features],
            "attr_dict": to_plain(attributes),
        }
        with AtomicDirectory(dir_path, overwrite=overwrite) as folder:
            torch.save(contents, folder / f"{prefix or ''}{_MODEL_FILE}")
            if save_anndata:
                file, _ = _DATA_FILES[self.registry_["setup_method_name"]]
                write = self.adata.write_h5mu if isinstance(self.adata, MuData) else self.adata.write_h5ad
                write(folder / f"{prefix or ''}{file}", **anndata_write_kwargs)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | MuData | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        **kwargs: Any,
    ) -> SavingMixin:
        """Load a saved model.

        Parameters
        ----------
        dir_path
            Directory that :meth:`save` wrote.
        adata
            Cells with the same genes, to train further or to encode. None: the data saved beside the model if there
            are any, else none, which is enough to generate. False: none in any case.
        accelerator, device
            Where to put the model.
        prefix
            Prefix of the file names.
        **kwargs
            Accepted for scvi-tools' own callers and ignored.

        Returns
        -------
        The model.

        Raises
        ------
        ValueError
            If there is no model in the directory, or the genes of `adata` differ.
        """
        path = Path(dir_path) / f"{prefix or ''}{_MODEL_FILE}"
        if not path.exists():
            raise ValueError(f"There is no model at {path}. Give the directory that model.save(...) wrote.")
        _, _, device = parse_device_args(accelerator, device, return_device="torch", validate_single_device=True)
        contents = torch.load(path, map_location=device, weights_only=True)
        attributes = from_plain(contents["attr_dict"])
        registry, parameters = attributes.pop("registry_"), attributes.pop("init_params_")
        if registry["model_name"] != cls.__name__:
            raise ValueError(f"{path} holds a {registry['model_name']}, not a {cls.__name__}.")
        setup = registry["setup_method_name"]
        file, read = _DATA_FILES[setup]
        saved_data = path.with_name(f"{prefix or ''}{file}")
        if adata is None and saved_data.exists():
            adata = read(saved_data)
        if adata is None or adata is False:
            adata = None
        else:
            _check_genes(feature_names(adata, registry), contents["var_names"])
            getattr(cls, setup)(adata, source_registry=registry, **registry["setup_args"])
        overrides = parameters["kwargs"]["overrides"]
        model = cls(adata, registry=registry, **parameters["non_kwargs"], **overrides)
        for name, value in attributes.items():
            setattr(model, name, value)
        for key, settings in model.classifiers_.items():
            model.module.add_classifier(model.composition.keys.index(key), **settings)
        model.module.load_state_dict(contents["model_state_dict"])
        model.to_device(device)
        model.module.eval()
        return model


def to_plain(value: Any) -> Any:
    """Turn registries, arrays and data frames into dicts, lists, strings and numbers."""
    if isinstance(value, pd.DataFrame):
        columns = {str(name): to_plain(column.to_numpy()) for name, column in value.items()}
        return {"__frame__": columns, "index": to_plain(value.index.to_numpy()), "index_name": value.index.name}
    if isinstance(value, np.ndarray):
        return {"__array__": value.tolist(), "dtype": "object" if value.dtype.kind in "OU" else str(value.dtype)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool | torch.Tensor):
        return value
    raise TypeError(f"Cannot save a {type(value).__name__} as a plain setting: {value!r}")


def from_plain(value: Any) -> Any:
    """Undo :func:`to_plain`."""
    if isinstance(value, dict):
        if "__frame__" in value:
            index = pd.Index(from_plain(value["index"]), name=value["index_name"])
            return pd.DataFrame({name: from_plain(column) for name, column in value["__frame__"].items()}, index=index)
        if "__array__" in value:
            return np.array(value["__array__"], dtype=value["dtype"])
        return {key: from_plain(item) for key, item in value.items()}
    return [from_plain(item) for item in value] if isinstance(value, list) else value


class AtomicDirectory:
    """A directory that appears under its name only when everything in it is written.

    Used as a context manager that gives the temporary path. With `overwrite`, files of the same names in an existing
    directory are replaced one by one and others are left alone.
    """

    def __init__(self, path: str | Path, *, overwrite: bool) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise ValueError(f"{self.path} already exists. Choose another directory, or pass overwrite=True.")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        return self.temporary

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        try:
            if error is None:
                if not self.path.exists():
                    os.chmod(self.temporary, 0o777 & ~_umask())
                    os.replace(self.temporary, self.path)
                else:
                    for file in self.temporary.iterdir():
                        os.replace(file, self.path / file.name)
        finally:
            shutil.rmtree(self.temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _check_genes(given: list[str], var_names: list[str]) -> None:
    if given == var_names:
        return
    missing = pd.Index(var_names).difference(given, sort=False)
    if len(missing):
        detail = f"{len(missing)} of the model's {len(var_names)} genes are missing, e.g. {missing[0]!r}"
    else:
        detail = f"they are in another order, or there are others among them ({len(given)} against {len(var_names)})"
    raise ValueError(
        f"adata does not have the genes the model was trained on: {detail}. Bring them in line with "
        "adata = adata[:, model.var_.index].copy(), or load without data: load(dir)."
    )
