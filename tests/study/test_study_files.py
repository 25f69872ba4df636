"""The study files that come with rspipe, against the settings of the papers, written down here once more."""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from rspipe.data.spec import DataSpec
from rspipe.data.splits import Dataset, Split
from rspipe.spec import ImageRange
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from rspipe.training.fitting import fit
from rspipe.training.spec import ModelSpec

FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "studies"
STUDIES = {path.stem: load_study(path) for path in sorted(FOLDER.glob("*.toml"))}
PAPERS = ("cifar10_paper", "svhn_paper", "imagenet_paper", "cifar10_references", "imagenet_references")

# Models and ensembles (with their weightings) of each file.
SIZES = {
    "digits": (24, 124),
    "ensembles": (17, 724),
    "foil": (18, 0),
    "mnist": (39, 45),
    "cifar10_small": (39, 57),
    "cifar10_paper": (35, 81),
    "svhn_paper": (6, 0),
    "cifar10_references": (27, 0),
    "imagenet_paper": (9, 0),
    "imagenet_references": (6, 0),
    "mnist_methods": (20, 466),
    "mnist_published": (3, 0),
    "mnist_search": (1, 0),
    "mnist_sensitivity": (1, 0),
    "cifar10_recipes": (5, 0),
    "cifar10_laptop": (9, 36),
    "mnist_cascade": (9, 0),
}

OWN = {
    "digits",
    "ensembles",
    "foil",
    "mnist_methods",
    "mnist_published",
    "mnist_search",
    "mnist_sensitivity",
    "mnist_cascade",
    "cifar10_recipes",
    "cifar10_laptop",
}
"""Files whose settings are our own."""

Settings = dict[str, Any]
EPS_255 = 255 / 256
"""The bound that the published code makes of "eps 255"."""


def setting(**content: Any) -> Settings:
    return content


def hinge(lbd: float, **content: Any) -> Settings:
    """MACER's loss: gamma 8 and beta 16 everywhere, not deferred unless said."""
    return {"lbd": lbd, "gamma": 8, "beta": 16, "defer": 0, **content}


def attack(steps: int, m: int, eps: float) -> Settings:
    return {"T": steps, "m": m, "eps": eps, "warmup": 10}


def smoothmix(steps: int, m: int, alpha: float, mix_step: int) -> Settings:
    return {"T": steps, "m": m, "alpha": alpha, "mix_step": mix_step, "eta": 5, "warmup": 10, "maxnorm": None}


def foil(steps: int, step: float, epoch: int, below: float) -> Settings:
    return {"T": steps, "m": 4, "step": step, "discard_epoch": epoch, "discard_below": below, "reweigh_every": 10}


# What two files share. `defer` is the epoch of MACER's first drop of the learning rate.
CIFAR10_ADVMACER = {
    0.25: hinge(12, **attack(2, 8, 1)),
    0.5: hinge(12, **attack(2, 8, 2)),
    1.0: hinge(12, **attack(2, 4, 2)),
}
CIFAR10_SMOOTHADV = {0.25: attack(2, 8, 1), 0.5: attack(2, 8, 2), 1.0: attack(2, 4, 2)}
CIFAR10_SMOOTHMIX = {0.25: smoothmix(4, 2, 0.5, 0), 0.5: smoothmix(4, 2, 1, 1), 1.0: smoothmix(4, 2, 2, 1)}
CIFAR10_CONSISTENCY = {sigma: setting(m=2, eta=0.5, lbd=lbd) for sigma, lbd in ((0.25, 20), (0.5, 10), (1.0, 10))}


def cifar10_macer(defer: int) -> dict[float, Settings]:
    return {0.25: hinge(12, m=16), 0.5: hinge(4, m=16), 1.0: hinge(12, m=16, defer=defer)}


