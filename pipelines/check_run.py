"""Prove every certified radius of folders of runs again, from the counts: check_run.py RUN... [--recount K]

It imports nothing of rspipe. A row of certificates/part-*.parquet claims: n0 samples chose class c, and of n others k
fell on c; so, but for a chance alpha, the smoothed classifier answers c wherever ||d||_2 < R. Turned round: were p, the
chance of c, at most Phi(R / sigma) = p0, k or more of n would fall on c with chance P(Bin(n, p0) >= k) at most. Where
that is at most alpha, p > p0 is claimed falsely with chance alpha at most, however R was found (Cohen et al., theorem
1). It CANNOT check that counts came from the stated network, image, noise and seed (`--recount K` does for K images);
that no sample both selected and estimated; that labels are right; that images and classifiers were fixed before counts
were seen, and not drawn until they passed; nor abstentions. Status: 0 all is proven; 1 not; 3 a file cannot be read.
"""

import json
import sys
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace as Rows

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import betainc, betaincc, betainccinv, betaincinv, betaln, ndtr, ndtri

ABSTAIN, ROUNDING = -1, 1e-9  # The second: the share of alpha that SciPy's tail may err by; bounds keep a wider margin.
NUMBERS = ("example", "label", "prediction", "n_a", "samples", "n0", "n", "alpha", "sigma", "radius", "p_a_lower")
TEXTS, COUNTS = ("classifier", "key", "rule_parameters", "stop"), ("selection", "pilot", "estimation")


def proves(k, n, alpha, p0):
    """Return [row] whether k of n samples reject p <= p0 at level alpha: P(Bin(n, p0) >= k) = I_p0(k, n - k + 1)."""
    tail = np.where(k > 0, betainc(np.maximum(k, 1), n - np.maximum(k, 1) + 1, np.clip(p0, 0, 1)), 1.0)
    return (p0 <= 0) | ((k <= n) & (tail <= alpha * (1 + ROUNDING)))


def bets(r, p0, early):
    """Return [row] whether a noted count proves p > p0 by rule decide: any may, by bets, and that of n by its tail."""
    k, t, p, n, a = r.noted, r.marks, np.clip(p0, 1e-9, 1 - 1e-16)[:, None], r.n[:, None], r.alpha[:, None]
    # The uniform mixture over (p, 1) of likelihood ratios ever reaches 1 / a with probability a at most (Ville).
    ratio = betaln(k + 1, t - k + 1) - np.log1p(-p) - k * np.log(p) - (t - k) * np.log1p(-p)
    ratio += np.log(np.maximum(betaincc(k + 1, t - k + 1, p), 1e-300))
    return ((t == n) & proves(k, t, (1 - early) * a, p) | (k > p * t) & (ratio >= -np.log(early * a))).any(1)


def content(path):
    """Return what a file holds; end where it is missing or damaged."""
    try:
        return json.loads(path.read_bytes()) if path.suffix == ".json" else pq.read_table(path, partitioning=None)
    except (OSError, ValueError, pa.ArrowException) as error:
        print(f"{path}: it cannot be read, and the run is not proven: {error!r}")
        sys.exit(3)


def read(run):
    """Return rows as arrays: [row], counts [row, class], noted ones [row, mark, class], which go on with the last."""
    parts = sorted(run.glob("certificates/part-*.parquet")) or [run / "certificates/part-*.parquet"]
    table = pa.concat_tables(map(content, parts))
    rows = Rows(**{name: np.array(table[name].to_pylist()) for name in (*NUMBERS, *TEXTS, *COUNTS)})
    noted = [*zip(table["marks"].to_pylist(), table["prefix"].to_pylist(), rows.estimation.tolist(), strict=True)]
    most = max(len(at) for at, _, _ in noted)
    rows.marks = np.array([[*at, *[sum(e)] * (most - len(at))] for at, _, e in noted])
    rows.prefix = np.array([[*p, *e * (most - len(at))] for at, p, e in noted]).reshape(len(noted), most, -1)
    rows.drawn, rows.selected = rows.estimation.sum(1), rows.selection.argmax(1)
    rows.noted = rows.prefix[np.arange(len(noted)), :, rows.selected]
    return rows


