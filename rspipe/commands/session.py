"""A study being run: its stages, with progress in the terminal, warnings, and the tracker."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

import torch
from rich.logging import RichHandler
from rich.markup import escape
from torch import nn

from rspipe.commands.options import StageOptions, StudyRun, fastest_for_workers, run_to_do, run_to_read
from rspipe.commands.tables import SCREEN_ROWS, print_headline
from rspipe.commands.terminal import SafeFormatter, Terminal
from rspipe.data.files import check_pictures
from rspipe.data.sources import load_dataset
from rspipe.data.splits import Dataset, Split
from rspipe.ensembles.spec import EnsembleSpec
from rspipe.errors import DataError, ModelError
from rspipe.execution.connection import connect
from rspipe.execution.resources import Cluster, Resources
from rspipe.networks.answers import answers_as_before, answers_of
from rspipe.networks.architectures import build_network, check_input, code_in
from rspipe.networks.deployment import check_precision, deploy
from rspipe.networks.modes import check_samples_are_apart
from rspipe.networks.precision import SLOW
from rspipe.records import EnsembleWeights
from rspipe.report.headline import MOST_ROWS, Headline, headline
from rspipe.report.summaries import Summary
from rspipe.search.trials import search_warnings
from rspipe.spec import ImageChoice, choice_text
from rspipe.stages.certify import certify_classifiers
from rspipe.stages.choose import choose_cascades
from rspipe.stages.report import (
    FigureFormat,
    finished_candidates,
    finished_ensembles,
    known_models,
    read_results,
    write_report,
)
from rspipe.stages.search import run_searches
from rspipe.stages.train import train_models
from rspipe.stages.weigh import weigh_ensembles
from rspipe.storage.classifiers import trained_network
from rspipe.storage.environment import environment
from rspipe.storage.files import checksum
from rspipe.storage.locks import exclusive
from rspipe.storage.opening import open_store
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.groups import CheckpointGroup
from rspipe.tracking.client import tracking_uri, ui_command
from rspipe.tracking.publish import Tracker
from rspipe.tracking.publisher import Publisher
from rspipe.training.fitting import check_surveys
from rspipe.training.published import published_network
from rspipe.training.spec import LoadedModelSpec


class Session:
    """A study being run: each method is one stage, which skips what is finished.

    Ray and MLflow are joined when a stage first needs them, and left when `exits` closes.
    """

    def __init__(
        self,
        study: StudyConfig,
        store: Store,
        terminal: Terminal,
        exits: ExitStack,
        *,
        ray_address: str | None,
        resources: Resources,
    ) -> None:
        self.study, self.store, self.terminal = study, store, terminal
        self._exits, self._ray_address, self._resources = exits, ray_address, resources
        self._reported: tuple[Headline, dict[str, StorePath]] | None = None
        self._connection = exits.enter_context(ExitStack())

    @cached_property
    def cluster(self) -> Cluster:
        """The Ray cluster.

        Raises:
            ClusterError: It cannot be joined, or is too small.
        """
        log = self.store.run_dir.local_part / "ray.log"
        self.terminal.doing("joining Ray")
        connection = connect(address=self._ray_address, resources=self._resources, log=log)
        cluster = self._connection.enter_context(connection)
        self.terminal.say(
            f"Study {self.study.id}, certified in {self.study.certify.precision}, on {cluster.summary}\n"
            f"in {self.store.run_dir}"
        )
        # Soon MLflow shows that the study runs, and how busy this machine is.
        self.tracker.open()
        return cluster

    @cached_property
    def tracker(self) -> Publisher:
        """The index in MLflow; its parent run ends with the session."""
        tracker = Publisher(Tracker(self.store, self.study))

        def finish(kind: type[BaseException] | None, *_: object) -> None:
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            tracker.finish("FINISHED" if kind is None else "KILLED" if interrupted else "FAILED")

        self._exits.push(finish)
        return tracker

    def check_pictures(self) -> None:
        """Say what was left out of the data, and find unreadable test pictures before models train for hours.

        Raises:
            DataError: Some of the pictures to be certified cannot be decoded.
        """
        self.terminal.doing("reading the data")
        data = load_dataset(self.study.data)
        for note in data.notes:
            self.warn(note)
        searches = (self.store.search_result(one.id, trials=one.trials) for one in self.study.search_specs)
        models = (self.store.trained_model(spec.id) for spec in known_models(self.store, self.study))
        if None in searches or None in models:
            check_pictures(data.test.chosen(self.study.certify.images))

    def check_code(self) -> None:
        """Find the user's own code that has changed since models were trained by it, before others are.

        Raises:
            ModelError: A model's architecture is no longer the one that was trained.
        """
        own = [spec for spec in known_models(self.store, self.study) if code_in(spec.architecture)]
        records = ((spec.architecture, self.store.trained_model(spec.id)) for spec in own)
        finished = {of: record.id for of, record in records if record is not None and record.status == "finished"}
        # One of each: the parameters do not matter.
        for model in finished.values():
            classes = load_dataset(self.study.data).classes
            trained_network(self.store, model, classes=classes, device=torch.device("cpu"))

    def search(self) -> bool:
        """Search hyper-parameters; return whether winners have joined the study's models."""
        specs, known = self.study.search_specs, known_models(self.store, self.study)
        results = run_searches(self.store, specs, cluster=self.cluster, on_progress=self.terminal.show)
        for spec, result in zip(specs, results, strict=True):
            if result.trials > spec.trials:
                self.warn(
                    f"{result.id}: the winner is that of the {result.trials} trials in the run directory, not of "
                    f"{spec.trials}; choose another with --run-dir for a search of fewer"
                )
            for line in search_warnings(result.id, self.store.trials(result.id)):
                self.warn(line)
        self._publish()
        return known_models(self.store, self.study) != known

    def train(self) -> None:
        """Train every base classifier that is known."""
        specs = known_models(self.store, self.study)
        for record in train_models(self.store, specs, cluster=self.cluster, on_progress=self.terminal.show):
            if record.status != "finished":
                self.warn(f"{record.id} {record.status} and is left out: {record.message}")
            elif record.collapsed:
                self.warn(f"{record.id} predicts a single class on the validation split")
            if record.source == "checkpoint":
                self.terminal.say(f"{record.id}: clean accuracy {record.clean_accuracy:.3f}")
                if record.message:
                    self.warn(f"{record.id}: {record.message}")
        self._publish()

    def weigh(self) -> None:
        """Solve the weights of every ensemble whose members are trained, and choose levels of cascades."""
        specs = finished_ensembles(self.store, self.study)
        known = self.study.ensemble_specs(known_models(self.store, self.study))
        self._warn_of_missing(known, specs, "a member is not trained, diverged or collapsed")
        weigh_ensembles(
            self.store,
            self.study,
            specs,
            alone=finished_candidates(self.store, self.study),
            cluster=self.cluster,
            on_progress=self.terminal.show,
        )
        choices = choose_cascades(self.store, self.study)
        for choice in choices:
            self.terminal.say(choice.text)
        chosen = {choice.name for choice in choices}
        for name in (one.name(self.study.sigmas) for one in self.study.cascades if one.choose):
            if name not in chosen:
                self.warn(f"cascade {name} is left out: a model is untrained, or no candidate has all its levels")
        self._publish()

    def certify(self) -> None:
        """Certify every trained model and every weighted ensemble."""
        results = read_results(self.store, self.study)
        self._warn_of_missing(finished_ensembles(self.store, self.study), results.ensembles, "weigh it first")
        certify_classifiers(
            self.store,
            self.study,
            results.models,
            results.ensembles,
            cluster=self.cluster,
            on_progress=self.terminal.show,
        )
        self._publish()

    def report(self, *, figures: tuple[FigureFormat, ...] = ("svg",)) -> None:
        """Write the reports and publish everything; the session shows the result when it has left Ray and MLflow."""
        # Nothing below needs it, and somebody else may.
        self.terminal.doing("leaving Ray")
        self._connection.close()
        self.terminal.doing("writing the report")
        results = read_results(self.store, self.study)
        summaries, files = write_report(self.store, results, figures=figures)
        message = headline(results, most=SCREEN_ROWS if self.terminal.console.is_terminal else MOST_ROWS)
        self.terminal.doing("publishing in MLflow")
        self.tracker.publish(results, self._complete(summaries), files, message)
        self.tracker.wait()
        self._reported = message, files

    def show_end(self) -> None:
        """Show what was reported, if anything was: the last that is printed, on one screen."""
        self.terminal.stop()
        if self._reported is None:
            return
        message, files = self._reported
        self.terminal.say(f"\n{self.study.name}: {self.study.title}")
        print_headline(self.terminal.console, message)
        self.terminal.say(f"Report  {files['report.html']}")
        self.terminal.say(f"Table   {files['summary.md']}")
        if self.tracker.works:
            self.terminal.say(f"MLflow  {self.tracker.address}")
            if command := ui_command(tracking_uri(self.store.run_dir)):
                self.terminal.say(f"        once you have started {command}")

    def _publish(self) -> None:
        self.terminal.doing("reading the results")
        results = read_results(self.store, self.study)
        self.tracker.publish(results, self._complete(results.summaries))

    def _warn_of_missing(
        self,
        wanted: Iterable[EnsembleSpec | EnsembleWeights],
        present: Iterable[EnsembleSpec | EnsembleWeights],
        reason: str,
    ) -> None:
        ids = {ensemble.id for ensemble in present}
        for label, sigma in sorted({(ensemble.label, ensemble.sigma) for ensemble in wanted if ensemble.id not in ids}):
            self.warn(f"ensemble {label} at sigma {sigma:g} is left out: {reason}")

    def _complete(self, summaries: tuple[Summary, ...]) -> list[Summary]:
        """Return those certified on all images: an index that shows a number keeps it."""
        images = self.store.images_to_certify()
        return [summary for summary in summaries if summary.images == images]

    def warn(self, message: str) -> None:
        """Print a line as a warning."""
        self.terminal.console.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)