METHODS: dict[str, dict[str, dict[float, Settings]]] = {
    "cifar10_paper": {
        "advmacer": CIFAR10_ADVMACER,
        "smoothadv": CIFAR10_SMOOTHADV,
        "macer": cifar10_macer(defer=200),
        "smoothmix": CIFAR10_SMOOTHMIX,
        "consistency": CIFAR10_CONSISTENCY,
    },
    "cifar10_small": {
        "gaussian": {0.25: {}, 0.5: {}, 1.0: {}},
        "stability": {0.25: setting(lbd=2), 0.5: setting(lbd=2), 1.0: setting(lbd=1)},
        "advmacer": CIFAR10_ADVMACER,
        "smoothadv": CIFAR10_SMOOTHADV,
        "macer": cifar10_macer(defer=20),
        "smoothmix": CIFAR10_SMOOTHMIX,
        "consistency": CIFAR10_CONSISTENCY,
        "smoothadv_consistency": {
            0.25: setting(**attack(10, 4, EPS_255), lbd=2, eta=0.5),
            0.5: setting(**attack(10, 2, 2), lbd=1, eta=0.5),
            1.0: setting(**attack(10, 2, 2), lbd=1, eta=0.5),
        },
    },
    "mnist": {
        "gaussian": {0.25: {}, 0.5: {}, 1.0: {}},
        "stability": dict.fromkeys((0.25, 0.5, 1.0), setting(lbd=2)),
        "smoothadv": dict.fromkeys((0.25, 0.5, 1.0), attack(10, 4, EPS_255)),
        "macer": {sigma: hinge(lbd, m=16, defer=30) for sigma, lbd in ((0.25, 16), (0.5, 16), (1.0, 6))},
        "consistency": {0.25: setting(m=2, eta=0.5, lbd=10)} | dict.fromkeys((0.5, 1.0), setting(m=2, eta=0.5, lbd=5)),
        "smoothadv_consistency": dict.fromkeys((0.25, 0.5, 1.0), setting(**attack(10, 4, EPS_255), lbd=1, eta=0.5)),
        "smoothmix": {0.25: smoothmix(2, 4, 1, 1), 0.5: smoothmix(4, 4, 1, 1), 1.0: smoothmix(8, 4, 1, 1)},
        "advmacer": {
            sigma: hinge(lbd, **attack(10, 4, EPS_255), defer=30) for sigma, lbd in ((0.25, 16), (0.5, 16), (1.0, 6))
        },
    },
    "svhn_paper": {
        "advmacer": {0.25: hinge(12, **attack(2, 4, 0.5)), 0.5: hinge(4, **attack(2, 4, 0.5))},
        "smoothadv": {0.25: attack(2, 4, 0.5), 0.5: attack(2, 4, 0.25)},
        "macer": {0.25: hinge(12, m=16), 0.5: hinge(4, m=16)},
    },
    "imagenet_paper": {
        "advmacer": dict.fromkeys((0.25, 0.5, 1.0), hinge(2, **attack(1, 1, 0.5))),
        "smoothadv": dict.fromkeys((0.25, 0.5, 1.0), attack(1, 1, 0.5)),
        "macer": dict.fromkeys((0.25, 0.5, 1.0), hinge(6, m=2)),
    },
}

# Epochs, batch, learning rate, epochs between drops, weight decay; of all methods but those named.
SCHEDULES: dict[str, dict[str, tuple[int, int, float, int, float]]] = {
    "mnist": {"": (90, 256, 0.01, 30, 1e-4)},
    "cifar10_small": {"": (60, 256, 0.1, 20, 1e-4)},
    "cifar10_paper": {"": (150, 256, 0.1, 50, 1e-4), "macer": (440, 64, 0.01, 200, 5e-4)},
    "svhn_paper": {"": (150, 256, 0.01, 50, 1e-4), "macer": (440, 64, 0.01, 200, 5e-4)},
    "imagenet_paper": {"": (90, 400, 0.1, 30, 1e-4), "macer": (120, 256, 0.1, 30, 1e-4)},
}

