"""The space of a search: what is varied, under which conditions, and which study files are refused."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from rspipe.errors import StudyError
from rspipe.search.domains import Choice, Range
from rspipe.search.space import applied, grid_points, grid_size, is_whole, own_point
from rspipe.search.spec import SearchSpec
from rspipe.search.trials import trial_parameters, trial_spec
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from rspipe.training.methods.advmacer import AdvMacer
from rspipe.training.methods.smoothmix import SmoothMix
from rspipe.training.spec import TrainingSpec

BASE = """
name = "base"
architecture = "digits_cnn"

[training]
epochs = 18
batch_size = 16
lr = 0.25

[[models]]
method = { name = "gaussian" }
sigma = 0.25
seeds = 0

[[search]]
label = "tuned"
method = { name = "smoothmix", T = 2, m = 2 }
sigma = 0.25
seeds = [0, 1]

[search.space]
eta = { low = 1.0, high = 4.0 }
"""

ADVMACER = AdvMacer(name="advmacer", T=2, m=4)
CONDITIONAL = {
    "T": Range(low=1, high=4),
    "mix_step": Range(low=1, high=3, when={"T": {"low": 4}}),
    "alpha": Choice(choices=(0.5, 1.0), when={"mix_step": [2, 3]}),
}


def load(folder: Path, *overrides: str, text: str = BASE) -> StudyConfig:
    path = folder / "study.toml"
    path.write_text(text)
    return load_study(path, overrides=overrides)


def search(folder: Path, *overrides: str, text: str = BASE) -> SearchSpec:
    (spec,) = load(folder, *overrides, text=text).search_specs
    return spec


def test_training_settings_are_searched_beside_those_of_the_method(tmp_path: Path) -> None:
    space = (
        "search.0.space={eta={low=1,high=2},'training.lr'={low=0.01,high=0.1,log=true},"
        "'training.batch_size'={choices=[8,16]}}"
    )
    of = search(tmp_path, space)
    for parameters in trial_parameters(of)[1:]:
        spec = trial_spec(of, parameters)
        assert spec.training.lr == parameters["training.lr"] != 0.25
        assert spec.training.batch_size == parameters["training.batch_size"]
        assert spec.training.epochs == 18
        assert spec.method.eta == parameters["eta"]
    assert trial_parameters(of)[0] == {"eta": 5.0, "training.batch_size": 16, "training.lr": 0.25}


def test_the_winner_is_trained_with_the_training_settings_that_were_found(tmp_path: Path) -> None:
    study = load(tmp_path, "search.0.trial_epochs=2")
    first, second = study.winner_specs(study.search_specs[0], {"eta": 2.0, "training.lr": 0.125})
    assert (first.seed, second.seed) == (0, 1)
    assert first.training == TrainingSpec(epochs=18, batch_size=16, lr=0.125)
    assert first.method == SmoothMix(name="smoothmix", T=2, m=2, eta=2.0)


def test_all_that_the_paper_leaves_open_is_searched_of_advmacer_by_default(tmp_path: Path) -> None:
    text = BASE[: BASE.index("[search.space]")].replace('"smoothmix", T = 2, m = 2', '"advmacer"')
    assert set(search(tmp_path, text=text).space) == {"lbd", "gamma", "T", "m", "eps", "beta", "training.lr"}


def test_a_hyper_parameter_is_varied_only_where_its_condition_holds(tmp_path: Path) -> None:
    space = (
        "search.0.space={T={low=1,high=4},mix_step={low=1,high=3,when={T={low=4}}},"
        "alpha={choices=[0.5,2.0],when={mix_step=[2,3]}}}"
    )
    of = search(tmp_path, space, "search.0.trials=65")
    drawn = trial_parameters(of)[1:]
    for parameters in drawn:
        assert ("mix_step" in parameters) == (parameters["T"] == 4)
        assert ("alpha" in parameters) == (parameters.get("mix_step", 0) >= 2)
        assert trial_spec(of, parameters).method.alpha == parameters.get("alpha", 1.0)
    assert {len(parameters) for parameters in drawn} == {1, 2, 3}


def test_a_condition_on_what_is_off_in_the_study_file_does_not_hold() -> None:
    space = {"maxnorm": Range(low=1.0, high=2.0), "eta": Range(low=1.0, high=2.0, when={"maxnorm": {"high": 9.0}})}
    assert own_point(space, SmoothMix(name="smoothmix"), TrainingSpec()) == {}


@pytest.mark.parametrize(
    ("name", "whole"), [("T", True), ("lbd", False), ("training.lr", False), ("training.lr_step", True)]
)
def test_whole_numbers_are_told_by_their_type(name: str, whole: bool) -> None:
    assert is_whole(name, ADVMACER, TrainingSpec()) == whole


def test_what_is_off_by_default_is_a_number_all_the_same() -> None:
    assert not is_whole("maxnorm", SmoothMix(name="smoothmix"), TrainingSpec())
    assert not is_whole("training.grad_clip", SmoothMix(name="smoothmix"), TrainingSpec())


def test_a_grid_holds_every_combination_once_without_the_study_files_own() -> None:
    space = {"lbd": Range(low=1.0, high=100.0, log=True), "T": Range(low=1, high=3), "m": Choice(choices=(2, 4))}
    method, training = ADVMACER.model_copy(update={"lbd": 10.0}), TrainingSpec()
    points = grid_points(space, 3, method, training)
    product = itertools.product((1.0, 10.0, 100.0), (1, 2, 3), (2, 4))
    expected = {(lbd, t, m) for lbd, t, m in product} - {(10.0, 2, 4)}
    assert len(points) == len(expected)
    assert {(p["lbd"], p["T"], p["m"]) for p in points} == expected


def test_a_grid_has_inactive_hyper_parameters_once() -> None:
    space = {"T": Choice(choices=(2, 4)), "mix_step": Range(low=1, high=3, when={"T": 4})}
    points = grid_points(space, 3, SmoothMix(name="smoothmix", T=4, mix_step=0), TrainingSpec())
    assert list(points) == [{"T": 2}, *({"T": 4, "mix_step": step} for step in (1, 2, 3))]


def test_the_points_of_a_large_grid_are_counted_not_estimated() -> None:
    space = {name: Range(low=1.0, high=17.0) for name in ("lbd", "gamma", "beta")}
    method, training = ADVMACER.model_copy(update=dict.fromkeys(space, 2.0)), TrainingSpec()
    # Of 4,913 combinations one is the study file's own.
    assert grid_size(space, 17, method, training) == len(grid_points(space, 17, method, training)) == 4912
    with pytest.raises(PydanticCustomError, match="the grid has up to 27000 points, and 20000 is the largest"):
        grid_size(space, 30, method, training)


def test_the_trials_of_a_grid_are_its_points_and_the_study_files_own(tmp_path: Path) -> None:
    of = search(tmp_path, 'search.0.algorithm={name="grid",levels=4}', "search.0.trials=9")
    assert [parameters["eta"] for parameters in trial_parameters(of)] == [5.0, 1.0, 2.0, 3.0, 4.0]
    assert of.trials == 5


def test_random_trials_do_not_depend_on_their_number_but_on_the_seed(tmp_path: Path) -> None:
    few, many, others = (
        trial_parameters(search(tmp_path, "search.0.algorithm=random", change))
        for change in ("search.0.trials=4", "search.0.trials=9", "search.0.seed=1")
    )
    assert few == many[:4]
    assert len({parameters["eta"] for parameters in (*many, *others[1:])}) == 16


@pytest.mark.parametrize("algorithm", ["random", "grid", "tpe", "nsga2"])
def test_more_trials_are_the_same_search_of_the_same_study(algorithm: str, tmp_path: Path) -> None:
    few, many = (load(tmp_path, f"search.0.algorithm={algorithm}", f"search.0.trials={count}") for count in (6, 12))
    assert few.id == many.id
    assert few.search_specs[0].id == many.search_specs[0].id
    assert few.id != load(tmp_path, "search.0.trials=6").id


def test_more_trials_of_a_sobol_sequence_are_another_search(tmp_path: Path) -> None:
    few, many = (load(tmp_path, f"search.0.trials={count}") for count in (4, 8))
    assert few.id != many.id
    assert few.search_specs[0].id != many.search_specs[0].id


def test_a_search_that_names_its_defaults_is_the_same_and_shows_them(tmp_path: Path) -> None:
    plain = load(tmp_path)
    full = load(tmp_path, "search.0.algorithm=sobol", "search.0.objectives=['acr']", "search.0.early_stopping=false")
    assert full.id == plain.id
    assert full.search_specs[0].id == plain.search_specs[0].id
    for content in (plain.search_specs[0].model_dump(mode="json"), plain.identity["search"][0]):
        assert content["algorithm"] == {"name": "sobol"}
        assert (content["objectives"], content["early_stopping"]) == (["acr"], None)
        assert set(content["space"]["eta"]) == {"low", "high", "log", "when"}


def test_a_study_is_read_back_from_what_it_says_of_itself(tmp_path: Path) -> None:
    study = load(tmp_path, 'search.0.algorithm={name="tpe",startup=3}', "search.0.early_stopping={reduction=2}")
    again = StudyConfig.model_validate(study.model_dump(mode="json"))
    assert again == study
    assert again.search_specs[0].early_stopping.first_rung(18) == 2


def test_what_a_winner_is_compared_with_is_trained_where_no_entry_trains_it(tmp_path: Path) -> None:
    study = load(tmp_path, "search.0.algorithm=tpe", "search.0.sigma=[0.25, 0.5]")
    trained = {(spec.label, spec.train_sigma, spec.seed): spec for spec in study.model_specs}
    assert set(trained) == {("gaussian", 0.25, 0), *(("tuned_default", s, k) for s in (0.25, 0.5) for k in (0, 1))}
    assert trained["tuned_default", 0.5, 1].method == study.search[0].method
    entry = '[[models]]\nmethod = { name = "smoothmix", T = 2, m = 2 }\nsigma = 0.5\nseeds = 0\n'
    partly = load(tmp_path, "search.0.algorithm=tpe", "search.0.sigma=[0.25, 0.5]", text=BASE + entry)
    assert [group.sigma for group in partly.default_groups] == [(0.25,)]


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("search.0.space={'training.lrr'={low=1,high=2}}",), "training has no hyper-parameter 'lrr'; did you mean 'lr'?"),
    (
        ("search.0.space={'training.epochs'={low=1,high=2}}",),
        "training has no hyper-parameter 'epochs'; valid names: batch_size, grad_clip, lr, lr_decay, lr_step, "
        "momentum, weight_decay",
    ),
    (
        ("search.0.space={'training.lr'={low=0,high=2}}",),
        "space.training.lr: 0.0 is no value of it: it must be greater than 0",
    ),
    (
        ("search.0.space={T={low=1,high=4},mix_step={low=0,high=1}}",),
        "space: T = 1, mix_step = 1 do not fit together: mix_step = 1 must be below T = 1; lower it or raise T; "
        "narrow a range, or vary one only `when` another allows",
    ),
    (
        ("search.0.space={m={choices=[2,12]},'training.batch_size'={choices=[8,32]}}",),
        "space: m = 12, training.batch_size = 8: m = 12 does not fit into batch_size = 8; "
        "raise training.batch_size or lower m",
    ),
    (
        ("search.0.space={eta={low=1,high=2,when={T=2}}}",),
        "space.eta.when: 'T' is not varied beside it; there are none",
    ),
    (
        ("search.0.space={eta={low=1,high=2,when={t=2}},T={low=1,high=2}}",),
        "space.eta.when: 't' is not varied beside it; did you mean 'T'?",
    ),
    (
        ("search.0.space={eta={low=1,high=2,when={T=9}},T={low=1,high=2}}",),
        "space.eta.when.T: no value that T takes meets it; the two must overlap",
    ),
    (
        ("search.0.space={eta={low=1,high=2,when={T=[1,2]}},T={low=1,high=2,when={eta={low=1}}}}",),
        "space: the conditions of T, eta go in a circle",
    ),
    (
        ("search.0.space={eta={low=1,high=2,when={T={low=3,high=2}}},T={low=1,high=2}}",),
        "search[0].space.eta.when.T: low = 3.0 must not exceed high = 2.0",
    ),
    (
        ("search.0.space={eta={low=1,high=2,when={T={}}},T={low=1,high=2}}",),
        "search[0].space.eta.when.T: give a list of values, or low, high or both",
    ),
    (("search.0.algorithm=tpee",), "search[0].algorithm: unknown algorithm 'tpee'; did you mean 'tpe'?"),
    (
        ("search.0.algorithm=tpe", "search.0.algorithm.startup=0"),
        "search[0].algorithm.startup = 0 must be greater than 0",
    ),
    (("search.0.algorithm={name='tpe', levels=3}",), "search[0].algorithm: unknown key 'levels'; "),
    (("search.0.objectives=['passes']",), "objectives = ['passes'] must begin with 'acr', which decides who wins"),
    (("search.0.objectives=[]",), "search[0].objectives must not be empty"),
    (("search.0.objectives=['acr','speed']",), "search[0].objectives[1] = 'speed' is no valid name; "),
    (
        ("search.0.objectives=['acr','passes']", "search.0.early_stopping=true"),
        "early_stopping compares trials by ACR alone; leave it out, or all objectives but 'acr'",
    ),
    (
        ("search.0.trial_epochs=4", "search.0.early_stopping={grace=4}"),
        "early_stopping.grace = 4 must be below the 4 epochs of a trial",
    ),
    (("search.0.early_stopping={reduction=1}",), "search[0].early_stopping.reduction = 1 must be at least 2"),
    (
        ("search.0.algorithm={name='grid',levels=9}", "search.0.trials=9"),
        "trials = 9 are too few for the 9 points of the grid and the study file's own settings; raise trials to 10",
    ),
    (("search.0.trials=0",), "search[0].trials = 0 must be at least 2"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_search_that_cannot_be_is_refused_in_one_line(
    overrides: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StudyError) as caught:
        load(tmp_path, *overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_advmacer_has_a_space_by_default(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"search\[0\]\.space is missing"):
        load(tmp_path, text=BASE[: BASE.index("[search.space]")])


def test_hyper_parameters_that_do_not_fit_together_are_no_model() -> None:
    with pytest.raises(ValueError, match="mix_step = 3 must be below T = 2"):
        applied({"T": 2, "mix_step": 3}, SmoothMix(name="smoothmix"), TrainingSpec())


def as_json(value: Any) -> Any:
    return Range.model_validate(value).model_dump(mode="json")


def test_a_condition_reads_like_a_value_a_list_or_an_interval() -> None:
    given = {"low": 1, "high": 2, "when": {"a": 3, "b": [1, 2], "c": {"low": 0.5}}}
    assert as_json(as_json(given)) == as_json(given)
    when = Range.model_validate(given).when
    assert [when["a"].holds(3), when["b"].holds(3), when["c"].holds(0.5), when["c"].holds(0.4)] == [
        True,
        False,
        True,
        False,
    ]


def test_the_search_that_the_readme_shows_is_one(repository: Path, tmp_path: Path) -> None:
    readme = (repository / "pipelines" / "studies" / "README.md").read_text(encoding="utf-8")
    shown = readme.split("## Search\n")[1].split("```toml\n")[1].split("```")[0]
    head = BASE[: BASE.index("[[search]]")].replace("batch_size = 16", "batch_size = 128")
    study = load(tmp_path, "training.epochs=90", text=head + shown)
    assert [search.trials for search in study.search_specs] == [40, 40]
    assert study.search_specs[0].training.epochs == 30
    assert [group.label for group in study.default_groups] == ["advmacer_tuned_default"]
