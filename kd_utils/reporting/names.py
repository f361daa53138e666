"""The names that a reader knows: of models, ways to teach and data sets. A study file's own `name` comes first."""

import re
from collections import Counter

from .. import methods
from ..schema import Model
from ..sources import SOURCES
from ..study import Study

# timm's and torchvision's names, and what the papers call these models
_MODELS = (
    (r"resnet(\d+)", r"ResNet-\1"),
    (r"resnet(\d+)t", r"ResNet-\1-T"),
    (r"wide_resnet(\d+)_2", r"Wide ResNet-\1-2"),
    (r"resnext(\d+)_(\d+x\d+d)", r"ResNeXt-\1 \2"),
    (r"regnet_y_(\d)_(\d)gf", r"RegNetY-\1.\2GF"),
    (r"densenet(\d+)", r"DenseNet-\1"),
    (r"vgg(\d+)", r"VGG-\1"),
    (r"(?:tf_)?efficientnet_lite(\d)", r"EfficientNet-Lite\1"),
    (r"(?:tf_)?efficientnet_b(\d)", r"EfficientNet-B\1"),
    (r"efficientnet_?v2_([a-z]+)", r"EfficientNetV2-\1"),
    (r"shufflenet_v2_x(\d)_(\d)", r"ShuffleNetV2 x\1.\2"),
    (r"mobilenet_v2", r"MobileNetV2"),
    (r"mobilenet_?v3_(small|large)(?:_100)?", r"MobileNetV3-\1"),
    (r"mnasnet(\d)_(\d+)", r"MNASNet \1.\2"),
    (r"squeezenet(\d)_(\d)", r"SqueezeNet \1.\2"),
    (r"lcnet_100", r"PP-LCNet"),
    (r"ghostnet_100", r"GhostNet"),
    (r"convnext_([a-z]+)", r"ConvNeXt-\1"),
    (r"vit_([a-z])_(\d+)", r"ViT-\1/\2"),
)


def of_model(name: str) -> str:
    """What papers call a model of timm or torchvision; as it is typed where that is not known."""
    plain = name.rpartition("/")[2]
    for pattern, called in _MODELS:
        if match := re.fullmatch(pattern, plain):
            return re.sub(r"(?<=-)[a-z]", lambda m: m[0].upper(), match.expand(called))
    return name


def of_students(study: Study) -> dict[str, str]:
    """Label -> name of every student; two that would be called the same keep their labels."""
    called = {student.label: _of(student) for student in study.students}
    twice = Counter(called.values())
    return {label: name if twice[name] == 1 else label for label, name in called.items()}


def of_candidate(study: Study, label: str) -> str:
    """The name of a teacher candidate."""
    return next((_of(candidate) for candidate in study.teacher.candidates if candidate.label == label), label)


def of_method(study: Study, label: str) -> str:
    """The name of a way to teach, by its label in the study."""
    if label == methods.KD.name:
        return methods.KD.title
    method = study.method(label)
    return method.name or method.teaching.title


def of_data(study: Study) -> str:
    """The name of the study's data set."""
    return SOURCES[study.data.name].title


def _of(model: Model) -> str:
    called = of_model(model.model)
    return model.name or (called if called != model.model else model.label)  # of one's own, or of no model: the label