# By label: settings, and where it has one of its own, the schedule.
CIFAR10_SCHEDULE, COHEN_SCHEDULE = (150, 256, 0.1, 50, 1e-4), (90, 400, 0.1, 30, 1e-4)
REFERENCES: dict[str, dict[str, tuple[str, dict[float, Settings], tuple[int, int, float, int, float]]]] = {
    "cifar10_references": {
        "gaussian": ("gaussian", {0.25: {}, 0.5: {}, 1.0: {}}, COHEN_SCHEDULE),
        "stability": (
            "stability",
            {0.25: setting(lbd=2), 0.5: setting(lbd=2), 1.0: setting(lbd=1)},
            CIFAR10_SCHEDULE,
        ),
        "smoothadv_horvath": (
            "smoothadv",
            {0.25: attack(10, 8, EPS_255), 0.5: attack(2, 2, 2), 1.0: attack(10, 2, 2)},
            CIFAR10_SCHEDULE,
        ),
        "smoothadv_catrs": (
            "smoothadv",
            {0.25: attack(10, 4, 1), 0.5: attack(10, 8, 1), 1.0: attack(10, 2, 2)},
            CIFAR10_SCHEDULE,
        ),
        "smoothadv_consistency": (
            "smoothadv_consistency",
            METHODS["cifar10_small"]["smoothadv_consistency"],
            CIFAR10_SCHEDULE,
        ),
        "macer_catrs": ("macer", cifar10_macer(defer=51), CIFAR10_SCHEDULE),
        "smoothmix_other": (
            "smoothmix",
            {0.25: smoothmix(4, 2, 0.5, 1), 0.5: smoothmix(4, 2, 1, 0), 1.0: smoothmix(4, 2, 2, 0)},
            CIFAR10_SCHEDULE,
        ),
        "catrs": (
            "catrs",
            {
                sigma: setting(T=4, m=4, eps=1, lbd=lbd, teacher_sigma=0.25, teacher_draws=10_000)
                for sigma, lbd in ((0.25, 0.5), (0.5, 1), (1.0, 2))
            },
            CIFAR10_SCHEDULE,
        ),
        "acr_weakness": (
            "acr_weakness",
            {0.25: foil(3, 0.25, 60, 0.5), 0.5: foil(6, 0.25, 70, 0.4), 1.0: foil(4, 0.5, 60, 0.4)},
            CIFAR10_SCHEDULE,
        ),
    },
    "imagenet_references": {
        "gaussian": ("gaussian", {0.25: {}, 0.5: {}, 1.0: {}}, COHEN_SCHEDULE),
        "consistency": (
            "consistency",
            {
                0.25: setting(m=2, lbd=10, eta=0.5),
                0.5: setting(m=2, lbd=5, eta=0.5),
                1.0: setting(m=2, lbd=5, eta=0.1),
            },
            COHEN_SCHEDULE,
        ),
    },
}

ARCHITECTURES = {
    "mnist": "lenet",
    "cifar10_small": "cifar_resnet20",
    "cifar10_paper": "cifar_resnet110",
    "svhn_paper": "cifar_resnet110",
    "imagenet_paper": "resnet50",
    "cifar10_references": "cifar_resnet110",
    "imagenet_references": "resnet50",
}


def test_every_study_file_is_looked_at_here() -> None:
    assert set(STUDIES) == set(SIZES)
    assert set(METHODS) == set(SCHEDULES)
    assert {*METHODS, *REFERENCES} == set(ARCHITECTURES) == set(SIZES) - OWN


@pytest.mark.parametrize("name", SIZES)
def test_a_study_is_named_as_its_file_and_has_so_many_models_and_ensembles(name: str) -> None:
    study = STUDIES[name]
    winners = [spec for search in study.search_specs for spec in study.winner_specs(search, {})]
    models = study.model_specs
    ensembles = study.ensemble_specs((*models, *winners))
    assert study.name == name
    assert (len(models), len(ensembles)) == SIZES[name]
    assert len({spec.id for spec in (*models, *ensembles)}) == sum(SIZES[name])


def test_no_two_files_are_the_same_study_nor_share_a_model() -> None:
    assert len({study.id for study in STUDIES.values()}) == len(STUDIES)
    models = {name: {model.id for model in study.model_specs} for name, study in STUDIES.items()}
    # A foil stands beside models of the default study.
    models.pop("foil")
    counts = Counter(model for ids in models.values() for model in ids)
    assert set(counts.values()) == {1}


