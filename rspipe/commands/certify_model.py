"""Certify checkpoints on images, alone and as an ensemble: a study is made of the options, and runs.

`rspipe certify --checkpoint ...` is the same command.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

from rspipe.commands.options import Overrides, RunDir, begun_or_new
from rspipe.commands.session import open_run
from rspipe.commands.terminal import Terminal
from rspipe.ensembles.spec import Weighting
from rspipe.execution.resources import Resources
from rspipe.networks.architectures import RUNS_CODE, allow_code_in
from rspipe.networks.precision import AnyPrecision
from rspipe.smoothing.classifiers import Average
from rspipe.stages.report import write_derived
from rspipe.study.checkpoint_study import CheckpointStudy, checkpoint_study
from rspipe.study.loading import study_of_text


@dataclass(frozen=True)
class Options:
    """Which networks to certify, on which images, and how."""

    checkpoint: tuple[str, ...]
    """Files of the networks, one or more."""
    images: str
    """A folder of class folders, a Parquet file or pattern, arrays (.npz, .pt), or a data set by name, e.g. cifar10."""
    sigma: tuple[float, ...]
    """Standard deviations of the noise, in pixel units."""
    model: tuple[str, ...] = ()
    """Architecture: one for all checkpoints, or one for each; a name such as resnet50, timm/resnet18, torchscript, or
    module:function of your own. ONNX files need none."""
    mean: tuple[float, ...] = ()
    """Normalization per channel, of pixels in [0, 1]: goes before any network."""
    std: tuple[float, ...] = ()
    normalization: str | None = None
    """Without mean and std: architecture (the default: its own, if it has any), none, centre, or file (stored with the
    network)."""
    parameters: str | None = None
    """Which parameters, where a file has several sets, e.g. ema."""
    denoiser: str | None = None
    """File of the denoiser, of an architecture "denoiser + classifier"."""
    ensemble: tuple[Weighting, ...] = ()
    """Weightings with which all are certified together, too, e.g. esbrs_ratio; solved on images that are held out."""
    average: Average | None = None
    """The kind of output that an ensemble averages; probabilities by default."""
    held_out: int | None = None
    """Images that are held out for the weights, and not certified; a fifth of them and 200 at most by default."""
    rule: str = "fixed"
    """fixed (CERTIFY), planned (fewer samples, as sound), radius_grid or decide (certified accuracies alone)."""
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    precision: AnyPrecision = "auto"
    """Of the forward pass; auto is bfloat16 where that is faster (networks/precision.py), else float32."""
    size: int | None = None
    """Side of the square that is cut out of the middle of every picture, in pixels; of pictures in files alone."""
    resize: int | None = None
    """Shorter side of the picture that it is cut out of."""
    classes: int | None = None
    """How many the networks know; the first checkpoint says so by default."""
    data_folder: str = "data"
    """Where a data set that is given by name lies."""
    name: str = "checkpoints"
    """Of the study, in reports."""
    run_dir: RunDir = None
    """Where results go, and where the same command resumes; runs/<study id> by default."""
    override: Overrides = ()
    """An override of the study that is made, e.g. certify.images=100; may be given several times."""
    allow_code: bool = False
    """Let TorchScript files run, here and on every worker. A module:function that --model names runs in any case; its
    module is installed, or lies in the working directory."""
    ray_address: str | None = None
    """host:port of a running Ray head; RAY_ADDRESS by default, and without that a Ray of this run's own."""
    resources: Resources = field(default_factory=Resources)


def study_text(options: Options) -> str:
    """Return the study file that the options stand for; errors are those of `checkpoint_study`.

    A module:function that they name may run: the number of classes is often known by it alone.
    """
    if _allowed(options):
        allow_code_in(Path.cwd())
    wanted = CheckpointStudy(**{one.name: getattr(options, one.name) for one in fields(CheckpointStudy)})
    return checkpoint_study(wanted, folder=Path.cwd())


def consents(models: Sequence[str]) -> bool:
    """Return whether who names these architectures wants code to run: a function's, and none that a file holds."""
    parts = [part.strip() for model in models for part in model.split("+")]
    return any(":" in part for part in parts) and not any(part in RUNS_CODE for part in parts)


def _allowed(options: Options) -> bool:
    return options.allow_code or consents(options.model)


def main(options: Options, terminal: Terminal) -> None:
    """Load, weigh, certify and report what is not finished yet."""
    text = study_text(options)
    load = partial(study_of_text, text, path=Path("options"), overrides=options.override, allow_code=_allowed(options))
    run = begun_or_new(lambda auto: load(auto=auto), options.run_dir, source=text, resources=options.resources)
    with open_run(run, terminal, ray_address=options.ray_address, resources=options.resources) as session:
        session.train()
        session.weigh()
        session.certify()
        session.report()
        _, logs = write_derived(session.store, session.study, kind="certify", alpha=None, n=None)
        terminal.say(f"Image by image, in Cohen's columns: {logs}")
