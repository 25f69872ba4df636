"""What a study file refers to must be there at the noise level that it is named for."""

from pathlib import Path

import pytest

from rspipe.errors import StudyError
from rspipe.study.config import StudyConfig
from rspipe.study.loading import study_of_text

STUDY = """
name = "levels"
architecture = "digits_cnn"
training = { epochs = 1 }
[[models]]
method = { name = "gaussian" }
sigma = [0.25, 0.5]
seeds = [0, 1]
[[models]]
method = { name = "gaussian" }
label = "other"
sigma = 0.25
seeds = [0]
[[models]]
method = { name = "gaussian" }
label = "wide"
sigma = 0.5
seeds = [2]
[[ensembles]]
members = "gaussian x2"
sigma = 0.5
"""


def load(more: str) -> StudyConfig:
    return study_of_text(STUDY + more, path=Path("levels.toml"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "[[claims]]\nfirst = 'other'\nsecond = 'gaussian'\nsigma = 0.5\n",
            r"claims\[0\]: there is no 'other' at sigma 0.5, but at 0.25$",
        ),
        (
            "[[claims]]\nfirst = 'gaussian x2 (uniform)'\nsecond = 'gaussian'\nsigma = [0.25, 0.5]\n",
            r"claims\[0\]: there is no 'gaussian x2 \(uniform\)' at sigma 0.25, but at 0.5$",
        ),
        (
            "[[claims]]\nfirst = 'other'\nsecond = 'wide'\n",
            r"claims\[0\]: no noise level has both 'other' and 'wide'$",
        ),
        (
            "[[published]]\nentry = 'wide'\nsigma = 0.25\nacr = 0.4\nsource = 'others'\n",
            r"published\[0\]: there is no 'wide' at sigma 0.25, but at 0.5$",
        ),
        (
            "[[cascades]]\nclassifiers = 'gaussian'\n[[claims]]\nfirst = 'gaussian over 0.5, 0.25'\nsecond = 'other'\n",
            r"claims\[0\]: no noise level has both 'gaussian over 0.5, 0.25' and 'other'$",
        ),
        (
            "[[cascades]]\nclassifiers = ['wide', 'gaussian']\nsigma = [0.5, 0.25]\n",
            r"cascades\[0\]: its levels have no seed in common \(wide at sigma 0.5 has seeds 2; gaussian at sigma 0.25 "
            r"has seeds 0, 1\); give them one$",
        ),
    ],
)
def test_what_is_not_at_its_noise_level_is_refused(more: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load(more)


def test_what_is_there_may_be_referred_to() -> None:
    study = load(
        "[[cascades]]\nclassifiers = 'gaussian'\n"
        "[[cascades]]\nclassifiers = ['gaussian x2 (uniform)', 'other']\nsigma = [0.5, 0.25]\n"
        "[[claims]]\nfirst = 'gaussian over 0.5, 0.25'\nsecond = 'gaussian'\nsigma = 0.5\n"
        "[[claims]]\nfirst = 'other'\nsecond = 'gaussian'\n"
    )
    assert (len(study.claims), len(study.cascades)) == (2, 2)
