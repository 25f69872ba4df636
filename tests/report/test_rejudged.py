"""Facts about published logs judged again: recipes are chosen on other images, and only what is certain reverses."""

import csv
import random
import re

import numpy as np
import pandas as pd
import pytest

from rspipe.audit.collection import read_collection
from rspipe.commands import rejudge as command
from rspipe.commands.main import run
from rspipe.commands.terminal import Terminal
from rspipe.errors import LogError
from rspipe.report.rejudged import ACR, AT_FEWER, HARD_HALF, rejudge
from rspipe.report.rejudged_tables import rejudged_markdown
from rspipe.smoothing.certificates import certified_radius, clopper_pearson_lower
from tests.damages import collection, mutate_collection, refusal, rejudge_collection

N, ALPHA, SIGMA, IMAGES = 100_000, 0.001, 0.5, 1000


def radii(counts):
    return certified_radius(clopper_pearson_lower(np.broadcast_to(counts, IMAGES), N, alpha=ALPHA), sigma=SIGMA)


def write(folder, logs):
    """Write a collection: (method, recipe, model, counts [image] of the label's class; 0 where it is wrong)."""
    lines, rows = [], []
    for number, (method, recipe, model, counts) in enumerate(logs):
        said = {"id": number, "repository": "somebody/logs", "data_set": "digits", "architecture": "cnn"}
        said |= {"method": method, "settings": recipe, "train_sigma": SIGMA, "sigma": SIGMA, "n": N, "alpha": ALPHA}
        lines.append(said | {"recipe": recipe, "model": model})
        right = np.broadcast_to(counts, IMAGES) > 0
        radius = np.where(right, radii(counts), 0).astype(np.float32)
        image = {
            "log": number,
            "idx": np.arange(IMAGES),
            "label": 1,
            "predict": np.where(right, 1, 2),
            "radius": radius,
        }
        rows.append(pd.DataFrame(image))
    pd.concat(rows).to_parquet(folder / "logs.parquet")
    with (folder / "logs.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return folder / "logs.parquet"


def judged(folder, logs):
    (only,) = rejudge(read_collection(write(folder, logs)))
    return only


def certain(one, quantity):
    return {(pair.first.method, pair.second.method): pair.sign for pair in one.of(quantity)}


def test_a_recipe_is_judged_on_images_that_it_was_not_chosen_on(tmp_path):
    # One recipe is lucky on the images that recipes are chosen on, and no better than the other method elsewhere.
    lucky = np.where(np.arange(IMAGES) % 2 == 1, 95_000, 80_000)
    one = judged(tmp_path, [("a", "plain", 0, 81_000), ("a", "lucky", 1, lucky), ("b", "only", 2, 80_000)])
    (pair,) = one.of(ACR)
    a = pair.first if pair.first.method == "a" else pair.second
    assert (a.settings, a.recipes) == ("lucky, logs", 2)
    assert (pair.difference.estimate, pair.models, pair.difference.images) == (0, False, IMAGES // 2)


def test_methods_of_one_recipe_are_judged_on_all_images_that_they_share(tmp_path):
    one = judged(tmp_path, [("a", "only", 0, 90_000), ("b", "only", 1, 80_000)])
    (pair,) = one.of(ACR)
    assert pair.difference.images == IMAGES
    expected = (radii(90_000) - radii(80_000)).mean()
    assert pair.difference.estimate == pytest.approx(expected, abs=1e-12)
    assert (pair.models, pair.difference.procedures) == (True, None)


def test_trainings_of_a_recipe_are_its_seeds_and_certifications_of_one_network_are_not(tmp_path):
    twice = [("a", "only", 0, 90_000), ("a", "only", 0, 90_100), ("a", "only", 1, 90_050)]
    others = [("b", "only", 2, 80_000), ("b", "only", 3, 80_050)]
    (pair,) = judged(tmp_path, twice + others).of(ACR)
    assert pair.difference.seeds == (2, 2)
    assert pair.procedures


def test_an_order_that_rests_on_the_largest_radii_reverses_with_fewer_samples(tmp_path):
    # All samples on the class for six in ten images and none for the others, against .975 for every image.
    saturated, broad = np.where(np.arange(IMAGES) % 10 < 6, N, 0), 97_500
    one = judged(tmp_path, [("broad", "only", 0, broad), ("saturated", "only", 1, saturated)])
    assert certain(one, ACR) == {("saturated", "broad"): 1}
    assert certain(one, AT_FEWER) == {("saturated", "broad"): -1}
    assert certain(one, HARD_HALF) == {("saturated", "broad"): -1}
    assert [len(one.reversed_by(name)) for name in (AT_FEWER, HARD_HALF, "CA(0)", "CA(3 sigma)")] == [1, 1, 1, 0]


def test_logs_of_other_images_networks_or_noise_levels_are_not_compared(tmp_path):
    table = write(tmp_path, [("a", "only", 0, 90_000), ("b", "only", 1, 80_000)])
    catalogue = table.with_suffix(".csv")
    catalogue.write_text(catalogue.read_text().replace("digits,cnn,b", "digits,mlp,b"))
    assert rejudge(read_collection(table)) == []


def test_the_command_prints_markdown_and_nothing_else(tmp_path, capsys):
    table = write(tmp_path, [("a", "only", 0, 90_000), ("b", "only", 1, 80_000)])
    run("rejudge", [str(table)])
    expected = rejudged_markdown(rejudge(read_collection(table)), source="logs.parquet")
    assert capsys.readouterr() == (expected, "")


def test_the_command_replaces_what_stands_between_its_marks_and_nothing_else(tmp_path):
    table = write(tmp_path, [("a", "only", 0, 90_000), ("b", "only", 1, 80_000)])
    target = tmp_path / "RESULTS.md"
    target.write_text("before\n<!-- rejudged -->\nold\n<!-- end of rejudged -->\nafter\n")
    run("rejudge", [str(table), f"--pairs={tmp_path / 'pairs.tsv'}", f"--into={target}"])
    text = target.read_text()
    assert text.startswith(
        "before\n<!-- rejudged -->\nlogs.parquet: 1 settings, 1 pairs of methods. By ACR the order of 1 is"
    )
    assert text.endswith("\n<!-- end of rejudged -->\nafter\n")
    assert "old" not in text
    pairs = pd.read_csv(tmp_path / "pairs.tsv", sep="\t")
    assert dict(pairs[pairs.quantity == "ACR"].models_verdict.value_counts()) == {"higher (with Holm)": 1}
    target.write_text("no marks")
    with pytest.raises(LogError, match="needs the lines"):
        command.main(command.Options(table, into=target), Terminal())
    assert target.read_text() == "no marks"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.with_suffix(".csv").unlink(), "No such file"),
        (lambda table: table.write_bytes(b"no table"), "no collection of logs can be read"),
        (lambda table: table.with_suffix(".csv").write_text("id,sigma\n1,0.5\n"), "has no column 'repository'"),
        (lambda table: pd.read_parquet(table).query("log == 0").to_parquet(table), "has no rows of log 1"),
    ],
)
def test_a_collection_that_cannot_be_read_is_refused_with_the_reason(tmp_path, damage, message):
    table = write(tmp_path, [("a", "only", 0, 90_000), ("b", "only", 1, 80_000)])
    damage(table)
    with pytest.raises(LogError, match=message):
        read_collection(table)


