"""The sections of the report, each a function: what it needs of an audit in, blocks out."""
