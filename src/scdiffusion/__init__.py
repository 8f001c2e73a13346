"""Generate single cells that were never sequenced."""

__version__ = "0.1.0"
