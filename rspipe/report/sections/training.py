"""Section: trained models and their learning curves."""

from collections.abc import Sequence
from statistics import fmean

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rspipe.records import TrainedModel
from rspipe.report.figures import STYLE, draw_legend, drawn, entry_colours, legend_text, new_panel
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.summaries import display_name
from rspipe.report.tables import Cell, Table, duration, number_cell, quantity, sigma_cell

_MEASURES = {"validation_acr": "ACR on validation images", "noisy_accuracy": "accuracy on noisy training batches"}


def model_table(models: Sequence[TrainedModel]) -> Table:
    """Return one row per trained model; accuracies are those on the validation split."""

    def state(model: TrainedModel) -> Cell:
        if model.status != "finished":
            return Cell(f"{model.status}: {model.message}" if model.message else model.status, tone="bad")
        return Cell("one class only", tone="bad") if model.collapsed else Cell("finished")

    return Table.of(
        {
            "σ": sigma_cell(model.train_sigma),
            "model": Cell(display_name(model)),
            "state": state(model),
            "clean accuracy": number_cell(model.clean_accuracy),
            "noisy accuracy": number_cell(model.noisy_accuracy),
            "epochs": number_cell(len(model.history), digits=0),
            "training": Cell(duration(model.seconds), model.seconds),
            "passes": Cell(quantity(model.passes), model.passes),
            "parameters": Cell(quantity(model.parameters), model.parameters),
            "device": Cell(model.device),
            "precision": Cell(model.precision or "–"),
        }
        for model in models
    )


def learning_curve_figure(results: Results, *, sigma: float, measure: str) -> Figure | None:
    """Return a measure of the training history by epoch, e.g. `loss` or `validation_acr`; None without any.

    Of a label it is the mean over seeds, and the band from the lowest to the highest.
    """
    models = [m for m in results.models if m.train_sigma == sigma and any(measure in entry for entry in m.history)]
    if not models:
        return None
    styles = entry_colours([model.label for model in results.models], baseline=results.baseline)
    with mpl.rc_context(STYLE):
        figure, axes = new_panel(f"Training, σ = {sigma:g}", "epoch", _MEASURES.get(measure, measure), height=3.6)
        for label in dict.fromkeys(model.label for model in models):
            alike = [model.history for model in models if model.label == label]
            seeds = [{entry["epoch"]: entry[measure] for entry in history if measure in entry} for history in alike]
            # One that failed has fewer epochs than the others.
            values = {epoch: [one[epoch] for one in seeds if epoch in one] for epoch in sorted(set().union(*seeds))}
            colour, line = styles[label]
            means = [fmean(of_epoch) for of_epoch in values.values()]
            axes.plot([*values], means, line, color=colour, linewidth=1.3, label=legend_text(label))
            ends = [min(of_epoch) for of_epoch in values.values()], [max(of_epoch) for of_epoch in values.values()]
            axes.fill_between([*values], *ends, color=colour, alpha=0.15, linewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        draw_legend(figure)
    return figure


def section(results: Results) -> Section:
    """Return the section; it says so where nothing is trained."""
    known = {measure for model in results.models for entry in model.history for measure in entry}
    # Losses of different methods are not comparable.
    measure = "validation_acr" if "validation_acr" in known else "noisy_accuracy"
    figures = {
        f"training-sigma-{sigma:g}": learning_curve_figure(results, sigma=sigma, measure=measure)
        for sigma in results.sigmas
    }
    failed = sum(model.status != "finished" for model in results.models)
    seconds = duration(sum(model.seconds for model in results.models))
    loaded = sum(model.source == "checkpoint" for model in results.models)
    trained = f"{len(results.models) - loaded} models in {seconds} of training, {failed or 'none'} of which failed"
    parts = [trained] * (loaded < len(results.models)) + [f"{loaded} models loaded"] * bool(loaded)
    finding = f"{', '.join(parts)}."
    content = {"models": model_table(results.models), "loaded": loaded}
    return Section("training", content, drawn(figures), finding=finding if results.models else "")