def well_formed(r, study):
    """Yield what must hold whatever the rule, in words, and [row] whether it does."""
    yield "no count is negative", np.all([(vars(r)[name] >= 0).all(1) for name in COUNTS], axis=0)
    yield "samples add up", (r.selection.sum(1) == r.n0) & (r.samples == r.n0 + r.pilot.sum(1) + r.drawn)
    yield "the class is the selected one", (r.prediction == r.selected) | (r.prediction == ABSTAIN)
    yield "a radius is finite, 0 if none", (r.radius / r.sigma >= 0) & (r.radius <= 1e9 * (r.prediction != ABSTAIN))
    yield "n_a counts the selected class", (r.n_a == r.estimation[range(len(r.n)), r.selected]) & (r.drawn <= r.n)
    yield "noted counts sum to their numbers", (r.prefix.sum(2) == r.marks).all(1)
    yield "noted counts never fall", (np.diff(r.prefix, axis=1, append=r.estimation[:, None]) >= 0).all((1, 2))
    yield "an image has one label", r.label == [*map(dict(zip(r.example, r.label, strict=True)).get, r.example)]
    same = dict(zip(names := [*zip(r.classifier, r.key, r.example, strict=True)], r.estimation, strict=True))
    yield "a classifier has one count at an image", (r.estimation == [*map(same.get, names)]).all(1)
    yield "n0, n and alpha are the study's", np.all([vars(r)[x] == study[x] for x in ("n0", "n", "alpha")], axis=0)
    yield "the rule is the study's", np.array([json.loads(x) == study["rule"] for x in r.rule_parameters])


def radii(r, study):
    """Yield that radii and bounds are proven, by rule."""
    rule, pilot = study["rule"], r.pilot.sum(1)
    missed = rule["label_stop"] & (r.stop == "label") & (r.selected != r.label) & (r.drawn == 0) & (pilot == 0)
    yield "the pilot has its size", (pilot == rule.get("pilot", r.n0) - r.n0) | missed
    yield "all n samples were drawn", (r.drawn == r.n) | missed | (rule["name"] in ("planned", "radius_grid", "decide"))
    yield "the radius was asked for", np.isin(r.radius, np.append(rule.get("grid", rule.get("radii", r.radius)), 0.0))
    shown = [(r.n_a, r.drawn, r.alpha)]  # Counts, samples and level. A plan rests on the pilot, apart from these.
    if rule["name"] == "radius_grid":  # Looks: (samples, share of alpha), 40 % equally for all but the last one.
        early = [m for e in range(2, 12) for m in (10**e, 2 * 10**e, 5 * 10**e) if 200 <= m < study["n"]]
        looks = [*((m, 0.4 / len(early) * r.alpha) for m in early), (study["n"], (0.6 if early else 1.0) * r.alpha)]
        shown = [(k, np.where(t == m, m, 0), a) for k, t, (m, a) in zip(r.noted.T, r.marks.T, looks, strict=False)]
    # A claim of radius 0 is one, too: that p is above 1/2. By rule decide a radius counts where all smaller ones do.
    claimed = np.where(r.prediction == ABSTAIN, 0.0, np.maximum(ndtr(r.radius / r.sigma), 0.5))
    smaller = [(f"radius {x}", np.minimum(claimed, ndtr(x / r.sigma))) for x in rule.get("radii", ())]
    for what, p0 in (("the radius", claimed), ("p_a_lower", r.p_a_lower), *smaller):
        proofs = [bets(r, p0, rule["early_share"])] if rule["name"] == "decide" else [proves(*x, p0) for x in shown]
        yield f"{what} is proven", np.any([p0 <= 0, *proofs], axis=0)


