"""Is it forgotten? Questions and a model in; answers, scores and intervals out."""
