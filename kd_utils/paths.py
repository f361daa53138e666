"""Where things lie. The only module that knows."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

# the files in a run's folder
RECORD = "record.json"  # written last: the run is done
PREDICTIONS = "predictions.npz"  # on val, at the best epoch
VAL_LOGITS = "val_logits.npy"  # the same in full
WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.pt"  # of a run that is not done
SCORES = "scores.json"  # of a run that a search has stopped early: its accuracies so far
PROGRESS = "progress.json"  # how far its training is
FAILURE = "failure.json"  # why it failed
LOG = "run.log"  # what its process printed outside its notebook

# the files in a study's results
RESULTS_CSV = "results.csv"
DATA = "data.json"  # which data the records are of, and which files their models start from
TEACHER_WEIGHTS = "teacher.safetensors"  # the chosen teacher's, so that a clone can go on
SEARCH = "search.json"  # what the latest search tried, and what it came to
ANALYSIS = "analysis.ipynb"  # as executed for the report
LOCK = "study.lock"
HOLDER = "study.holder"  # who has the lock
LEFT = "study.left"  # how long it says that the study still takes
VIEW_TASK = "soft-targets-seed{}-view{}"  # the folder of a task that computes a view's soft targets

# the files of a report
PDF = "report.pdf"
HTML = "report.html"
RECORDS = "records.csv"  # the records that it rests on

# the files of a decoded data set
META = "meta.json"  # written last: fingerprint, classes, counts

# the files of stored soft targets
BINDING = "binding.json"  # what they depend on


def root() -> Path:
    """The folder that holds studies, results, report, data and cache: KD_ROOT, or else the checkout."""
    return Path(os.environ.get("KD_ROOT") or CHECKOUT).resolve()


def notebook(name: str) -> Path:
    """One of the checkout's notebooks: teacher, distill, analysis, explore or own_data."""
    return CHECKOUT / "notebooks" / f"{name}.ipynb"


def studies() -> Path:
    """The study files."""
    return root() / "studies"


def study_file(name: str | Path) -> Path:
    """A study file from a path, or from the bare name of a file in studies/."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    return studies() / f"{name}.yaml"


def results(study: str) -> Path:
    """All that a study finds out, results.csv among it."""
    return root() / "results" / study


def run(study: str, kind: str, run_id: str) -> Path:
    """The folder of one run; kind is 'teacher' or 'student'."""
    return results(study) / f"{kind}s" / run_id


def report(study: str) -> Path:
    """The PDF and its figures."""
    return root() / "report" / study


def exported(study: str) -> Path:
    """Models in the forms in which others run them."""
    return root() / "export" / study


def downloads() -> Path:
    """Archives of data sets, as their publishers offer them."""
    return root() / "data"


def arrays(name: str) -> Path:
    """A data set, decoded."""
    return root() / "cache" / "data" / name


def compiled() -> Path:
    """What torch.compile has made."""
    return root() / "cache" / "inductor"


def array(folder: Path, split: str, what: str) -> Path:
    """An array of a decoded data set: the images, or the labels, of a split."""
    return folder / f"{split}_{what}.npy"


def view_file(folder: Path, number: int) -> Path:
    """The soft targets of a view; beside it lie a note of the device that computed them, .json, and a .lock."""
    return folder / f"view_{number:04d}.npy"


def soft_targets(name: str) -> Path:
    """A teacher's logits, a view a file."""
    return root() / "cache" / "soft_targets" / name


def from_root(path: str | Path) -> str:
    """A path from the root, by which it is known wherever the root is moved to."""
    return Path(os.path.relpath(Path(path).resolve(), root())).as_posix()


def shown(path: str | Path) -> str:
    """A path as a report names it: from the root, if it lies below."""
    path = Path(path).resolve()
    return path.relative_to(root()).as_posix() if path.is_relative_to(root()) else path.name
