"""What a run directory holds, read back as records, and the reports made from it."""

from pathlib import Path

from rspipe.figures import figure_svg
from rspipe.records import Summary
from rspipe.report import render_report, report_figures
from rspipe.stages.certify import certification_keys
from rspipe.stages.store import Store, read_json, write_text
from rspipe.study import EnsembleSpec, ModelSpec, StudyConfig
from rspipe.summaries import Results, compare, summarize
from rspipe.tables import summary_markdown, summary_tsv


def known_models(store: Store, study: StudyConfig) -> tuple[ModelSpec, ...]:
    """Return the study's base classifiers: those of the file, and the winners of the searches that are finished."""
    winners = [
        spec
        for search in study.search_specs
        if (result := store.search_result(search.id)) is not None
        for spec in study.winner_specs(search, result.best)
    ]
    return (*study.model_specs, *winners)


def finished_ensembles(store: Store, study: StudyConfig) -> tuple[EnsembleSpec, ...]:
    """Return the study's ensembles whose members are all trained and did not diverge.

    Members are the first models of a label in the order of its seeds: none takes the place of another.
    """
    records = {spec.id: store.trained_model(spec.id) for spec in known_models(store, study)}
    finished = {id_ for id_, record in records.items() if record is not None and record.status == "finished"}
    return tuple(spec for spec in study.ensemble_specs(known_models(store, study)) if finished.issuperset(spec.members))


def read_results(store: Store, study: StudyConfig) -> Results:
    """Return everything the study has produced so far."""
    models = [record for spec in known_models(store, study) if (record := store.trained_model(spec.id)) is not None]
    searches = [result for search in study.search_specs if (result := store.search_result(search.id)) is not None]
    trials = [
        trial
        for search in study.search_specs
        for index in range(search.trials)
        if (trial := store.trial(search.id, index)) is not None
    ]
    specs = finished_ensembles(store, study)
    ensembles = [weights for spec in specs if (weights := store.ensemble_weights(spec.id)) is not None]
    return Results(
        study=study,
        environment=read_json(store.run_dir / "environment.json"),
        models=tuple(models),
        searches=tuple(searches),
        trials=tuple(trials),
        ensembles=tuple(ensembles),
        certified=store.certified(certification_keys(study, models, ensembles)),
    )


def write_report(store: Store, results: Results) -> tuple[tuple[Summary, ...], dict[str, Path]]:
    """Write summary.tsv, summary.md, report.html and figures/; return what they hold and their paths by name."""
    summaries = summarize(results)
    files = {name: store.run_dir / name for name in ("summary.tsv", "summary.md", "report.html")}
    write_text(files["summary.tsv"], summary_tsv(summaries))
    write_text(files["summary.md"], summary_markdown(results, summaries))
    for name, figure in report_figures(results, summaries).items():
        files[f"figures/{name}.svg"] = store.run_dir / "figures" / f"{name}.svg"
        write_text(files[f"figures/{name}.svg"], figure_svg(figure, name=name))
    write_text(files["report.html"], render_report(results, summaries, compare(results)))
    return summaries, files
