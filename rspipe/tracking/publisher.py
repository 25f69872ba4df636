"""Publishing beside the stages of a study, which wait for nothing but its end."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from rspipe.report.headline import Headline
from rspipe.report.results import Results
from rspipe.report.summaries import Summary
from rspipe.storage.paths import StorePath
from rspipe.tracking.publish import Tracker


class Publisher:
    """A tracker in a thread of its own, which does one thing after the other: seconds of CPU each, in a database."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")

    def open(self) -> None:
        """Make the parent run, or mark it as running again; do not wait for that."""
        self._thread.submit(self._tracker.open)

    def publish(
        self,
        results: Results,
        summaries: Sequence[Summary] = (),
        files: Mapping[str, StorePath] | None = None,
        message: Headline | None = None,
    ) -> None:
        """Bring MLflow up to date, see `Tracker.publish`; do not wait for that."""
        self._thread.submit(self._tracker.publish, results, summaries, files, message)

    def wait(self) -> None:
        """Return once all is done that was asked for."""
        self._thread.submit(lambda: None).result()

    def finish(self, status: str) -> None:
        """Close the parent run with one of MLflow's states; unless it is FINISHED, what is at work is cut short."""
        if status != "FINISHED":
            self._tracker.stop()
        self._thread.submit(self._tracker.finish, status).result()
        self._thread.shutdown()

    @property
    def works(self) -> bool:
        """Whether nothing has failed so far but the store of files."""
        return self._tracker.works

    @property
    def address(self) -> str:
        """The address of the page that compares the classifiers of this study."""
        return self._tracker.address
