"""What comes before training, in scanpy's idiom."""

from ._cluster import cluster

__all__ = ["cluster"]
