"""The data sets, a row each.

A new one is its loader in learning/loaders.py and its row here; the study file, the report's references and whether
its images may be shown follow. Loads no torch.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set.

    name: as a study file's `data.name` calls it; what is noted beside records says it too, so it stays.
    title: what readers call it. about: what it holds, in a line. loader: its function's name in learning/loaders.py.
    path: whether a study may say by `data.source` where it lies. 'none': no, it is installed or downloaded. 'optional':
    it may, by default it is downloaded. 'required': it must, the images are one's own, and may change at any time.
    licence: under which the images come. shown: whether a report may hold some of them.
    cited, reference: the work it is from, as a text cites it and as the report's list has it; '' where there is none.
    """

    name: str
    title: str
    about: str
    loader: str
    path: Literal["none", "optional", "required"] = "none"
    licence: str
    shown: bool = False
    cited: str = ""
    reference: str = ""


_ROWS = (
    Source(
        name="digits",
        title="scikit-learn's digits",
        about="scikit-learn's 1,797 handwritten digits, 8 x 8 pixels in 17 greys; no validation split of its own",
        loader="digits",
        licence="CC BY 4.0",
        shown=True,
        cited="Alpaydin and Kaynak, 1998",
        reference="Alpaydin, E. and Kaynak, C. (1998). Optical recognition of handwritten digits. UCI Machine Learning "
        "Repository.",
    ),
    Source(
        name="tiny-imagenet",
        title="TinyImageNet",
        about="TinyImageNet-200: 200 classes of ImageNet at 64 x 64 pixels, 500 images each to train on, 50 for val",
        loader="tiny_imagenet",
        path="optional",
        licence="ImageNet's terms: non-commercial research and education only",
        cited="Le and Yang, 2015",
        reference="Le, Y. and Yang, X. (2015). Tiny ImageNet visual recognition challenge. CS 231N report, Stanford "
        "University.",
    ),
    Source(
        name="cifar100",
        title="CIFAR-100",
        about="CIFAR-100: 100 classes at 32 x 32 pixels, 500 images each to train on, 100 for val; by torchvision",
        loader="cifar100",
        licence="none stated; images that others put on the web",
        cited="Krizhevsky, 2009",
        reference="Krizhevsky, A. (2009). Learning multiple layers of features from tiny images. University of "
        "Toronto.",
    ),
    Source(
        name="folder",
        title="a folder of images",
        about="a folder of one's own: train/<class>/*.jpg and val/<class>/*.jpg, or <class>/*.jpg alone",
        loader="image_folder",
        path="required",
        licence="its owner's to say",
        shown=True,
    ),
)
SOURCES = {source.name: source for source in _ROWS}
