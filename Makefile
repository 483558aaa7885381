# Requires only Python and make; pip installs uv into .uv if it is missing, and uv a Python if this one is too old.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

# The prompt travels in the environment, so that neither make expands a "$" in it nor the shell a quote.
override PROMPT := $(value PROMPT)
export PROMPT
override ARGS := $(value ARGS)

# make takes a prompt outside PROMPT for a target, or for a variable that nothing reads: refuse it before anything starts.
ASKING := $(firstword $(filter run run-auto,$(MAKECMDGOALS)))
ifneq ($(ASKING),)
USAGE := make $(ASKING) PROMPT="..." [ARGS="..."]
READ := PROMPT ARGS PYTHON UV LITELLM_% RELAY_% OPENAI_% ANTHROPIC_% GEMINI_% GOOGLE_% UV_% PIP_% PYTHON% XDG_% SSL_% \
	REQUESTS_CA_BUNDLE %_PROXY %_proxy HOME PATH SHELL TERM TZ LANG LC_% COLUMNS NO_COLOR FORCE_COLOR MAKE% MFLAGS GNUMAKEFLAGS
ifneq ($(filter-out run run-auto,$(MAKECMDGOALS)),)
$(error the prompt belongs in PROMPT, in quotes: $(USAGE))
endif
# A make that runs this one passes on its own variables.
ifeq ($(MAKELEVEL),0)
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
ifneq ($(filter-out $(READ),$(GIVEN)),)
$(error nothing reads $(strip $(filter-out $(READ),$(GIVEN))): $(USAGE))
endif
endif
ifeq ($(strip $(PROMPT)$(ARGS)),)
ifneq ($(shell test -t 0 && echo terminal),)
$(error PROMPT is missing: $(USAGE))
endif
endif
endif

