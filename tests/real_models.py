"""Networks that nobody here wrote, of transformers and diffusers: small, with random weights, built without a download.

Weights are drawn so that neither activations nor gradients fade or grow on the way, which would hide errors.
"""

import pytest
import torch


def _transformers(name, result, **settings):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, name).config_class(num_labels=5, **settings)
    return getattr(transformers, name)(config), lambda model, x: getattr(model(x), result)


def _diffusers(name, *more, **settings):
    diffusers = pytest.importorskip("diffusers")
    settings = {"in_channels": 3, "out_channels": 3, "norm_num_groups": 4, "sample_size": 16, **settings}
    return getattr(diffusers, name)(**settings), lambda model, x: model(x, *more).sample


def resnet():
    return _transformers(
        "ResNetForImageClassification", "logits", embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2]
    )


def convnext():
    return _transformers("ConvNextForImageClassification", "logits", hidden_sizes=[8, 16], depths=[1, 2], num_stages=2)


def mobilenet_v2():
    return _transformers("MobileNetV2ForImageClassification", "logits", depth_multiplier=0.25)


def segformer():
    encoder = {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2]}
    widths = {"hidden_sizes": [8, 16], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 8}
    return _transformers("SegformerForSemanticSegmentation", "logits", **encoder, **widths)


def dpt():
    """Beyond the list: one with transposed convolutions."""
    encoder = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    image = {"image_size": 32, "patch_size": 8, "backbone_out_indices": [0, 1, 2, 3]}
    neck = {"neck_hidden_sizes": [4, 8, 8, 8], "fusion_hidden_size": 8, "is_hybrid": False}
    return _transformers("DPTForDepthEstimation", "predicted_depth", **encoder, **image, **neck)


def unet():
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
    }
    return _diffusers("UNet2DModel", 7, layers_per_block=1, block_out_channels=(8, 16), **blocks)


def autoencoder_kl():
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return _diffusers("AutoencoderKL", block_out_channels=(8, 16), latent_channels=4, **blocks)


# How to make each, how many convolutions it has, transposed ones among them, and the size of its images.
MODELS = {
    "ResNet": (resnet, 12, 0, 32),
    "ConvNeXt": (convnext, 5, 0, 32),
    "MobileNetV2": (mobilenet_v2, 52, 0, 32),
    "SegFormer": (segformer, 7, 0, 32),
    "DPT": (dpt, 35, 2, 32),
    "UNet2DModel": (unet, 25, 0, 16),
    "AutoencoderKL": (autoencoder_kl, 30, 0, 16),
}


def build(name):
    """A model in evaluation mode and the function that calls it: (model, images) to one tensor."""
    torch.manual_seed(0)
    model, call = MODELS[name][0]()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter.data)
        elif parameter.dim() == 1:
            torch.nn.init.normal_(parameter.data, 0.5, 0.2)
    return model.eval(), call


def images(name, count, seed):
    size = MODELS[name][-1]
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
