"""Study files: what they resolve to, what identifies it, and what is said of a wrong one."""

import copy
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from rspipe.data.spec import DigitsData, ParquetData
from rspipe.ensembles.members import parse_members
from rspipe.ensembles.spec import EnsembleSpec, WeighSpec
from rspipe.errors import StudyError, nearest
from rspipe.networks.precision import Precision, fastest_precision
from rspipe.search.domains import Choice, Range
from rspipe.search.spec import SearchSpec
from rspipe.smoothing.sampling import DecideRule, FixedRule, PlannedRule, RadiusGridRule
from rspipe.smoothing.spec import CertifySpec
from rspipe.spec import ImageRange, Spec, content_id
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study, study_of_content, study_of_text
from rspipe.training.methods import MethodSpec
from rspipe.training.methods.advmacer import AdvMacer
from rspipe.training.methods.gaussian import Gaussian
from rspipe.training.methods.macer import MACER
from rspipe.training.spec import ModelSpec, TrainingSpec

TINY = Path(__file__).parents[1] / "tiny.toml"

BASE = """
name = "base"
architecture = "digits_cnn"

[training]
epochs = 2
batch_size = 16
lr = 0.25

[[models]]
method = { name = "gaussian" }
sigma = [0.25, 0.5]
seeds = [0, 1]

[[models]]
method = { name = "macer", m = 2 }
sigma = 0.25
seeds = 0
training = { lr = 0.5 }

[[search]]
label = "tuned"
method = { name = "advmacer", m = 2 }
sigma = 0.25
seeds = [0, 1]

[search.space]
lbd = { low = 1.0, high = 4.0 }

[[ensembles]]
members = "gaussian x1 + macer x1"
sigma = 0.25
"""

PARQUET = """
[data]
name = "parquet"
title = "images"
folder = "{folder}"
train = "train.parquet"
test = "test.parquet"
classes = 3
"""


def write(folder: Path, text: str = BASE) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


@pytest.fixture
def base(tmp_path: Path) -> StudyConfig:
    return load_study(write(tmp_path))


def model(**changes: Any) -> ModelSpec:
    content = {
        "label": "gaussian",
        "data": DigitsData(),
        "architecture": "digits_cnn",
        "method": Gaussian(name="gaussian"),
        "training": TrainingSpec(),
        "train_sigma": 0.25,
        "seed": 0,
    }
    return ModelSpec(**{**content, **changes})


# What a file resolves to.


def test_the_study_of_the_quick_start_loads(repository: Path) -> None:
    study = load_study(repository / "pipelines" / "studies" / "digits.toml")
    assert study.sigmas == (0.25, 0.5)
    assert {group.method.name for group in study.groups} == {"gaussian", "smoothadv", "macer", "advmacer"}
    assert all(len(spec.members) >= 2 for spec in study.ensemble_specs(study.model_specs))


def test_the_study_of_the_tests_loads() -> None:
    study = load_study(TINY)
    assert [spec.label for spec in study.model_specs] == ["gaussian", "gaussian", "macer", "smoothadv"]
    assert [spec.label for spec in study.search_specs] == ["advmacer_tuned"]


def test_every_noise_level_and_seed_of_an_entry_is_a_model(base: StudyConfig) -> None:
    assert [(spec.label, spec.train_sigma, spec.seed) for spec in base.model_specs] == [
        ("gaussian", 0.25, 0),
        ("gaussian", 0.25, 1),
        ("gaussian", 0.5, 0),
        ("gaussian", 0.5, 1),
        ("macer", 0.25, 0),
    ]


def test_the_noise_levels_of_a_study_are_those_of_its_models_and_searches(tmp_path: Path) -> None:
    assert load_study(write(tmp_path), overrides=["search.0.sigma=0.125"]).sigmas == (0.125, 0.25, 0.5)


def test_a_model_is_labelled_by_its_method_unless_it_has_a_label(tmp_path: Path) -> None:
    study = load_study(write(tmp_path), overrides=["models.0.label=cohen", "ensembles=[]"])
    assert [group.label for group in study.groups] == ["cohen", "macer", "tuned"]


def test_training_is_inherited_field_by_field(base: StudyConfig) -> None:
    shared = TrainingSpec(epochs=2, batch_size=16, lr=0.25)
    assert [group.training for group in base.groups] == [shared, TrainingSpec(epochs=2, batch_size=16, lr=0.5), shared]


def test_training_is_the_papers_when_the_file_says_nothing(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, BASE.replace("[training]\nepochs = 2\nbatch_size = 16\nlr = 0.25\n", "")))
    assert study.model_specs[0].training == TrainingSpec()


def test_labels_are_independent_unless_the_study_asks_for_common_seeds(tmp_path: Path, base: StudyConfig) -> None:
    def by_seed(study: StudyConfig) -> dict[int, set[int]]:
        specs = [spec for spec in study.model_specs if isinstance(spec, ModelSpec)]
        return {one.seed: {spec.training_seed for spec in specs if spec.seed == one.seed} for one in specs}

    labels = {spec.label for spec in base.model_specs}
    assert len(labels) > 1
    assert max(map(len, by_seed(base).values())) == len(labels)
    common = load_study(write(tmp_path), overrides=["training.common_seeds=true"])
    assert all(seeds == {seed} for seed, seeds in by_seed(common).items())
    assert common.id != base.id
    assert not {spec.id for spec in common.model_specs} & {spec.id for spec in base.model_specs}


def test_an_entry_may_have_an_architecture_of_its_own(tmp_path: Path) -> None:
    study = load_study(write(tmp_path), overrides=["models.1.architecture=lenet"])
    assert [group.architecture for group in study.groups] == ["digits_cnn", "lenet", "digits_cnn"]


def test_a_trial_trains_as_long_as_a_winner_unless_told_otherwise(tmp_path: Path) -> None:
    (whole,) = load_study(write(tmp_path)).search_specs
    (short,) = load_study(write(tmp_path), overrides=["search.0.trial_epochs=1"]).search_specs
    assert (whole.training.epochs, short.training.epochs) == (2, 1)


def test_winners_have_the_values_found_and_are_trained_in_full_with_every_seed(tmp_path: Path) -> None:
    study = load_study(write(tmp_path), overrides=["search.0.trial_epochs=1"])
    winners = study.winner_specs(study.search_specs[0], {"lbd": 3.5})
    assert [(w.label, w.train_sigma, w.seed, w.training.epochs) for w in winners] == [
        ("tuned", 0.25, 0, 2),
        ("tuned", 0.25, 1, 2),
    ]
    assert {w.method for w in winners} == {AdvMacer(name="advmacer", m=2, lbd=3.5)}


def test_winners_are_checked_like_everything_else(base: StudyConfig) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        base.winner_specs(base.search_specs[0], {"lbd": -1.0})


def test_an_ensemble_has_the_first_models_of_each_label_at_its_noise_level(base: StudyConfig) -> None:
    ids = {(spec.label, spec.train_sigma, spec.seed): spec.id for spec in base.model_specs}
    specs = base.ensemble_specs(base.model_specs)
    members = (ids["gaussian", 0.25, 0], ids["macer", 0.25, 0])
    assert [(spec.weights, spec.members) for spec in specs] == [("uniform", members), ("esbrs_ratio", members)]


