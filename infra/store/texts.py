"""The identity of a text: what embeddings are keyed by."""

import hashlib
import unicodedata


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes in Unicode NFC, as hexadecimal."""
    return hashlib.sha256(unicodedata.normalize("NFC", text).encode()).hexdigest()
