"""Names under which things are stored."""


class Key:
    """Where the model keeps its data in AnnData and in its registry."""

    EXPRESSION = "X"
    CONDITIONS = "scdiffusion_conditions"
    CONTINUOUS = "scdiffusion_continuous"
    LATENT = "X_scdiffusion"
    POSTERIORS = "_scvi_scdiffusion_posteriors"
    PROVENANCE = "scdiffusion"
    SCORE = "realness"

    @staticmethod
    def of_modality(kind: str) -> str:
        """Where the registry keeps further modalities."""
        return f"scdiffusion_{kind}"
