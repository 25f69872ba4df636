"""What every pipeline does around its stages: options, progress in the terminal, errors as one line, the tracker."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, TypeVar

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from terminal import Terminal, print_table

from rspipe.data.sources import load_dataset
from rspipe.ensembles.spec import EnsembleSpec
from rspipe.errors import DataError, RspipeError, StoreError
from rspipe.execution.connection import connect
from rspipe.execution.resources import Cluster, Resources
from rspipe.networks.architectures import build_network, check_input
from rspipe.records import EnsembleWeights
from rspipe.report.sections.results import result_table
from rspipe.report.sections.search import search_warnings
from rspipe.report.summaries import Summary, summarize
from rspipe.stages.certify import certify_classifiers
from rspipe.stages.report import finished_ensembles, known_models, read_results, write_report
from rspipe.stages.search import run_searches
from rspipe.stages.train import train_models
from rspipe.stages.weigh import weigh_ensembles
from rspipe.storage.environment import environment
from rspipe.storage.opening import open_store
from rspipe.storage.paths import Place, local_part, place
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from rspipe.tracking.publish import Tracker, tracking_uri, ui_command
from rspipe.training.published import published_network

DIGITS = Path(__file__).parent / "studies" / "digits.toml"

GivenOptions = TypeVar("GivenOptions")

RunDir = Annotated[str | None, tyro.conf.arg(metavar="PATH|ADDRESS")]


@dataclass(frozen=True)
class Options:
    """Command line of the pipelines that run stages."""

    study: Path = DIGITS
    """The study file."""
    run_dir: RunDir = None
    """Where results go, and where the same study resumes: a folder or an address such as s3://bucket/name;
    runs/<study id> by default (see RSPIPE_RUNS)."""
    override: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")]] = ()
    """An override of the study file, e.g. certify.n=1000 or models.0.seeds=[0]; may be given several times."""
    allow_code: bool = False
    """Let the study file name architectures as module:function, whose code then runs here and on every worker."""
    ray_address: str | None = None
    """host:port of a running Ray head; RAY_ADDRESS by default, and without that a Ray of this run's own."""
    resources: Resources = field(default_factory=Resources)


def resolve_run_dir(given: str | None, study: StudyConfig) -> Place:
    """Return the run directory, absolute: as given, or $RSPIPE_RUNS/<study id>, or runs/<study id>.

    A job with a working directory runs in a copy that Ray deletes; there the default is below the home directory.

    Raises:
        StoreError: It would be deleted, or is an address that cannot be used.
    """
    temporary = "working_dir_files" in Path.cwd().parts
    root = os.environ.get("RSPIPE_RUNS") or ("~/rspipe-runs" if temporary else "runs")
    chosen = place(given) if given else place(root) / study.id
    if isinstance(chosen, Path) and "working_dir_files" in chosen.parts:
        raise StoreError(
            f"run directory {chosen} would lie in this job's working directory, which Ray deletes; "
            "give an absolute path or an address that all nodes see with --run-dir"
        )
    return chosen


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class Session:
    """A study being run: each method is one stage, which skips what is finished.

    Ray and MLflow are joined when a stage first needs them, and left when `exits` closes.
    """

    def __init__(
        self, study: StudyConfig, store: Store, options: Options, terminal: Terminal, exits: ExitStack
    ) -> None:
        self.study, self.store, self.terminal = study, store, terminal
        self._options, self._exits = options, exits

    @cached_property
    def cluster(self) -> Cluster:
        """The Ray cluster.

        Raises:
            ClusterError: It cannot be joined, or is too small.
        """
        options, log = self._options, local_part(self.store.run_dir) / "ray.log"
        cluster = self._exits.enter_context(connect(address=options.ray_address, resources=options.resources, log=log))
        # `ray job stop` and schedulers ask so; Ray's own handler, set just now, would end in an abort.
        signal.signal(signal.SIGTERM, _interrupt)
        # Before Ray is left: the bars belong to the terminal as it is now.
        self._exits.callback(self.terminal.stop)
        cluster.workers(1)
        self._say(f"Study {self.study.id} in {self.store.run_dir}, Ray at {cluster.address}")
        # From now on MLflow shows that the study runs, and how busy this machine is.
        self.tracker.open()
        return cluster

    @cached_property
    def tracker(self) -> Tracker:
        """The index in MLflow; its parent run ends with the session."""
        tracker = Tracker(self.store, self.study)

        def finish(kind: type[BaseException] | None, *_: object) -> None:
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            tracker.finish("FINISHED" if kind is None else "KILLED" if interrupted else "FAILED")

        self._exits.push(finish)
        return tracker

    def search(self) -> None:
        """Search hyper-parameters; the winners join the study's models."""
        specs = self.study.search_specs
        for found in run_searches(self.store, specs, cluster=self.cluster, on_progress=self.terminal.show):
            for line in search_warnings(found.id, self.store.trials(found.id)):
                self._warn(line)
        self._publish()

    def train(self) -> None:
        """Train every base classifier that is known."""
        specs = known_models(self.store, self.study)
        for record in train_models(self.store, specs, cluster=self.cluster, on_progress=self.terminal.show):
            if record.status != "finished":
                self._warn(f"{record.id} {record.status} and is left out: {record.message}")
            elif record.collapsed:
                self._warn(f"{record.id} predicts a single class on the validation split")
        self._publish()

    def weigh(self) -> None:
        """Solve the weights of every ensemble whose members are trained."""
        specs = finished_ensembles(self.store, self.study)
        known = self.study.ensemble_specs(known_models(self.store, self.study))
        self._warn_of_missing(known, specs, "a member is not trained, diverged or collapsed")
        weigh_ensembles(self.store, self.study, specs, cluster=self.cluster, on_progress=self.terminal.show)
        self._publish()

    def certify(self) -> None:
        """Certify every trained model and every weighted ensemble."""
        results = read_results(self.store, self.study)
        self._warn_of_missing(finished_ensembles(self.store, self.study), results.ensembles, "run weigh.py first")
        certify_classifiers(
            self.store,
            self.study,
            results.models,
            results.ensembles,
            cluster=self.cluster,
            on_progress=self.terminal.show,
        )
        self._publish()

    def report(self) -> None:
        """Write the reports, publish everything, and show the result."""
        results = read_results(self.store, self.study)
        summaries, files = write_report(self.store, results)
        self.tracker.publish(results, self._complete(summaries), files)
        self.terminal.stop()
        self._print_results(summaries)
        self._say(f"\nReport:  {files['report.html']}")
        self._say(f"MLflow:  {ui_command(tracking_uri(self.store.run_dir))}")

    def _publish(self) -> None:
        results = read_results(self.store, self.study)
        self.tracker.publish(results, self._complete(summarize(results)))

    def _warn_of_missing(
        self,
        wanted: Iterable[EnsembleSpec | EnsembleWeights],
        there: Iterable[EnsembleSpec | EnsembleWeights],
        reason: str,
    ) -> None:
        found = {one.id for one in there}
        for label, sigma in sorted({(one.label, one.sigma) for one in wanted if one.id not in found}):
            self._warn(f"ensemble {label} at sigma {sigma:g} is left out: {reason}")

    def _complete(self, summaries: tuple[Summary, ...]) -> list[Summary]:
        """Return those certified on all images: an index that shows a number keeps it."""
        images = len(load_dataset(self.study.data).test.evenly_spaced(self.study.certify.images))
        return [summary for summary in summaries if summary.images == images]

    def _say(self, message: str) -> None:
        self.terminal.console.print(escape(message), soft_wrap=True, highlight=False)

    def _warn(self, message: str) -> None:
        self.terminal.console.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)

    def _print_results(self, summaries: tuple[Summary, ...]) -> None:
        if not summaries:
            self._say("Nothing is certified yet.")
            return
        title = f"{self.study.name}: {self.study.title} ({self.study.certify.rule.name})"
        if not print_table(self.terminal.console, result_table(summaries), title=title):
            self._say(f"More columns in {self.store.run_dir / 'summary.md'}")


