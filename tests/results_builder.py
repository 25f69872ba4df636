"""A study's results made by hand: two noise levels, three labels of two seeds, ensembles, a search, one failure."""

from dataclasses import replace

import numpy as np

from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.diagnostics import MemberMargins
from rspipe.records import EnsembleWeights, SearchResult, TrainedModel, Trial
from rspipe.report.results import Results
from rspipe.smoothing.certificates import ABSTAIN, certified_radius, clopper_pearson_lower
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import average_certified_radius
from rspipe.spec import content_id
from rspipe.study.config import StudyConfig

N, N0, ALPHA = 10_000, 100, 0.001
SIGMAS = (0.25, 0.5)
SKILL = {"gaussian": 0.55, "advmacer": 0.85, "advmacer_tuned": 0.9}
MEMBERS = (("advmacer", 0), ("advmacer", 1), ("gaussian", 0))


def study(**changes):
    """Return the study that the results are of."""
    training = {"epochs": 3, "batch_size": 64}
    entries = [
        {"label": "gaussian", "method": {"name": "gaussian"}},
        {"label": "advmacer", "method": {"name": "advmacer", "m": 2}},
    ]
    common = {"architecture": "digits_cnn", "training": training, "sigma": SIGMAS, "seeds": (0, 1)}
    search = {**entries[1], **common, "label": "advmacer_tuned", "trials": 3}
    search["space"] = {"lbd": {"low": 0.5, "high": 16.0, "log": True}, "m": {"choices": (1, 2, 4)}}
    content = {
        "name": "hand-made",
        "title": "A hand-made study",
        "models": [{**entry, **common} for entry in entries],
        "search": [search],
        "ensembles": [{"members": "advmacer x2"}, {"members": "gaussian x1 + advmacer x1"}],
        "certify": {"n0": N0, "n": N, "alpha": ALPHA},
        "radii": (0.0, 0.25, 0.5, 1.0),
    }
    return StudyConfig.model_validate({**content, **changes})


def trained_model(label, sigma, seed, **changes):
    """Return the record of a model; its id is readable."""
    epochs = (1, 2, 3)
    content = {
        "id": f"{label}-s{sigma:g}-seed{seed}",
        "label": label,
        "source": label.removesuffix("_tuned"),
        "train_sigma": sigma,
        "seed": seed,
        "spec": {},
        "status": "finished",
        "message": "",
        "collapsed": False,
        "history": tuple(
            {"epoch": e, "lr": 0.1, "seconds": 1.0, "loss": (1 + seed) / e, "noisy_accuracy": 1 - 0.5 / e}
            for e in epochs
        ),
        "clean_accuracy": 0.97,
        "noisy_accuracy": 0.9 + 0.02 * seed,
        "seconds": 3.0 + len(label) + seed,
        "passes": 1000 * len(label) + seed,
        "parameters": 12_345,
        "device": "cpu",
        "precision": "float32",
        "checksum": f"{label}/{sigma}/{seed}",
        "normalization": None,
        "input_shape": (1, 8, 8),
        "answers": None,
    }
    return TrainedModel(**{**content, **changes})


def stored_model(label, sigma, seed, **changes):
    """Return the record of a model as a run directory takes it: its id names the hash of its spec."""
    record = trained_model(label, sigma, seed, **changes)
    return replace(record, id=f"{record.id}-{content_id(record.spec)}")


def trained_as(spec, **changes):
    """Return the record of a model that was trained by a spec."""
    content = spec.model_dump(mode="json")
    return trained_model(spec.label, spec.train_sigma, spec.seed, id=spec.id, spec=content, **changes)


def certified(id_, kind, sigma, *, skill, seed, images=60, first=0):
    """Return certificates with about the given skill; radii follow from counts as in CERTIFY."""
    rng = np.random.default_rng(seed)
    label = np.arange(first, first + images) % 10
    n_a = rng.binomial(N, rng.beta(8 * skill, 8 * (1 - skill) / 2, images))
    n_a[0] = N
    p_a_lower = clopper_pearson_lower(n_a, N, alpha=ALPHA)
    wrong = rng.random(images) > skill
    prediction = np.where(p_a_lower < 0.5, ABSTAIN, (label + wrong) % 10)
    radius = np.where(p_a_lower < 0.5, 0.0, certified_radius(p_a_lower, sigma=sigma))
    return CertifiedClassifier(
        id=id_,
        kind=kind,
        sigma=sigma,
        example=np.arange(first, first + images),
        label=label,
        prediction=prediction,
        radius=radius,
        n_a=n_a,
        p_a_lower=p_a_lower,
        n=np.full(images, N),
        samples=np.full(images, N0 + N),
        stopped=np.zeros(images, dtype=bool),
        rule="fixed",
        two_sided=1.03 * average_certified_radius(radius, prediction == label),
        seconds=1.0,
        noise=np.full(images, "grid 1/256"),
    )