def _check_data(study: StudyConfig) -> None:
    """Check before anything starts that the data are there, the splits large enough, and fit for the networks.

    Raises:
        DataError: They are missing or too few.
        ModelError: A network is not made for them, or cannot be loaded once it is trained; a checkpoint is of another
            network, or two of one label have the same parameters.
    """
    data = load_dataset(study.data)
    trained = [group for group in study.groups if not isinstance(group, CheckpointGroup)]
    if trained and not len(data.train):
        raise DataError(f"{data.name} has no training part, which {trained[0].label!r} is trained on; see data.train")
    choices: dict[str, tuple[Split, ImageChoice | None]] = {"certify.images": (data.test, study.certify.images)}
    if study.ensembles or any(cascade.choose for cascade in study.cascades):
        if not len(data.calibration):
            raise DataError(
                f"{data.name} has no training part to hold calibration images out of, which the weights of ensembles "
                "are solved on and cascades chosen; set data.calibration_from = 'test' and data.calibration to their "
                "number"
            )
        choices["weigh.images"] = (data.calibration, study.weigh.images)
    for name, (split, images) in choices.items():
        try:
            split.chosen(images)
        except DataError as error:
            raise DataError(f"{name} = {choice_text(images)}: {error}") from error
    for architecture in {group.architecture for group in trained}:
        network = build_network(architecture, classes=data.classes, seed=0)
        check_input(network, data.sample_shape, architecture=architecture, classes=data.classes)
        _check_can_be_loaded(network, data, architecture=architecture)
        # Before it is trained for hours: some operations have no bfloat16 form, some networks no float32 one.
        deploy(network, precision=study.certify.precision)(torch.zeros(2, *data.sample_shape))
    for learner in (*study.model_specs, *study.search_specs):
        if not isinstance(learner, LoadedModelSpec):
            check_surveys(learner.method, learner.training.epochs, data)
    loaded: dict[tuple[str, float, str], str] = {}
    for spec in study.model_specs:
        # The file of a finished run may be gone.
        if isinstance(spec, LoadedModelSpec) and Path(spec.checkpoint.file).is_file():
            # Before Ray is started: a file's program has its own precision alone.
            network = published_network(spec, data)
            check_samples_are_apart(network)
            check_precision(network, study.certify.precision)
            own = spec.label, spec.train_sigma, checksum(network.state_dict())
            if (same := loaded.setdefault(own, spec.id)) != spec.id:
                raise ModelError(
                    f"{same} and {spec.id} have the same parameters, as if one network were two seeds; remove one of "
                    "their entries"
                )