def test_an_ensemble_without_a_noise_level_is_formed_at_every_one_that_has_its_members(tmp_path: Path) -> None:
    text = BASE.replace('members = "gaussian x1 + macer x1"\nsigma = 0.25', 'members = "gaussian x2"')
    study = load_study(write(tmp_path, text))
    assert [spec.sigma for spec in study.ensemble_specs(study.model_specs)] == [0.25, 0.25, 0.5, 0.5]


def test_an_ensemble_that_lacks_a_model_is_left_out(base: StudyConfig) -> None:
    assert base.ensemble_specs([spec for spec in base.model_specs if spec.label != "macer"]) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("advmacer x2", (("advmacer", 2),)),
        ("advmacer x1 + smoothadv x2", (("advmacer", 1), ("smoothadv", 2))),
        ("  a_1 x10+b x3 ", (("a_1", 10), ("b", 3))),
    ],
)
def test_members_are_written_as_in_the_paper(text: str, expected: tuple[tuple[str, int], ...]) -> None:
    assert parse_members(text) == expected


def test_a_relative_data_folder_is_taken_from_the_place_of_the_study_file(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, BASE + PARQUET.format(folder="../images")))
    folder = str((tmp_path / ".." / "images").resolve())
    everywhere = [study, *study.model_specs, *study.search_specs]
    assert {spec.data.folder for spec in everywhere if isinstance(spec.data, ParquetData)} == {folder}
    assert all(isinstance(spec.data, ParquetData) for spec in everywhere)


def test_an_absolute_data_folder_stays(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, BASE + PARQUET.format(folder="/images")))
    assert isinstance(study.data, ParquetData)
    assert study.data.folder == "/images"


