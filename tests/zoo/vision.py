"""Image classifiers of transformers and timm."""

from __future__ import annotations

from typing import Any

import transformers as tf
from torch import nn

from .entry import JOINT_HEADS, SPLIT_HEADS, Entry, Inputs, free, images, kinds
from .without_torchvision import timm

LABELS = 11


def _vit(onnx: bool = False) -> nn.Module:
    config = tf.ViTConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=12,
        patch_size=4,
        num_labels=LABELS,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    return tf.ViTForImageClassification(config)


def _timm_vit(onnx: bool = False) -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=12,
        patch_size=4,
        num_classes=LABELS,
        embed_dim=24,
        depth=2,
        num_heads=4,
        mlp_ratio=40 / 24,
        init_values=1e-5,
        proj_drop_rate=0.1,
        drop_path_rate=0.1,
    )


def _swin(onnx: bool = False) -> nn.Module:
    config = tf.SwinConfig(
        image_size=16,
        patch_size=2,
        embed_dim=12,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        mlp_ratio=3.0,
        num_labels=LABELS,
    )
    model = tf.SwinForImageClassification(config)
    return model.requires_grad_(not onnx)  # KNOWN: torch.onnx fails on a mask with gradients


def _timm_swin(onnx: bool = False) -> nn.Module:
    return timm.models.SwinTransformer(
        img_size=16,
        patch_size=2,
        num_classes=LABELS,
        embed_dim=12,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        mlp_ratio=3.0,
    )


def _resnet(onnx: bool = False) -> nn.Module:
    return timm.models.ResNet(
        timm.models.resnet.Bottleneck,
        layers=(2, 1, 1, 1),
        num_classes=LABELS,
        stem_type="deep",
        stem_width=5,
        channels=(6, 8, 12, 14),
        drop_path_rate=0.1,
    )


def _convnext(onnx: bool = False) -> nn.Module:
    return timm.models.ConvNeXt(
        num_classes=LABELS, depths=(2, 1, 1, 1), dims=(8, 12, 16, 20), drop_path_rate=0.1
    )


def _convnext_hf(onnx: bool = False) -> nn.Module:
    config = tf.ConvNextConfig(hidden_sizes=[8, 12], depths=[2, 2], num_stages=2, num_labels=LABELS)
    return tf.ConvNextForImageClassification(config)


def _named(size: int) -> Any:
    def inputs(batch: int, seq: int = 0, seed: int = 0) -> Inputs:
        return (), {"pixel_values": images(batch, size, seed)}

    return inputs


def _positional(size: int) -> Any:
    def inputs(batch: int, seq: int = 0, seed: int = 0) -> Inputs:
        return (images(batch, size, seed),), {}

    return inputs


def _named_batch() -> dict[str, Any]:
    return {"pixel_values": free(1)}


def _batch() -> tuple[Any, ...]:
    return (free(1),)


_STAGES = kinds("hidden mlp layers")

ENTRIES = [
    Entry("vit", "vit", _vit, _named(12), _named_batch, SPLIT_HEADS),
    Entry("timm_vit", "vit", _timm_vit, _positional(12), _batch, JOINT_HEADS),
    Entry("swin", "swin", _swin, _named(16), _named_batch, SPLIT_HEADS),
    Entry("timm_swin", "swin", _timm_swin, _positional(16), _batch, JOINT_HEADS),
    Entry("resnet", "resnet", _resnet, _positional(36), _batch, kinds("channels")),
    Entry("convnext", "convnext", _convnext, _positional(32), _batch, _STAGES),
    Entry("convnext_hf", "convnext", _convnext_hf, _named(16), _named_batch, _STAGES),
]
