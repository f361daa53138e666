"""Knowledge distillation over a T x alpha grid: from images to the report.

    run_study("digits")                              # all of it, each step only as far as it is not done
    run = student("digits", T=4, alpha=0.5)          # one cell, a step at a time
    run.fit(), run.evaluate(), run.save()

Importing the package loads nothing, so it loads no torch; each of these loads what it needs.
"""

__version__ = "0.1.0"
__all__ = ["export", "predict", "run_study", "search", "student", "teacher"]

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is, without loading typing
if TYPE_CHECKING:
    from .learning.export import export, predict
    from .learning.run import student, teacher
    from .running.pipeline import run_study
    from .running.search import search


def __getattr__(name: str) -> object:
    if name == "run_study":
        from .running.pipeline import run_study

        return run_study
    if name == "search":
        from .running.search import search

        return search
    if name in ("export", "predict"):
        from .learning import export

        return getattr(export, name)
    if name in ("student", "teacher"):
        from .learning import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
