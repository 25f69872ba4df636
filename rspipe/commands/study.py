"""Run a whole study: train, search, weigh, certify, report. The same command again resumes it."""

from rspipe.commands.options import StageOptions as Options
from rspipe.commands.session import open_stages
from rspipe.commands.terminal import Terminal


def main(options: Options, terminal: Terminal) -> None:
    """Run every stage; what is finished is skipped."""
    with open_stages(options, terminal) as session:
        # A first model after some seconds, and what ails the others before the search takes its time.
        session.train()
        if session.search():
            session.train()
        session.weigh()
        session.certify()
        session.report()
