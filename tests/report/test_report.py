"""Facts about the report: what it says follows from the records, and the page stands alone."""

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from scipy.stats import norm

from rspipe.audit.log import certification_log
from rspipe.report.caveats import caveats
from rspipe.report.differences import Comparison, with_holm
from rspipe.report.export import computed_on, derived_table, summary_markdown, summary_tsv
from rspipe.report.figures import figure_pdf, figure_svg
from rspipe.report.page import RULES, render_report, report_chapters, report_figures, section_html
from rspipe.report.questions import AVERAGING, BEST_MEMBER, answer_questions
from rspipe.report.sections import reading, training
from rspipe.report.sections.accuracy import accuracy_figure
from rspipe.report.sections.cost import cost_figure
from rspipe.report.sections.differences import difference_table
from rspipe.report.sections.findings import answer, answers, difference_figure
from rspipe.report.sections.results import result_table
from rspipe.report.sections.weights import weights_figure
from rspipe.report.standings import entries
from rspipe.report.summaries import display_name
from rspipe.report.tables import (
    Cell,
    Table,
    adding_up,
    duration,
    markdown,
    markdown_text,
    number,
    quantity,
    sigma_cell,
)
from rspipe.smoothing.certificates import Certificates, radius_cap
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import certified_by
from rspipe.smoothing.inference import contrast, difference
from rspipe.smoothing.sampling import FixedRule
from rspipe.smoothing.spec import CertifySpec
from tests.results_builder import ALPHA, N0, SIGMAS, N, ensemble, results, study

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks that tags are balanced; keeps what they hold."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.attributes, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & {*self.open}:
            self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def render(made):
    return render_report(made, report_chapters(made))


@pytest.fixture(scope="module")
def made():
    return results()


@pytest.fixture(scope="module")
def page(made):
    return render(made)


def comparison(estimate, **changes):
    """Return a comparison whose interval is 0.05 to both sides."""
    # Two images: half an interval is 12.706 times the standard error, half the distance of the two.
    difference = contrast(estimate + 0.05 / 12.7062 * np.array([-1.0, 1.0]), ())
    content = {"sigma": 0.5, "first": "a", "second": "b", "first_label": "A", "second_label": "B", "question": "?"}
    measured = {"first_acr": 0.5, "second_acr": 0.5 - estimate, "difference": difference}
    return Comparison(**{**content, **measured, **changes})


