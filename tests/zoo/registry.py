"""Every network of the zoo by name, with what its authors published of its size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from . import dense, encoders, mobile, pretrained, recurrent, residual, speech, transformers
from .model import Build, Family, Input, ZooModel, random_weights

__all__ = ["ZOO"]

PICTURE = Input((3, 224, 224))
FRAME = Input((1024,))
SILERO_INPUTS = (
    Input((576,)),
    Input((2, 128), "state", batch_axis=1),
    Input((), "sr", constant=16000),
)
MTCNN = "arXiv 1604.02878, figure 2; count: mtcnn-p, -r, -o of Open Model Zoo (MParams)"
SPICE = "arXiv 1802.06182, figure 1; count: arXiv 1910.11664, table 1"
SWIN_MINI: dict[str, Any] = {
    "side": 64,
    "width": 32,
    "depths": (2, 2),
    "head_width": 16,
    "window": 4,
    "classes": 10,
}
WAV2VEC2_MINI = encoders.Wav2Vec2Shape(
    64, 96, heads=4, wide=192, depth=2, position_kernel=16, position_groups=4, classes=12
)


def _net(
    name: str,
    make: Callable[[], nn.Module],
    spec: Input,
    source: str,
    published: int | None = None,
    *,
    family: Family = "cnn",
    tolerance: float = 0.0,
    slow: bool = False,
) -> ZooModel:
    """A network with random weights."""
    return ZooModel(
        *(name, family, (spec,), source),
        build=random_weights(make, spec),
        published_parameters=published,
        tolerance=tolerance,
        slow=slow,
    )


def _vision(
    name: str, make: Callable[[], nn.Module], source: str, published: int, *, slow: bool = False
) -> ZooModel:
    """A classifier of pictures; torchvision documents its size to the last parameter."""
    return _net(
        name, make, PICTURE, f"{source}; meta['num_params'] of torchvision", published, slow=slow
    )


def _loaded(
    name: str,
    make: Callable[[Input], Build],
    spec: Input,
    source: str,
    published: int,
    *,
    tolerance: float = 0.0,
    family: Family = "cnn",
) -> ZooModel:
    """A network with its authors' weights."""
    return ZooModel(
        *(name, family, (spec,), source),
        build=make(spec),
        published_parameters=published,
        tolerance=tolerance,
    )


_VISION = (
    _vision("resnet18", residual.resnet18, "arXiv 1512.03385, table 1", 11_689_512),
    _vision("resnet50", residual.resnet50, "arXiv 1512.03385, table 1", 25_557_032),
    _vision("resnext50_32x4d", residual.resnext50, "arXiv 1611.05431, table 1", 25_028_904),
    _vision(
        *("wide_resnet50_2", residual.wide_resnet50, "arXiv 1605.07146, table 9", 68_883_240),
        slow=True,
    ),
    _vision("mobilenet_v2", mobile.MobileNetV2, "arXiv 1801.04381, table 2", 3_504_872),
    _vision("mobilenet_v3_large", mobile.MobileNetV3Large, "arXiv 1905.02244, table 1", 5_483_032),
    _vision("shufflenet_v2_x1_0", mobile.ShuffleNetV2, "arXiv 1807.11164, table 5", 2_278_604),
    _vision(
        "squeezenet1_1",
        mobile.SqueezeNet,
        "arXiv 1602.07360, table 1; v1.1 of the authors' repository",
        1_235_496,
    ),
    _vision("densenet121", dense.DenseNet, "arXiv 1608.06993, table 1", 7_978_856),
    _vision("googlenet", dense.GoogLeNet, "arXiv 1409.4842, table 1", 6_624_904),
    _vision("regnet_x_400mf", residual.regnet_x, "arXiv 2003.13678, figure 16", 5_495_976),
    _vision("regnet_y_400mf", residual.regnet_y, "arXiv 2003.13678, figure 17", 4_344_144),
    _vision("convnext_tiny", dense.ConvNeXt, "arXiv 2201.03545, table 9", 28_589_128),
)

_MORE_PICTURES = (
    _net(
        *("unet", dense.UNet, Input((3, 64, 64))),
        "arXiv 1505.04597, figure 1; count: as reported for BatchNorm, 3 channels and 1 class",
        31_037_633,
    ),
    _loaded(
        *("efficientnet_lite0", pretrained.efficientnet_lite0, PICTURE),
        "arXiv 1905.11946; count: tensorflow/tpu, efficientnet/lite/README.md, 4.7 M",
        4_700_000,
        tolerance=0.02,
    ),
    _net(
        *("vit_b_16", transformers.ViT, PICTURE),
        "arXiv 2010.11929, table 1; meta['num_params'] of torchvision",
        86_567_656,
        family="transformer",
        slow=True,
    ),
    _net(
        *("deit_tiny", transformers.DeiT, PICTURE),
        "arXiv 2012.12877, table 1 (5 M); count: timm's results, 5.72 M",
        5_717_416,
        family="transformer",
    ),
    _net(
        *("swin_mini", partial(transformers.Swin, **SWIN_MINI), Input((3, 64, 64))),
        "arXiv 2103.14030, section 3, smaller than any published one",
        family="transformer",
    ),
    _loaded("pnet", partial(pretrained.mtcnn, pretrained.PNet), Input((3, 32, 24)), MTCNN, 6_632),
    _loaded("rnet", partial(pretrained.mtcnn, pretrained.RNet), Input((3, 24, 24)), MTCNN, 100_178),
    _loaded("onet", partial(pretrained.mtcnn, pretrained.ONet), Input((3, 48, 48)), MTCNN, 389_040),
)

