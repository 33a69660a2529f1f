# Every target sets up its own environment; the second time nothing is installed again.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
NETS := .venv-nets

.PHONY: run test check docs format bench-nets clean

run: $(VENV)/.run  ## train, prune, fine-tune and prove it: open runs/lenet/seed-0/report.html
	$(BIN)/prunus run lenet $(ARGS)

test: $(VENV)/.dev  ## the whole test suite, doctests included
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev  ## lint, format, types and which layer imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs  ## the site, every cell executed: open docs/_build/html/index.html
	$(BIN)/sphinx-build --fail-on-warning --keep-going --jobs auto $(ARGS) docs docs/_build/html

bench-nets: $(NETS)/.nets  ## networks from packages beside the fastest dense runtimes; ARGS="--only resnet18" for some
	$(NETS)/bin/python bench/networks.py $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch goes in first, pinned, so that nothing installed after it can pull in another build.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch --constraint constraints.txt
	touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[all]" --constraint constraints.txt
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]" --constraint constraints.txt
	touch $@ $(VENV)/.run

$(VENV)/.docs: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[docs]" --constraint constraints.txt
	touch $@ $(VENV)/.run

# Most of the packages pin another torch: they come without what they ask for, and what they import is named here.
$(NETS)/.nets: constraints.txt bench/nets.txt pyproject.toml
	$(PYTHON) -m venv $(NETS)
	$(NETS)/bin/pip install --quiet --disable-pip-version-check torch --constraint constraints.txt
	$(NETS)/bin/pip install --quiet --disable-pip-version-check --editable ".[all]" openvino \
		huggingface_hub pillow requests scipy tqdm --constraint constraints.txt
	$(NETS)/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement bench/nets.txt
	touch $@

clean:
	rm -rf $(VENV) $(NETS) runs docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