def test_the_page_is_well_formed_and_its_ids_are_unique(page):
    ids = [value for _, name, value in Page(page).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0


def test_references_within_the_page_lead_somewhere(page):
    attributes = Page(page).attributes
    ids = {value for _, name, value in attributes if name == "id"}
    inside = {value for _, name, value in attributes if name in ("href", "xlink:href")}
    inside |= {match for _, _, value in attributes for match in re.findall(r"url\((#[^)]*)\)", value or "")}
    assert len(inside) > 10
    assert {target.removeprefix("#") for target in inside} <= ids


def test_the_page_asks_for_nothing_from_outside(page):
    namespaces = {name for _, name, _ in Page(page).attributes if name.startswith("xmlns")}
    stripped = re.sub(rf'({"|".join(namespaces)})="[^"]*"', "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", re.sub(r"<!DOCTYPE[^>]*>", "", stripped))
    loading = [(tag, name) for tag, name, _ in Page(page).attributes if name in ("src", "srcset", "data", "action")]
    assert loading == []
    assert "default-src 'none'" in page


def test_the_same_results_give_the_same_page(made, page):
    assert render(made) == page


def test_the_page_names_every_classifier_parameter_and_version(made, page):
    words = Page(page).words
    for record in (*made.models, *made.ensembles):
        assert display_name(record) in words
    for text in ("training.batch_size", "block_size", "space.lbd.high", "abc123", made.study.id, "float32"):
        assert text in words


def test_numbers_of_the_result_table_are_those_of_the_summaries(made, page):
    rows, summaries = Page(page).rows, made.summaries
    for sigma in SIGMAS:
        at = [summary for summary in summaries if summary.sigma == sigma]
        columns = result_table(at).columns
        assert columns[-6:-2] == ("abstained", "saturated", "two-sided ACR", "samples")
        # Radii that nobody reaches are no columns.
        reached = [r for i, r in enumerate(at[0].radii) if any(one.certified_accuracy[i] for one in at)]
        assert list(columns[2:-6]) == [f"CA({radius:g})" for radius in reached]
        for summary in at:
            acr = f"{summary.acr.estimate:.3f} ±"
            name = summary.name
            (row,) = [r for r in rows if len(r) == len(columns) and r[0] == name and r[1].startswith(acr)]
            shares = zip(summary.radii, summary.certified_accuracy, strict=True)
            assert row[2:-6] == [f"{share:.3f}" for radius, share in shares if radius in reached]
            assert row[-4:-2] == [f"{summary.acr_two_sided:.3f}", "10.1 k"]


@pytest.mark.parametrize("rule", RULES)
def test_the_page_says_by_which_rule_and_in_which_precision_it_was_certified(made, rule):
    certify = {"rule": rule, "n0": 50, "n": N, "alpha": ALPHA, "precision": "bfloat16"}
    without_figures = replace(made, study=study(certify=certify), models=(), ensembles=(), searches=(), certified=())
    words = Page(render(without_figures)).words
    assert RULES[rule] in words
    assert "bfloat16" in words


@pytest.mark.usefixtures("undrawn")
def test_the_page_says_of_how_many_images_certificates_account_for_rounding(made):
    first = made.certified[0]
    mixed = replace(first, noise=np.where(np.arange(first.noise.size) < 7, "float", first.noise))
    words = Page(render(replace(made, certified=(mixed,), ensembles=()))).words
    assert "Noise of 53 images was whole steps of 1/256, drawn exactly" in words
    assert "Noise of 7 images, which lie on no grid of pixel values, was added in float32" in words


def test_an_acr_of_grid_radii_is_flagged(made):
    flag = "Rule radius_grid proves radii at the grid alone"
    assert not any(sentence.startswith(flag) for sentence in caveats(made))
    on_grid = replace(made, certified=tuple(replace(c, rule="radius_grid", two_sided=np.nan) for c in made.certified))
    assert any(sentence.startswith(flag) for sentence in caveats(on_grid))
    assert {row[-4].text for row in result_table(on_grid.summaries).rows} == {"–"}


HOSTILE = """<script>alert('x')</script> & "$\\frac{" 'onload=' <b> ]]> _é"""


def test_hostile_text_stays_text(made):
    # One noise level has all kinds of sections and figures.
    sigma = SIGMAS[0]
    models = tuple(
        replace(model, label=f"_{HOSTILE}", message=HOSTILE, device=HOSTILE) if model.label == "advmacer" else model
        for model in made.models
        if model.train_sigma == sigma
    )
    ensembles = [record for record in made.ensembles if record.sigma == sigma]
    searches = [answered for answered in made.searches if answered.sigma == sigma]
    hostile = replace(
        made,
        study=study(title=HOSTILE),
        models=models,
        ensembles=tuple(replace(record, label=HOSTILE, solver=HOSTILE, status=HOSTILE) for record in ensembles),
        environment={HOSTILE: HOSTILE},
        searches=tuple(replace(answered, label=HOSTILE) for answered in searches),
        certified=tuple(one for one in made.certified if one.sigma == sigma),
    )
    page = render(hostile)
    parsed = Page(page)
    assert page.count("<script>") == 1
    assert "<b>" not in page
    assert not any(name.startswith("on") for _, name, _ in parsed.attributes)
    # Once in the head, once as the title of the page, and then all over it, also in figures.
    assert parsed.words.count("<script>alert('x')</script>") > 20
    assert not {tag for tag, _, _ in parsed.attributes} & {"b"}


@pytest.mark.parametrize(
    "changes",
    [
        {"certified": ()},
        {"models": (), "ensembles": (), "searches": (), "trials": (), "certified": (), "environment": {}},
        {"searches": (), "trials": (), "ensembles": ()},
        {"trials": (), "environment": {}},
    ],
    ids="-".join,
)
@pytest.mark.usefixtures("undrawn")
def test_what_is_missing_is_left_out_or_named(made, changes):
    partial = replace(made, **changes)
    words = Page(render(partial)).words
    if not partial.certified:
        assert "Nothing is certified yet" in words
    if not partial.ensembles:
        assert "Ensembles and weights" not in words
    if not partial.environment:
        assert "Not recorded." in words


@pytest.mark.usefixtures("undrawn")
def test_a_study_of_models_alone_on_one_image_is_reported(made):
    arrays = ("example", "label", "prediction", "radius", "n_a", "p_a_lower", "n", "samples", "stopped", "noise")
    models = [c for c in made.certified if c.kind == "model"]
    one = tuple(replace(c, **{name: getattr(c, name)[:1] for name in arrays}) for c in models)
    words = Page(render(replace(made, ensembles=(), certified=one))).words
    assert "± –" in words
    assert "higher for" not in words


def test_an_answer_says_what_the_verdict_says_and_of_what():
    assert answer(with_holm([comparison(0.1)])) == (
        "At σ = 0.5, for these models alone, A (+0.1000) is higher than B. Training again is not judged."
    )
    assert "A (−0.1000) is lower than B." in answer(with_holm([comparison(-0.1)]))
    # 2.8 standard errors of .05 / 12.7062.
    undecided = "A (+0.0100) cannot be told apart from B (differences below 0.0110 would mostly go unseen)"
    assert undecided in answer(with_holm([comparison(0.01)]))
    # Just beyond its interval: not with nine others counted.
    family = with_holm([comparison(0.06), *(comparison(0.0, first=f"c{i}", first_label=f"C{i}") for i in range(9))])
    assert "A (+0.0600) is higher than B, taken alone; C0" in answer(family)


def test_seeds_that_scatter_leave_a_method_undecided_where_its_models_are_told_apart():
    rng = np.random.default_rng(0)
    image = rng.random(200)
    a, b = (image + 0.001 * rng.normal(size=(2, 200)) + np.array([[shift], [0.0]]) for shift in (0.06, 0.02))
    (row,) = with_holm([comparison(0.0, difference=difference(a, b))])
    sentence = answer([row])
    assert sentence.startswith("At σ = 0.5, trained again, A (+0.0201) cannot be told apart from B (differences below ")
    assert sentence.endswith("For these models alone, A (+0.0201) is higher than B.")
    (cells,) = difference_table([row[0]]).rows
    words = dict(zip(difference_table([row[0]]).columns, [cell.text for cell in cells], strict=True))
    assert words["procedures: first is"].startswith("undecided (detectable ")
    assert words["models: first is"] == "higher (with Holm)"
    assert words["seeds"] == "2 and 2"
    one_seed = comparison(0.0, difference=difference(a[:1], b))
    assert answer(with_holm([one_seed])).endswith(
        " is higher than B. Training again is not judged: one seed on a side."
    )
    beside = answer(with_holm([one_seed, replace(row[0], first="c", first_label="C")]))
    assert "is not judged, with one seed on a side" in beside


def test_a_sentence_on_many_comparisons_counts_them_all():
    many = [comparison(0.1 + i / 100, first=f"a{i}", first_label=f"A{i}") for i in range(6)]
    sentence = answer(with_holm([*many, comparison(-0.2), comparison(0.0, first="c", first_label="C")]))
    assert sentence == (
        "At σ = 0.5, for these models alone, A5 (+0.1500), A4 (+0.1400), A3 (+0.1300) and 3 more are higher than B, "
        "taken alone; A (−0.2000) is lower than B, taken alone; C (0.0000) cannot be told apart from B (differences "
        "below 0.0110 would mostly go unseen). Training again is not judged."
    )


def test_a_sentence_names_both_sides_where_the_first_is_compared_twice():
    sentence = answer(with_holm([comparison(0.1), comparison(0.1, second="c", second_label="C")]))
    assert "A against B" in sentence
    assert "A against C" in sentence


def test_every_comparison_is_answered_under_its_question(made):
    comparisons = answer_questions(made)
    answered = answers(comparisons)
    assert set(answered) == {one.question for one in comparisons}
    assert all(len(sentences) == len(SIGMAS) for sentences in answered.values())


def test_failed_models_and_unfinished_work_are_flagged(made):
    flagged = " ".join(caveats(made))
    assert "common seeds" not in flagged
    asked = {"training": {"common_seeds": True}}
    related = replace(made, models=tuple(replace(model, spec=asked) for model in made.models))
    assert "models of gaussian, advmacer, advmacer_tuned with the same seed" in " ".join(caveats(related))
    assert "gaussian, seed 1 at σ = 0.5 diverged (loss is nan in epoch 3)" in flagged
    collapsed = replace(made, models=(replace(made.models[0], collapsed=True), *made.models[1:]))
    assert "gaussian, seed 0 at σ = 0.25 collapsed" in " ".join(caveats(collapsed))
    waiting = replace(made, certified=made.certified[1:])
    assert "1 trained classifiers are not certified yet" in " ".join(caveats(waiting))
    unknown = replace(made, ensembles=())
    assert "8 certified classifiers have no record" in " ".join(caveats(unknown))


def test_saturated_results_are_flagged(made):
    capped = tuple(replace(c, n_a=np.full_like(c.n_a, N)) for c in made.certified)
    flagged = caveats(replace(made, certified=capped))
    assert any("saturated images (up to 100 %" in sentence for sentence in flagged)


def test_the_largest_radius_is_that_of_unanimous_samples():
    assert radius_cap(sigma=0.5, n=N, alpha=ALPHA) == pytest.approx(0.5 * norm.ppf(ALPHA ** (1 / N)), abs=0.5 * 4e-8)


def test_the_tsv_read_back_equals_the_summaries(made):
    summaries = made.summaries
    rows = list(csv.DictReader(io.StringIO(summary_tsv(summaries)), delimiter="\t"))
    assert len(rows) == len(summaries)
    for row, summary in zip(rows, summaries, strict=True):
        assert (row["id"], row["label"], row["kind"]) == (summary.id, summary.label, summary.kind)
        assert row["seed"] == ("" if summary.seed is None else str(summary.seed))
        assert [float(row[name]) for name in ("acr", "acr_low", "acr_high")] == list(vars(summary.acr).values())
        for name in ("sigma", "accuracy", "abstained", "saturated", "training_seconds", "samples", "acr_two_sided"):
            assert float(row[name]) == getattr(summary, name)
        assert [int(row[name]) for name in ("images", "passes")] == [summary.images, summary.passes]
        assert row["rule"] == summary.rule
        shares = [float(row[f"certified_accuracy_{radius:g}"]) for radius in summary.radii]
        assert shares == list(summary.certified_accuracy)
        assert tuple(filter(None, row["members"].split(","))) == summary.members
        assert tuple(map(float, filter(None, row["weights"].split(",")))) == summary.weights


def test_a_tsv_of_nothing_is_a_header():
    assert len(summary_tsv(()).splitlines()) == 1


def test_tabs_and_quotes_in_a_label_survive_the_tsv(made):
    summary = replace(made.summaries[0], label='a\tb\n"c"')
    (row,) = csv.DictReader(io.StringIO(summary_tsv([summary]), newline=""), delimiter="\t")
    assert row["label"] == summary.label


def derived_from(*, radius, prediction, label, stop):
    """Counts and certificates with these values; the counts themselves do not matter."""
    size = len(radius)
    nothing = np.zeros((size, 2), int)
    counts = CountTable(
        classifier=np.full(size, "m"),
        kind=np.full(size, "model"),
        sigma=0.25,
        rule=FixedRule(label_stop=True),
        n0=N0,
        n=N,
        alpha=ALPHA,
        seed=0,
        example=10 * np.arange(size),
        label=np.array(label),
        selection=nothing,
        pilot=nothing,
        estimation=nothing,
        stop=np.array(stop),
        marks=np.zeros(0, int),
        prefix=np.zeros((size, 0, 2), int),
        probability_sum=np.zeros((size, 2)),
        probability_square=np.zeros((size, 2)),
        batch_size=np.full(size, 100),
        seconds=np.full(size, 2.0 / size),
        noise=np.full(size, "float"),
    )
    radius, prediction = np.array(radius), np.array(prediction)
    own = Certificates(prediction=prediction, radius=radius, n_a=nothing[:, 0], p_a_lower=0 * radius)
    return certified_by(counts, own)


@pytest.fixture
def derived():
    return derived_from(
        radius=[0.9999999, 0.25, 0.5, 0.0], prediction=[1, 0, 1, -1], label=[1, 0, 0, 1], stop=["", "", "", "label"]
    )


def test_a_log_has_cohens_six_columns_with_radii_rounded_down(derived):
    rows = list(csv.reader(io.StringIO(certification_log(derived, FixedRule())), delimiter="\t"))
    assert rows == [
        ["idx", "label", "predict", "radius", "correct", "time"],
        ["0", "1", "1", "0.999999", "1", "0.500"],
        ["10", "0", "0", "0.250000", "1", "0.500"],
        ["20", "0", "1", "0.500000", "0", "0.500"],
        ["30", "1", "-1", "0.000000", "0", "0.500"],
    ]


def test_derived_certificates_are_tabulated_as_their_own_results(derived):
    table = derived_table({"the model": derived}, radii=(0.0, 0.25, 0.5), with_radius=True)
    assert table.columns == ("classifier", "ACR ± 95 %", "CA(0)", "CA(0.25)", "CA(0.5)", "abstained", "images")
    (row,) = table.rows
    assert row[1].value == pytest.approx((0.9999999 + 0.25) / 4)
    assert [cell.value for cell in row[2:]] == [0.5, 0.5, 0.25, 0.0, 4]


def test_predictions_are_tabulated_without_radii(derived):
    table = derived_table({"the model": derived}, radii=(0.0, 0.25, 0.5), with_radius=False)
    assert table.columns == ("classifier", "accuracy", "abstained", "images")
    assert [cell.value for cell in table.rows[0][1:]] == [0.5, 0.0, 4]


def test_figures_are_drawn_for_what_there_is(made):
    names = set(report_figures(report_chapters(made)))
    for sigma in SIGMAS:
        for kind in ("accuracy", "cost", "weights", "training"):
            assert f"{kind}-sigma-{sigma:g}" in names
    assert {"headline", "budget-sigma-0.25", "budget-sigma-0.5", "search-0", "search-1"} <= names
    assert report_figures(report_chapters(replace(made, models=(), ensembles=(), searches=(), certified=()))) == {}
    assert weights_figure(replace(made, ensembles=made.ensembles[:1]), sigma=0.25) is None


def test_the_curve_drawn_is_certified_accuracy(made):
    figure = accuracy_figure(made, sigma=0.25)
    (line,) = [drawn for drawn in figure.axes[0].lines if drawn.get_label() == "gaussian (baseline)"]
    seeds = [c for c in made.certified if c.sigma == 0.25 and c.id.startswith("gaussian-s")]
    assert len(seeds) == 2
    for radius, share in zip(*line.get_data(), strict=True):
        expected = np.mean([np.mean((c.prediction == c.label) & (c.radius >= radius)) for c in seeds])
        assert share == pytest.approx(expected)


def test_models_that_were_loaded_have_no_cost_to_be_drawn(made):
    loaded = replace(made, models=tuple(replace(model, passes=0) for model in made.models))
    assert cost_figure(made, sigma=0.25) is not None
    assert cost_figure(loaded, sigma=0.25) is None


def test_differences_from_the_baseline_are_drawn_by_value_with_their_intervals(made):
    axes = difference_figure(made, sigma=0.25).axes[0]
    found, groups = {one.name: one for one in entries(made, 0.25)}, made.groups(0.25)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(names) == sorted({*found} - {"gaussian"})
    spans = [line.get_xdata() for line in axes.lines[1:] if line.get_linestyle() == "-"]
    marks = [line for line in axes.lines[1:] if line.get_marker() == "o" and len(line.get_xdata())]
    estimates = [float(mark.get_xdata()[0]) for mark in marks]
    assert estimates == sorted(estimates, reverse=True)
    for name, span, mark in zip(names, spans, marks, strict=True):
        one = made.compare(found[name].group, groups["gaussian"], sigma=0.25).difference
        judged = one.procedures or one.models
        assert (*span, mark.get_xdata()[0]) == pytest.approx((judged.low, judged.high, judged.estimate))
        assert (mark.get_markerfacecolor() == "white") == (one.procedures is None)
    models = tuple(model for model in made.models if model.label != "gaussian")
    assert difference_figure(replace(made, models=models), sigma=0.25) is None


def test_figures_leave_no_trace_in_global_state(made):
    before = dict(mpl.rcParams)
    text = [figure_svg(accuracy_figure(made, sigma=0.5), name="x") for _ in range(2)]
    assert text[0] == text[1]
    assert dict(mpl.rcParams) == before
    assert "<metadata" not in text[0]


def test_a_figure_for_a_paper_has_its_font_embedded_and_is_the_same_each_time(made):
    written = [figure_pdf(accuracy_figure(made, sigma=0.5)) for _ in range(2)]
    assert written[0] == written[1]
    assert b"/FontFile2" in written[0]


@pytest.mark.parametrize("count", [1, 12])
def test_ensembles_of_any_number_of_members_are_drawn(made, count):
    members = tuple(f"advmacer-s0.25-seed{i}" for i in range(count))
    record = ensemble(f"advmacer x{count}", 0.25, members, method="esbrs_paper")
    Page(figure_svg(weights_figure(replace(made, ensembles=(*made.ensembles, record)), sigma=0.25)))


def test_the_noise_level_is_a_column_only_where_there_are_several(made):
    summaries = made.summaries
    assert result_table(summaries).columns[0] == "σ"
    assert "σ" not in result_table([s for s in summaries if s.sigma == 0.5]).columns
    assert result_table(()).rows == difference_table(()).rows == ()


def test_numbers_are_written_for_readers():
    assert [sigma_cell(sigma).text for sigma in (0.25, 0.5, 0.12, 0.125)] == ["0.25", "0.50", "0.12", "0.125"]
    assert adding_up([1 / 3, 1 / 3, 1 / 3], digits=3) == [0.334, 0.333, 0.333]
    assert adding_up([0.005, 0.995], digits=2) == [0.01, 0.99]
    assert (number(-0.0126), number(0.5, signed=True), number(np.inf)) == ("−0.013", "+0.500", "–")
    assert [duration(s) for s in (0.26, 119, 120, 7200, 2 * 86400)] == ["0.3 s", "119.0 s", "2.0 min", "2.0 h", "2.0 d"]
    assert [quantity(n) for n in (12, 1234, 5_600_000, 7.89e9)] == ["12", "1.23 k", "5.6 M", "7.89 G"]


def test_markdown_tables_hold_every_classifier_and_escape_pipes():
    made = results()
    text = summary_markdown(made)
    head, *lines = text.splitlines()
    assert "rule fixed, n0 = 100, n = 10,000, α = 0.001, float32" in head
    assert "These procedures: trained again with other seeds" in lines[1]
    assert lines[-1] == computed_on(made.environment)
    assert computed_on(
        {"cpu": "A CPU", "cpu_capability": "AVX512", "gpu": "none", "torch": "2.9", "ray": "absent"}
    ) == ("Computed on A CPU, AVX512 (the driver's), with torch 2.9.")
    assert computed_on({}) == "Computed on an unknown machine, with unknown packages."
    rows = [line for line in lines if line.startswith("|")]
    classifiers = [line for line in rows if "gaussian, seed 0" in line]
    assert len(classifiers) == len(SIGMAS)
    assert all(line.count(" | ") == rows[-1].count(" | ") for line in classifiers)
    table = Table(("a|b", "c"), ((Cell("x|y"), Cell("1", 1.0)),), (False, True))
    assert markdown(table) == "| a\\|b | c |\n| :-- | --: |\n| x\\|y | 1 |\n"


def test_text_of_others_is_neither_markdown_nor_a_formula():
    assert markdown_text("0.425 [0.389, 0.461], advmacer_tuned x2") == "0.425 [0.389, 0.461], advmacer_tuned x2"
    assert markdown_text("![x](http://a) <b>*c* `d`\ne [f][g]") == r"![x]\(http://a) \<b>\*c\* \`d\` e [f]\[g]"
    formula = '=HYPERLINK("http://a")'
    summary = replace(results().summaries[0], label=formula)
    (row,) = csv.DictReader(io.StringIO(summary_tsv([summary], delimiter=",")))
    assert row["label"] == f"'{formula}"
    assert float(row["acr"]) == summary.acr.estimate


def test_a_baseline_that_is_not_certified_at_a_noise_level_is_nothing_to_gain_on(made):
    models = tuple(one for one in made.models if (one.label, one.train_sigma) != ("gaussian", 0.5))
    without = replace(made, models=models)
    assert without.baseline == "gaussian"
    with_gains, alone = (accuracy_figure(without, sigma=sigma) for sigma in (0.25, 0.5))
    assert len(with_gains.axes) == 2
    assert len(alone.axes) == 1
    assert "(baseline)" not in " ".join(text.get_text() for text in alone.legends[0].get_texts())


def test_loaded_models_are_not_said_to_have_been_trained_or_chosen_on_validation_images(made):
    loaded = replace(made, models=tuple(replace(one, source="checkpoint", history=()) for one in made.models))
    section = training.section(loaded)
    assert section.finding == f"{len(made.models)} models loaded."
    assert "or on 200 test images" in section_html(section)
    assert "Curves:" not in section_html(section)
    assert "or on 200 test images" not in section_html(training.section(made))
    asked = {one.question for one in answer_questions(loaded)}
    assert (BEST_MEMBER in asked, AVERAGING in asked) == (False, True)


@pytest.mark.parametrize("stops", [False, True])
def test_images_whose_selection_misses_the_label_are_said_to_end_there(made, stops):
    rule = {"name": "fixed", "label_stop": stops}
    certify = CertifySpec.model_validate(made.study.certify.model_dump() | {"rule": rule})
    text = section_html(reading.section(replace(made, study=made.study.model_copy(update={"certify": certify}))))
    assert ("certification ended there" in text) == stops
    assert ("every image gets n0 samples" in text) != stops
