"""Teaching a multimodal language model to count repeated actions in video. The chapters are in nbs/."""

__version__ = "0.1.0"
