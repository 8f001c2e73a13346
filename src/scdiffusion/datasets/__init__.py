"""Real data to try things on: a set that needs no download, and those of the papers."""

from scdiffusion.datasets._downloads import brain_small, lung_fibrosis, pbmc68k, reprogramming, tabula_muris
from scdiffusion.datasets._pbmc68k import pbmc68k_reduced

__all__ = ["brain_small", "lung_fibrosis", "pbmc68k", "pbmc68k_reduced", "reprogramming", "tabula_muris"]
