"""Write the reports of a study from its run directory, finished or not, and publish them to MLflow."""

from session import Options, open_session, run


def report(options: Options) -> None:
    """Write the reports of a study from its run directory, finished or not, and publish them to MLflow."""
    with open_session(options) as session:
        session.report()


if __name__ == "__main__":
    run(report, description=__doc__, options=Options)
