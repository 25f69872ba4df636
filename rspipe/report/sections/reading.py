"""Section: how to read the report; guarantees and limits."""

from rspipe.report.results import Results
from rspipe.report.section import Section


def section(results: Results) -> Section:
    """Return the section."""
    certify, seeds = results.study.certify, [len(group.seeds) for group in results.study.groups]
    images = max((summary.images for summary in results.summaries), default=0)
    content = {
        "alpha": certify.alpha,
        "rule": certify.rule.name,
        "label_stop": certify.rule.label_stop,
        "radii": results.radii,
        "early_share": certify.rule.early_share if certify.rule.name == "decide" else None,
        # Where the study asks for float32 noise, that is the reason.
        "on_no_grid": certify.noise == "auto",
        "images": images,
        "failures": certify.alpha * images,
        "seeds": dict.fromkeys((min(seeds), max(seeds))),
        "noise": results.noise,
        "data": results.study.data.name,
        "partial": any(results.population(summary.images) is not None for summary in results.summaries),
    }
    finding = f"A certificate is wrong with probability {certify.alpha:g} at most, for each classifier and image."
    return Section("reading", content, finding=finding)
