"""From records of a run directory to the classifiers that are certified, and their networks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rspipe.errors import ModelError, StoreError, first_line
from rspipe.networks.answers import answers_as_before
from rspipe.networks.architectures import build_network, code_in, code_is_allowed
from rspipe.networks.deployment import deploy
from rspipe.networks.normalization import set_normalization
from rspipe.networks.precision import Precision
from rspipe.records import EnsembleWeights, TrainedModel
from rspipe.smoothing.classifiers import COMBINATIONS, Classifier, Combination
from rspipe.spec import content_id
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig


@dataclass(frozen=True)
class Candidate:
    """A classifier to certify, its members by id."""

    id: str
    sigma: float
    members: tuple[str, ...]
    weights: tuple[float, ...]
    average: str
    checksums: tuple[str, ...]
    combination: Combination = "average"
    consensus_size: int = 0


def candidates_of(models: Sequence[TrainedModel], ensembles: Sequence[EnsembleWeights]) -> list[Candidate]:
    base = [
        Candidate(model.id, model.train_sigma, (model.id,), (1.0,), "logits", (model.checksum,))
        for model in models
        if model.status == "finished"
    ]
    mixed = [
        Candidate(
            id=one.id,
            sigma=one.sigma,
            members=one.members,
            weights=one.weights,
            average=one.average,
            checksums=one.checksums,
            combination=COMBINATIONS.get(one.method, "average"),
            consensus_size=one.consensus_size,
        )
        for one in ensembles
    ]
    return base + mixed


def classifier_of(record: TrainedModel | EnsembleWeights) -> tuple[Classifier, tuple[str, ...]]:
    """Return the classifier that is certified for a record, and the ids of its members, by position."""
    (candidate,) = candidates_of([record], []) if isinstance(record, TrainedModel) else candidates_of([], [record])
    return classifier_among(candidate, candidate.members), candidate.members


def classifier_among(candidate: Candidate, members: Sequence[str]) -> Classifier:
    """Return a candidate as a classifier of the models that run, by position."""
    return Classifier(
        id=candidate.id,
        members=tuple(members.index(member) for member in candidate.members),
        weights=candidate.weights,
        average="probabilities" if candidate.average == "probabilities" else "logits",
        combination=candidate.combination,
        consensus_size=candidate.consensus_size,
    )


def certification_keys(
    study: StudyConfig, models: Sequence[TrainedModel], ensembles: Sequence[EnsembleWeights]
) -> dict[str, str]:
    """Return the identity of what determines the counts of each classifier, beside the example."""
    rule = study.certify.model_dump(mode="json", exclude={"images"})
    shared = [rule, study.data.model_dump(mode="json")]
    return {
        one.id: content_id(
            [*shared, one.sigma, one.checksums, one.weights, one.average, one.combination, one.consensus_size]
        )
        for one in candidates_of(models, ensembles)
    }


def load_network(
    store: Store, model: str, *, classes: int, device: torch.device, precision: Precision = "float32"
) -> nn.Module:
    """Return a trained network as it is deployed in a precision; errors are those of `trained_network`."""
    return deploy(trained_network(store, model, classes=classes, device=device), precision=precision)


def trained_network(store: Store, model: str, *, classes: int, device: torch.device) -> nn.Module:
    """Return a trained network as it was trained, with gradients.

    Raises:
        ModelError: The architecture is no longer the one that was trained: its parameters or normalization do not fit,
            or it gives other logits.
        StoreError: It is code, which nobody allowed to run.
    """
    record = store.existing_model(model)
    architecture = str(record.spec["architecture"])
    # A run directory may be a stranger's.
    if (source := code_in(architecture)) and not code_is_allowed():
        raise StoreError(
            f"{store.model_dir(model)}: this network runs code of {source}; pass --allow-code if you trust it and this "
            "run directory"
        )
    network = build_network(architecture, classes=classes, seed=0)
    if record.normalization is not None:
        # The parameters do not hold it, and it need not be the one that the architecture has by now.
        network = set_normalization(network, record.normalization)
    parameters = store.parameters(model)
    try:
        network.load_state_dict(parameters)
    except RuntimeError as error:
        raise ModelError(
            f"{store.model_dir(model)}: the parameters do not fit {record.spec['architecture']} with {classes} classes "
            f"({first_line(error)}); it has changed since they were trained"
        ) from error
    network = network.to(device)
    if not answers_as_before(network, record.input_shape, record.answers):
        raise ModelError(
            f"{store.model_dir(model)}: with its parameters {architecture} is another function than the one that was "
            "trained: its code, or a library's that it uses, has changed since; bring that back, or take another run "
            "directory"
        )
    return network