RULES = {
    "fixed": FixedRule(),
    "planned": PlannedRule(name="planned"),
    "radius_grid": RadiusGridRule(name="radius_grid"),
    "decide": DecideRule(),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_given_by_its_name_or_as_a_table(tmp_path: Path, name: str) -> None:
    by_name = load_study(write(tmp_path), overrides=[f"certify.rule={name}"])
    as_table = load_study(write(tmp_path), overrides=[f"certify.rule={{name='{name}'}}"])
    assert by_name.certify.rule == as_table.certify.rule == RULES[name]
    assert by_name.id == as_table.id


def test_images_get_all_samples_unless_the_file_says_otherwise(base: StudyConfig) -> None:
    assert base.certify.rule == FixedRule(label_stop=False)
    assert base.certify.batch_size is None


def test_a_study_of_a_run_is_read_though_a_term_of_it_never_begins(base: StudyConfig) -> None:
    content = base.model_dump(mode="json")
    (macer,) = [group for group in content["models"] if group["method"]["name"] == "macer"]
    macer["method"]["defer"] = 99
    assert StudyConfig.model_validate(content).models[1].method.defer == 99  # type: ignore[union-attr]


def test_a_network_that_is_a_file_is_certified_in_its_own_precision(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"x")
    path = tmp_path / "study.toml"
    path.write_text("""
        name = "own"
        [data]
        name = "digits"
        [[models]]
        checkpoint = { file = "net.onnx", normalization = "none" }
        label = "net"
        architecture = "onnx"
        sigma = 0.25
        seeds = [0]
    """)
    for auto in (None, "float32", "bfloat16"):
        assert load_study(path, auto=auto).certify.precision == "float32"


def test_a_study_is_certified_in_what_is_fast_here_unless_it_says_otherwise(tmp_path: Path) -> None:
    path, fast = write(tmp_path), fastest_precision(torch.device("cpu"))
    assert load_study(path).certify.precision == fast
    for precision in get_args(Precision):
        default, auto = (
            load_study(path, overrides=given, auto=precision) for given in ([], ["certify.precision='auto'"])
        )
        named = load_study(path, overrides=[f"certify.precision='{precision}'"], auto=fast)
        # Its identity is the precision, not how it was chosen.
        assert default.certify.precision == named.certify.precision == precision
        assert default.id == auto.id == named.id


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ("500", 500),
        ("{ skip = 20 }", ImageRange(skip=20)),
        ("{ start = 500, first = 500 }", ImageRange(start=500, first=500)),
        ("[3, 17, 40]", (3, 17, 40)),
    ],
)
def test_the_images_that_are_certified_are_part_of_the_identity_and_read_back(
    given: str, choice: Any, tmp_path: Path, base: StudyConfig
) -> None:
    study = load_study(write(tmp_path), overrides=[f"certify.images={given}"])
    assert study.certify.images == choice
    assert study.id != base.id
    assert StudyConfig.model_validate(study.model_dump(mode="json")).certify == study.certify


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("0", "certify.images = 0 must be greater than 0"),
        ("{ skip = 0 }", "certify.images.skip = 0 must be greater than 0"),
        ("{ every = 20 }", "certify.images: unknown key 'every'"),
        ("[]", "certify.images must not be empty"),
        ("[3, 3]", "certify.images: numbers of images must ascend, without repetition"),
        ("[-1]", "certify.images[0] = -1 must be at least 0"),
    ],
)
def test_a_choice_of_images_that_makes_no_sense_is_one_line(given: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(write(tmp_path), overrides=[f"certify.images={given}"])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rules_are_parts_of_the_identity(tmp_path: Path) -> None:
    rules = [
        "fixed",
        "planned",
        "radius_grid",
        "decide",
        "{name='fixed', label_stop=true}",
        "{name='planned', eps=0.02}",
    ]
    assert len({load_study(write(tmp_path), overrides=[f"certify.rule={rule}"]).id for rule in rules}) == len(rules)


def test_a_rules_parameters_are_read_from_its_table(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        BASE + '\n[certify.rule]\nname = "radius_grid"\ngrid = [0.1, 0.3]\nfutility = 0.01\nlabel_stop = false\n'
    )
    study = load_study(tmp_path / "study.toml", overrides=["certify.rule.futility=0.02"])
    assert study.certify.rule == RadiusGridRule(name="radius_grid", grid=(0.1, 0.3), futility=0.02, label_stop=False)


def test_an_ensemble_may_be_combined_otherwise_than_by_an_average(tmp_path: Path) -> None:
    group = "{members='gaussian x2 + macer x1', sigma=0.25, weights=['uniform', 'mme', 'consensus'], consensus=2}"
    study = load_study(write(tmp_path), overrides=[f"ensembles=[{group}]"])
    specs = study.ensemble_specs(study.model_specs)
    assert [(spec.weights, spec.consensus_size) for spec in specs] == [("uniform", 0), ("mme", 0), ("consensus", 2)]
    assert len({spec.members for spec in specs}) == 1
    assert specs[1].id.startswith("gaussian-x2+macer-x1-mme-s0.25-")
    assert len({spec.id for spec in specs}) == 3


def test_how_many_are_asked_first_is_part_of_the_identity_of_a_consensus_alone(tmp_path: Path) -> None:
    group = "{{members='gaussian x3 + macer x1', sigma=0.25, weights=['mme', 'consensus'], consensus={}}}"
    ids = []
    for first in (2, 3):
        overrides = ["models.0.seeds=[0, 1, 2]", f"ensembles=[{group.format(first)}]"]
        study = load_study(write(tmp_path), overrides=overrides)
        ids.append([spec.id for spec in study.ensemble_specs(study.model_specs)])
    (mme, consensus), (mme_again, other) = ids
    assert mme == mme_again
    assert consensus != other


LISTED = "{members=['macer-s0.25-seed0', 'gaussian-s0.25-seed1'], weights='auto'}"


def test_members_may_be_listed_by_id_with_or_without_its_digest(tmp_path: Path) -> None:
    study = load_study(write(tmp_path), overrides=[f"ensembles=[{LISTED}]"])
    ids = {(spec.label, spec.train_sigma, spec.seed): spec.id for spec in study.model_specs}
    (spec,) = study.ensemble_specs(study.model_specs)
    assert spec.members == (ids["macer", 0.25, 0], ids["gaussian", 0.25, 1])
    assert (spec.label, spec.sigma, spec.weights) == ("macer seed 0 + gaussian seed 1", 0.25, "auto")
    whole = LISTED.replace("macer-s0.25-seed0", ids["macer", 0.25, 0])
    again = load_study(write(tmp_path), overrides=[f"ensembles=[{whole}]"])
    assert again.ensemble_specs(again.model_specs) == (spec,)


def test_members_may_be_listed_by_the_digits_that_an_id_shows(tmp_path: Path) -> None:
    levels = [f"models.{group}.sigma=0.250980392" for group in (0, 1)]
    for listed in (LISTED.replace("0.25", "0.25098"), LISTED.replace("0.25", "0.250980392")):
        study = load_study(write(tmp_path), overrides=[*levels, f"ensembles=[{listed}]"])
        (spec,) = study.ensemble_specs(study.model_specs)
        assert (spec.sigma, len(spec.members)) == (0.250980392, 2)
    ids = {(model.label, model.seed): model.id for model in study.model_specs}
    shown = LISTED.replace("macer-s0.25-seed0", ids["macer", 0]).replace("s0.25-", "s0.25098-")
    again = load_study(write(tmp_path), overrides=[*levels, f"ensembles=[{shown}]"])
    assert again.ensemble_specs(again.model_specs) == (spec,)


def test_a_listed_model_of_other_settings_is_refused(tmp_path: Path) -> None:
    wrong = LISTED.replace("macer-s0.25-seed0", "macer-s0.25-seed0-00000000")
    with pytest.raises(StudyError, match=r"member 'macer-s0.25-seed0-00000000' is 'macer-s0.25-seed0-.* here; correct"):
        load_study(write(tmp_path), overrides=[f"ensembles=[{wrong}]"])


def test_all_subsets_of_two_or_more_members_are_formed(tmp_path: Path) -> None:
    group = "{members='gaussian x3 + macer x1', subsets='all', sigma=0.25, weights=['uniform', 'consensus']}"
    study = load_study(write(tmp_path), overrides=["models.0.seeds=[5, 0, 1]", f"ensembles=[{group}]"])
    specs = study.ensemble_specs(study.model_specs)
    pool = [spec.id for spec in study.model_specs if spec.train_sigma == 0.25]
    uniform = [spec for spec in specs if spec.weights == "uniform"]
    assert {frozenset(spec.members) for spec in uniform} == {
        frozenset(c) for size in (2, 3, 4) for c in combinations(pool, size)
    }
    assert len(uniform) == 11
    # A consensus asks two first and needs a third.
    assert len(specs) - len(uniform) == 5
    assert len({(spec.label, spec.weights) for spec in specs}) == len({spec.id for spec in specs}) == len(specs)


def test_subsets_are_called_in_the_papers_words_where_they_hold_the_first_models(tmp_path: Path) -> None:
    group = "{members='gaussian x3', subsets='all', sigma=0.25, weights='uniform'}"
    study = load_study(write(tmp_path), overrides=["models.0.seeds=[5, 0, 1]", f"ensembles=[{group}]"])
    labels = [spec.label for spec in study.ensemble_specs(study.model_specs)]
    assert labels == ["gaussian x2", "gaussian seeds 5,1", "gaussian seeds 0,1", "gaussian x3"]


def test_every_choice_of_seeds_is_formed_of_as_many_models_of_each_label(tmp_path: Path) -> None:
    group = "{members='gaussian x2 + macer x1', subsets='of_seeds', sigma=0.25, weights='uniform'}"
    overrides = ["models.0.seeds=[5, 0, 1]", "models.1.seeds=[0, 1]", f"ensembles=[{group}]"]
    study = load_study(write(tmp_path), overrides=overrides)
    specs = study.ensemble_specs(study.model_specs)
    models = {spec.id: (spec.label, spec.seed) for spec in study.model_specs}
    formed = [tuple(models[member] for member in spec.members) for spec in specs]
    pairs = [(5, 0), (5, 1), (0, 1)]
    assert formed == [(("gaussian", a), ("gaussian", b), ("macer", c)) for (a, b), c in product(pairs, (0, 1))]
    # The paper's words are those of the first seeds, as without the others.
    assert [spec.label for spec in specs][:2] == ["gaussian x2 + macer x1", "gaussian seeds 5,0 + macer seed 1"]


def test_a_label_with_as_many_seeds_as_are_asked_for_has_one_choice(tmp_path: Path) -> None:
    group = "{{members='gaussian x2', subsets='{}', sigma=0.25}}"
    loaded = [load_study(write(tmp_path), overrides=[f"ensembles=[{group.format(w)}]"]) for w in ("of_seeds", "first")]
    of_seeds, first = (study.ensemble_specs(study.model_specs) for study in loaded)
    assert of_seeds == first


def test_an_ensemble_that_several_entries_name_is_formed_once(tmp_path: Path) -> None:
    groups = "[{members='gaussian x2', sigma=0.25}, {members='gaussian x2', sigma=0.25, subsets='all'}]"
    study = load_study(write(tmp_path), overrides=[f"ensembles={groups}"])
    assert [spec.weights for spec in study.ensemble_specs(study.model_specs)] == ["uniform", "esbrs_ratio"]


def test_a_file_name_has_room_for_any_ensemble(tmp_path: Path) -> None:
    label = "a" * 79
    groups = f"[{{members='{label} x1 + {label}b x1 + {label}c x1', sigma=0.25, weights='uniform'}}]"
    labels = [f"models.{at}.label={label}{end}" for at, end in enumerate(("", "b"))]
    third = f"search.0.label={label[:71]}c"
    groups = groups.replace(f"{label}c", f"{label[:71]}c")
    study = load_study(write(tmp_path), overrides=[*labels, third, f"ensembles={groups}"])
    winners = study.winner_specs(study.search_specs[0], {"lbd": 2.0})
    (spec,) = study.ensemble_specs([*study.model_specs, *winners])
    assert len(f".{spec.id}.json") <= 255 - 33


def test_the_longest_label_of_a_search_leaves_room_for_what_is_appended_to_it(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="must have at most 72 characters"):
        load_study(write(tmp_path), overrides=[f"search.0.label={'a' * 73}", "ensembles=[]"])
    study = load_study(write(tmp_path), overrides=[f"search.0.label={'a' * 72}", "ensembles=[]"])
    assert all(len(spec.label) <= 80 for spec in study.model_specs)


def test_whether_subsets_are_formed_is_part_of_the_identity(tmp_path: Path, base: StudyConfig) -> None:
    (group,) = base.identity["ensembles"]
    assert group["subsets"] == "first"
    assert load_study(write(tmp_path), overrides=["ensembles.0.subsets=first"]).id == base.id
    assert load_study(write(tmp_path), overrides=["ensembles.0.subsets=all"]).id != base.id


# Overrides.


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("certify.n=5000", lambda s: s.certify.n == 5000),
        ("certify.alpha = 0.01", lambda s: s.certify.alpha == 0.01),
        ("training.epochs=7", lambda s: {g.training.epochs for g in s.groups} == {7}),
        ("models.1.method.lbd=3", lambda s: s.models[1].method == MACER(name="macer", m=2, lbd=3.0)),
        ("models.0.sigma.1=1.0", lambda s: s.models[0].sigma == (0.25, 1.0)),
        ("models.0.seeds=[0, 4]", lambda s: s.models[0].seeds == (0, 4)),
        ("search.0.space.gamma={ low = 2.0, high = 3.0 }", lambda s: set(s.search[0].space) == {"lbd", "gamma"}),
        ("name=other", lambda s: s.name == "other"),
        ('title="a = b"', lambda s: s.title == "a = b"),
        ("title=", lambda s: not s.title),
        ("radii=[0, 0.5]", lambda s: s.radii == (0.0, 0.5)),
    ],
)
def test_an_override_replaces_one_value(tmp_path: Path, override: str, expected: Any) -> None:
    assert expected(load_study(write(tmp_path), overrides=[override]))