def test_counts_of_published_logs_give_their_acr_again(shared_data, tmp_path):
    source = shared_data / "published-logs.parquet"
    if not source.is_file():
        pytest.skip("no published logs there")
    listed = pd.read_csv(source.with_suffix(".csv"), keep_default_na=False, dtype=str).query("method == 'catrs'")
    numbers = [int(number) for number in listed.id]
    pd.read_parquet(source, filters=[("log", "in", numbers)]).to_parquet(tmp_path / "logs.parquet")
    listed.to_csv(tmp_path / "logs.csv", index=False)
    acr = listed.set_index("id").acr.astype(float)
    for log in read_collection(tmp_path / "logs.parquet"):
        radius = certified_radius(clopper_pearson_lower(log.successes, log.n, alpha=0.001), sigma=log.setting.sigma)
        # Radii from 1 up are logged with three digits: half of the last one, .005, at most.
        assert (radius * log.correct).mean() == pytest.approx(acr[str(log.number)], abs=0.005)


def test_a_damaged_collection_is_judged_or_refused_in_a_line(tmp_path):
    outcomes = []
    for seed in range(60):
        table = collection(tmp_path)
        mutate_collection(table, random.Random(seed))
        outcomes.append(refusal(lambda table=table: rejudge_collection(table)))
    assert 10 < sum(line is None for line in outcomes) < 50


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("0.25,1000", "x,1000", "line 2: sigma is 'x', no number from 0.001 to 1000"),
        ("1000", "1e3", "line 2: id and n are whole numbers"),
        ("0.001", "7", "line 2: alpha is '7', no number from"),
        (",digits", "", "line 2 has not as many cells as the first line"),
        ("digits", "\x1b[31m", "line 2 holds characters that cannot be printed"),
    ],
)
def test_a_line_of_a_catalogue_that_cannot_be_is_refused(tmp_path, old, new, told):
    table = collection(tmp_path)
    catalogue = table.with_suffix(".csv")
    catalogue.write_text(catalogue.read_text().replace(old, new, 1))
    with pytest.raises(LogError, match=re.escape(told)):
        read_collection(table)


@pytest.mark.parametrize("radius", [float("nan"), -0.5, float("inf")])
def test_a_radius_that_is_none_is_refused_and_not_taken_for_a_count(tmp_path, radius):
    table = collection(tmp_path)
    rows = pd.read_parquet(table)
    rows.loc[3, "radius"] = radius
    rows.to_parquet(table)
    with pytest.raises(LogError, match="its column radius holds something else than numbers"):
        read_collection(table)
