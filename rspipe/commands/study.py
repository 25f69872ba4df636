"""Run a whole study: search, train, weigh, certify, report. The same command again resumes it."""

from rspipe.commands.options import StageOptions as Options
from rspipe.commands.session import open_stages
from rspipe.commands.terminal import Terminal


def main(options: Options, terminal: Terminal) -> None:
    """Run every stage; what is finished is skipped."""
    with open_stages(options, terminal) as session:
        # The search comes first so that its winners train in the same group of workers as all other models.
        session.search()
        session.train()
        session.weigh()
        session.certify()
        session.report()
