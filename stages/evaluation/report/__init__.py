"""An audit or an evaluation in, one page for people out: HTML that opens offline, and Markdown for a model card.

reading → verdict and sections (what is said) → page and markdown (how it looks). Nothing here asks a model anything, and
nothing is computed that the audit's own answers do not hold.
"""
