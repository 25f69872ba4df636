"""What every pipeline does around its stages: options, progress in the terminal, errors as one line, the tracker."""

import logging
import os
import signal
import sys
import time
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
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from rspipe.architectures import build_network, check_input
from rspipe.datasets import load_dataset
from rspipe.errors import DataError, RspipeError, StoreError
from rspipe.importing import published_network
from rspipe.records import EnsembleWeights, Summary
from rspipe.resolved import EnsembleSpec
from rspipe.search_notes import search_warnings
from rspipe.stages.certify import certify_classifiers
from rspipe.stages.places import Place, local_part, place
from rspipe.stages.progress import Progress
from rspipe.stages.results import finished_ensembles, known_models, read_results, write_report
from rspipe.stages.runtime import Cluster, Resources, connect, environment
from rspipe.stages.search import run_searches
from rspipe.stages.store import Store, open_store
from rspipe.stages.tracking import Tracker, tracking_uri, ui_command
from rspipe.stages.train import train_models
from rspipe.stages.weigh import weigh_ensembles
from rspipe.study import load_study
from rspipe.study_config import StudyConfig
from rspipe.summaries import summarize
from rspipe.tables import Table as Content
from rspipe.tables import result_table

_LINE_SECONDS = 10.0
_EARLY_SECONDS = 60.0
_PLAIN_WIDTH = 180
_NAME_WIDTH = 32


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


class Terminal:
    """Progress bars where there is a terminal, a line now and then where there is none."""

    def __init__(self) -> None:
        self.console = Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH, highlight=False)
        columns = (
            TextColumn("{task.description:<8}"),
            BarColumn(),
            TextColumn("{task.fields[whole]}/{task.total:.0f} {task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
        )
        # Ray's stage of the run swaps sys.stderr; two who do so would undo each other.
        bars = Bars(*columns, console=self.console, redirect_stderr=False)
        self._bars = bars if self.console.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._printed = 0.0
        self._finished: set[str] = set()

    def stop(self) -> None:
        """Leave the terminal as it is."""
        if self._bars is not None:
            self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Show how far a stage is."""
        now, new = time.monotonic(), progress.stage not in self._began
        began = self._began.setdefault(progress.stage, now)
        if self._bars is not None:
            self._bars.start()
            if new:
                self._tasks[progress.stage] = self._bars.add_task(progress.stage, whole=0, unit="", detail="")
            self._bars.update(
                self._tasks[progress.stage],
                # An empty stage is a finished one.
                completed=progress.done if progress.total else 1,
                total=progress.total or 1,
                whole=progress.whole if progress.total else 1,
                unit=progress.unit,
                detail=progress.detail,
            )
            return
        finished = progress.done >= progress.total
        if progress.stage not in self._finished and (new or finished or now - self._printed > _LINE_SECONDS):
            self._printed = now
            if finished:
                self._finished.add(progress.stage)
            # Workers take seconds to start; an estimate from the first moments would be a wild one.
            early = progress.done == 0 or (progress.done < 0.02 * progress.total and now - began < _EARLY_SECONDS)
            left = None if early else (now - began) * (progress.total - progress.done) / progress.done
            eta = "" if finished else f", ETA {left:.0f} s" if left is not None else ", starting"
            self.console.print(
                f"{progress.stage}: {progress.whole}/{progress.total:.0f} {progress.unit}, "
                f"{now - began:.0f} s{eta} {progress.detail}".rstrip()
            )


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


def print_table(console: Console, content: Content, *, title: str) -> bool:
    """Print a result table with the columns that the terminal has room for; return whether these are all."""
    shown = fitting_columns(content, console.width)
    table = Table(title=escape(title), title_justify="left")
    for column in shown:
        name = column in ("classifier", "against")
        table.add_column(column, justify="left" if name else "right", no_wrap=not name, overflow="fold")
    for row in content.rows:
        cells = dict(zip(content.columns, row, strict=True))
        table.add_row(*(escape(cells[column].text) for column in shown))
    console.print(table)
    return len(shown) == len(content.columns)


def fitting_columns(content: Content, width: int) -> list[str]:
    """Return the columns of a result table that a terminal has room for; details go first, large radii next."""
    details = ["two-sided ACR", "passes", "saturated", "samples", "abstained", "training"]
    radii = [column for column in content.columns if column.startswith("CA(")]
    widths = {
        column: max(len(column), *(len(row[index].text) for row in content.rows))
        for index, column in enumerate(content.columns)
    }
    # Names may break into lines.
    widths["classifier"] = min(widths.get("classifier", 0), _NAME_WIDTH)
    shown = list(content.columns)
    for column in (one for one in (*details, *reversed(radii)) if one in shown):
        if 1 + sum(widths[one] + 3 for one in shown) <= width:
            break
        shown.remove(column)
    return shown


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
