# Build, install and test cozesync (PGXS).
#
#   make, make install          the extension, for the server of $(PG_CONFIG)
#   make test                   every test, in a private copy of PostgreSQL
#   make chaos ROUNDS=20        rounds of faults in groups of three to five nodes, each with
#                               its seed (SEED=, CHAOS_SECONDS=30; test/chaos/round.pl)
#   make steady                 ten minutes of load: the log on disk does not grow
#   make check-fast             what says most in two minutes
#   make matrix                 the tests on other majors, and a group of mixed ones
#   make sanitize, valgrind     servers under sanitizers; a short run under valgrind
#   make fuzz FUZZ_SECONDS=300  the decoders of the wire format, fuzzed alone
#   make demo, make bench       two nodes under load; measured ratios
#
# COZE_TESTING=1 compiles in debug points and rule switches (tests only);
# WERROR=1 turns on the warnings that CI insists on.

MODULE_big = cozesync
EXTENSION = cozesync
EXTVERSION = 0.1
PGFILEDESC = "cozesync - multi-master replication by row triggers"

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
INSTALL_SQL = $(sort $(wildcard src/install/*.sql)) \
	$(if $(COZE_TESTING),$(sort $(wildcard src/install/testing/*.sql)))
DATA_built = cozesync--$(EXTVERSION).sql
DATA = $(wildcard upgrade/cozesync--*--*.sql)

PG_CPPFLAGS = -I$(libpq_srcdir) -I$(srcdir)/src
# Dependencies on headers are written beside each object; stock packages are
# configured without dependency tracking.
PG_CFLAGS = -MMD -MP
SHLIB_LINK_INTERNAL = $(libpq)
ifdef COZE_TESTING
PG_CPPFLAGS += -DCOZE_TESTING
endif
ifdef WERROR
PG_CFLAGS += -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers
endif

REGRESS = $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test
ifneq ($(wildcard test/t/*.pl),)
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl
PROVE_FLAGS += -I $(CURDIR)/test/lib
endif

BUILD_STAMP = .build-stamp
EXTRA_CLEAN = $(OBJS:.o=.d) $(BUILD_STAMP) test/build

.DEFAULT_GOAL := all

# These install what they need themselves, so they work without a server.
STANDALONE = test check-fast matrix sanitize valgrind chaos steady fuzz demo bench deps
.PHONY: $(STANDALONE)
test:
	@test/run.sh $(SUITES)
chaos:
	@COZE_TOTAL_LIMIT=1000000 SEED=$(SEED) ROUNDS=$(ROUNDS) CHAOS_SECONDS=$(or $(CHAOS_SECONDS),30) \
		test/run.sh chaos
steady:
	@COZE_TEST_LIMIT=1200 CHAOS_SECONDS=$(or $(CHAOS_SECONDS),600) test/run.sh steady
check-fast:
	@test/parts.sh fast
matrix:
	@test/parts.sh $(or $(PARTS),full all-pg17 all-pg18 all-pg19 mixed)
sanitize valgrind:
	@test/parts.sh $@
fuzz:
	@test/fuzz/run.sh $(or $(FUZZ_SECONDS),300)
demo:
	@test/demo/demo.sh
bench:
	@bench/run.sh $(BENCH_OPTS)
deps:
	@test/deps.sh

ifneq ($(or $(filter-out $(STANDALONE),$(MAKECMDGOALS)),$(if $(MAKECMDGOALS),,all)),)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# The stamp changes with the flags and the list of sources, so that a test
# build never mixes with an ordinary one and a removed file leaves the library.
BUILD_ID := $(PG_CONFIG) $(COZE_TESTING) $(WERROR) $(COPT) $(OBJS) $(INSTALL_SQL)
ifneq ($(BUILD_ID),$(file <$(BUILD_STAMP)))
ifeq ($(filter clean distclean maintainer-clean,$(MAKECMDGOALS)),)
$(file >$(BUILD_STAMP),$(BUILD_ID))
endif
endif

$(OBJS): $(BUILD_STAMP) Makefile
$(shlib): $(BUILD_STAMP)
$(BUILD_STAMP): ;
-include $(wildcard $(OBJS:.o=.d))

cozesync--$(EXTVERSION).sql: $(INSTALL_SQL) $(BUILD_STAMP)
	cat /dev/null $(INSTALL_SQL) >$@.tmp && mv $@.tmp $@
endif