@pytest.mark.parametrize(("name", "schedule"), [("mnist_methods", (12, 5)), ("mnist_published", (90, 30))])
def test_gaussian_models_of_mnist_are_the_published_recipe_but_for_precision_and_how_long_they_train(
    name: str, schedule: tuple[int, int]
) -> None:
    (ours, *_), (full, *_) = (
        [m for m in STUDIES[study].model_specs if (m.label, m.train_sigma) == ("gaussian", 0.5)]
        for study in (name, "mnist")
    )
    assert (ours.training.epochs, ours.training.lr_step) == schedule
    assert (full.training.epochs, full.training.lr_step) == (90, 30)
    other = {"precision": "float32", "epochs": 90, "lr_step": 30}
    assert ours.training.model_copy(update=other) == full.training
    assert (ours.method, ours.architecture) == (full.method, full.architecture)


def test_the_default_study_keeps_its_identity() -> None:
    assert STUDIES["digits"].id == "digits-a647b49d"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_the_settings_of_its_paper_at_every_noise_level(name: str) -> None:
    by_sigma: dict[str, dict[float, Settings]] = {}
    for model in STUDIES[name].model_specs:
        settings = model.method.model_dump(exclude={"name"})
        assert by_sigma.setdefault(model.method.name, {}).setdefault(model.train_sigma, settings) == settings
        assert model.label == model.method.name
    assert by_sigma == METHODS[name]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_method_has_the_schedule_of_its_paper(name: str) -> None:
    for model in STUDIES[name].model_specs:
        training = model.training
        schedule = SCHEDULES[name].get(model.method.name, SCHEDULES[name][""])
        trained = (training.epochs, training.batch_size, training.lr, training.lr_step, training.weight_decay)
        assert trained == schedule
        assert (training.momentum, training.lr_decay, training.grad_clip) == (0.9, 0.1, None)
        assert model.architecture == ARCHITECTURES[name]


@pytest.mark.parametrize("name", REFERENCES)
def test_other_settings_of_the_literature_are_there_by_label_at_every_noise_level(name: str) -> None:
    by_label: dict[str, dict[float, Settings]] = {}
    for model in STUDIES[name].model_specs:
        method, _, schedule = REFERENCES[name][model.label]
        by_label.setdefault(model.label, {})[model.train_sigma] = model.method.model_dump(exclude={"name"})
        training = model.training
        assert model.method.name == method
        assert schedule == (
            training.epochs,
            training.batch_size,
            training.lr,
            training.lr_step,
            training.weight_decay,
        )
        assert (training.momentum, training.lr_decay, training.grad_clip) == (0.9, 0.1, None)
        assert model.architecture == ARCHITECTURES[name]
    assert by_label == {label: settings for label, (_, settings, _) in REFERENCES[name].items()}


@pytest.mark.parametrize("name", METHODS)
def test_a_hinge_that_waits_for_the_learning_rate_waits_for_its_first_drop(name: str) -> None:
    for model in STUDIES[name].model_specs:
        if model.method.name in ("macer", "advmacer"):
            assert model.method.defer in (0, model.training.lr_step)


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_are_certified_as_they_certify(name: str) -> None:
    certify = STUDIES[name].certify
    assert (certify.rule.name, certify.n0, certify.n, certify.alpha) == ("fixed", 100, 100_000, 0.001)
    # Liu et al. certify the first 500 of CIFAR-10; Cohen et al. and most others every 20th, of ImageNet every 100th.
    images = {
        "cifar10_paper": ImageRange(first=500),
        "cifar10_references": ImageRange(skip=20),
        "imagenet_paper": ImageRange(skip=100),
        "imagenet_references": ImageRange(skip=100),
    }
    assert (certify.images, certify.precision) == (images.get(name, 500), "float32")


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_the_ensembles_of_table_2_are_there_at_every_noise_level(sigma: float) -> None:
    formed = combinations(STUDIES["cifar10_paper"], sigma)
    for members in (
        "advmacer x3",
        "smoothadv x3",
        "advmacer x1 + smoothadv x2",
        "advmacer x2 + macer x1",
        "advmacer x1 + macer x2",
    ):
        assert {"uniform", "esbrs_paper"} <= formed[members]


