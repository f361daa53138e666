"""The models of finished runs: their trained weights, found, loaded, and compared with what their records say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import paths
from ..records import Record, TeacherRecord
from ..schema import Candidate, Model
from ..study import Study
from . import models, training
from .data import Dataset
from .plans import Plan, RunError
from .weights import ModelError, fingerprint

LOGITS_OFF = 0.1  # relative; fp32 for bf16 was 0.003 off, ImageNet weights under another normalisation 0.95


def weights_file(study: Study, record: Record) -> Path | None:
    """Where a finished run's weights lie: in its folder, or, of the chosen teacher, beside the records; None if not."""
    beside = paths.results(study.name) / paths.TEACHER_WEIGHTS
    places = [record.folder / paths.WEIGHTS, *([beside] if isinstance(record, TeacherRecord) else [])]
    return next((path for path in places if path.is_file()), None)


def restored(plan: Plan, record: Record, about: Mapping[str, Any]) -> models.Classifier:
    """The model with its trained weights, which must be those of the record. Raises RunError.

    about: classes, counts and image_size of the data, as Shelf.dataset and Dataset.meta have them.
    """
    path = weights_file(plan.study, record)
    if path is None:
        where = record.folder / paths.WEIGHTS
        raise RunError(
            f"the weights of {record.id} are not here: bring {where} from the machine that trained it"
            + ("" if isinstance(record, TeacherRecord) else ", or move its folder away and run it again")
        )
    model = _blank(plan, about)
    other = f"{path} is not the file that the record {record.id} speaks of; bring that, or remove this one"
    try:
        models.restore(model, path)
    except (RuntimeError, ModelError):  # of another model, or damaged
        raise RunError(other) from None
    if fingerprint(model.backbone.state_dict(), model.mean, model.std) != record.weights_sha256:
        raise RunError(other)
    model.origin = record.provenance.weights_from
    return model


def trained(plan: Plan, record: Record, dataset: Dataset, device: torch.device) -> models.Classifier:
    """The model with its trained weights, which must say of val's images what its record says. Raises RunError."""
    model = restored(plan, record, dataset.meta)
    wanted = record.predictions["example_logits"].astype(np.float32)
    images = np.asarray(dataset.images("val"))[record.predictions["example"]]
    if isinstance(model, models.Given):
        logits = model.logits("val")[record.predictions["example"]]
    else:
        logits = training.predict_logits(model.to(device), images, precision=plan.study.precision_of(plan.model))
    wanted, logits = (x - x.mean(axis=1, keepdims=True) for x in (wanted, logits))
    off = float(np.linalg.norm(logits - wanted) / np.linalg.norm(wanted))
    if off > LOGITS_OFF:
        raise RunError(
            f"{weights_file(plan.study, record)}: on {len(images)} validation images the model's logits are {off:.0%} "
            f"off those of its record {record.id}; nothing is learned from it"
        )
    return model


def _blank(plan: Plan, about: Mapping[str, Any]) -> models.Classifier:
    """A plan's model, for weights to be restored into; about: the data."""
    spec, classes = plan.model, len(about["classes"])

    def blank(model: Model) -> models.Classifier:
        spec = model.model_copy(update={"pretrained": False})
        return models.create(spec, classes, about["image_size"])

    if isinstance(spec, Candidate) and spec.ensemble:
        return models.Ensemble([blank(plan.study.candidate(label)) for label in spec.ensemble])
    if isinstance(spec, Candidate) and spec.logits:
        return models.Given(about["counts"], classes)
    return blank(spec)