def cascades(r, study, run):
    """Yield that cascades' claims are proven, [row] of level 0: within R level j answers, and those before hand on."""
    # Stopping at the first level with a majority in the selection, or the last, has .9 of alpha, the others the rest.
    place = {name: at for at, name in enumerate(zip(r.classifier, r.key, r.example, strict=True))}
    for file in sorted(run.glob("cascades/*.json")):
        own = Rows(**content(file), planned=study["rule"]["name"] == "planned")
        prediction, level, radius = map(np.array, (own.prediction, own.level, own.radius))
        levels = [*zip(own.classifiers, own.keys, strict=True)]
        at = np.array([[place.get((*name, x), -1) for x in own.example] for name in levels])
        yield f"every level of {file.name} has counts of every image", at.min() >= 0
        sure = [*(2 * r.selection[at[:-1]].max(2) > r.n0[at[:-1]]), np.full(len(own.example), fill_value=True)]
        alpha = study["alpha"] * np.where(np.arange(len(at))[:, None] == np.argmax(sure, 0), 0.9, 0.1 / (len(at) - 1))
        # No class has 1/2: a plan's pilot shows it where it gave up, else the largest estimate. Each has half of alpha.
        counts = np.where((r.stop[at] == "futility")[..., None], r.pilot[at], r.estimation[at])
        n, p0 = counts.sum(2), np.maximum(ndtr(radius / r.sigma[at]), 0.5)
        on = proves(n - counts.max(2), n, alpha[:, None] * (0.5 if own.planned else 1.0), p0)  # [level j, i, image]
        answers, right = proves(r.n_a[at], r.drawn[at], alpha, p0), (prediction == r.selected[at]) & (radius > 0)
        if own.two_sided:  # The last level answers below 1/2, too: .9 of its share for its class, .1 for the next one.
            last, k, m, a = at[-1], r.n_a[at[-1]], r.drawn[at[-1]], alpha[-1]
            other = np.where(np.arange(counts.shape[2]) == r.selected[last, None], 0, r.estimation[last]).max(1)
            low, high = betaincinv(k, m - k + 1, 0.9 * a), betainccinv(other + 1, m - other, 0.1 * a)
            far = r.sigma[last] / 2 * (ndtri(low) - ndtri(np.minimum(high, 1 - low))) >= radius
            answers[-1] = far & proves(k, m, 0.9 * a, low) & proves(m - other, m, 0.1 * a, 1 - high)
        claims = [right[j] & answers[j] & on[j, :j].all(0) for j in range(len(at))]
        holds = np.choose(level + 1, [(prediction == ABSTAIN) & (radius == 0), *claims])
        yield f"{file.name} is proven", np.isin(np.arange(len(r.n)), at[0][~holds], invert=True)


def main(words):
    """Check run directories, say what was found, and return the exit status."""
    *runs, recount = [*words[:-2], words[-1]] if "--recount" in words[-2:-1] else [*words, "0"]
    usable = runs and recount.isdecimal() and not any(word.startswith("-") or "://" in word for word in runs)
    for run in map(Path, runs if usable else ()):
        rows, study = read(run), content(run / "study.json")["study"]["certify"]
        for what, holds in (*well_formed(rows, study), *radii(rows, study), *cascades(rows, study, run)):
            if not np.all(holds):
                row = {name: vars(rows)[name][np.argmin(holds)].tolist() for name in (*TEXTS, *NUMBERS, *COUNTS)}
                print(f"{run}: it is not so that {what}{f': {row}' if np.ndim(holds) else ''}")
                return 1
        claims, made = np.sum(rows.prediction != ABSTAIN), len([*run.glob("cascades/*.json")])
        print(f"{run}: proven are {claims:,} radii of {len(rows.n):,} certificates, and {made} cascades")
        if int(recount):
            run_path(str(Path(__file__).with_name("recount.py")))["compare"](run, int(recount))
    print(end="" if usable else __doc__)
    return 0 if usable else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
