"""Tiny models of transformers with random weights, in folders as `save_pretrained` writes them."""

from pathlib import Path
from typing import Any

LABELS = {0: "car", 1: "N/A", 2: "truck", 3: "person", 4: "sign"}
NAMED: dict[str, Any] = {"id2label": LABELS, "label2id": {v: k for k, v in LABELS.items()}}
DETECTORS = ("rt_detr_v2", "d_fine", "detr", "yolos")

_QUERIES: dict[str, Any] = {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [24, 32, 40],
    "d_model": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "num_queries": 30,
    "decoder_in_channels": [32, 32, 32],
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_denoising": 0,
}
_HEADS: dict[str, Any] = {"num_attention_heads": 2, "hidden_size": 32}
_BACKBONE: dict[str, Any] = {
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 40],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}


def write_all(folder: Path) -> dict[str, Path]:
    """The folder of each model by name: detectors, a classifier and a depth model."""
    makers = {
        "rt_detr_v2": _rt_detr_v2,
        "d_fine": _d_fine,
        "detr": _detr,
        "yolos": _yolos,
        "vit": _vit,
        "depth_anything": _depth_anything,
    }
    import torch

    torch.manual_seed(0)
    found = {}
    for name, make in makers.items():
        module, processor = make()
        if name != "d_fine":  # which differs enough by itself, and would leave the image
            _spread(module, 0.3 if name in ("detr", "yolos") else 0.15)
        found[name] = folder / name
        module.save_pretrained(found[name])
        processor.save_pretrained(found[name])
    return found


def _spread(module: Any, deviation: float) -> None:
    """Weights far enough apart that images and queries get different answers."""
    import torch

    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            # Boxes stay around their reference points, inside the image.
            places = "bbox_predictor.layers.2" in name or "bbox_embed" in name
            torch.nn.init.normal_(parameter, std=0.004 if places else deviation)
        if name == "head.conv3.bias":
            torch.nn.init.constant_(parameter, 1.0)


def _rt_detr_v2() -> tuple[Any, Any]:
    import transformers as t

    stages = ["stage2", "stage3", "stage4"]
    backbone = t.RTDetrResNetConfig(**_BACKBONE, out_features=stages)
    config = t.RTDetrV2Config(backbone_config=backbone, **_QUERIES, **NAMED)
    processor = t.RTDetrImageProcessor(size={"height": 96, "width": 96})
    return t.RTDetrV2ForObjectDetection(config), processor


def _d_fine() -> tuple[Any, Any]:
    import transformers as t

    backbone = t.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 24, 32],
        stage_mid_channels=[8, 8, 16, 16],
        stage_out_channels=[16, 24, 32, 40],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        embedding_size=8,
        hidden_sizes=[16, 24, 32, 40],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = t.DFineConfig(backbone_config=backbone, depth_mult=0.34, **_QUERIES, **NAMED)
    processor = t.RTDetrImageProcessor(size={"height": 96, "width": 96})
    return t.DFineForObjectDetection(config), processor


def _detr() -> tuple[Any, Any]:
    import transformers as t

    config = t.DetrConfig(
        backbone_config=t.ResNetConfig(**_BACKBONE, out_features=["stage4"]),
        use_timm_backbone=False,
        backbone=None,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=20,
        **NAMED,
    )
    processor = t.DetrImageProcessor(size={"shortest_edge": 80, "longest_edge": 130})
    return t.DetrForObjectDetection(config), processor


def _yolos() -> tuple[Any, Any]:
    import transformers as t

    config = t.YolosConfig(
        **_HEADS,
        num_hidden_layers=2,
        intermediate_size=32,
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=20,
        use_mid_position_embeddings=False,
        **NAMED,
    )
    processor = t.YolosImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return t.YolosForObjectDetection(config), processor


def _vit() -> tuple[Any, Any]:
    import transformers as t

    config = t.ViTConfig(
        **_HEADS,
        num_hidden_layers=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        **NAMED,
    )
    processor = t.ViTImageProcessor(size={"height": 64, "width": 64})
    return t.ViTForImageClassification(config), processor


def _depth_anything() -> tuple[Any, Any]:
    import transformers as t

    backbone = t.Dinov2Config(
        **_HEADS,
        num_hidden_layers=4,
        mlp_ratio=1,
        image_size=70,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = t.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        head_hidden_size=8,
        patch_size=14,
    )
    processor = t.DPTImageProcessor(
        size={"height": 70, "width": 70}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    return t.DepthAnythingForDepthEstimation(config), processor