def test_the_last_of_two_overrides_counts(tmp_path: Path) -> None:
    assert load_study(write(tmp_path), overrides=["certify.n=5000", "certify.n=6000"]).certify.n == 6000


# Identity.


def test_content_is_identified_by_the_hash_of_its_canonical_json() -> None:
    canonical = b'{"a":[1.5,"x"],"b":{"c":null,"d":true}}'
    content = {"b": {"d": True, "c": None}, "a": [1.5, "x"]}
    assert content_id(content) == hashlib.sha256(canonical).hexdigest()[:8]


def test_a_model_is_identified_by_everything_that_determines_it_and_by_nothing_else() -> None:
    content = {
        "label": "gaussian",
        "data": {"name": "digits", "validation": 200, "calibration": 200, "test": 400, "seed": 0},
        "architecture": "digits_cnn",
        "method": {"name": "gaussian"},
        "training": {
            "epochs": 150,
            "batch_size": 256,
            "lr": 0.1,
            "lr_step": 50,
            "lr_decay": 0.1,
            "momentum": 0.9,
            "weight_decay": 0.0001,
            "grad_clip": None,
            "precision": "float32",
            "compiled": False,
            "common_seeds": False,
        },
        "train_sigma": 0.25,
        "seed": 0,
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert model().id == f"gaussian-s0.25-seed0-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


def test_numbers_that_cannot_be_written_have_no_identity() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_id({"a": float("nan")})


def shuffled(value: Any) -> str:
    """TOML inline text of a JSON-like value, keys in reverse."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {shuffled(value[key])}" for key in reversed(value)) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(shuffled(item) for item in value) + "]"
    return json.dumps(value)


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return [without_none(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("source", ["base", "tiny"])
def test_a_study_written_out_in_full_and_in_another_order_is_the_same_study(tmp_path: Path, source: str) -> None:
    study = load_study(TINY if source == "tiny" else write(tmp_path))
    resolved = without_none(study.model_dump(mode="json"))
    other = tmp_path / "other.toml"
    other.write_text("\n".join(f"{key} = {shuffled(resolved[key])}" for key in reversed(resolved)))
    again = load_study(other)
    assert again == study
    assert again.id == study.id
    assert [spec.id for spec in again.model_specs] == [spec.id for spec in study.model_specs]
    assert [spec.id for spec in again.search_specs] == [spec.id for spec in study.search_specs]


def test_whole_numbers_and_floats_of_one_value_are_the_same_study(tmp_path: Path) -> None:
    one, other = (load_study(write(tmp_path), overrides=[f"models.1.method.lbd={text}"]) for text in ("3", "3.0"))
    assert one.id == other.id


def test_ids_are_the_same_in_another_process() -> None:
    code = f"from pathlib import Path; from rspipe.study import load_study; print(load_study(Path({str(TINY)!r})).id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == load_study(TINY).id


def altered(value: Any) -> Iterator[Any]:
    """Every value that differs from this one in a single leaf; specs are not validated again."""
    if isinstance(value, Spec):
        for name in type(value).model_fields:
            for other in altered(getattr(value, name)):
                yield value.model_copy(update={name: other})
    elif is_dataclass(value):
        for field in fields(value):
            for other in altered(getattr(value, field.name)):
                twin = copy.copy(value)
                object.__setattr__(twin, field.name, other)
                yield twin
    elif isinstance(value, dict):
        for key in value:
            yield from ({**value, key: other} for other in altered(value[key]))
    elif isinstance(value, tuple):
        yield (*value, *value[:1], *(() if value else (1,)))
        for position, item in enumerate(value):
            yield from ((*value[:position], other, *value[position + 1 :]) for other in altered(item))
    elif isinstance(value, bool):
        yield not value
    else:
        yield value + "x" if isinstance(value, str) else 1 if value is None else value + 1


SPECS: tuple[Spec, ...] = (
    model(),
    model(method=AdvMacer(name="advmacer"), training=TrainingSpec(grad_clip=1.0)),
    SearchSpec(
        label="tuned",
        data=DigitsData(),
        architecture="digits_cnn",
        method=MACER(name="macer"),
        training=TrainingSpec(),
        sigma=0.25,
        space={"lbd": Range(low=1, high=2), "m": Choice(choices=(2, 4))},
        trials=2,
        seed=0,
        n=1000,
        alpha=0.001,
    ),
    EnsembleSpec(
        label="a x2", sigma=0.5, members=("a", "b"), weights="uniform", average="logits", weigh=WeighSpec(images=5)
    ),
    CertifySpec(images=100),
    CertifySpec(rule=PlannedRule(name="planned"), batch_size=500),
    CertifySpec(rule=RadiusGridRule(name="radius_grid")),
    CertifySpec(rule=DecideRule()),
)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_every_change_changes_the_identity(spec: Spec) -> None:
    others = list(altered(spec))
    assert len(others) >= 5
    assert spec.digest not in {other.digest for other in others}
    assert len({other.digest for other in others}) == len(others)


def test_where_the_images_lie_is_no_part_of_the_identity(tmp_path: Path) -> None:
    here, there = (load_study(write(tmp_path, BASE + PARQUET.format(folder=f))) for f in ("/here", "/there"))
    assert here.id == there.id
    assert [spec.id for spec in here.model_specs] == [spec.id for spec in there.model_specs]
    assert here.model_specs[0] != there.model_specs[0]


def test_ids_are_readable_and_unique(base: StudyConfig) -> None:
    specs = (*base.model_specs, *base.search_specs, *base.ensemble_specs(base.model_specs))
    assert len({spec.id for spec in specs}) == len(specs)
    prefixes = [spec.id.rpartition("-")[0] for spec in specs]
    assert prefixes[0] == "gaussian-s0.25-seed0"
    assert prefixes[-2:] == ["gaussian-x1+macer-x1-uniform-s0.25", "gaussian-x1+macer-x1-esbrs_ratio-s0.25"]


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        model().seed = 1  # type: ignore[misc]


# What is said of a wrong file.

METHOD_NAMES = sorted(get_args(kind.model_fields["name"].annotation)[0] for kind in get_args(get_args(MethodSpec)[0]))
WRONG = [
    # Unknown keys.
    ("cerify.n=1000", "unknown key 'cerify'; did you mean 'certify'?"),
    ("trainig.epochs=2", "unknown key 'trainig'; did you mean 'training'?"),
    ("architectur='lenet'", "unknown key 'architectur'; did you mean 'architecture'?"),
    ("certify.nn=500", "certify: unknown key 'nn'; did you mean 'n'?"),
    ("training.epoch=3", "training: unknown key 'epoch'; did you mean 'epochs'?"),
    ("models.1.method.lbdd=3", "models[1].method: unknown key 'lbdd'; did you mean 'lbd'?"),
    ("models.0.sigmas=3", "models[0]: unknown key 'sigmas'; did you mean 'sigma'?"),
    ("data={name='digits', tset=3}", "data: unknown key 'tset'; did you mean 'test'?"),
    ("search.0.space.lbd={choice=[1]}", "search[0].space.lbd: unknown key 'choice'; did you mean 'choices'?"),
    ("search.0.space.lbd={low=1, hihg=2}", "search[0].space.lbd: unknown key 'hihg'; did you mean 'high'?"),
    # Unknown names.
    ("models.1.method.name='mazer'", "models[1].method: unknown method 'mazer'; did you mean 'macer'?"),
    (
        "models.1.method.name='zzz'",
        f"models[1].method: unknown method 'zzz'; valid names: {', '.join(METHOD_NAMES)}",
    ),
    ("data={name='digit'}", "data: unknown data 'digit'; did you mean 'digits'?"),
    (
        "models.0.architecture='lenett'",
        "models[0].architecture = 'lenett': unknown architecture 'lenett'; did you mean 'lenet'?",
    ),
    ("baseline='gausian'", "baseline: no model is labelled 'gausian'; did you mean 'gaussian'?"),
    (
        "ensembles.0.members='gausian x2'",
        "ensembles[0].members: no model is labelled 'gausian'; did you mean 'gaussian'?",
    ),
    (
        "ensembles.0.weights='unifrom'",
        "ensembles[0].weights[0] = 'unifrom' is no valid name; did you mean 'uniform'?",
    ),
    (
        "ensembles.0.average='mean'",
        "ensembles[0].average = 'mean' is no valid name; valid names: logits, probabilities",
    ),
    # Missing.
    ("models.1.method={}", "models[1].method: needs a name, e.g. method.name"),
    ("models.0={method={name='gaussian'}, seeds=1}", "models[0].sigma is missing"),
    ("models.1.method.name='MACER'", "models[1].method: unknown method 'MACER'; did you mean 'macer'?"),
    (
        "ensembles.0.weights='ESBRS_RATIO'",
        "ensembles[0].weights[0] = 'ESBRS_RATIO' is no valid name; did you mean 'esbrs_ratio'?",
    ),
    ("architecture='LeNet'", "architecture = 'LeNet': unknown architecture 'LeNet'; did you mean 'lenet'?"),
    ("data={name='imagenet'}", "data.folder is missing"),
    ("search.0.space={lbd={low=1}}", "search[0].space.lbd.high is missing"),
    # Out of range.
    ("models.1.sigma=0", "models[1].sigma[0] = 0 must be greater than 0"),
    ("models.1.sigma=[0.25, -1]", "models[1].sigma[1] = -1 must be greater than 0"),
    ("models.1.sigma=nan", "models[1].sigma[0] = nan must be a finite number"),
    ("models.1.sigma=[]", "models[1].sigma must not be empty"),
    ("models.1.seeds=-1", "models[1].seeds[0] = -1 must be at least 0"),
    ("models=[]", "models must not be empty"),
    ("training.epochs=0", "training.epochs = 0 must be greater than 0"),
    ("models.1.method.m=0", "models[1].method.m = 0 must be greater than 0"),
    ("models.1.method.gamma=-1", "models[1].method.gamma = -1 must be greater than 0"),
    ("certify.n=9", "certify: n = 9 can never certify at alpha = 0.001; use n >= 10"),
    ("certify={n=10, alpha=1e-6}", "certify: n = 10 can never certify at alpha = 1e-06; use n >= 20"),
    ("certify.alpha=1", "certify.alpha = 1 must be less than 1"),
    ("certify.block_size=0", "certify.block_size = 0 must be greater than 0"),
    ("certify.precision='float16'", "certify.precision = 'float16' is no valid name; did you mean 'bfloat16'?"),
    ("certify.batch_size=0", "certify.batch_size = 0 must be greater than 0"),
    ("certify.batch_size=300", "certify: batch_size = 300 must divide block_size = 1000"),
    ("certify={block_size=500, batch_size=1000}", "certify: batch_size = 1000 must divide block_size = 500"),
    # Rules.
    ("certify.rule='plannd'", "certify.rule: unknown rule 'plannd'; did you mean 'planned'?"),
    ("certify.rule={name='radiusgrid'}", "certify.rule: unknown rule 'radiusgrid'; did you mean 'radius_grid'?"),
    ("certify.rule='zzz'", "certify.rule: unknown rule 'zzz'; valid names: decide, fixed, planned, radius_grid"),
    ("certify.rule={eps=0.1}", "certify.rule: needs a name, e.g. rule.name"),
    ("certify.rule={name='planned', epss=1}", "certify.rule: unknown key 'epss'; did you mean 'eps'?"),
    ("certify.rule={name='fixed', pilot=9}", "certify.rule: unknown key 'pilot'; valid names: label_stop, name"),
    ("certify.rule={name='planned', eps=-1}", "certify.rule: eps = -1.0 must be a finite number, at least 0"),
    ("certify.rule={name='planned', eps=inf}", "certify.rule: eps = inf must be a finite number, at least 0"),
    ("certify.rule={name='planned', futility=0}", "certify.rule: futility = 0.0 must lie in (0, 1)"),
    ("certify.rule={name='radius_grid', futility=1}", "certify.rule: futility = 1.0 must lie in (0, 1)"),
    (
        "certify.rule={name='planned', pilot=100}",
        "certify: rule.pilot = 100 includes the selection and must exceed n0 = 100",
    ),
    (
        "certify={rule='planned', n0=1000}",
        "certify: rule.pilot = 1000 includes the selection and must exceed n0 = 1000",
    ),
    (
        "certify.rule={name='radius_grid', grid=[0.5, 0.25]}",
        "certify.rule: grid = [0.5, 0.25] must ascend, without repetition",
    ),
    (
        "certify.rule={name='radius_grid', grid=[0.25, 0.25]}",
        "certify.rule: grid = [0.25, 0.25] must ascend, without repetition",
    ),
    (
        "certify.rule={name='radius_grid', grid=[0.0]}",
        "certify.rule: grid = [0.0] must hold one radius or more, all above 0",
    ),
    (
        "certify.rule={name='radius_grid', grid=[]}",
        "certify.rule: grid = [] must hold one radius or more, all above 0",
    ),
    ("certify={rule='planned', n=9}", "certify: n = 9 can never certify at alpha = 0.001; use n >= 10"),
    ("certify={rule='radius_grid', n=9}", "certify: n = 9 can never certify at alpha = 0.001; use n >= 10"),
    ("weigh.draws=1", "weigh.draws = 1 must be at least 2"),
    ("radii=[-1]", "radii[0] = -1 must be at least 0"),
    ("search.0.trials=1", "search[0].trials = 1 must be at least 2"),
    ("search.0.n=9", "search[0]: n = 9 can never certify at alpha = 0.001; use n >= 10"),
    (
        "search.0.method.m=17",
        "search[0]: method: m = 17 does not fit into batch_size = 16; raise training.batch_size or lower m",
    ),
    (
        "search.0.space.m={choices=[2, 17]}",
        "search[0]: space.m: m = 17 does not fit into batch_size = 16; raise training.batch_size or lower m",
    ),
    # Search spaces.
    ("search.0.space={}", "search[0].space must not be empty"),
    ("search.0.space.lbdd={low=1, high=2}", "search[0]: advmacer has no hyper-parameter 'lbdd'; did you mean 'lbd'?"),
    (
        "search.0.space.lambda={low=1, high=2}",
        "search[0]: advmacer has no hyper-parameter 'lambda'; did you mean 'lbd'?",
    ),
    ("search.0.method={name='gaussian'}", "search[0]: gaussian has no hyper-parameter 'lbd'; there are none"),
    (
        "search.0.space.name={choices=[1]}",
        "search[0]: advmacer has no hyper-parameter 'name'; valid names: T, beta, defer, eps, gamma, lbd, m, warmup",
    ),
    ("search.0.space.lbd={low=4, high=1}", "search[0].space.lbd: low = 4.0 must be below high = 1.0"),
    (
        "search.0.space.lbd={low=0, high=1, log=true}",
        "search[0].space.lbd: low = 0.0 must be positive on a log scale",
    ),
    (
        "search.0.space.lbd={low=-1, high=1}",
        "search[0]: space.lbd: -1.0 is no value of it: it must be at least 0",
    ),
    (
        "search.0.space.T={low=0.5, high=2}",
        "search[0]: space.T: 0.5 is no value of it: it must be a whole number",
    ),
    (
        "search.0.space.T={choices=[1, 0]}",
        "search[0]: space.T: 0 is no value of it: it must be greater than 0",
    ),
    (
        "search.0.space.lbd={choices=[]}",
        "search[0].space.lbd.choices must not be empty",
    ),
    # Wrong types.
    (
        "training=5",
        "training = 5 must be a table",
    ),
    (
        "training.epochs=1.5",
        "training.epochs = 1.5 must be a whole number",
    ),
    (
        "training.lr=big",
        "training.lr = 'big' must be a number",
    ),
    ("models=5", "models = 5 must be a list"),
    ("models={}", "models must be a list"),
    ("models.0=5", "models[0] = 5 must be a table"),
    ("models.0.architecture=5", "models[0].architecture = 5 must be a text"),
    ("models.0.architecture=['lenet']", "models[0].architecture must be a text"),
    (
        "models.1.method=macer",
        "models[1].method must be a table, e.g. { name = 'macer' }",
    ),
    (
        "models.1.seeds=0.5",
        "models[1].seeds[0] = 0.5 must be a whole number",
    ),
    ("search.0.space.lbd=3", "search[0].space.lbd = 3 must be a table"),
    ("ensembles.0.members=3", "ensembles[0].members = 3 must be a text"),
    # Names that cannot be file names.
    ("models.0.label='A b'", "models[0].label = 'A b' must be small letters, digits and _, a letter first"),
    ("name='a b'", "name = 'a b' must be letters, digits, _, . and -, a letter or a digit first"),
    ("name='../a'", "name = '../a' must be letters, digits, _, . and -, a letter or a digit first"),
    # Twice the same.
    (
        "models.1.label=gaussian\nensembles=[]",
        "two entries are labelled 'gaussian' at sigma 0.25; give one another label",
    ),
    ("search.0.label=macer", "two entries are labelled 'macer' at sigma 0.25; give one another label"),
    ("models.0.sigma=[0.25, 0.25]", "'gaussian' lists a noise level twice in sigma = [0.25, 0.25]; remove one"),
    ("models.0.seeds=[3, 3]", "'gaussian' lists a seed twice in seeds = [3, 3]; remove one"),
    # What never begins.
    *[
        (
            f"{place}.{at}.method.defer=99",
            f"{place}[{at}]: method: defer = 99 leaves none of 2 epochs for what {method} is about; lower it",
        )
        for place, at, method in (("models", 1, "macer"), ("search", 0, "advmacer"))
    ],
    (
        "search.0.space.defer={low=0,high=99,when={lbd={low=1.0}}}",
        "search[0]: space: defer = 99, lbd = 1: defer = 99 leaves none of 2 epochs for what advmacer is about; lower "
        "it",
    ),
    (
        "search.0.space.defer={low=0,high=99}",
        "search[0]: space.defer: defer = 99 leaves none of 2 epochs for what advmacer is about; lower it",
    ),
    # Members.
    *[
        (
            f"ensembles.0.members={text!r}",
            f"ensembles[0].members: '{text}' is not of the form 'advmacer x1 + smoothadv x2'",
        )
        for text in ("gaussian", "", "gaussian x", "gaussian x0", "gaussian x-1", "gaussian x²", "x2", "gaussian x1 +")
    ],
    (
        "ensembles.0.members='macer x1'",
        "ensembles[0].members: 'macer x1' is a single model; an ensemble has two or more",
    ),
    (
        "ensembles.0.members='macer x1 + macer x1'",
        "ensembles[0].members: 'macer x1 + macer x1' names a label twice",
    ),
    (
        "ensembles.0.members='gaussian x3'",
        "ensembles[0].members: 'gaussian x3' needs 3 models but sigma 0.25 has 2; "
        "add seeds to 'gaussian' or ask for fewer",
    ),
    # Consensus.
    ("ensembles.0.consensus=1", "ensembles[0].consensus = 1 must be at least 2"),
    (
        "ensembles.0.weights=['uniform', 'consensus']",
        "ensembles[0].consensus = 2 must be below the 2 members of 'gaussian x1 + macer x1'",
    ),
    (
        "ensembles.0={members='gaussian x2 + macer x1', sigma=0.25, weights='consensus', consensus=3}",
        "ensembles[0].consensus = 3 must be below the 3 members of 'gaussian x2 + macer x1'",
    ),
    (
        "ensembles.0.sigma=0.5",
        "ensembles[0].members: 'macer x1' needs 1 models but sigma 0.5 has 0; add seeds to 'macer' or ask for fewer",
    ),
    # Lists of models, and all subsets.
    ("ensembles.0.members=[3]", "ensembles[0].members[0] = 3 must be a text"),
    ("ensembles.0.members=['macer']", "ensembles[0].members: 'macer' is not of the form 'advmacer-s0.25-seed0'"),
    ("ensembles.0.members=[]", "ensembles[0].members: an ensemble has two or more members"),
    ("ensembles.0.members=['macer-s0.25-seed0']", "ensembles[0].members: an ensemble has two or more members"),
    (
        "ensembles.0.members=['macer-s0.25-seed0', 'macer-s0.25-seed0-12345678']",
        "ensembles[0].members: names a model twice",
    ),
    (
        "ensembles.0={members=['gaussian-s0.25-seed0', 'gaussian-s0.5-seed0']}",
        "ensembles[0].members: the members of an ensemble have one noise level in common",
    ),
    (
        "ensembles.0={members=['gaussian-s0.25-seed0', 'gaussian-s0.25-seed7']}",
        "ensembles[0].members: the study has no 'gaussian-s0.25-seed7' at this noise level; "
        "see sigma and seeds of 'gaussian'",
    ),
    (
        "ensembles.0={members=['gaussian-s0.25-seed0', 'gaussian-s0.25-seed1'], sigma=0.5}",
        "ensembles[0].members: the study has no 'gaussian-s0.25-seed0' at this noise level; "
        "see sigma and seeds of 'gaussian'",
    ),
    (
        "models.0.seeds=[0, 1, 2, 3, 4, 5, 6, 7, 8]\nensembles.0={members='gaussian x9', subsets='all'}",
        "ensembles[0].subsets = 'all' forms 502 ensembles of 'gaussian x9', more than 256; name fewer members",
    ),
    (
        f"models.0.seeds={[*range(12)]}\nensembles.0={{members='gaussian x5', subsets='of_seeds'}}",
        "ensembles[0].subsets = 'of_seeds' forms 792 ensembles of 'gaussian x5', more than 256; name fewer members",
    ),
    (
        "ensembles.0={members=['gaussian-s0.25-seed0', 'macer-s0.25-seed0'], subsets='of_seeds'}",
        "ensembles[0]: subsets = 'of_seeds' chooses the seeds, but members lists models; write labels",
    ),
    (
        "ensembles.0={members='gaussian x2', weights='sween', average='logits'}",
        "ensembles[0]: weights 'sween' are those of an average of probabilities; drop average = 'logits'",
    ),
]


@pytest.mark.parametrize(("override", "message"), WRONG, ids=[override for override, _ in WRONG])
def test_a_wrong_value_is_refused_in_one_line_with_place_and_remedy(
    tmp_path: Path, override: str, message: str
) -> None:
    path = write(tmp_path)
    with pytest.raises(StudyError) as refused:
        load_study(path, overrides=override.splitlines())
    assert str(refused.value) == f"{path}: {message}"


def test_more_noisy_copies_than_a_batch_holds_are_refused(tmp_path: Path) -> None:
    method = "models.0.method={name='smoothadv', m=17}"
    with pytest.raises(StudyError) as refused:
        load_study(write(tmp_path), overrides=[method, "ensembles=[]"])
    assert str(refused.value).endswith(
        ": models[0]: method: m = 17 does not fit into batch_size = 16; raise training.batch_size or lower m"
    )


def test_an_ensemble_whose_members_share_no_noise_level_is_refused(tmp_path: Path) -> None:
    apart = ["models.0.sigma=0.25", "models.1.sigma=1.0", "search=[]"]
    overrides = [*apart, "ensembles=[{members='gaussian x1 + macer x1'}]"]
    with pytest.raises(StudyError) as refused:
        load_study(write(tmp_path), overrides=overrides)
    assert str(refused.value).endswith(
        "ensembles[0].members: 'gaussian x1 + macer x1' has no sigma at which all of its members are trained; "
        "add one to 'sigma' of a model"
    )


def mistakes_of(path: Path, *overrides: str) -> list[str]:
    """Return what is said to be wrong with a study file, without its name."""
    with pytest.raises(StudyError) as refused:
        load_study(path, overrides=overrides)
    first, *lines = str(refused.value).removeprefix(f"{path}: ").splitlines()
    assert first == (f"{len(lines)} mistakes:" if lines else first)
    return [line.removeprefix("  ") for line in lines] or [first]


def test_all_mistakes_of_a_file_are_listed_together(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        BASE.replace("epochs = 2", "epocs = 2\nmomentum = -1")
        .replace('name = "gaussian"', 'name = "gausian"')
        .replace("seeds = 0", "seeds = [0, -3]\nnoise = 2")
        .replace("m = 2 }\nsigma = 0.25\nseeds = [0, 1]", 'm = "two" }\nsigma = 0.25\nseeds = [0, 1]')
        + "[certify]\nn = 0\nalpah = 0.5\nprecision = 5\n[wiegh]\ndraws = 1\n",
    )
    assert set(mistakes_of(path)) == {
        "unknown key 'wiegh'; did you mean 'weigh'?",
        "weigh.draws = 1 must be at least 2",
        "training: unknown key 'epocs'; did you mean 'epochs'?",
        "training.momentum = -1 must be at least 0",
        "models[0].method: unknown method 'gausian'; did you mean 'gaussian'?",
        "models[1]: unknown key 'noise'; valid names: architecture, checkpoint, label, method, seeds, sigma, training",
        "models[1].seeds[1] = -3 must be at least 0",
        "search[0].method.m = 'two' must be a whole number",
        "certify: unknown key 'alpah'; did you mean 'alpha'?",
        "certify.n = 0 must be greater than 0",
        "certify.precision = 5 is no valid name; valid names: bfloat16, float32",
    }


def test_references_between_entries_are_looked_at_beside_other_mistakes(tmp_path: Path) -> None:
    overrides = ("certify.n=0", "baseline=Macr", "ensembles.0.members='gausian x1 + mazer x1'", "data.tset=100")
    assert mistakes_of(write(tmp_path), *overrides) == [
        "data: unknown key 'tset'; did you mean 'test'?",
        "certify.n = 0 must be greater than 0",
        "ensembles[0].members: no model is labelled 'gausian'; did you mean 'gaussian'?",
        "baseline: no model is labelled 'Macr'; did you mean 'macer'?",
    ]


def test_all_that_does_not_fit_together_in_a_search_is_listed(tmp_path: Path) -> None:
    overrides = ("search.0.n=9", "search.0.objectives=['passes']", "search.0.early_stopping={grace=2}")
    assert mistakes_of(write(tmp_path), *overrides, "search.0.space.lbd={low=-1, high=1}") == [
        "search[0]: space.lbd: -1.0 is no value of it: it must be at least 0",
        "search[0]: n = 9 can never certify at alpha = 0.001; use n >= 10",
        "search[0]: objectives = ['passes'] must begin with 'acr', which decides who wins, and name none twice",
        "search[0]: early_stopping.grace = 2 must be below the 2 epochs of a trial",
    ]


def test_what_hides_behind_a_wrong_name_is_listed_beside_it(tmp_path: Path) -> None:
    overrides = ("models.1.method={name='MACER', m=0}", "certify.rule={name='Planned', eps=-1}", "baseline='mcer'")
    assert mistakes_of(write(tmp_path), *overrides) == [
        "models[1].method: unknown method 'MACER'; did you mean 'macer'?",
        "certify.rule: unknown rule 'Planned'; did you mean 'planned'?",
        "models[1].method.m = 0 must be greater than 0",
        "certify.rule: eps = -1.0 must be a finite number, at least 0",
    ]


def test_a_mistake_in_what_entries_share_is_said_once(tmp_path: Path) -> None:
    overrides = ("training.lr=0", "architecture=lenett")
    assert mistakes_of(write(tmp_path), *overrides) == [
        "training.lr = 0 must be greater than 0",
        "architecture = 'lenett': unknown architecture 'lenett'; did you mean 'lenet'?",
    ]


def test_one_mistake_in_the_only_entry_is_said_once(tmp_path: Path) -> None:
    entry = 'method = { name = "macer", m = 0 }\narchitecture = "lenet"\ntraining = {}\nsigma = 0\nseeds = 0\n'
    path = write(tmp_path, f'name = "one"\n[[models]]\n{entry}')
    assert mistakes_of(path) == [
        "models[0].method.m = 0 must be greater than 0",
        "models[0].sigma[0] = 0 must be greater than 0",
    ]


PYDANTICS = re.compile(
    r"[Ii]nput|[Vv]alidat|[Pp]ydantic|instance of|dictionary|tuple|[Ss]tring|integer|[Ee]xtra|permitted|discriminator|"
    r"parse|Union|Literal|\bint\b|\bstr\b|\bfloat\b|should|Field|errors\.pydantic"
)

STRANGE = (None, True, -1.5, 2**70, float("nan"), "word", [], {"name": "word"})


def places_of(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the place of every value within parsed content."""
    yield place
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield from places_of(inner, (*place, key))


def replaced(value: Any, place: tuple[str | int, ...], other: Any) -> Any:
    """Return content with another value at a place, or without it where that is None."""
    if not place:
        return other
    first, *rest = place
    twin = value.copy()
    if rest:
        twin[first] = replaced(value[first], tuple(rest), other)
    elif other is None:
        del twin[first]
    else:
        twin[first] = other
    return twin


EVERYTHING = """
name = "everything"
architecture = "digits_cnn"
radii = [0.0, 0.5]
data = { name = "parquet", title = "t", folder = "f", train = ["a"], test = "b", classes = 2, mode = "L" }
training = { epochs = 2, precision = "float32", compiled = false, grad_clip = 1.0 }
weigh = { images = 5, draws = 20 }
certify = { rule = { name = "planned", pilot = 200, eps = 0.1 }, images = { skip = 20 }, alpha = 0.01 }
models = [
    { method = { name = "smoothmix", T = 4, mix_step = 1 }, sigma = [0.25], seeds = [0, 1] },
    { label = "loaded", checkpoint = { file = "FILE", normalization = [[0.5], [0.5]] }, sigma = 0.25, seeds = 0 },
]
[[search]]
label = "tuned"
method = { name = "macer", m = 2 }
sigma = 0.25
seeds = [0]
space = { lbd = { low = 1.0, high = 4.0, log = true }, m = { choices = [1, 2], when = { lbd = { low = 2.0 } } } }
algorithm = { name = "tpe", startup = 3 }
objectives = ["acr", "passes"]
[[ensembles]]
members = "smoothmix x2"
weights = ["uniform", "auto"]
[[ensembles]]
members = ["smoothmix-s0.25-seed0", "loaded-s0.25-seed0"]
sigma = 0.25
[[published]]
entry = "smoothmix"
sigma = 0.25
acr = 0.5
images = 10
source = "others"
[[claims]]
first = "smoothmix"
second = "loaded"
sigma = 0.25
by = 0.1
"""


def test_no_mistake_is_told_in_the_words_of_pydantic(tmp_path: Path) -> None:
    """Every value of a file with all tables is taken away or replaced, one at a time, by values of other types."""
    (tmp_path / "FILE").write_bytes(b"weights")
    whole = tomllib.loads(EVERYTHING)
    study_of_text(EVERYTHING, path=tmp_path / "study.toml")
    refused = 0
    places = [place for place in places_of(whole) if place]
    for number, place in enumerate(places * 4):
        other = STRANGE[(number + number // len(places)) % len(STRANGE)]
        content = replaced(whole, place, other)
        try:
            study_of_content(content, path=tmp_path / "study.toml")
        except StudyError as error:
            refused += 1
            mistakes = str(error).removeprefix(f"{tmp_path / 'study.toml'}: ")
            assert not PYDANTICS.search(mistakes), (place, other, mistakes)
    assert refused > 300


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("noequals", "override 'noequals' is not of the form key=value, e.g. certify.n=1000"),
        ("=3", "override '=3' is not of the form key=value, e.g. certify.n=1000"),
        ("models.7.sigma=1", "override 'models.7.sigma=1': there is no '7' in the study file"),
        ("models.first.sigma=1", "override 'models.first.sigma=1': there is no 'first' in the study file"),
        ("models.7=1", "override 'models.7=1': there is no '7' in the study file"),
        ("name.first=1", "override 'name.first=1': there is no 'first' in the study file"),
        ("name.first.second=1", "override 'name.first.second=1': there is no 'first' in the study file"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(StudyError) as refused:
        load_study(write(tmp_path), overrides=[override])
    assert str(refused.value) == message


def test_a_study_file_may_be_named_by_a_string(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert load_study(str(path)) == load_study(path)


def test_a_missing_study_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere\.toml: no such study file$"):
        load_study(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_not_toml_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(StudyError, match="not a readable TOML file: ") as refused:
        load_study(path)
    assert "\n" not in str(refused.value)


def test_a_folder_is_no_study_file(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="not a readable TOML file"):
        load_study(tmp_path)


def test_an_empty_file_lacks_a_name(tmp_path: Path) -> None:
    assert mistakes_of(write(tmp_path, "")) == ["name is missing", "models is missing"]


def test_the_smallest_n_that_certifies_is_accepted() -> None:
    assert CertifySpec(n=10, alpha=0.001).n == 10


def test_the_last_look_at_a_radius_grid_must_be_able_to_certify_by_its_share_of_alpha(tmp_path: Path) -> None:
    """All of 250 samples have probability 2^-250 = 5.5e-76 at 1/2: below alpha, but not below 60 % of it."""
    certify = "certify={{rule='{}', n=250, alpha=8e-76}}"
    assert load_study(write(tmp_path), overrides=[certify.format("fixed")]).certify.n == 250
    with pytest.raises(StudyError, match=r"certify: n = 250 can never certify at alpha = 4\.\d*e-76; use n >= 251$"):
        load_study(write(tmp_path), overrides=[certify.format("radius_grid")])


@pytest.mark.parametrize(
    ("name", "valid", "hint"),
    [
        ("sigm", ["sigma", "seed"], "; did you mean 'sigma'?"),
        ("t", ["T", "m"], "; did you mean 'T'?"),
        ("Lambda", ["lbd", "gamma"], "; did you mean 'lbd'?"),
        ("zzz", ["sigma", "seed"], "; valid names: seed, sigma"),
        ("sigma", [], "; there are none"),
    ],
)
def test_a_hint_names_the_nearest_valid_name_or_all_of_them(name: str, valid: list[str], hint: str) -> None:
    assert nearest(name, valid) == hint


def test_a_rule_named_by_one_override_takes_its_parameters_from_another() -> None:
    study = load_study(TINY, overrides=["certify.rule=planned", "certify.rule.eps=0.02"])
    assert study.certify.rule == PlannedRule(name="planned", eps=0.02)


def test_numbers_of_a_table_that_do_not_fit_are_told_together() -> None:
    overrides = ["certify.n=5", "certify.batch_size=7", "certify.rule={name='planned', pilot=50}"]
    with pytest.raises(StudyError) as refused:
        load_study(TINY, overrides=overrides)
    for said in ("use n >= 10", "rule.pilot = 50 includes the selection", "batch_size = 7 must divide block_size"):
        assert said in str(refused.value)
    with pytest.raises(StudyError, match=r"pilot = 0 must.*; eps = -1\.0 must.*; futility = 3\.0 must"):
        load_study(TINY, overrides=["certify.rule={name='planned', pilot=0, eps=-1, futility=3}"])
