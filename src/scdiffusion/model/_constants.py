"""Names under which things are stored."""


class Key:
    """Where the model keeps its data in AnnData and in its registry."""

    EXPRESSION = "X"
    CONDITIONS = "scdiffusion_conditions"
    LATENT = "X_scdiffusion"
    PROVENANCE = "scdiffusion"
