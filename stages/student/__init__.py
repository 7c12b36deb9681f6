"""Stage two: a frozen cache and a model in, a model that has forgotten out."""