def _check_data(study: StudyConfig) -> None:
    """Find out before anything starts whether the data are there, the splits large enough, and fit for the networks.

    Raises:
        DataError: They are missing or too few.
        ModelError: A network is not made for them, or a checkpoint is of another network.
    """
    data = load_dataset(study.data)
    asked = {
        "certify.images": (data.test, study.certify.images),
        "weigh.images": (data.calibration, study.weigh.images),
    }
    for name, (split, images) in asked.items():
        try:
            split.evenly_spaced(images)
        except DataError as error:
            raise DataError(f"{name} = {images}: {error}") from error
    for architecture in {group.architecture for group in study.groups}:
        network = build_network(architecture, classes=data.classes, seed=0)
        check_input(network, data.sample_shape, architecture=architecture, classes=data.classes)
    for spec in study.model_specs:
        # Those of a finished run may be gone.
        if spec.method.name == "checkpoint" and Path(spec.method.file).is_file():
            published_network(spec, data)


@contextmanager
def open_session(options: Options) -> Iterator[Session]:
    """Load the study and open its run directory; Ray and MLflow follow when they are needed.

    Raises:
        RspipeError: Any of these fails; MLflow alone only costs a warning.
    """
    study = load_study(options.study, overrides=options.override, allow_code=options.allow_code)
    _check_data(study)
    terminal = Terminal()
    handler = RichHandler(console=terminal.console, show_time=False, show_level=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    run_dir = resolve_run_dir(options.run_dir, study)
    source = options.study.read_text(encoding="utf-8")
    with open_store(run_dir, study, source=source, environment=environment()) as store, ExitStack() as exits:
        exits.callback(terminal.stop)
        yield Session(study, store, options, terminal, exits)


def run(main: Callable[[GivenOptions], None], *, description: str | None, options: type[GivenOptions]) -> None:
    """Parse the command line and call a pipeline; what a user can mend is one line and exit status 2."""
    try:
        main(tyro.cli(options, description=description))
    except RspipeError as error:
        Console(stderr=True, width=None if sys.stderr.isatty() else 10_000).print(
            f"[red]error:[/] {escape(str(error))}", soft_wrap=True
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