_SPEECH = (
    _net(
        *("m5", speech.M5, Input((1, 32000)), "arXiv 1610.00087, table 1, where 0.56 M is 0.5 M"),
        *(500_000,),
        tolerance=0.12,
    ),
    _net(
        *("m5_small", partial(speech.M5, 32, (1, 1, 2, 2), stride=16, classes=35)),
        *(Input((1, 8000)), "PyTorch's tutorial on speech command classification"),
        26_915,
    ),
    _net(
        *("ds_cnn", speech.DSCNN, Input((1, 49, 10))),
        "arXiv 1711.07128, table 7, small; count: trainable ones of MLPerf Tiny's keyword model",
        23_756,
    ),
    _net(
        *("bc_resnet_1", speech.BCResNet, Input((1, 40, 101)), "arXiv 2106.04140, tables 1, 2"),
        9_200,
        tolerance=0.01,
    ),
    _net(
        *("bc_resnet_8", partial(speech.BCResNet, 8), Input((1, 40, 101))),
        *("arXiv 2106.04140, tables 1 and 2", 321_000),
        tolerance=0.01,
    ),
    _net(
        *("tc_resnet8", speech.TCResNet8, Input((40, 98)), "arXiv 1904.03814, table 1", 66_000),
        tolerance=0.02,
    ),
    _net(
        *("res8", partial(speech.Res, 6, (4, 3)), Input((1, 101, 40))),
        *("arXiv 1710.10361, tables 1 and 4", 110_000),
        tolerance=0.01,
    ),
    _net(
        *("res15", partial(speech.Res, 13, None), Input((1, 101, 40))),
        *("arXiv 1710.10361, tables 2 and 4", 238_000),
        tolerance=0.01,
    ),
    _loaded(
        "crepe_tiny", partial(pretrained.crepe, "tiny", 128), FRAME, SPICE, 487_000, tolerance=0.01
    ),
    _loaded(
        "crepe_full",
        partial(pretrained.crepe, "full", 1024),
        FRAME,
        SPICE,
        22_200_000,
        tolerance=0.01,
    ),
    _net(
        *("wav2vec2_mini", partial(encoders.Wav2Vec2, WAV2VEC2_MINI), Input((4000,))),
        "arXiv 2006.11477, section 2 and appendix A, smaller than any published one",
        family="transformer",
    ),
    _net(
        *("conformer_mini", partial(encoders.Conformer, 96, 4, 2), Input((64, 80))),
        "arXiv 2005.08100, section 2, plain attention, smaller than any published one",
        family="transformer",
    ),
)

_SEQUENCES = (
    _net(
        *("crnn", recurrent.CRNN, Input((1, 151, 40)), "arXiv 1703.05390, table 1", 229_000),
        family="recurrent",
        tolerance=0.01,
    ),
    _loaded(
        *("voice_encoder", pretrained.voice_encoder, Input((160, 40))),
        "arXiv 1710.10467; count: pretrained.pt of Resemblyzer without its loss",
        1_423_616,
        family="recurrent",
    ),
    ZooModel(
        *("silero_vad", "recurrent", SILERO_INPUTS),
        "silero-vad 6.2.3, data/silero_vad.onnx: both sample rates, chosen by an If",
        path=pretrained.silero_vad,
    ),
    ZooModel(
        *("silero_vad_16k", "recurrent", SILERO_INPUTS),
        "silero-vad 6.2.3, data/silero_vad_16k_op15.onnx: one sample rate",
        path=partial(pretrained.silero_vad, "silero_vad_16k_op15.onnx"),
    ),
    _net(
        *("embedding_tagger", recurrent.EmbeddingTagger, Input((20,), "tokens", tokens=1000)),
        "a plain tagger of token ids; not from a paper",
        family="recurrent",
    ),
    _net(
        *("llama_block", partial(transformers.Llama, 128, 8, 2, 352, depth=2), Input((16, 128))),
        "arXiv 2302.13971, section 2.2, and 2305.13245 for the shared heads; smaller",
        family="transformer",
    ),
)

ZOO: dict[str, ZooModel] = {
    model.name: model for model in (*_VISION, *_MORE_PICTURES, *_SPEECH, *_SEQUENCES)
}