# Compile bytecode at install: it halves the start time of a command.
export UV_COMPILE_BYTECODE := 1
# The Pythons that the tests run on. Where the machine has none of them, uv would otherwise download the newest.
UV_PYTHON ?= >=3.11,<3.15
export UV_PYTHON
# Trust the certificates that the system trusts, among them those of a company's proxy, as pip does. A machine without such
# a store (a slim container) keeps those that uv brings along.
ifneq ($(wildcard /etc/ssl/certs/*.crt /etc/ssl/certs/*.pem /etc/ssl/cert.pem /etc/pki/tls/certs/*.crt),)
UV_SYSTEM_CERTS ?= 1
export UV_SYSTEM_CERTS
endif

# `exec`: a signal to make reaches the program, rather than a shell that would leave it running.
PROJECT_RUN := exec $(UV) run --no-sync --quiet $(if $(wildcard .env),--env-file .env)
GATEWAY := $(PROJECT_RUN) python -m litellm_openai_example.gateway
GIVEN_PROMPT := $${PROMPT:+-- "$$PROMPT"}

.PHONY: help run run-auto gateway gateway-stop relay test test-quick test-loaded test-lowest test-litellm test-sdks test-frameworks test-upgrade lint format bench many soak simulate explore fuzz gateway-lock docs site

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-23s %s\n", $$1, $$2 }'

run: .venv/run-ready ## Ask a model: make run PROMPT="..." [ARGS="--api responses --web-search"]
	@LITELLM_EXAMPLE_MAKE=run $(GATEWAY) --reuse --keep -- litellm-example $(ARGS) $(GIVEN_PROMPT)

run-auto: .venv/relay-ready ## Ask a model that may call deep_research, with a relay beside it: make run-auto PROMPT="..."
	@LITELLM_EXAMPLE_MAKE=run-auto $(GATEWAY) --reuse --keep --relay -- \
		litellm-example --auto-tool-call --timeout 900 $(ARGS) $(GIVEN_PROMPT)

gateway: .venv/run-ready ## Run a LiteLLM gateway on this machine until Ctrl-C
	@$(GATEWAY) $(ARGS)

gateway-stop: .venv/run-ready ## Stop the gateway that `make run` has left for later calls
	@$(GATEWAY) --stop

relay: .venv/relay-ready ## Run the relay server with the gateway at LITELLM_BASE_URL or one on this machine
	@$(GATEWAY) --reuse -- litellm-relay $(ARGS)

# Most tests wait for deadlines, leases and processes: two processors can run four at a time.
PYTEST_WORKERS := -n 4 --dist worksteal

test: lint ## Run all checks and tests
	@$(PROJECT_RUN) pytest $(PYTEST_WORKERS) $(ARGS)

# For a change to the client side: the tests whose only servers are fakes in the same process, but for the slowest files.
QUICK := tests/calls tests/research tests/transport tests/cli/test_main.py tests/cli/test_files.py tests/cli/test_output.py \
	tests/test_client.py tests/test_sdk.py tests/test_diagnosis.py tests/test_payer.py tests/test_state.py \
	--ignore=tests/transport/test_lifetime.py --ignore=tests/transport/test_proxy.py --ignore=tests/research/test_unconfirmed.py \
	--ignore=tests/transport/test_deadline.py

test-quick: lint ## Run the tests of the client side, in under a minute
	@$(PROJECT_RUN) pytest $(PYTEST_WORKERS) $(ARGS) $(QUICK)

test-loaded: .venv/test-ready ## Run all tests beside eight busy loops
	@$(PROJECT_RUN) python -m tests.tools.loaded pytest $(PYTEST_WORKERS) $(ARGS)

# The dependencies that users install have the oldest versions that pyproject.toml allows; the tools have the newest.
test-lowest: $(filter .uv/bin/uv,$(UV)) ## Run all tests with the oldest supported versions
	@$(UV) venv --quiet --clear .venv-lowest
	@$(UV) pip compile --quiet --resolution lowest-direct --all-extras pyproject.toml --output-file .venv-lowest/constraints.txt
	@VIRTUAL_ENV=.venv-lowest $(UV) pip install --quiet --group dev --editable . --constraints .venv-lowest/constraints.txt
	@.venv-lowest/bin/python -m pytest $(PYTEST_WORKERS) $(ARGS)

# A copy of the project with other pins for its gateway. From 1.109 on LiteLLM depends on packages that the index lacks:
# `litellm-proxy`, whose code is still in LiteLLM's own wheel, and a newer release of `litellm-proxy-extras`.
test-litellm: $(filter .uv/bin/uv,$(UV)) ## Run tests/e2e with another LiteLLM: make test-litellm VERSION=1.110.2
	@test -n "$(VERSION)" || { echo "VERSION is missing: make test-litellm VERSION=1.110.2" >&2; exit 2; }
	@rm -rf .litellm && mkdir .litellm
	@cp -R pyproject.toml uv.lock LICENSE README.md CHANGELOG.md Makefile docs tests litellm_openai_example .litellm
	@cd .litellm/litellm_openai_example/gateway && echo "litellm[proxy]==$(VERSION)" > requirements.in \
		&& echo litellm-proxy >> excluded.in && echo litellm-proxy-extras==0.4.110 > overrides.in \
		&& $(abspath $(UV)) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--excludes excluded.in --overrides overrides.in requirements.in --output-file requirements.txt
	@cd .litellm && $(abspath $(UV)) sync --quiet --locked --all-extras \
		&& $(abspath $(UV)) run --no-sync --quiet pytest $(PYTEST_WORKERS) tests/e2e $(ARGS)

# The lowest and the newest SDK of each major version. 2.31.0 is the first whose retry loop lets an OpenAIError pass.
SDKS ?= 2.31.0 2 3.0.0 3
SDK_TESTS := tests/test_sdk.py tests/test_typing.py tests/test_client.py tests/test_late_types.py tests/test_diagnosis.py tests/transport tests/calls \
	tests/research tests/cli

test-sdks: $(filter .uv/bin/uv,$(UV)) ## Run the client's tests with old and new SDKs: make test-sdks [SDKS="2.31.0 3"]
	@failed=; for sdk in $(SDKS); do \
		echo "openai $$sdk" >&2; \
		case $$sdk in *.*) wanted="==$$sdk" ;; *) wanted="==$$sdk.*" ;; esac; \
		$(UV) venv --quiet --clear .venv-sdk && \
		VIRTUAL_ENV=.venv-sdk $(UV) pip install --quiet --group dev --editable . "openai$$wanted" && \
		.venv-sdk/bin/python -m pytest $(PYTEST_WORKERS) $(ARGS) $(SDK_TESTS) || failed="$$failed $$sdk"; \
	done; [ -z "$$failed" ] || { echo "failed with openai$$failed" >&2; exit 1; }

test-frameworks: .venv/test-ready ## Run the examples of docs/frameworks*.md: make test-frameworks [ARGS="langchain --write"]
	@$(PROJECT_RUN) python -m tests.tools.frameworks $(ARGS)

test-upgrade: .venv/test-ready ## Upgrade ledgers while an older relay runs: make test-upgrade BEFORE=REVISION
	@$(PROJECT_RUN) python -m tests.tools.upgrade $(BEFORE)

lint: .venv/test-ready ## Check style and types
	@$(PROJECT_RUN) ruff check --quiet
	@$(PROJECT_RUN) ruff format --check --quiet
	@$(PROJECT_RUN) mypy

format: .venv/test-ready ## Format the code
	@$(PROJECT_RUN) ruff check --fix --quiet
	@$(PROJECT_RUN) ruff format --quiet

docs: .venv/test-ready ## Regenerate the help texts in the documents
	@$(PROJECT_RUN) python -m tests.tools.docs

site: .venv-site/ready ## Build the site of the documents in docs/site, with warnings as errors
	@.venv-site/bin/python -m tests.tools.docs.site

bench: .venv-bench/ready ## Measure speed and size, as ratios within one run
	@UV_PROJECT_ENVIRONMENT=.venv-bench $(PROJECT_RUN) python -m tests.tools.bench $(ARGS)

many: .venv/test-ready ## Ask 200 questions under kill -9, and 10,000 for speed: make many [ARGS="relay chat responses speed"]
	@$(PROJECT_RUN) python -m tests.tools.questions $(ARGS)

soak: .venv/test-ready ## Apply load, faults and kill -9 to both databases, then reconcile every run: make soak [SECONDS=300]
	@$(PROJECT_RUN) python -m tests.tools.soak $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

simulate: .venv/test-ready ## Simulate relays, clients and a gateway, with faults drawn by seeds: make simulate [SEEDS=200] [SEED=N]
	@$(PROJECT_RUN) python -m tests.tools.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

explore: .venv/test-ready ## Visit every state of the ledger within limits, then break its conditions one by one
	@$(PROJECT_RUN) python -m tests.tools.explorer $(ARGS)

fuzz: .venv/test-ready ## Run the tests with random inputs, with fresh seeds: make fuzz [SECONDS=60]
	@$(PROJECT_RUN) python -m tests.tools.fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

gateway-lock: .venv/test-ready ## Pin the packages of the gateway and list their licences; ARGS=--upgrade renews all pins
	@cd litellm_openai_example/gateway && UV_CUSTOM_COMPILE_COMMAND="make gateway-lock" $(abspath $(UV)) pip compile --quiet \
		--universal --python-version 3.11 --generate-hashes --excludes excluded.in $(ARGS) requirements.in \
		--output-file requirements.txt
	@$(PROJECT_RUN) python -m tests.tools.licences

.uv/bin/uv:
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { echo "$(PYTHON) -m pip does not run, and uv is missing:" \
		"install pip (Debian, Ubuntu: apt install python3-pip) or uv (https://docs.astral.sh/uv)" >&2; exit 2; }
	@echo "installing uv into .uv" >&2
	@PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 $(PYTHON) -m pip install --quiet --disable-pip-version-check \
		--root-user-action=ignore --only-binary=:all: --target .uv uv >&2

.venv/run-ready: pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	@echo "installing the command and its packages into .venv" >&2
	@$(UV) sync --quiet --locked --inexact --no-default-groups >&2
	@touch $@

.venv/relay-ready: pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	@echo "installing the command, the relay and their packages into .venv" >&2
	@$(UV) sync --quiet --locked --inexact --no-default-groups --extra relay --extra mcp >&2
	@touch $@ .venv/run-ready

.venv/test-ready: pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	@echo "installing the project, its packages and the tools of its tests into .venv" >&2
	@$(UV) sync --quiet --locked --all-extras >&2
	@touch $@ .venv/run-ready .venv/relay-ready

# Without the test tools, as users have it: the HTTP library imports trio if it is installed.
.venv-bench/ready: pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	@UV_PROJECT_ENVIRONMENT=.venv-bench $(UV) sync --quiet --locked --no-default-groups --group bench --extra relay >&2
	@touch $@

# Only the tools: they read the package's docstrings without importing it.
.venv-site/ready: pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	@echo "installing the tools of the site into .venv-site" >&2
	@UV_PROJECT_ENVIRONMENT=.venv-site $(UV) sync --quiet --locked --only-group site >&2
	@touch $@
