"""The ways to teach, a row each.

A new one is its loss in learning/losses.py and its row here; the study file, the run of a cell and the report's
references follow. Loads no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TaughtBy = Literal["", "teacher", "self", "early", "random"]


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """A way to teach.

    name: as a study file's `methods` and the records' settings call it: part of the keys, so it stays.
    title: what readers call it. about: what it does, in a line. loss: its function's name in learning/losses.py.
    taught_by: whose soft targets it learns from: '' nobody's, 'teacher' the teacher's, 'self' those of the student's
    own baseline of the same seed, which was trained on the same views, so that its soft targets name their classes
    more often than those of fresh ones; 'early' those of the teacher's candidate trained for one epoch, 'random' those
    of its architecture with random weights.
    temperature: whether the loss has one; if not, T is 1 in its cells' names and keys.
    weights: the weights that the loss takes beside T and alpha, each from 0 on, and their defaults.
    cited, reference: the work it is from, as a text cites it and as the report's list has it; '' where there is none.
    """

    name: str
    title: str
    about: str
    loss: str
    taught_by: TaughtBy = "teacher"
    temperature: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)
    cited: str = ""
    reference: str = ""


BASELINE = Teaching(
    name="baseline",
    title="baseline",
    about="the cross-entropy alone, training without distillation: a cell at alpha = 1",
    loss="ce_loss",
    taught_by="",
    temperature=False,
)
KD = Teaching(
    name="kd",
    title="distillation",
    about="plain distillation, the grid's: the KL divergence between the softened softmax of teacher and student",
    loss="kd_loss",
    cited="Hinton et al., 2015",
    reference="Hinton, G., Vinyals, O. and Dean, J. (2015). Distilling the knowledge in a neural network. "
    "arXiv:1503.02531.",
)
_FURLANELLO = "Furlanello, T. et al. (2018). Born again neural networks. ICML. arXiv:1805.04770."
_YUAN = (
    "Yuan, L. et al. (2020). Revisiting knowledge distillation via label smoothing regularization. CVPR. "
    "arXiv:1909.11723."
)
_FURTHER = (
    Teaching(
        name="dkd",
        title="DKD",
        about="decoupled distillation: the target class and the other classes are weighed apart",
        loss="dkd_loss",
        weights={"target": 1.0, "nontarget": 8.0},
        cited="Zhao et al., 2022",
        reference="Zhao, B. et al. (2022). Decoupled knowledge distillation. CVPR. arXiv:2203.08679.",
    ),
    Teaching(
        name="standardised",
        title="standardised logits",
        about="logit standardisation: each image's logits at mean 0 and standard deviation 1",
        loss="standardised_kd_loss",
        cited="Sun et al., 2024",
        reference="Sun, S. et al. (2024). Logit standardization in knowledge distillation. CVPR. arXiv:2403.01427.",
    ),
    Teaching(
        name="dist",
        title="DIST",
        about="DIST: the correlations of the probabilities, between classes and within a class",
        loss="dist_loss",
        weights={"inter": 1.0, "intra": 1.0},
        cited="Huang et al., 2022",
        reference="Huang, T. et al. (2022). Knowledge distillation from a stronger teacher. NeurIPS. arXiv:2205.10536.",
    ),
    Teaching(
        name="mse",
        title="logit matching",
        about="the squared difference of the logits, which plain distillation tends to as T grows",
        loss="mse_loss",
        temperature=False,
        cited="Kim et al., 2021",
        reference="Kim, T. et al. (2021). Comparing Kullback-Leibler divergence and mean squared error loss in "
        "knowledge distillation. IJCAI. arXiv:2105.08919.",
    ),
    Teaching(
        name="label_smoothing",
        title="label smoothing",
        about="label smoothing: the uniform distribution for a teacher",
        loss="label_smoothing_loss",
        taught_by="",
        temperature=False,
        cited="Szegedy et al., 2016",
        reference="Szegedy, C. et al. (2016). Rethinking the Inception architecture for computer vision. CVPR. "
        "arXiv:1512.00567.",
    ),
    Teaching(
        name="self",
        title="self-distillation",
        about="self-distillation: plain distillation with the student's own baseline for a teacher",
        loss="kd_loss",
        taught_by="self",
        cited="Furlanello et al., 2018",
        reference=_FURLANELLO,
    ),
    Teaching(
        name="permuted",
        title="permuted logits",
        about="a control: plain distillation, the teacher's logits of the other classes permuted at random",
        loss="permuted_kd_loss",
        cited="Furlanello et al., 2018",
        reference=_FURLANELLO,
    ),
    Teaching(
        name="early_teacher",
        title="early teacher",
        about="a control: plain distillation, the teacher as it is when it is trained for one epoch",
        loss="kd_loss",
        taught_by="early",
        cited="Yuan et al., 2020",
        reference=_YUAN,
    ),
    Teaching(
        name="random_teacher",
        title="random teacher",
        about="a control: plain distillation, a teacher of random weights",
        loss="kd_loss",
        taught_by="random",
        cited="Yuan et al., 2020",
        reference=_YUAN,
    ),
)
FURTHER = {teaching.name: teaching for teaching in _FURTHER}  # what a study file may name under `methods`
TEACHINGS = {teaching.name: teaching for teaching in (BASELINE, KD, *_FURTHER)}