def _check_can_be_loaded(network: nn.Module, data: Dataset, *, architecture: str) -> None:
    """Raise ModelError where the parameters and buffers of a network do not make it again."""
    other = build_network(architecture, classes=data.classes, seed=1)
    other.load_state_dict(network.state_dict())
    if not answers_as_before(other, data.sample_shape, answers_of(network, data.sample_shape)):
        raise ModelError(
            f"architecture {architecture!r} draws values that are neither parameters nor buffers, so that a trained "
            "one cannot be loaded; register them as buffers"
        )


def _in_bfloat16(study: StudyConfig) -> Iterator[tuple[str, str]]:
    """Yield the sections of a study file that ask for bfloat16, and what is done to a model there."""
    trained = (*(spec.precision for spec in study.model_specs), *(one.training.precision for one in study.search_specs))
    if "bfloat16" in trained:
        yield "training", "trained"
    if study.certify.precision == "bfloat16":
        yield "certify", "certified"


@contextmanager
def open_session(
    run: StudyRun, terminal: Terminal, *, ray_address: str | None, resources: Resources
) -> Iterator[Session]:
    """Open a study's run directory; Ray and MLflow follow when they are needed.

    Raises:
        RspipeError: Any of these fails; MLflow alone only costs a warning.
    """
    _log_to(terminal)
    with open_store(run.run_dir, run.study, source=run.source, environment=environment()) as store:
        with ExitStack() as exits:
            session = Session(run.study, store, terminal, exits, ray_address=ray_address, resources=resources)
            if fastest_for_workers(resources) == "float32":
                for what, done in _in_bfloat16(run.study):
                    session.warn(f"{what}.precision = 'bfloat16': {SLOW} where nothing is {done} yet")
            yield session
        session.show_end()


