# make lab   sets up whatever is missing and opens JupyterLab at the tour
# make test  sets up whatever is missing and runs every test
#            (two processes, each with whole files of tests; WORKERS=1 on a machine with one core or less than 8 GB)
# Others: setup, lint, format, notebooks, pictures, panels, bench, report, clean. EXTRA=cpu|gpu|none overrides the choice of vLLM.
EXTRA ?= auto
PYTHON ?=
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.ready
# an editable install knows the packages that were there: a new one asks for set-up again
SOURCES := pyproject.toml CMakeLists.txt tools/setup.sh $(wildcard kernels/*/*.cpp kernels/*/*.h) \
  $(wildcard workbench/*/__init__.py kernels/*/__init__.py)
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

ifeq ($(filter auto $(shell cat .venv/.extra 2>/dev/null),$(EXTRA)),)
SOURCES += FORCE  # another vLLM than the one set up was asked for; plain `make` keeps what is there
endif

.PHONY: FORCE setup lab test lint format notebooks pictures panels bench report clean
.DEFAULT_GOAL := setup
export OMP_NUM_THREADS ?= 1
# where it is set, each of the many processes compiles torch, vLLM and Ray from their sources, every time
unexport PYTHONDONTWRITEBYTECODE

setup: $(STAMP)

$(STAMP): $(SOURCES)
	@PYTHON="$(PYTHON)" tools/setup.sh $(EXTRA)
	@touch $@

lab: setup
	$(BIN)/workbench lab

test: setup
	@tools/setup.sh browser
	@tools/setup.sh minimap2
	-@$(BIN)/workbench doctor --fetch >/dev/null
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)  # not python -m: that would put kernels/ on sys.path

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Executes every notebook in place, top to bottom, with an empty history of its own (yours is nobody's business), and
# leaves out the state of widgets (megabytes for one figure), when each cell ran, and spaces within figures.
notebooks: setup
	home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && export WORKBENCH_HOME="$$home" && \
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.store_widget_state=False \
	  --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.timeout=900 $(NOTEBOOKS)
	$(BIN)/nbstripout --keep-output --keep-count $(NOTEBOOKS)
	$(BIN)/python tools/pack_notebooks.py $(NOTEBOOKS)

# The README's pictures, drawn anew from the shipped records (those: workbench claims --run --keep).
pictures: setup
	@tools/setup.sh browser
	$(BIN)/python tools/pictures.py $(ARGS)

# Pictures of the panels in JupyterLab (docs/panels.md), each after a run of its preset tiny.
panels: setup
	@tools/setup.sh browser
	$(BIN)/python tools/panel_pictures.py $(ARGS)

bench: setup
	$(BIN)/workbench bench $(ARGS)

report: setup
	$(BIN)/workbench report $(ARGS)

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis report.html report-*.csv report-*.json
