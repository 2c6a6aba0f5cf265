"""The README.md of a Hugging Face export: what the folder holds, for people and for the library."""

from collections.abc import Mapping
from typing import Any

import yaml

from pipelines.datasets.packs import feature_tree

_ABOUT = """
# {name}

Clips with captions, exported from a snapvideo dataset, {what}.

| split | clips |
|---|---|
{rows}

- {media}: the encoded files as they are stored.
- `text`: the caption that training reads; `origin` says whether a person or a model wrote it.
- `scores`: what the clips were measured by; nothing is left out because of them but what the
  selection says.

```python
import datasets

clips = datasets.load_dataset("PATH", split="{split}")
```
"""


def card(name: str, nums: Mapping[str, int], media: Mapping[str, str]) -> str:
    """Return the card.

    Args:
        name: Of the release, or `now`.
        nums: Clips of each split that has any.
        media: Column that holds the bytes of each kind of clip.
    """
    head: dict[str, Any] = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*.parquet"} for split in nums
                ],
            }
        ],
        "dataset_info": {
            "features": [_feature(key, kind) for key, kind in feature_tree(media).items()],
            "splits": [{"name": split, "num_examples": num} for split, num in nums.items()],
        },
    }
    text = _ABOUT.format(
        name=name,
        what="as it is now" if name == "now" else f"release {name}",
        rows="\n".join(f"| {split} | {num} |" for split, num in nums.items()),
        media=", ".join(f"`{column}`" for column in media.values()),
        split=next(iter(nums)),
    )
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{text}"


def _feature(name: str, kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a tree of names
    """Return a column as a card spells its type."""
    if isinstance(kind, list):
        fields = [_feature(key, one) for key, one in kind[0].items()]
        return {"name": name, "list": fields}
    if kind["_type"] == "Value":
        return {"name": name, "dtype": kind["dtype"]}
    return {"name": name, "dtype": kind["_type"].lower()}
