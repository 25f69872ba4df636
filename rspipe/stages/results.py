"""What a run directory holds, read back as records, and the reports made from it."""

from pathlib import Path

from rspipe.derivation import CertificateKind, ClassifierCounts, derive
from rspipe.errors import StoreError
from rspipe.figures import figure_svg
from rspipe.records import Summary
from rspipe.report import render_report, report_figures
from rspipe.stages.certify import certification_keys
from rspipe.stages.store import Store, read_json, write_text
from rspipe.study import EnsembleSpec, ModelSpec, StudyConfig
from rspipe.summaries import Results, compare, display_name, summarize
from rspipe.tables import Table, certification_log, derived_table, summary_markdown, summary_tsv


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


def stored_counts(store: Store, study: StudyConfig) -> dict[str, ClassifierCounts]:
    """Return the counts of every certified classifier by the name it has in tables, with all that was kept.

    Raises:
        StoreError: There are none.
    """
    results = read_results(store, study)
    keys = certification_keys(study, results.models, results.ensembles)
    found = {counts.id: counts for counts in store.classifier_counts(keys, complete=True)}
    if not found:
        raise StoreError(f"{store.run_dir}: holds no counts of this study; run pipelines/certify.py first")
    names = {record.id: display_name(record) for record in results.models}
    names |= {record.id: display_name(record) for record in results.ensembles}
    known = sorted((id_ for id_ in names if id_ in found), key=lambda id_: found[id_].sigma)
    return {f"σ = {found[id_].sigma:g}, {names[id_]}": found[id_] for id_ in known}


def write_derived(
    store: Store, study: StudyConfig, *, kind: CertificateKind, alpha: float | None, n: int | None
) -> tuple[Table, Path]:
    """Derive certificates of every classifier from its counts; return their table, and the folder of the files.

    The files are certification logs in Cohen's six columns, one per classifier, radii rounded down.

    Raises:
        StoreError: There are no counts.
        ValueError: They cannot be derived.
    """
    all_counts = stored_counts(store, study)
    level, most = alpha or study.certify.alpha, n or study.certify.n
    folder = store.run_dir / "derived" / f"{study.certify.rule.name}-{kind}-alpha{level:g}-n{most}"
    rows = {}
    for name, counts in all_counts.items():
        certificates = derive(counts, kind=kind, alpha=alpha, n=n)
        write_text(folder / f"{counts.id}.tsv", certification_log(counts, certificates))
        rows[name] = (counts, certificates)
    return derived_table(rows, radii=study.radii, with_radius=kind != "predict"), folder


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
