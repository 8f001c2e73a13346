"""Real data to try things on, with counts."""

from scdiffusion.datasets._pbmc68k import pbmc68k_reduced

__all__ = ["pbmc68k_reduced"]