@contextmanager
def reopen_session(run_dir: str, terminal: Terminal) -> Iterator[Session]:
    """Open an existing run directory to report what is in it; its study, and what it was made with, stay as they are.

    Raises:
        StoreError: It is no run directory, of another version of rspipe, or in use by another process.
    """
    store, study = run_to_read(run_dir)
    _log_to(terminal)
    with exclusive(store.run_dir):
        with ExitStack() as exits:
            session = Session(study, store, terminal, exits, ray_address=None, resources=Resources())
            yield session
        session.show_end()


def _log_to(terminal: Terminal) -> None:
    """Let warnings of this process go to a terminal."""
    handler = RichHandler(console=terminal.console, show_time=False, show_level=False, show_path=False)
    handler.setFormatter(SafeFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


@contextmanager
def open_stages(options: StageOptions, terminal: Terminal) -> Iterator[Session]:
    """Load the study, check that its data and networks fit, and open its run directory.

    Raises:
        RspipeError: Any of these fails.
    """
    run = run_to_do(options)
    with open_run(run, terminal, ray_address=options.ray_address, resources=options.resources) as session:
        yield session


@contextmanager
def open_run(run: StudyRun, terminal: Terminal, *, ray_address: str | None, resources: Resources) -> Iterator[Session]:
    """Check that a study's data and networks fit, and open its run directory.

    Raises:
        RspipeError: Any of these fails.
    """
    terminal.doing("reading the data")
    _check_data(run.study)
    with open_session(run, terminal, ray_address=ray_address, resources=resources) as session:
        session.check_code()
        session.check_pictures()
        yield session
