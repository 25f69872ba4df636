"""The records of a run directory read back, and the reports made from them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

from rspipe.audit.log import certification_log, log_file, log_paths
from rspipe.ensembles.spec import EnsembleSpec
from rspipe.errors import LogError, StoreError
from rspipe.records import CascadeChoice, EnsembleWeights, TrainedModel
from rspipe.report.export import derived_table, summary_latex, summary_markdown, summary_tsv
from rspipe.report.logged import LoggedCertificates, logged_certificates, read_logged
from rspipe.report.results import Results
from rspipe.report.runs import Certified, CertifiedRun
from rspipe.report.summaries import Summary, display_name, file_name
from rspipe.report.tables import Table
from rspipe.smoothing.cascades import CertifiedCascade, certified_cascade
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import (
    CertificateKind,
    CertifiedClassifier,
    certified_by,
    certified_classifier,
    derive,
    first_samples,
)
from rspipe.smoothing.sampling import tabulated_radii
from rspipe.stages.weigh import member_margins
from rspipe.storage.classifiers import certification_keys
from rspipe.storage.environment import recorded_environment
from rspipe.storage.opening import read_study
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.training.spec import AnyModelSpec

FigureFormat = Literal["svg", "pdf"]
"""Of files for papers; a PDF takes seconds, since a part of its font is embedded."""


def known_models(store: Store, study: StudyConfig) -> tuple[AnyModelSpec, ...]:
    """Return the study's base classifiers: those of the file, and the winners of the searches that are finished."""
    winners = [
        spec
        for search in study.search_specs
        if (result := store.search_result(search.id, trials=search.trials)) is not None
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


def finished_candidates(store: Store, study: StudyConfig) -> tuple[AnyModelSpec, ...]:
    """Return the models that cascades choose levels from, as far as they are trained and did not diverge."""
    wanted = {(sigma, entry) for one in study.cascades if one.choose for sigma, entry in one.entries(study.sigmas)}
    specs = [spec for spec in known_models(store, study) if (spec.train_sigma, spec.label) in wanted]
    records = {spec.id: store.trained_model(spec.id) for spec in specs}
    return tuple(spec for spec in specs if (record := records[spec.id]) is not None and record.status == "finished")


def cascade_choices(store: Store, study: StudyConfig) -> dict[str, CascadeChoice]:
    """Return the levels that were chosen for cascades, by name.

    What was chosen among other models counts as none: a search that got more trials may have another winner.
    """
    known = {spec.id for spec in known_models(store, study)}
    named = (store.cascade_choice(one.name(study.sigmas)) for one in study.cascades if one.choose)
    return {choice.name: choice for choice in named if choice is not None and known.issuperset(choice.members)}


def read_results(store: Store, study: StudyConfig) -> Results:
    """Return everything the study has produced so far."""
    models = [record for spec in known_models(store, study) if (record := store.trained_model(spec.id)) is not None]
    searches = [
        result
        for search in study.search_specs
        if (result := store.search_result(search.id, trials=search.trials)) is not None
    ]
    trials = [trial for search in study.search_specs for trial in store.trials(search.id)]
    specs = finished_ensembles(store, study)
    ensembles = [weights for spec in specs if (weights := store.ensemble_weights(spec.id)) is not None]
    keys = certification_keys(study, models, ensembles)
    environment = recorded_environment(store.run_dir)
    counts = store.classifier_counts(keys)
    results = Results(
        study=study,
        environment=environment,
        models=tuple(models),
        searches=tuple(searches),
        trials=tuple(trials),
        ensembles=tuple(ensembles),
        certified=tuple(map(certified_classifier, counts)),
        # Of classifiers that are no longer what was attacked, nothing is known.
        attacks=tuple(one for one in store.boundary_checks() if keys.get(one.classifier) == one.key),
        choices=cascade_choices(store, study),
        images_to_certify=store.images_to_certify(),
    )
    return replace(results, cascades=_certified_cascades(results, counts)) if study.cascades else results


def _certified_cascades(results: Results, counts: Sequence[CountTable]) -> tuple[CertifiedCascade, ...]:
    """Return the cascades all of whose levels are certified, from the counts of these."""
    by_id = {one.id: one for one in counts}
    whole = (record for record in results.cascade_records() if by_id.keys() >= {*record.classifiers})
    certified = (certified_cascade(record, [by_id[id_] for id_ in record.classifiers]) for record in whole)
    return tuple(one for one in certified if one is not None)


def _counted(
    store: Store, study: StudyConfig
) -> tuple[Results, list[tuple[TrainedModel | EnsembleWeights, CountTable]]]:
    """Return the results, and the records of every certified classifier with its counts: by noise level, models first.

    Raises:
        StoreError: There are none.
    """
    results = read_results(store, study)
    keys = certification_keys(study, results.models, results.ensembles)
    by_id = {counts.id: counts for counts in store.classifier_counts(keys, complete=True)}
    if not by_id:
        raise StoreError(f"{store.run_dir}: holds no counts of its study; run pipelines/certify.py first")
    counted = [(record, by_id[record.id]) for record in results.records if record.id in by_id]
    return results, sorted(counted, key=lambda pair: pair[1].sigma)


def read_run(run_dir: StorePath | Path | str) -> CertifiedRun:
    """Return the counts of a run directory for a comparison with others; its study is the one it was made with.

    Args:
        run_dir: A folder, or an address in an object store.

    Raises:
        StoreError: It is no run directory, of another version of rspipe, or holds no counts.
    """
    store = Store(run_dir)
    study = read_study(store)
    groups: dict[tuple[str, float], list[Certified]] = {}
    results, counted = _counted(store, study)
    for record, counts in counted:
        groups.setdefault((file_name(record), counts.sigma), []).append(counts)
    for cascade in results.cascades:
        groups.setdefault((cascade.record.name, cascade.record.sigma), []).append(cascade.classifier)
    by_name = {name: tuple(seeds) for name, seeds in groups.items()}
    chosen, planned = study.certify.images, store.images_to_certify()
    return CertifiedRun(store.run_dir.name, study.data, by_name, chosen, planned)


def read_run_or_log(text: str, *, sigma: float | None = None) -> CertifiedRun:
    """Return what is compared: the classifiers of a run directory, or the one of a certification log.

    Args:
        text: A folder, an address in an object store, a file, or logs of a table (`FILE.parquet#7-11`), which are
            trainings of one recipe.
        sigma: Noise level of logs that do not say it.

    Raises:
        StoreError: It is a folder, and no run directory that can be read.
        LogError: It is a file, and no log with radii; or logs of several noise levels.
    """
    paths = log_paths(text)
    if not log_file(paths[0])[0].is_file():
        path = StorePath.of(text)
        if path.is_local and not path.local_part.exists():
            raise StoreError(f"{path}: there is no such run directory or certification log")
        return read_run(text)
    logged = tuple(read_logged(path, sigma=sigma) for path in paths)
    levels = sorted({log.sigma for log in logged})
    if len(levels) > 1:
        raise LogError(f"{text}: logs of noise levels {', '.join(f'{level:g}' for level in levels)}; name one recipe's")
    return CertifiedRun(Path(text).name, None, {("log", levels[0]): logged}, logged[0].images)


def write_derived(
    store: Store, study: StudyConfig, *, kind: CertificateKind, alpha: float | None, n: int | None
) -> tuple[Table, StorePath]:
    """Derive certificates of every classifier from its counts; return their table, and the folder of the files.

    Of cascades there is the rule's own certificate alone. The files are certification logs in Cohen's columns, one
    per classifier, radii rounded down.

    Raises:
        StoreError: There are no counts.
        ValueError: They cannot be derived.
    """
    results, counted = _counted(store, study)
    level, most = alpha or study.certify.alpha, n or study.certify.n
    folder = store.run_dir / "derived" / f"{study.certify.rule.name}-{kind}-alpha{level:g}-n{most}"
    chosen = {record.id: counts if n is None else first_samples(counts, n) for record, counts in counted}
    rows = {
        f"σ = {counts.sigma:g}, {display_name(record)}": certified_by(
            chosen[record.id], derive(chosen[record.id], kind=kind, alpha=alpha)
        )
        for record, counts in counted
    }
    logs: dict[str, CertifiedClassifier | CertifiedCascade] = {one.id: one for one in rows.values()}
    for record in results.cascade_records() if kind == "certify" else ():
        if cascade := certified_cascade(record, [chosen[id_] for id_ in record.classifiers], alpha=alpha):
            rows[f"σ = {record.sigma:g}, {display_name(record)}"] = cascade.classifier
            logs[cascade.classifier.id] = cascade
    for id_, one in logs.items():
        (folder / f"{id_}.tsv").write_text(certification_log(one, study.certify.rule, kind=kind))
    radii = tabulated_radii(study.certify.rule, study.radii)
    return derived_table(rows, radii=radii, with_radius=kind != "predict"), folder


def published_logs(store: Store, study: StudyConfig) -> dict[str, LoggedCertificates]:
    """Return the published logs that a study names and its run directory has, by the name in the study."""
    named = {log: one.sigma for one in study.published for log in one.logs}
    kept = {name: log for name in named if (log := store.published(name)) is not None}
    return {name: logged_certificates(log, sigma=named[name]) for name, log in kept.items()}


def write_cascades(store: Store, results: Results) -> None:
    """Write what cascades claim, for whoever checks it."""
    keys = certification_keys(results.study, results.models, results.ensembles)
    for cascade in results.cascades:
        store.save_cascade(cascade, keys=keys, alpha=results.study.certify.alpha)


def check_report(store: Store, study: StudyConfig) -> None:
    """Find a report that is missing, or older than what it should be of.

    Raises:
        StoreError: There is none, or its summary is another one than follows from what the run directory holds.
    """
    report, summary = store.run_dir / "report.html", store.run_dir / "summary.tsv"
    if not report.is_file() or not summary.is_file():
        message = "there is no report"
    elif summary.read_bytes() != summary_tsv(read_results(store, study).summaries).encode():
        message = "summary.tsv, and with it the report, is not what follows here from its counts and records"
    else:
        return
    raise StoreError(f"{store.run_dir}: {message}; run pipelines/report.py first")


def write_report(
    store: Store, results: Results, *, figures: tuple[FigureFormat, ...] = ("svg",)
) -> tuple[tuple[Summary, ...], dict[str, StorePath]]:
    """Write the summary as TSV, CSV, Markdown and LaTeX, figures/ in the formats named, report.html and pairs.html.

    Returns the summaries, and the paths of the files by name.
    """
    # They bring matplotlib, for which nobody waits before a study has results.
    from rspipe.report.figures import figure_pdf
    from rspipe.report.page import render_pairs, render_report, report_chapters

    candidates = finished_candidates(store, results.study)
    margins = member_margins(store, results.study, finished_ensembles(store, results.study), candidates)
    results = replace(results, margins=margins, logs=published_logs(store, results.study))
    chapters = report_chapters(results)
    texts = {
        "summary.csv": summary_tsv(results.summaries, delimiter=","),
        "summary.md": summary_markdown(results),
        "summary.tex": summary_latex(results),
    }
    pictures: dict[str, bytes] = {}
    for section in chain.from_iterable(chapters.values()):
        if "svg" in figures:
            texts |= {f"figures/{name}.svg": svg for name, svg in section.pictures.items()}
        if "pdf" in figures:
            pictures |= {f"figures/{name}.pdf": figure_pdf(figure) for name, figure in section.figures.items()}
    if (pairs := render_pairs(results)) is not None:
        texts["pairs.html"] = pairs
    texts["report.html"] = render_report(results, chapters, with_pairs=pairs is not None)
    # Behind all others, since `check_report` knows them by it.
    texts["summary.tsv"] = summary_tsv(results.summaries)
    for name, text in texts.items():
        (store.run_dir / name).write_text(text)
    write_cascades(store, results)
    for name, picture in pictures.items():
        (store.run_dir / name).write_bytes(picture)
    return results.summaries, {name: store.run_dir / name for name in (*texts, *pictures)}
