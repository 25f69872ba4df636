"""Certification logs that others wrote: read, checked, and certificates derived from them."""
