"""Settings of the text encoder, apart from its code so that reading settings imports no torch."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt

from infra.config import Settings

T5_11B_SAFETENSORS = "4a1dd37e0454611c01001afdbcc45df6386f4cfd"


class TextSettings(Settings):
    """Which T5 encoder turns captions into what the video model reads."""

    model: str = "google-t5/t5-11b"
    """Hub id, or a folder (local or in S3) that `from_pretrained` reads; safetensors only."""
    revision: str = T5_11B_SAFETENSORS
    """Commit of the hub repository; the default is the one of T5-11B that holds safetensors.
    Unused for a local folder."""
    max_tokens: PositiveInt = 128
    """Longest text, in tokens with the end token; the rest is cut off."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the encoder; embeddings are handed on in bfloat16 either way."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoder runs; auto takes a GPU where the process sees one."""
    batch: PositiveInt = 64
    """Texts per forward pass."""
    num_workers: PositiveInt = 1
    """Actors of the embed stage, each with a copy of the encoder."""
    gpus_per_worker: NonNegativeFloat = 0.0
    """GPUs that each actor reserves."""
    texts_per_commit: PositiveInt = 1024
    """Texts between two commits: what a kill can cost."""
