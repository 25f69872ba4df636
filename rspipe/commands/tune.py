"""Search the hyper-parameters of a study on its validation split."""

from rspipe.commands.options import StageOptions as Options
from rspipe.commands.session import open_stages


def main(options: Options) -> None:
    """Run the searches that are not finished."""
    with open_stages(options) as session:
        session.search()