def ensemble(label, sigma, members, *, method="uniform", weights=None, average="probabilities"):
    """Return the record of an ensemble; its id is readable."""
    return EnsembleWeights(
        id=f"{label.replace(' ', '-')}-{method}-{average}-s{sigma:g}",
        label=label,
        sigma=sigma,
        members=tuple(members),
        method=method,
        average=average,
        weights=weights or (1 / len(members),) * len(members),
        objective=1.5 if method == "uniform" else 1.6,
        uniform_objective=1.5,
        status="closed form" if method == "uniform" else "optimal",
        solver="none" if method == "uniform" else "CLARABEL",
        gap=0.0 if method == "uniform" else 3e-9,
        pairs=None,
        effective_pairs=None,
        spread=(),
        images=100,
        draws=200,
        checksums=tuple(f"of {member}" for member in members),
        consensus_size=0,
    )


def margins(sigma, *, images=40, correlations=(0.7, 0.4), weak=1.0, draws=0):
    """Return margins of two advmacer models and a gaussian one, correlated within a method and across methods.

    The gaussian model's mean margins are `weak` times the others'. Of that many draws the margins are kept.
    """
    rng = np.random.default_rng(round(100 * sigma))
    within, across = correlations
    correlation = np.array([[1, within, across], [within, 1, across], [across, across, 1]])
    mean = rng.normal(1.0, 0.4, (images, 1, 1)) + rng.exponential(0.3, (images, 3, 1)) + np.zeros(3)
    mean[..., 2] *= weak
    scatter = rng.uniform(0.2, 0.4, (images, 1, 1, 1)) * correlation
    covariance = np.broadcast_to(scatter, (images, 3, 3, 3)).copy()
    noise = rng.normal(size=(images, draws, 3, 3)) @ np.linalg.cholesky(correlation).T
    kept = mean[:, None] + np.sqrt(scatter[:, :, :1, 0, None] / correlation[0, 0]) * noise if draws else None
    calibration = Calibration(mean, covariance, 200, 3.2, margins=kept)
    members = tuple(f"{name}-s{sigma:g}-seed{seed}" for name, seed in MEMBERS)
    return MemberMargins(sigma, "probabilities", members, calibration)


def search(sigma, *, best=2):
    """Return a search of three trials, the second of which diverged."""
    id_ = f"advmacer_tuned-s{sigma:g}"
    values = [(4.0, 2, 0.5, "finished"), (15.0, 1, 0.0, "diverged"), (1.3, 4, 0.55, "finished")]
    trials = tuple(
        Trial(
            search=id_,
            index=index,
            parameters={"lbd": lbd, "m": m},
            objective=objective,
            noisy_accuracy=0.8,
            status=status,
            message="" if status == "finished" else "loss is nan",
            seconds=2.0,
            passes=500,
            error=None,
            accuracy=0.0,
            epochs=0,
            watched={},
        )
        for index, (lbd, m, objective, status) in enumerate(values)
    )
    result = SearchResult(
        id=id_,
        label="advmacer_tuned",
        sigma=sigma,
        best=trials[best].parameters,
        best_index=best,
        objective=trials[best].objective,
        default_objective=0.5,
        trials=3,
    )
    return result, trials


def results(**changes):
    """Return the results of the study; gaussian with seed 1 diverged at the larger noise level."""
    models, certificates, ensembles, searches, trials = [], [], [], [], []
    for sigma in SIGMAS:
        for label, skill in SKILL.items():
            for seed in (0, 1):
                model = trained_model(label, sigma, seed)
                if (label, sigma, seed) == ("gaussian", 0.5, 1):
                    models.append(replace(model, status="diverged", message="loss is nan in epoch 3"))
                    continue
                models.append(model)
                certificates.append(certified(model.id, "model", sigma, skill=skill, seed=seed + 10))
        first, second, other = (f"{name}-s{sigma:g}-seed{seed}" for name, seed in MEMBERS)
        for record in (
            ensemble("advmacer x2", sigma, (first, second)),
            ensemble("advmacer x2", sigma, (first, second), method="esbrs_ratio", weights=(0.7, 0.3)),
            ensemble("gaussian x1 + advmacer x1", sigma, (other, first)),
            ensemble("gaussian x1 + advmacer x1", sigma, (other, first), method="esbrs_ratio", weights=(0.05, 0.95)),
        ):
            ensembles.append(record)
            certificates.append(certified(record.id, "ensemble", sigma, skill=0.88, seed=len(record.id)))
        searched, tried = search(sigma)
        searches.append(searched)
        trials += tried
    content = {
        "study": study(),
        "environment": {"commit": "abc123", "torch": "2.9", "device": "cpu"},
        "models": tuple(models),
        "searches": tuple(searches),
        "trials": tuple(trials),
        "ensembles": tuple(ensembles),
        # A store knows no order.
        "certified": tuple(sorted(certificates, key=lambda c: c.id)),
    }
    return Results(**{**content, **changes})
