"""Tiny models with random weights, built from their configs and saved as safetensors."""

import safetensors.torch
import tokenizers
import torch
import transformers

WORDS = ("[UNK]", "<pad>", "<s>", "</s>", "a", "nice", "picture", "bad", "blood", "flower")
WIDTH = 16


def tiny_clip(folder, seed=0):
    """A CLIP of width 16 with its image processor and a tokenizer of words."""
    torch.manual_seed(seed)
    words = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "eos_token_id": 3,
    }
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    images = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "intermediate_size": 32}
    config = transformers.CLIPConfig(
        text_config=words | layers | {"max_position_embeddings": 16, "bos_token_id": 2},
        vision_config=images | layers,
        projection_dim=WIDTH,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**crop).save_pretrained(folder)
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: at for at, word in enumerate(WORDS)}, "[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="[UNK]",
        model_max_length=16,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def tiny_classifier(folder, labels=("fine", "unsafe")):
    """A ViT with these labels and its image processor."""
    torch.manual_seed(1)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, id2label=dict(enumerate(labels)),
        label2id={label: at for at, label in enumerate(labels)},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    return str(folder)


def head(path, *shapes, seed=2):
    """A file with matrices of these shapes, and biases."""
    torch.manual_seed(seed)
    found = {}
    for number, shape in enumerate(shapes):
        found[f"layers.{2 * number}.weight"] = torch.randn(shape)
        found[f"layers.{2 * number}.bias"] = torch.randn(shape[0])
    safetensors.torch.save_file(found, path)
    return str(path)
