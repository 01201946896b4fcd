"""Per-sample gradients by vmap of grad, as differential privacy and influence functions want them, of small CNNs.

    python -m benchmarks.per_sample [--networks pooled separable] [--batch 32]

Both sides run the same code, one with torch's layers and one converted, whose gradients are compared with a loop over
the samples. (Not with torch's loop: a ReLU's input that is zero but for rounding may have another sign there, and so
another gradient altogether.) What differs is the gradient of the weights: without the sum over the batch it is a
convolution with as many groups as there are samples, one call of convx's kernels. Exits with 1 if a gradient differs.
"""

import copy
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

import convx

from .commands import Pairs, parser, start
from .padding import same
from .timing import interleaved

CLASSES = 10


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def strided(width: int = 32) -> nn.Module:
    """3x3 convolutions, every other of stride 2."""
    layers, inputs = [], 3
    for outputs, stride in ((width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, *head(inputs))


def pooled(width: int = 32) -> nn.Module:
    """Three 3x3 convolutions, each followed by ReLU and 2x2 pooling."""
    layers, inputs = [], 3
    for outputs in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        inputs = outputs
    return nn.Sequential(*layers, *head(inputs))


def separable(width: int = 32) -> nn.Module:
    """A first layer, then 3x3 depthwise and 1x1 convolutions."""
    layers, inputs = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()], width
    for outputs, stride in ((2 * width, 2), (4 * width, 2)):
        layers += [nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs), nn.ReLU()]
        layers += [nn.Conv2d(inputs, outputs, 1), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, *head(inputs))


def convnext(width: int = 32) -> nn.Module:
    """ConvNeXt's blocks (arXiv:2201.03545), 7x7 depthwise and 1x1 up and down, without the shortcuts."""

    def block(inputs: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(inputs, inputs, 7, padding=3, groups=inputs)
        return [depthwise, nn.GroupNorm(1, inputs), nn.Conv2d(inputs, 4 * inputs, 1), nn.GELU(),
                nn.Conv2d(4 * inputs, inputs, 1)]  # fmt: skip

    layers = [nn.Conv2d(3, width, 2, 2), *block(width), nn.Conv2d(width, 2 * width, 2, 2), *block(2 * width)]
    return nn.Sequential(*layers, *head(2 * width))


def decoder(width: int = 32) -> nn.Module:
    """Down by two convolutions of stride 2, up again by two transposed ones."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(width, CLASSES, 4, 2, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


NETWORKS = {"strided": strided, "pooled": pooled, "separable": separable, "convnext": convnext, "decoder": decoder}
Gradients = dict[str, Tensor]


def per_sample(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Callable[[], tuple], Callable[[], tuple]]:
    """The gradients of each sample's loss by all parameters, at once and in a loop: functions that return them."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: Gradients, image: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(model, parameters, (image[None],)), label[None])

    at_once, one = vmap(grad(loss), (None, 0, 0)), grad(loss)

    def loop() -> tuple[Tensor, ...]:
        each = [one(parameters, image, label) for image, label in zip(images, labels, strict=True)]
        return tuple(torch.stack([gradients[name] for gradients in each]) for name in parameters)

    return lambda: tuple(at_once(parameters, images, labels).values()), loop


def main() -> int:
    made = parser("per_sample", __doc__, seconds=3.0)
    made.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME",
                      help=", ".join(NETWORKS))  # fmt: skip
    made.add_argument("--batch", type=int, default=32, help="(32)")
    made.add_argument("--size", type=int, default=32, help="of a side of the images (32)")
    options = start(made)
    pairs, wrong = Pairs("network, gradients of each sample", "ms"), []
    for name in options.networks:
        torch.manual_seed(0)
        model = NETWORKS[name]().to(options.device)
        images = torch.randn(options.batch, 3, options.size, options.size).to(options.device)
        labels = torch.arange(options.batch, device=options.device).remainder(CLASSES)
        converted = convx.convert(copy.deepcopy(model), quiet=True)
        both, loops = zip(*(per_sample(m, images, labels) for m in (model, converted)), strict=True)
        timings = interleaved(dict(zip(("torch", "convx"), both, strict=True)), options.device, options.seconds)
        if not same(timings["convx"].result, loops[1]()):
            wrong.append(name)
        what = f"{name}, {options.batch} x 3 x {options.size} x {options.size}, {convx.count(converted)} layers"
        pairs.add(what, timings, "OFF" if name in wrong else "")
    pairs.close()
    if wrong:
        print(f"gradients differ from a loop's: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
