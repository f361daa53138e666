import pytest

from kd_utils.reporting import results


@pytest.fixture(scope="session")
def kept():
    """What the committed records say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KD_ROOT", raising=False)
        return results.load("tiny-imagenet-20")
