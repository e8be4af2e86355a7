"""A study: several runs (configurations x folds) that belong together, trained by one command in one folder."""
