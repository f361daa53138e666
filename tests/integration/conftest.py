import pytest

from kd_utils.running import pool


@pytest.fixture(scope="session", autouse=True)
def warm():
    """The process that runs are forked from, for all commands of this one: its imports go on beside the first tests."""
    pool.warm_up()
