"""Model files: tensors and plain settings only, written aside and moved into place."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData, read_h5ad
from mudata import MuData
from scvi.model._utils import parse_device_args

from scdiffusion._writing import explaining_write_errors
from scdiffusion.model._modalities import feature_names

_MODEL_FILE = "model.pt"
# Data beside a model, by the method it was set up with.
_DATA_FILES = {"setup_anndata": ("adata.h5ad", read_h5ad), "setup_mudata": ("mdata.h5mu", mudata.read_h5mu)}
_CONTENTS = ("version", "data", "model_state_dict", "var_names", "attr_dict")
# Raised whenever an earlier version could not read what this one writes.
_FORMAT = 1


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
            If the directory exists and `overwrite` is not set, or the model has no data to save.
        OSError
            If it cannot be written. What was there is left as it was.
        """
        if save_anndata:
            self._require_data()
        attributes = {name: value for name, value in self._get_user_attributes() if name.endswith("_")}
        contents = {
            "format": _FORMAT,
            "version": version("scdiffusion"),
            "data": self.adata_manager.adata_uuid if save_anndata else None,
            "model_state_dict": {key: tensor.cpu() for key, tensor in self.module.state_dict().items()},
            "var_names": [name for modality in self.modalities.values() for name in modality.features],
            "attr_dict": to_plain(attributes),
        }
        remedy = "Make room and save again, or save to another disk. Nothing that was there has changed."
        with (
            AtomicDirectory(dir_path, overwrite=overwrite) as folder,
            explaining_write_errors(dir_path, remedy),
        ):
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
            If there is no model in the directory; its file, or that of the data beside it, is damaged; it holds anything
            but tensors and plain settings, or was written by a newer version; or the genes of `adata` differ.

        Warns
        -----
        UserWarning
            If the data beside the model are not those that it was saved with.
        """
        path = Path(dir_path) / f"{prefix or ''}{_MODEL_FILE}"
        if not path.exists():
            raise ValueError(f"There is no model at {path}. Give the directory that model.save(...) wrote.")
        _, _, device = parse_device_args(accelerator, device, return_device="torch", validate_single_device=True)
        contents = _read_model_file(path)
        with _damage_named(path):
            attributes = from_plain(contents["attr_dict"])
            registry, parameters = attributes.pop("registry_"), attributes.pop("init_params_")
            if registry["model_name"] != cls.__name__:
                raise ValueError(f"{path} holds a {registry['model_name']}, not a {cls.__name__}.")
            setup = registry["setup_method_name"]
            file, read = _DATA_FILES[setup]
        if adata is None and contents["data"] is not None:
            adata = _read_data_file(path.with_name(f"{prefix or ''}{file}"), read, contents["data"])
        if adata is None or adata is False:
            adata = None
        else:
            remedy = "adata = adata[:, model.var_.index].copy(), or load without data: load(dir, adata=False)."
            check_genes(feature_names(adata, registry), contents["var_names"], remedy)
            getattr(cls, setup)(adata, source_registry=registry, **registry["setup_args"])
        with _damage_named(path):
            overrides = parameters["kwargs"]["overrides"]
            model = cls(adata, registry=registry, **parameters["non_kwargs"], **overrides)
            for name, value in attributes.items():
                setattr(model, name, value)
            for key, settings in model.classifiers_.items():
                model.module.add_classifier(model.composition.keys.index(key), **settings)
            if model.scorer_ is not None:
                model.module.add_scorer(**model.scorer_["network"])
            model.module.load_state_dict(contents["model_state_dict"])
        model.to_device(device)
        model.module.eval()
        return model


def _read_model_file(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums, which it writes
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("a checksum is wrong")
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and plain settings. It may be a program, of which nothing was run, and was "
            "not written by model.save(...)."
        ) from error
    except Exception as error:
        raise _damage(path, error) from error
    if not isinstance(contents, dict) or not isinstance(contents.get("format"), int):
        raise ValueError(f"{path} was not written by model.save(...) of scdiffusion.")
    if contents["format"] > _FORMAT:
        raise ValueError(
            f"{path} was written by scdiffusion {contents.get('version')}, which is newer than {version('scdiffusion')}. "
            "Upgrade: pip install --upgrade scdiffusion"
        )
    missing = [name for name in _CONTENTS if name not in contents]
    if missing:
        raise _damage(path, f"it has no {missing[0]!r}")
    return contents


def _damage(path: Path, why: Any) -> ValueError:
    return ValueError(
        f"{path} is damaged, or was not written by model.save(...): {why}. Save the model again, or take a copy."
    )


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Name the model file in what parts of it that are missing or do not fit lead to."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        raise _damage(path, repr(error)) from error


def _read_data_file(path: Path, read: Callable[[Path], Any], uuid: str) -> AnnData | MuData | None:
    """The data that were saved together with a model, unless another save got in between."""
    try:
        adata = read(path) if path.exists() else None
    except Exception as error:
        raise ValueError(
            f"{path}, the data beside the model, is damaged: {error}. Give the data, load(dir, adata=adata), or load the "
            "model alone: load(dir, adata=False)."
        ) from error
    if adata is None or adata.uns.get("_scvi_uuid") != uuid:
        warnings.warn(
            f"{path} is not what the model was saved with, and is left out. Give the data: load(dir, adata=adata).",
            UserWarning,
            stacklevel=3,
        )
        return None
    return adata


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
        self.path, self.overwrite = Path(path), overwrite
        self._refuse_existing()

    def _refuse_existing(self) -> None:
        if self.path.exists() and not self.overwrite:
            raise ValueError(f"{self.path} already exists. Choose another directory, or pass overwrite=True.")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        return self.temporary

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        try:
            if error is None:
                self._refuse_existing()  # another process may have been faster
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


def check_genes(given: Sequence[str], var_names: list[str], remedy: str) -> None:
    """Raise unless cells have the genes of a model, in their order."""
    if list(given) == var_names:
        return
    missing = pd.Index(var_names).difference(given, sort=False)
    if len(missing):
        detail = f"{len(missing)} of the model's {len(var_names)} genes are missing, e.g. {missing[0]!r}"
    else:
        detail = f"they are in another order, or there are others among them ({len(given)} against {len(var_names)})"
    raise ValueError(
        f"adata does not have the genes the model was trained on: {detail}. Bring them in line with {remedy}"
    )
