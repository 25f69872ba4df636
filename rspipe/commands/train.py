"""Train the base classifiers of a study, with the winners of its searches that are finished."""

from rspipe.commands.options import StageOptions as Options
from rspipe.commands.session import open_stages


def main(options: Options) -> None:
    """Train what is not trained yet."""
    with open_stages(options) as session:
        session.train()
