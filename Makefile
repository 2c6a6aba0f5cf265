# make demo   set up, then run the whole pipeline on a corpus that it renders itself
# make test   set up, then format, lint, types, layers and tests
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check setup lock clean

demo: $(STAMP)
	$(BIN)/snapvideo demo

test: $(STAMP)
	PATH="$(abspath $(BIN)):$$PATH" bash infra/check.sh all

check: $(STAMP)
	PATH="$(abspath $(BIN)):$$PATH" bash infra/check.sh fast

setup: $(STAMP)

# The lock pins everything; pip alone resolves it. torch comes from wherever pip finds 2.13.0:
# a CPU build where one is offered, else the CUDA build with what it needs.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: '$(PYTHON)' not found; install Python 3.11, or say PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

lock:  # resolve anew from pyproject.toml in a clean environment and write the lock
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)-lock/bin/python -m pip install --quiet ".[data,caption,train,serve,dev]"
	$(VENV)-lock/bin/python -m pip freeze --exclude snapvideo | sed 's/^torch==2.13.0+cpu/torch==2.13.0/' > requirements.lock
	rm -rf $(VENV)-lock build

clean:
	rm -rf $(VENV) runs build *.egg-info
