"""Run a whole study: search, train, weigh, certify, report. The same command again resumes it."""

from session import Options, open_session, run


def full_study(options: Options) -> None:
    """Run every stage; what is finished is skipped."""
    with open_session(options) as session:
        # The search comes first so that its winners train in the same group of workers as all other models.
        session.search()
        session.train()
        session.weigh()
        session.certify()
        session.report()


if __name__ == "__main__":
    run(full_study, description=__doc__, options=Options)
