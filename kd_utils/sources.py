"""The data sets, a row each.

A new one is its loader in learning/loaders.py and its row here; the study file, the report's references and whether
its images may be shown follow. Loads no torch.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that is fetched: its address, its size in bytes, and its MD5, by which it is known to be whole."""

    url: str
    bytes: int
    md5: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set.

    name: as a study file's `data.name` calls it; what is noted beside records says it too, so it stays.
    title: what readers call it. about: what it holds, in a line. classes, train, val: how many classes there are as
    it is published, and how many images each of them has; None where that is not fixed. loader: its function's name in
    learning/loaders.py. download: the file that the loader fetches by itself.
    path: whether a study may say by `data.source` where it lies. 'none': no, it is installed or downloaded. 'optional':
    it may, by default it is downloaded. 'required': it must, the images are one's own, and may change at any time.
    given: what such a path names.
    licence: under which the images come. shown: whether a report may hold some of them.
    cited, reference: the work it is from, as a text cites it and as the report's list has it; '' where there is none.
    """

    name: str
    title: str
    about: str
    classes: int | None = None
    train: int | None = None
    val: int | None = None
    loader: str
    download: Download | None = None
    path: Literal["none", "optional", "required"] = "none"
    given: str = ""
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
        about="TinyImageNet-200: classes of ImageNet at 64 x 64 pixels",
        classes=200,
        train=500,
        val=50,
        loader="tiny_imagenet",
        download=Download(
            url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            bytes=248_100_043,
            md5="90528d7ca1a48142e341f4ef8d21d0de",
        ),
        path="optional",
        given="zip or folder",
        licence="ImageNet's terms: non-commercial research and education only",
        cited="Le and Yang, 2015",
        reference="Le, Y. and Yang, X. (2015). Tiny ImageNet visual recognition challenge. CS 231N report, Stanford "
        "University.",
    ),
    Source(
        name="cifar100",
        title="CIFAR-100",
        about="CIFAR-100 at 32 x 32 pixels, by torchvision",
        classes=100,
        train=500,
        val=100,
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
        given="folder",
        licence="its owner's to say",
        shown=True,
    ),
)
SOURCES = {source.name: source for source in _ROWS}
