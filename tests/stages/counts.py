"""Counts as they are stored, and as the core counts them in this process."""

from collections.abc import Sequence

import torch

from rspipe.data.splits import Dataset
from rspipe.records import TrainedModel
from rspipe.smoothing.classifiers import Classifier
from rspipe.smoothing.counting import count_image
from rspipe.storage.classifiers import load_network
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig


def rows(store: Store) -> dict[tuple[str, int], dict[str, object]]:
    """Return the stored rows by classifier and example, without times."""
    table = store.counts()
    assert table is not None
    listed = [{name: value for name, value in row.items() if name != "seconds"} for row in table.to_pylist()]
    by_key = {(row["classifier"], row["example"]): row for row in listed}
    assert len(by_key) == len(listed)
    return by_key


def expected_rows(
    store: Store, study: StudyConfig, data: Dataset, models: Sequence[TrainedModel], classifiers: Sequence[Classifier]
) -> dict[tuple[str, int], dict[str, object]]:
    """Return what the core counts in this process, by classifier and example."""
    networks = [load_network(store, model.id, classes=10, device=torch.device("cpu")) for model in models]
    split, spec = data.test.evenly_spaced(study.certify.images), study.certify
    expected: dict[tuple[str, int], dict[str, object]] = {}
    for image, label, example in zip(split.images, split.labels.tolist(), split.index.tolist(), strict=True):
        counts = count_image(
            networks, classifiers, image, label=label, sigma=0.25, spec=spec, example=example, classes=10
        )
        for row, classifier in enumerate(classifiers):
            reached = [prefix for prefix in counts.prefix[row].tolist() if prefix[0] >= 0]
            expected[classifier.id, example] = {
                "label": label,
                "selection": counts.selection[row].tolist(),
                "pilot": counts.pilot[row].tolist(),
                "estimation": counts.estimation[row].tolist(),
                "stop": str(counts.stop[row]),
                "marks": counts.marks[: len(reached)].tolist(),
                "prefix": [count for prefix in reached for count in prefix],
                "probability_sum": counts.probability_sum[row].tolist(),
                "probability_square": counts.probability_square[row].tolist(),
                "kind": str(counts.kind[row]),
                "samples": int((counts.selection + counts.pilot + counts.estimation)[row].sum()),
            }
    return expected
