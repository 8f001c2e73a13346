"""Plots that put generated beside real cells, in scanpy's idiom."""

from ._overlay import overlay

__all__ = ["overlay"]
