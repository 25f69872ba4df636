"""The smoothed classifier: noise, counts, rules, certificates, metrics, and attacks on it."""
