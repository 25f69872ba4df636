"""From results to differences, sections, exports and the page."""