def test_the_pair_of_table_3_is_averaged_weighed_and_decided_by_the_widest_margin() -> None:
    assert {"uniform", "mme", "esbrs_paper"} <= combinations(STUDIES["cifar10_paper"], 0.25)["advmacer x2"]


def test_figure_3_has_one_to_six_members_of_one_method_and_of_two() -> None:
    formed = combinations(STUDIES["cifar10_paper"], 0.5)
    assert {f"advmacer x{k}" for k in range(2, 7)} <= set(formed)
    assert {f"advmacer x1 + smoothadv x{k}" for k in range(1, 6)} <= set(formed)


def combinations(study: StudyConfig, sigma: float) -> dict[str, set[str]]:
    """Return the weightings of each combination of members."""
    formed: dict[str, set[str]] = {}
    for spec in study.ensemble_specs(study.model_specs):
        if spec.sigma == sigma:
            formed.setdefault(spec.label, set()).add(spec.weights)
    return formed


DATA = {
    "mnist": ("mnist", "none", "data"),
    "cifar10_small": ("cifar10", "crop_flip", "data"),
    "cifar10_paper": ("cifar10", "crop_flip", "data"),
    "svhn_paper": ("svhn", "crop_flip", "data"),
    "imagenet_paper": ("imagenet", "resized_crop_flip", "data/imagenet"),
    "cifar10_references": ("cifar10", "crop_flip", "data"),
    "imagenet_references": ("imagenet", "resized_crop_flip", "data/imagenet"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_come_from_the_folder_of_the_repository_that_git_ignores_and_are_not_fetched_unasked(name: str) -> None:
    data = STUDIES[name].data
    assert data.name != "digits"
    assert data.name != "parquet"
    kind, augment, folder = DATA[name]
    assert (data.name, data.augment, Path(data.folder)) == (kind, augment, FOLDER.parent.parent / folder)
    assert not getattr(data, "download", False)
    assert "/data/" in (FOLDER.parent.parent / ".gitignore").read_text(encoding="utf-8").split()


def commented_out(name: str) -> DataSpec | None:
    """Load a study with the second `[data]` of its comments in place of the first."""
    _, mark, rest = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").partition("\n# [data]\n")
    lines = [line.removeprefix("# ") for line in rest.split("\n\n")[0].splitlines()]
    items = ", ".join(f"{key} = {value!r}" for key, value in tomllib.loads("\n".join(lines)).items())
    return load_study(FOLDER / f"{name}.toml", overrides=[f"data={{{items}}}"]).data if mark else None


@pytest.mark.parametrize("name", ["mnist", "cifar10_small", "cifar10_paper", "svhn_paper"])
def test_the_parquet_files_of_a_comment_are_data_of_the_same_kind(name: str) -> None:
    data = commented_out(name)
    assert data is not None
    assert data.name == "parquet"
    first = STUDIES[name].data
    assert first.name != "digits"
    assert (data.title, data.classes, data.augment) == (first.title, 10, first.augment)
    assert data.mode == ("L" if name == "mnist" else "RGB")
    assert Path(data.folder) == FOLDER.parent.parent / "data"


def one_batch(model: ModelSpec) -> tuple[ModelSpec, Dataset]:
    """Return a model of a small network with twice the least batch of its method, and random images for it."""
    batch = 2 * model.training.batch_size // model.method.images_per_step(model.training.batch_size)
    training = model.training.model_copy(update={"epochs": 1, "batch_size": batch})
    images = torch.rand((2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.tensor([0, 1]), torch.arange(2))
    few = Dataset(model.data.name, 10, "none", split, split, split, split)
    return model.model_copy(update={"training": training, "architecture": "digits_cnn"}), few


@pytest.mark.parametrize("name", [*METHODS, *REFERENCES])
def test_every_setting_of_the_papers_takes_a_step(name: str) -> None:
    for model in {model.method.model_dump_json(): model for model in STUDIES[name].model_specs}.values():
        assert fit(*one_batch(model)).status == "finished"
